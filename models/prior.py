"""Priors over weights: functions of (site, shape) that return a NumPyro distribution."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from numbers import Integral
from typing import Literal

import numpyro
import numpyro.distributions as dist
from jax import Array

Shape = tuple[int, ...]
PriorFunction = Callable[[str, Shape], dist.Distribution]
type SitePrior = PriorFunction | dist.Distribution
"""The prior of a site: a function of (site, shape), or a distribution that every element of the site follows."""
type Prior = SitePrior | Mapping[str, SitePrior]
"""The prior of a network: one for all its sites, or a mapping from site names to priors."""


@dataclass(frozen=True)
class gaussian:  # noqa: N801  (reads as a function, and is compared and hashed as a value)
    """Every weight is Normal(0, scale), independently.

    Its negative log density is weight decay: ``|w|^2 / (2 scale^2)`` and a constant (MacKay 1992, eq. 5).

    An optimiser's ``weight_decay`` (PyTorch's SGD and Adam, `optax.add_decayed_weights`) adds ``weight_decay * w`` to
    the gradient of the loss that it is given: `from_weight_decay` and `weight_decay` convert.

    Args:
        scale: standard deviation of each weight.

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
        """The prior that a weight decay is: ``scale = 1 / sqrt(weight_decay)``, of a mean loss ``times num_rows``.

        Args:
            weight_decay: what an optimiser adds to the gradient, times w: the penalty is ``weight_decay / 2 |w|^2``. A
                penalty stated as ``alpha |w|^2`` has weight decay ``2 alpha``. Decoupled weight decay (AdamW) is no
                prior.
            loss: whether the loss beside it is the negative log likelihood's "sum" over rows or its "mean". (A mean
                squared error without a factor is the mean for ``Normal(scale=sqrt(1/2))``.)
            num_rows: the number of rows of the whole data, for a mean.

        Raises:
            ValueError: when weight_decay is not positive, or num_rows is not given for a mean, or for a sum.

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
        """The weight decay that this prior is: ``1 / scale^2``, of a mean loss divided by num_rows.

        Arguments and errors are those of `from_weight_decay`, whose inverse it is.
        """
        return 1 / (self.scale**2 * _rows_in(loss, num_rows))


@dataclass(frozen=True)
class fan_in:  # noqa: N801
    """Every weight is Normal(0, scale / sqrt(number of inputs)); biases are Normal(0, scale).

    Keeps the spread of a layer's output the same whatever its width, so that wide networks have a limit (Neal 1996,
    section 2.1). The number of inputs is the product of all axes of the site but the last.

    Args:
        scale: standard deviation of a unit's summed input when its inputs have mean square 1.

    Raises:
        ValueError: when `scale` is not a positive finite number.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        _check_scale("fan_in", self.scale)

    def __call__(self, site: str, shape: Shape) -> dist.Distribution:
        return dist.Normal(0.0, self.scale / math.sqrt(max(1, math.prod(shape[:-1])))).expand(shape)


@dataclass(frozen=True)
class per_site:  # noqa: N801
    """A mapping from site names to priors, as a hashable value. The first key that matches a site gives its prior."""

    items: tuple[tuple[str, SitePrior], ...]

    def check(self, sites: Mapping[str, object]) -> None:
        """Raise when a key matches no site or a site matches no key."""
        keys = [key for key, _ in self.items]
        unused = [key for key in keys if not any(fnmatchcase(site, key) for site in sites)]
        if unused:
            raise ValueError(f"prior: the keys {unused} match no site; the sites are {list(sites)}.")
        bare = [site for site in sites if not any(fnmatchcase(site, key) for key in keys)]
        if bare:
            raise ValueError(
                f"prior: the sites {bare} match none of the keys {keys}. Give each a prior, or add the key '*' last."
            )

    def __call__(self, site: str, shape: Shape) -> dist.Distribution:
        prior = next(prior for key, prior in self.items if fnmatchcase(site, key))
        return prior_of(prior, site, shape)


def as_prior(prior: Prior) -> SitePrior:
    """The prior as a hashable value.

    Raises:
        TypeError: when it is not a function, a distribution or a mapping of these.
    """
    if isinstance(prior, Mapping):
        return per_site(tuple((key, as_prior(value)) for key, value in prior.items()))
    if not (callable(prior) or isinstance(prior, dist.Distribution)) or isinstance(prior, type):
        raise TypeError(
            f"Expected a prior: gaussian(1.0), fan_in(1.0), a NumPyro distribution, a function of (site, shape), or a "
            f"mapping from site names to these; got {prior!r}."
        )
    return prior


def prior_of(prior: SitePrior, site: str, shape: Shape) -> dist.Distribution:
    """The distribution of one site: of the site's shape, and all of it one event."""
    d = prior if isinstance(prior, dist.Distribution) else prior(site, shape)
    if not isinstance(d, dist.Distribution):
        raise TypeError(f"The prior of {site!r} should be a NumPyro distribution; got {d!r}.")
    if d.shape() != shape:
        if d.shape() != ():
            raise ValueError(f"The prior of {site!r} should have shape {shape} or (); got {d.shape()}.")
        d = d.expand(shape)
    return d.to_event(len(shape) - d.event_dim)


def sample_weights(prior: Prior, sites: Mapping[str, tuple[Shape, tuple[str, ...]]]) -> dict[str, Array]:
    """Sample every site of a network from its prior.

    Args:
        prior: the prior of the network.
        sites: site name -> (shape, names of the dimensions). ArviZ reads the names from the site's
            ``infer["event_dims"]``.
    """
    prior = as_prior(prior)
    if isinstance(prior, per_site):
        prior.check(sites)
    return {
        site: numpyro.sample(site, prior_of(prior, site, shape), infer={"event_dims": list(dims)})
        for site, (shape, dims) in sites.items()
    }


def _rows_in(loss: str, num_rows: int | None) -> int:
    """How many rows' negative log likelihoods a unit of the loss holds."""
    if loss not in ("sum", "mean"):
        raise ValueError(f"gaussian: expected loss='sum' or loss='mean'; got {loss!r}.")
    if loss == "sum":
        if num_rows is not None:
            raise ValueError("gaussian: num_rows is for loss='mean'; the sum over rows does not need it.")
        return 1
    if not isinstance(num_rows, Integral) or isinstance(num_rows, bool) or num_rows < 1:
        raise ValueError(f"gaussian: expected num_rows, the rows that the mean is over; got {num_rows!r}.")
    return int(num_rows)


def _check_scale(name: str, scale: float) -> None:
    if not (isinstance(scale, int | float) and math.isfinite(scale) and scale > 0):
        raise ValueError(f"{name}: expected a positive finite scale; got {scale!r}.")
