"""Names of other libraries that they do not document as public: a release that moves one breaks this module alone."""

from importlib import import_module
from typing import Any

from jax.extend.core import (  # type: ignore[attr-defined]
    ClosedJaxpr,
    Jaxpr,
    JaxprEqn,
    Literal,
    jaxpr_as_fun,
    jaxprs_in_params,
)
from numpyro.distributions import Distribution
from numpyro.infer.hmc import hmc

__all__ = [
    "STACK",
    "ClosedJaxpr",
    "Jaxpr",
    "JaxprEqn",
    "Literal",
    "hmc",
    "jaxpr_as_fun",
    "jaxprs_in_params",
    "sort_fields_of_distributions",
]

STACK = "_PYRO_STACK"
"""The name of NumPyro's stack of effect handlers, in the module that makes it and in those that import it."""

LATE = {
    "array_stats": "arviz_stats.base",
    **dict.fromkeys(
        (
            "IntegratorState",
            "esh_dynamics_momentum_update_one_step",
            "generalized_two_stage_integrator",
            "partially_refresh_momentum",
            "velocity_verlet_coefficients",
        ),
        "blackjax.mcmc.integrators",
    ),
}
"""Name -> its module, which is imported when the name is: only chains need it, and it takes half a second."""


def sort_fields_of_distributions() -> None:
    """Give the leaves of NumPyro's distributions, as pytrees, an order that is the same in every process.

    NumPyro takes them from sets of texts, whose order depends on the hash seed of the process: then so do programs that
    have distributions as values, and a cache of compiled programs on disk never has those of another process. Call it
    before a distribution is flattened: one that is restored from leaves in another order would be another distribution.
    """
    for name in ("gather_pytree_data_fields", "gather_pytree_aux_fields"):
        gather = getattr(Distribution, name).__func__
        setattr(Distribution, name, classmethod(lambda cls, gather=gather: tuple(sorted(gather(cls)))))


def __getattr__(name: str) -> Any:
    if name in LATE:
        return getattr(import_module(LATE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
