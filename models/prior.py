"""Priors over weights: functions of (site, shape) that return a NumPyro distribution."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

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
        return dist.Normal(0.0, self.scale / math.sqrt(math.prod(shape[:-1]))).expand(shape)


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


def _check_scale(name: str, scale: float) -> None:
    if not (isinstance(scale, int | float) and math.isfinite(scale) and scale > 0):
        raise ValueError(f"{name}: expected a positive finite scale; got {scale!r}.")
