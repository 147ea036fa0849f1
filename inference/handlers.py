"""Effect handlers, which turn a model into another one."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import constraints
from numpyro.handlers import block, substitute, trace
from numpyro.primitives import Messenger

from .rows import Rows, Weights
from .sites import NumPyroModel, is_factor, log_prob


@dataclass(frozen=True)
class flat:  # noqa: N801  (reads as a function, and is compared and hashed as a value)
    """Return the model under a flat prior: the log probability of every latent site is masked out of its density.

    ``fit(model, MLE(), ...)`` is ``fit(flat(model), MAP(), ...)``. The prior is flat in the coordinates of the
    model: a scale gets the density 1 on (0, inf), not its logarithm. Supports, initial values and draws from the prior
    do not change.

    Args:
        model: a NumPyro model.

    Example:
        >>> import jax.numpy as jnp
        >>> from flatprior.inference import flat, log_density
        >>> from flatprior.models import MLP, Bernoulli, Model, gaussian
        >>> model = Model(MLP(), Bernoulli(), gaussian(1.0))
        >>> x, y, w = jnp.zeros((3, 1)), jnp.array([0, 1, 1]), {"w1": jnp.ones((1, 1)), "b1": jnp.zeros(1)}
        >>> print(f"{log_density(model, w, x, y):.3f} {log_density(flat(model), w, x, y):.3f}")
        -4.417 -2.079
    """

    model: NumPyroModel

    def __call__(self, x: Rows, y: Rows | None = None, **given: Weights) -> Any:
        """Run the NumPyro model."""
        with _MaskLatents():
            return self.model(x, y, **given)


class _MaskLatents(Messenger):
    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and not msg["is_observed"]:
            msg["fn"] = msg["fn"].mask(False)


@dataclass(frozen=True)
class params_as_sites:  # noqa: N801
    """The model with every `numpyro.param` as a latent site with a flat prior, which starts at its initial value.

    NumPyro's SVI optimises a parameter, and everything else in NumPyro takes its initial value: two densities. As a
    site it has one value in the fit, the draws, the scores and the predictions.

    Args:
        model: a NumPyro model.
    """

    model: NumPyroModel

    def __call__(self, x: Rows, y: Rows | None = None, **given: Weights) -> Any:
        """Run the NumPyro model."""
        with _ParamsAsSites():
            return self.model(x, y, **given)


class _ParamsAsSites(Messenger):
    def __init__(self) -> None:
        super().__init__()
        self.is_starting = False

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "prng_key" and self.is_starting:
            msg["value"], msg["stop"] = jax.random.key(0), True
        if msg["type"] != "param" or msg["value"] is not None:
            return
        self.is_starting = True  # an initial value may be drawn, here always the same
        start = msg["fn"](*msg["args"])
        self.is_starting = False
        if not isinstance(start, int | float | np.ndarray | jax.Array):
            got = "no value" if start is None else f"a {type(start).__name__}"
            raise TypeError(
                f"Expected an array as the initial value of numpyro.param {msg['name']!r}; got {got}, as from "
                f"flax_module, random_flax_module and others of numpyro.contrib.module. Write the module as a network, "
                f"flatprior.models.Lift(module): each parameter is a site, with a prior of its own."
            )
        support = msg["kwargs"].get("constraint", constraints.real)
        shape = jnp.shape(start)
        msg["type"], msg["is_observed"], msg["intermediates"] = "sample", False, []
        msg["fn"] = dist.ImproperUniform(support, (), shape)
        msg["args"], msg["kwargs"] = (), {"rng_key": None, "sample_shape": ()}
        msg["infer"] = {"start": start, "param": True}


@dataclass(frozen=True)
class conditioned:  # noqa: N801
    """The model conditioned on the values of some of its sites: p(y, others | x, fixed), a model of the others only.

    The values are a separate argument, so that compiled code serves all values. The prior of a fixed site is a constant
    and is left out: the log prior of many weights would cost the remaining terms their precision.

    Args:
        model: a NumPyro model.
        dependent: the fixed sites whose prior has other sites as parameters. It is not a constant, and stays in the
            density.
    """

    model: NumPyroModel
    dependent: tuple[str, ...] = ()

    def __call__(self, x: Rows, y: Rows | None = None, *, fixed: Weights) -> Any:
        """Run the NumPyro model."""
        with block(hide=list(fixed)), trace() as sites, substitute(data=fixed):
            value = self.model(x, y)
        for name in self.dependent:
            numpyro.factor(f"log prior of {name}", log_prob(sites[name]))
        return value


class scaled(Messenger):  # noqa: N801
    """Scale the log probabilities of the observed sites by one factor, and those of the latent sites by another.

    A `numpyro.factor` that has no axis of rows is a term of the whole density, and is not scaled.
    """

    def __init__(self, observed: float, latent: Array | None) -> None:
        super().__init__()
        self.observed, self.latent = observed, latent

    def process_message(self, msg: dict[str, Any]) -> None:
        factor = self._factor(msg)
        if factor is not None:
            msg["scale"] = factor if msg["scale"] is None else msg["scale"] * factor

    def _factor(self, msg: dict[str, Any]) -> Any:
        if msg["type"] != "sample":
            return None
        if not msg["is_observed"]:
            return self.latent
        has_no_rows = is_factor(msg["fn"]) and not msg["fn"].batch_shape
        return None if has_no_rows or self.observed == 1 else self.observed
