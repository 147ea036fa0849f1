"""Priors over weights: functions of (site, shape) that return a NumPyro distribution."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from numbers import Integral
from typing import Any, Literal

import numpyro.distributions as dist
from jax import Array

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


@compared_by_value
@dataclass(frozen=True, eq=False)
class gaussian:  # noqa: N801  (reads as a function, and is compared and hashed as a value)
    """Every weight is Normal(0, scale), independently.

    Its negative log density is weight decay: ``|w|^2 / (2 scale^2)`` plus a constant (MacKay 1992, eq. 5).

    An optimiser's ``weight_decay`` (PyTorch's SGD and Adam, `optax.add_decayed_weights`) adds ``weight_decay * w`` to
    the gradient of its loss: `from_weight_decay` and `weight_decay` convert between the two.

    Args:
        scale: the standard deviation of each weight; or a NumPyro distribution over positive numbers, the prior of one
            unknown scale (MacKay 1992; Neal 1996, section 1.2.3). That is the site ``prior_scale``, shared by all
            weights of the network, or ``prior_scale[key]``, shared by those that a key of a mapping matches; for a
            scale per layer, give each layer a key. Such a prior is only for a network, which samples the scale before
            its weights.

    Raises:
        ValueError: when `scale` is neither a positive finite number nor one distribution over positive numbers.
    """

    scale: float | dist.Distribution = 1.0

    def __post_init__(self) -> None:
        _check_scale("gaussian", self.scale)

    def __call__(self, site: str, shape: Shape) -> dist.Distribution:
        return self.of_scale(_known_scale("gaussian", self.scale, site), site, shape)

    def of_scale(self, scale: float | Array, site: str, shape: Shape) -> dist.Distribution:
        """Return the prior of a site at a value of the scale."""
        return dist.Normal(0.0, scale).expand(shape)

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

        This is the inverse of `from_weight_decay`, with the same arguments and errors; a scale that is a distribution
        raises ValueError, since it has no one weight decay.
        """
        return 1 / (_known_scale("gaussian", self.scale, "weight_decay") ** 2 * _rows_in(loss, num_rows))


@compared_by_value
@dataclass(frozen=True, eq=False)
class fan_in:  # noqa: N801
    """Every weight is Normal(0, scale / sqrt(number of inputs)); biases are Normal(0, scale).

    The standard deviation of a layer's output does then not depend on its width, so that wide networks have a limit
    (Neal 1996, section 2.1). The number of inputs is the product of all axes of the site but the last; in a lifted
    module it depends on the layer, since the axes may come in another order (listed in `Lift`).

    Args:
        scale: the standard deviation of a unit's summed input if its inputs have mean square 1; or a distribution over
            positive numbers, the prior of one unknown scale, as in `gaussian`.
        inputs: the axes of the site that run over inputs, for parameters that do not belong to a known layer.

    Raises:
        ValueError: when `scale` is neither a positive finite number nor one distribution over positive numbers, the
            inputs of a site are unknown, or it does not have these axes.
    """

    scale: float | dist.Distribution = 1.0
    inputs: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _check_scale("fan_in", self.scale)
        if self.inputs is not None:
            object.__setattr__(self, "inputs", tuple(self.inputs))

    def __call__(self, site: str, shape: Shape) -> dist.Distribution:
        return self.of_scale(_known_scale("fan_in", self.scale, site), site, shape)

    def of_scale(self, scale: float | Array, site: str, shape: Shape) -> dist.Distribution:
        """Return the prior of a site at a value of the scale."""
        return dist.Normal(0.0, scale / math.sqrt(max(1, self._num_inputs(site, shape)))).expand(shape)

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
                f"unknown. Give them, {{{site!r}: fan_in(..., inputs=(0,))}}, or use another prior."
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


def prior_of(prior: SitePrior, site: str, shape: Shape, scale: Array | None = None) -> dist.Distribution:
    """Return the distribution of one site, with the site's shape as its event shape.

    Args:
        prior: the prior of the site.
        site: its name.
        shape: its shape.
        scale: the value of the scale of the prior, if that is a distribution.
    """
    if isinstance(prior, str):
        return dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape)).mask(False)
    if scale is not None and isinstance(prior, gaussian | fan_in):
        d = prior.of_scale(scale, site, shape)
    else:
        d = prior if isinstance(prior, dist.Distribution) else prior(site, shape)
    if not isinstance(d, dist.Distribution):
        raise TypeError(f"The prior of {site!r} should be a NumPyro distribution; got {d!r}.")
    if d.shape() != shape:
        if d.shape() != ():
            raise ValueError(f"The prior of {site!r} should have shape {tuple(shape)} or (); got {d.shape()}.")
        d = d.expand(shape)
    return d.to_event(len(shape) - d.event_dim)


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


def _check_scale(name: str, scale: Any) -> None:
    if isinstance(scale, dist.Distribution):
        least = getattr(scale.support, "lower_bound", None)
        if scale.shape() != () or scale.support.is_discrete or not (isinstance(least, int | float) and least >= 0):
            raise ValueError(
                f"{name}: expected the prior of the scale to be one distribution over positive numbers, such as "
                f"HalfNormal(1.0); got {type(scale).__name__} of shape {scale.shape()} on {scale.support}."
            )
    elif not (isinstance(scale, int | float) and math.isfinite(scale) and scale > 0):
        raise ValueError(
            f"{name}: expected a positive finite scale; got {scale!r}. It may also be a NumPyro distribution over "
            f"positive numbers, the prior of an unknown scale."
        )


def _known_scale(name: str, scale: float | dist.Distribution, where: str) -> float:
    """Return a scale that is a number; raise ValueError where it is a distribution."""
    if isinstance(scale, dist.Distribution):
        raise ValueError(
            f"{name}: expected a number as scale for {where!r}; got {type(scale).__name__}. A network samples a scale "
            f"that is a distribution, for Model(network, observation, prior) or a key of its mapping; elsewhere sample "
            f"the scale and pass its value to numpyro.distributions.Normal."
        )
    return scale


UNIT = gaussian(1.0)
"""The default prior. It equals any other `gaussian(1.0)`; `priors` recognises it by identity."""
