"""Priors over weights: functions of (site, shape) that return a NumPyro distribution."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from numbers import Integral
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro.primitives import _PYRO_STACK, apply_stack

from .values import compared_by_value

FLAT, FIXED = "flat", "fixed"
ONE_FOR_ALL, DEFAULT = "one prior for all", "default"
"""The source of a site's prior if the prior is not a mapping: the user, or `Model`'s default."""

Shape = tuple[int, ...]
PriorFunction = Callable[[str, Shape], dist.Distribution]
type SitePrior = PriorFunction | dist.Distribution | Literal["flat", "fixed"]
"""The prior of a site: a function of (site, shape), a distribution that every element follows, "flat" (a density that
is 1 everywhere), or "fixed" (not a site: the parameter of a lifted module keeps its value)."""
type Prior = SitePrior | Mapping[str, SitePrior]
"""The prior of a network: one for all its sites, or a mapping from patterns of site names to priors."""


class LayerShape(tuple[int, ...]):
    """The shape of a parameter of a layer, with the number of inputs that a unit sums."""

    num_inputs: int | None
    """None if the meaning of the axes is unknown."""

    def __new__(cls, shape: Shape, num_inputs: int | None) -> "LayerShape":
        self = super().__new__(cls, shape)
        self.num_inputs = num_inputs
        return self


@dataclass(frozen=True)
class gaussian:  # noqa: N801  (reads as a function, and is compared and hashed as a value)
    """Every weight is Normal(0, scale), independently.

    Its negative log density is weight decay: ``|w|^2 / (2 scale^2)`` plus a constant (MacKay 1992, eq. 5).

    An optimiser's ``weight_decay`` (PyTorch's SGD and Adam, `optax.add_decayed_weights`) adds ``weight_decay * w`` to
    the gradient of its loss: `from_weight_decay` and `weight_decay` convert between the two.

    Args:
        scale: the standard deviation of each weight.

    Raises:
        ValueError: when `scale` is not a positive finite number.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        _check_scale("gaussian", self.scale)

    def __call__(self, site: str, shape: Shape) -> dist.Distribution:
        return dist.Normal(0.0, self.scale).expand(shape)

    @classmethod
    def from_weight_decay(
        cls, weight_decay: float, *, loss: Literal["sum", "mean"], num_rows: int | None = None
    ) -> "gaussian":
        """Return the prior equivalent to a weight decay: ``scale = 1 / sqrt(weight_decay)``, times num_rows for a mean.

        Args:
            weight_decay: the factor of w that an optimiser adds to the gradient: the penalty is
                ``weight_decay / 2 |w|^2``. A penalty ``alpha |w|^2`` has weight decay ``2 alpha``. Decoupled weight
                decay (AdamW) is not a prior.
            loss: whether the loss is the "sum" or the "mean" of the negative log likelihood over rows. (A mean squared
                error without a factor is the mean for ``Normal(scale=sqrt(1/2))``.)
            num_rows: the number of rows of the whole data, for a mean.

        Raises:
            ValueError: when `weight_decay` is not positive, or `num_rows` is missing for a mean or given for a sum.

        Example:
            >>> from flatprior.models import gaussian
            >>> gaussian.from_weight_decay(1e-4, loss="mean", num_rows=2500)
            gaussian(scale=2.0)
            >>> gaussian(2.0).weight_decay(loss="sum")
            0.25
        """
        if not (isinstance(weight_decay, int | float) and math.isfinite(weight_decay) and weight_decay > 0):
            raise ValueError(f"gaussian: expected a positive weight_decay; got {weight_decay!r}. None is a flat prior.")
        return cls(1 / math.sqrt(weight_decay * _rows_in(loss, num_rows)))

    def weight_decay(self, *, loss: Literal["sum", "mean"], num_rows: int | None = None) -> float:
        """Return the weight decay equivalent to this prior: ``1 / scale^2``, divided by num_rows for a mean.

        This is the inverse of `from_weight_decay`, with the same arguments and errors.
        """
        return 1 / (self.scale**2 * _rows_in(loss, num_rows))


@dataclass(frozen=True)
class fan_in:  # noqa: N801
    """Every weight is Normal(0, scale / sqrt(number of inputs)); biases are Normal(0, scale).

    The standard deviation of a layer's output does then not depend on its width, so that wide networks have a limit
    (Neal 1996, section 2.1). The number of inputs is the product of all axes of the site but the last; in a lifted
    module it depends on the layer, since the axes may come in another order (listed in `Lift`).

    Args:
        scale: the standard deviation of a unit's summed input if its inputs have mean square 1.
        inputs: the axes of the site that run over inputs, for parameters that do not belong to a known layer.

    Raises:
        ValueError: when `scale` is not a positive finite number, the inputs of a site are unknown, or it does not have
            these axes.
    """

    scale: float = 1.0
    inputs: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _check_scale("fan_in", self.scale)
        if self.inputs is not None:
            object.__setattr__(self, "inputs", tuple(self.inputs))

    def __call__(self, site: str, shape: Shape) -> dist.Distribution:
        return dist.Normal(0.0, self.scale / math.sqrt(max(1, self._num_inputs(site, shape)))).expand(shape)

    def _num_inputs(self, site: str, shape: Shape) -> int:
        if self.inputs is not None:
            if not all(-len(shape) <= axis < len(shape) for axis in self.inputs):
                raise ValueError(f"fan_in: expected inputs to be axes of {site!r}, {tuple(shape)}; got {self.inputs}.")
            return math.prod(shape[axis] for axis in self.inputs)
        if not isinstance(shape, LayerShape):
            return math.prod(shape[:-1])
        if shape.num_inputs is None:
            raise ValueError(
                f"fan_in: expected {site!r}, shape {tuple(shape)}, to belong to a known layer; its input axes are "
                f"unknown. Give them, {{{site!r}: fan_in({self.scale}, inputs=(0,))}}, or use another prior."
            )
        return shape.num_inputs


@compared_by_value
@dataclass(frozen=True, eq=False)
class per_site:  # noqa: N801
    """A mapping from site names to priors, as a hashable value. The first key that matches a site gives its prior."""

    items: tuple[tuple[str, SitePrior], ...]

    def check(self, sites: Mapping[str, object]) -> None:
        """Raise an error if a key sets no site's prior or a site matches no key."""
        keys = [key for key, _ in self.items]
        unused = [key for key in keys if not any(_matches(site, key) for site in sites)]
        if unused:
            raise ValueError(f"prior: the keys {unused} match no site; the sites are {list(sites)}.")
        bare = [site for site in sites if not any(_matches(site, key) for key in keys)]
        if bare:
            raise ValueError(
                f"prior: the sites {bare} match none of the keys {keys}. Give each a prior, or add the key '*' last."
            )
        idle = [key for key in keys if key not in {self.entry(site)[0] for site in sites}]
        if idle:
            raise ValueError(
                f"prior: the keys {idle} set no prior, since earlier keys match all their sites, and the first match "
                f"counts. Put '*' last; got the keys {keys}."
            )

    def entry(self, site: str) -> tuple[str, SitePrior]:
        """Return the first key that matches a site, and its prior."""
        return next((key, prior) for key, prior in self.items if _matches(site, key))

    def __call__(self, site: str, shape: Shape) -> dist.Distribution:
        return prior_of(self.entry(site)[1], site, shape)


def _matches(site: str, key: str) -> bool:
    """Whether a key is the name of a site, which may contain brackets, or an `fnmatch` pattern that matches it."""
    return site == key or fnmatchcase(site, key)


def as_prior(prior: Prior) -> SitePrior:
    """Return the prior as a hashable value.

    Raises:
        TypeError: when it is not a function, a distribution or a mapping to these.
    """
    if isinstance(prior, Mapping):
        nested = [key for key, value in prior.items() if isinstance(value, Mapping | per_site)]
        if nested:
            raise TypeError(f"Expected a prior for each key of a mapping; {nested} hold mappings. Join their keys.")
        return per_site(tuple((key, as_prior(value)) for key, value in prior.items()))
    if isinstance(prior, str) and prior in (FLAT, FIXED):
        return prior
    if not (callable(prior) or isinstance(prior, dist.Distribution)) or isinstance(prior, type):
        raise TypeError(
            f"Expected a prior: gaussian(1.0), fan_in(1.0), a NumPyro distribution, a function of (site, shape), "
            f"'flat', 'fixed', or a mapping from site names to these; got {prior!r}."
        )
    return prior


def prior_of(prior: SitePrior, site: str, shape: Shape) -> dist.Distribution:
    """Return the distribution of one site, with the site's shape as its event shape."""
    if isinstance(prior, str):
        return dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape)).mask(False)
    d = prior if isinstance(prior, dist.Distribution) else prior(site, shape)
    if not isinstance(d, dist.Distribution):
        raise TypeError(f"The prior of {site!r} should be a NumPyro distribution; got {d!r}.")
    if d.shape() != shape:
        if d.shape() != ():
            raise ValueError(f"The prior of {site!r} should have shape {tuple(shape)} or (); got {d.shape()}.")
        d = d.expand(shape)
    return d.to_event(len(shape) - d.event_dim)


def sample_weights(
    prior: Prior,
    sites: Mapping[str, tuple[Shape, tuple[str, ...]]],
    start: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Array]:
    """Sample every site of a network from its prior.

    A network with two or more matrices that are sampled has hidden units between them, which can be exchanged without
    changing the outputs: chains need not agree on its weights. All its sites are marked as ``infer["exchangeable"]``.

    Args:
        prior: the prior of the network.
        sites: site name -> (shape, names of the dimensions). ArviZ reads the names from the site's
            ``infer["event_dims"]``, and makes its own if there are none.
        start: site name -> value, for a network with values of its own. Fits begin there, by the site's
            ``infer["start"]``; a "fixed" parameter keeps this value.

    Raises:
        ValueError: when the prior does not fit the sites, or a parameter without a value of its own is "fixed".
    """
    prior = as_prior(prior)
    if isinstance(prior, per_site):
        prior.check(sites)
    entries = {site: prior.entry(site) if isinstance(prior, per_site) else (None, prior) for site in sites}
    matrices = [site for site, (shape, _) in sites.items() if len(shape) > 1 and not _is_fixed(entries[site][1])]
    weights: dict[str, Array] = {}
    for site, (shape, dims) in sites.items():
        key, chosen = entries[site]
        set_by = f"key {key!r}" if key is not None else DEFAULT if prior is UNIT else ONE_FOR_ALL
        if _is_fixed(chosen):
            if start is None:
                raise ValueError(
                    f"prior: {site!r} cannot be 'fixed', since this network has no values of its own; a lifted "
                    f"module has. Give it a prior."
                )
            weights[site] = _fixed(site, start[site], set_by)
            continue
        infer: dict[str, Any] = {"set_by": set_by}
        infer |= {"exchangeable": True} if len(matrices) > 1 else {}
        infer |= {"event_dims": list(dims)} if dims else {}
        infer |= {"start": start[site]} if start else {}
        weights[site] = numpyro.sample(site, prior_of(chosen, site, shape), infer=infer)
    return weights


def _is_fixed(prior: SitePrior) -> bool:
    return isinstance(prior, str) and prior == FIXED


def _fixed(site: str, value: np.ndarray, set_by: str) -> Array:
    """A parameter that is not a site. Only `priors` reads the message, by its type."""
    array = jnp.asarray(value, float)
    message = {"type": FIXED, "name": site, "value": array, "infer": {"set_by": set_by}}
    if _PYRO_STACK:
        apply_stack(message)
    return array


def _rows_in(loss: str, num_rows: int | None) -> int:
    """The number of rows by which the loss divides the sum of negative log likelihoods."""
    if loss not in ("sum", "mean"):
        raise ValueError(f"gaussian: expected loss='sum' or loss='mean'; got {loss!r}.")
    if loss == "sum":
        if num_rows is not None:
            raise ValueError("gaussian: num_rows is for loss='mean'; the sum over rows does not need it.")
        return 1
    if not isinstance(num_rows, Integral) or isinstance(num_rows, bool) or num_rows < 1:
        raise ValueError(f"gaussian: expected num_rows, the number of rows of the mean; got {num_rows!r}.")
    return int(num_rows)


def _check_scale(name: str, scale: float) -> None:
    if not (isinstance(scale, int | float) and math.isfinite(scale) and scale > 0):
        raise ValueError(f"{name}: expected a positive finite scale; got {scale!r}.")


UNIT = gaussian(1.0)
"""The default prior. It equals any other `gaussian(1.0)`; `priors` recognises it by identity."""
