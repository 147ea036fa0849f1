"""Effect handlers, which turn a model into another one."""

from dataclasses import dataclass
from typing import Any

import numpyro
from jax import Array
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
