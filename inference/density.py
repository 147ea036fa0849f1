"""The one density: log p(y | x, w) + log p(w), for any NumPyro model ``model(x, y=None)``.

Every method minimises, samples or scores what is in this file. Nothing else in the library adds a term to it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import biject_to, constraints
from numpyro.handlers import block, scale, seed, substitute, trace
from numpyro.primitives import Messenger

if TYPE_CHECKING:  # which reads distributions with what is in this file
    from .response import Response

NumPyroModel = Callable[..., Any]
"""A NumPyro model ``model(x, y=None)``."""
Rows = Any
"""An array, or a pytree of arrays, with n rows first."""
Weights = dict[str, Array]
"""Latent site -> value, in the coordinates in which the model states it (a scale is positive)."""


@dataclass(frozen=True)
class flat:  # noqa: N801  (reads as a function, and is compared and hashed as a value)
    """The model under a flat prior: the log probability of every latent site is masked out of its density.

    ``fit(model, MLE(), ...)`` is ``fit(flat(model), MAP(), ...)``. Flat is meant in the coordinates of the model: a
    scale gets the density 1 on (0, inf), not on its logarithm. Supports, initial values and draws from the prior stay
    as they were.

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

    def __call__(self, x: Rows, y: Rows | None = None) -> Any:
        """The NumPyro model."""
        with _MaskLatents():
            return self.model(x, y)


class _MaskLatents(Messenger):
    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and not msg["is_observed"]:
            msg["fn"] = msg["fn"].mask(False)


@dataclass(frozen=True)
class Beside:
    """Rows of x, and beside them weights that all rows share: what `held` takes in the place of x."""

    rows: Rows
    weights: Weights
    """The sites that are held, at their values."""
    start: Weights
    """Where the others may begin; see `Conditional`."""


jax.tree_util.register_dataclass(Beside, ["rows", "weights", "start"], [])


@dataclass(frozen=True)
class held:  # noqa: N801
    """The model given the values of some of its sites: p(y, others | x, held), a model of the other sites alone.

    The values come beside the rows of x, as `Beside`, so that code which was compiled for some serves all. The prior of
    a held site is a constant, and left out: that of many weights would drown the digits of what is left.

    Args:
        model: a NumPyro model.
        dependent: held sites whose prior is no constant, as it has other sites for parameters; it stays in the density.
    """

    model: NumPyroModel
    dependent: tuple[str, ...] = ()

    def __call__(self, x: Beside, y: Rows | None = None) -> Any:
        """The NumPyro model."""
        with block(hide=list(x.weights)), _From(x.start), trace() as sites, substitute(data=x.weights):
            value = self.model(x.rows, y)
        for name in self.dependent:
            numpyro.factor(f"log prior of {name}", log_prob(sites[name]))
        return value


class _From(Messenger):
    """Tells each latent site where it may begin."""

    def __init__(self, start: Weights) -> None:
        super().__init__()
        self.start = start

    def process_message(self, msg: dict[str, Any]) -> None:
        if is_latent(msg) and msg["name"] in self.start:
            msg["infer"] = {**msg["infer"], "held_start": self.start[msg["name"]]}


@dataclass(frozen=True)
class per_row:  # noqa: N801
    """The model ``(x, y, num_rows)`` whose negative log density is the objective divided by the number of rows.

    On all rows this is the negative log joint divided by n. On a batch the observed sites are scaled by n / batch, so
    that its mean over the batches of an epoch is the objective on all rows. The one place where minibatches are scaled.
    With a `prior_power` the log prior counts as many times: of a Normal prior around 0 this is another scale.
    """

    model: NumPyroModel

    def __call__(self, x: Rows, y: Rows, num_rows: int, prior_power: Array | None = None) -> None:
        with scale(scale=1.0 / num_rows), _Scale(num_rows / count_rows(x), prior_power):
            self.model(x, y)


class _Scale(Messenger):
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
        of_no_row = is_factor(msg["fn"]) and not msg["fn"].batch_shape
        return None if of_no_row or self.observed == 1 else self.observed


def log_density(model: NumPyroModel, weights: Weights, x: Rows, y: Rows) -> Array:
    """Log p(y | x, w) + log p(w) in nats, at weights in the coordinates of the model. Differentiable.

    Its negative is the loss that `MAP` minimises; on `flat(model)` it is the log likelihood, and its negative the loss
    that `MLE` minimises.
    """
    return numpyro.infer.util.log_density(model, (x, y), {}, weights)[0]


def observation(model: NumPyroModel, weights: Weights, x: Rows, site: str) -> dist.Distribution:
    """p(y | x, w): the distribution of the observed site at one draw of the weights."""
    return unmasked(trace(seed(substitute(model, data=weights), jax.random.key(0))).get_trace(x)[site]["fn"])


def row_log_probs(model: NumPyroModel, weights: Weights, x: Rows, y: Rows, site: str) -> Array:
    """Log p(y_i | x_i, w) of every row, (n,), in nats, at one draw of the weights."""
    observed = trace(substitute(seed(model, jax.random.key(0)), data=weights)).get_trace(x, y)[site]
    return observed["fn"].log_prob(observed["value"])


def log_prob(site: dict[str, Any]) -> Array:
    """The log probability of a site of a trace in nats, summed, with its scale."""
    nats = jnp.sum(site["fn"].log_prob(site["value"]))
    return nats if site["scale"] is None else nats * site["scale"]


@dataclass(frozen=True)
class Structure:
    """What a model is made of, read from one abstract trace. A value: equal structures share compiled code."""

    response: "Response"
    """What y is."""
    sites: tuple[tuple[str, tuple[int, ...]], ...]
    """The latent sites and their shapes, in the order in which the model samples them."""
    dims: tuple[tuple[str, tuple[str, ...]], ...]
    """Names of the dimensions, for the latent sites that state them in ``infer["event_dims"]``."""
    real: frozenset[str]
    """The latent sites whose support is the whole real line."""
    is_flat: bool = field(compare=False)
    """Whether the density of any latent site is masked out."""

    @property
    def observed(self) -> str:
        """The name of the observed site."""
        return self.response.site

    @property
    def support(self) -> constraints.Constraint:
        """The values that y can have."""
        return self.response.support

    @property
    def latents(self) -> dict[str, tuple[int, ...]]:
        """Latent site -> shape."""
        return dict(self.sites)

    @property
    def num_weights(self) -> int:
        """How many numbers the latent sites hold together."""
        return sum(math.prod(shape) for _, shape in self.sites)


def abstract_trace(model: NumPyroModel, x: Rows, y: Rows | None = None) -> dict[str, Any]:
    """The sites of a model, with shapes and types but without values: nothing is computed.

    Observed sites carry the shape of their log probability as ``log_prob_shape``.
    """
    sites: dict[str, Any] = {}

    def run(x: Rows, y: Rows | None) -> list[Array]:
        sites.update(trace(seed(substitute(model, substitute_fn=improper_value), jax.random.key(0))).get_trace(x, y))
        for site in sites.values():
            if is_observation(site):
                site["log_prob_shape"] = jnp.shape(site["fn"].log_prob(site["value"]))
        return []

    jax.eval_shape(run, x, y)
    return sites


def improper_value(site: dict[str, Any]) -> Array | None:
    """A value of a site that has none to draw from, `ImproperUniform`: the image of 0."""
    if not (is_latent(site) and isinstance(element(site["fn"]), dist.ImproperUniform)):
        return None
    transform = biject_to(site["fn"].support)
    return transform(jnp.zeros(transform.inverse_shape(site["fn"].shape())))


def is_latent(site: dict[str, Any]) -> bool:
    """Whether a site of a trace is one whose value is inferred."""
    return site["type"] == "sample" and not site["is_observed"]


def is_observation(site: dict[str, Any]) -> bool:
    """Whether a site of a trace is data; `numpyro.factor` is a term of the density, but no data."""
    return site["type"] == "sample" and site["is_observed"] and not is_factor(site["fn"])


def is_factor(d: dist.Distribution) -> bool:
    """Whether a distribution is that of `numpyro.factor`, with or without a mask."""
    return isinstance(element(d), dist.Unit)


def element(d: dist.Distribution) -> dist.Distribution:
    """The distribution of one element, without expansions, masks and event dimensions."""
    while isinstance(d, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        d = d.base_dist
    return d


def is_masked(d: dist.Distribution) -> bool:
    """Whether the log probability of a distribution has been masked out by `flat`."""
    return isinstance(d, dist.MaskedDistribution) and d._mask is False


def unmasked(d: dist.Distribution) -> dist.Distribution:
    """The distribution without the mask of `flat`, which takes y for a latent site where it is not given."""
    return d.base_dist if is_masked(d) else d


def count_rows(x: Rows) -> int:
    """The number of rows of an array or of a pytree of arrays."""
    return jnp.shape(jax.tree.leaves(x)[0])[0]


def take_rows(x: Rows, rows: Any) -> Rows:
    """The rows at an array of indices, which must exist, of an array or of a pytree of arrays."""
    if isinstance(x, Beside):
        return replace(x, rows=take_rows(x.rows, rows))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf).at[rows].get(mode="promise_in_bounds"), x)


def in_double(leaf: Any) -> np.ndarray:
    """A leaf as an array, in float64 where it is one of real numbers."""
    array = np.asarray(leaf)
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def is_real(support: constraints.Constraint) -> bool:
    """Whether a support is the whole real line, in any number of dimensions."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support in (constraints.real, constraints.real_vector, constraints.real_matrix)


def signature(rows: Rows) -> tuple[Any, tuple[tuple[tuple[int, ...], str], ...]]:
    """The structure, shapes and types of a pytree of arrays: data with the same signature share compiled code."""
    leaves, tree = jax.tree.flatten(rows)
    return tree, tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)
