"""Observations of several values per row: `Independent`, and `MultivariateNormal` with a learned covariance."""

import math
from dataclasses import dataclass, field

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jaxtyping import Float, Shaped

from .censored import Censored
from .observation import AnyArray, Scalar, blocks_of, check_outputs, check_scalar, observe, repeated, sample
from .parameters import SCALE, Parameter, check_parameters, count_outputs, priors_of, values_of
from .values import compared_by_value


@compared_by_value
@dataclass(frozen=True, eq=False)
class Independent:
    """y is a vector of k values in each row, (n, k), each with the same observation, independent given the outputs.

    The loss is the sum over the values. The outputs of the network are in blocks of k: first the first outputs of all
    values, such as their means, then the second ones, such as their scales. What the observation learns beside the
    network is learned for each value: ``Independent(Normal(HalfNormal(1.0)), 3)`` has a site ``scale`` of shape (3,).
    Values that are missing (NaN) add nothing to the likelihood.

    Args:
        observation: the observation of one value, such as `Normal`, `Poisson` or `Bernoulli`.
        num_values: k, at least 1.

    Raises:
        TypeError: when the observation is not of one value per row, or takes bounds.
        ValueError: when `num_values` is not a positive integer.

    Example:
        >>> from flatprior.models import MLP, Independent, Model, Normal
        >>> model = Model(MLP((8,)), Independent(Normal("network"), 3))
        >>> model.observation.num_outputs  # three means, then three scales
        6
    """

    observation: Scalar
    num_values: int

    def __post_init__(self) -> None:
        check_scalar("Independent", self.observation)
        if isinstance(self.observation, Censored):
            raise TypeError("Independent: expected an observation whose y is not bounds; got Censored.")
        _check_count("Independent", self.num_values, 1)

    @property
    def num_outputs(self) -> int:
        """The number of outputs that the network must have: those of one value, for each of them."""
        return self.num_values * self.observation.num_outputs

    def __call__(self, eta: Float[Array, "n m"], y: Shaped[AnyArray, "..."] | None = None) -> AnyArray:
        """Sample or observe y.

        Raises:
            ValueError: when eta is not one vector of outputs per row, or y is not num_values values per row.
        """
        _check_vectors("Independent", eta, y, self.num_values)
        priors = repeated(self.observation.learned, self.num_values)
        learned = {name: sample(name, prior) for name, prior in priors.items()}
        d = self.observation.distribution(blocks_of(eta, self.num_values), learned)
        return observe(d.to_event(1), y)


def unit_scale() -> dist.Distribution:
    """Return the default prior of the scales of a `MultivariateNormal`, HalfCauchy(1), in units of y.

    Its median is 1, and its tail is heavy enough for scales of some hundreds (Gelman 2006).
    """
    return dist.HalfCauchy(1.0)


@compared_by_value
@dataclass(frozen=True, eq=False)
class MultivariateNormal:
    """y is a vector of k values in each row, (n, k), jointly Normal around the outputs, with a learned correlation.

    The covariance is ``diag(scale) C diag(scale)``. The correlation matrix C is the same in all rows: the site
    ``correlation`` is its Cholesky factor, with the prior LKJCholesky(k, concentration) (Lewandowski et al. 2009). The
    loss is half the squared Mahalanobis distance from the outputs, plus half the log determinant of the covariance.
    Values that are missing (NaN) add nothing to the likelihood, which is then the marginal one of the others.

    Args:
        num_values: k, at least 2.
        scale: the standard deviations: a number, the same for all values; a distribution over positive numbers, the
            prior of each, the site ``scale`` of shape (k,) (by default HalfCauchy(1)); or "network", k further
            outputs, ``softplus(eta[:, k:]) + 1e-6``.
        concentration: the concentration of the prior of C, positive: 1 is uniform over correlation matrices, larger
            numbers favour small correlations.

    Raises:
        ValueError: when `num_values` is not an integer of at least 2, the scale has none of these forms, or the
            concentration is not positive.

    Example:
        >>> from flatprior.models import MLP, Model, MultivariateNormal
        >>> Model(MLP((8,)), MultivariateNormal(3)).observation.num_outputs
        3
    """

    num_values: int
    scale: Parameter = field(default_factory=unit_scale, metadata=SCALE)
    concentration: float = 1.0

    def __post_init__(self) -> None:
        _check_count("MultivariateNormal", self.num_values, 2)
        check_parameters(self)
        is_number = isinstance(self.concentration, int | float)
        if not (is_number and math.isfinite(self.concentration) and self.concentration > 0):
            raise ValueError(
                f"MultivariateNormal: expected a positive number as concentration; got {self.concentration!r}."
            )

    @property
    def num_outputs(self) -> int:
        """The number of outputs that the network must have: the means, and the scales if they are outputs."""
        return self.num_values * (1 + count_outputs(self))

    def __call__(self, eta: Float[Array, "n m"], y: Shaped[AnyArray, "..."] | None = None) -> AnyArray:
        """Sample or observe y.

        Raises:
            ValueError: when eta is not one vector of outputs per row, or y is not num_values values per row.
        """
        size = self.num_values
        _check_vectors("MultivariateNormal", eta, y, size)
        learned = {name: sample(name, prior) for name, prior in repeated(priors_of(self), size).items()}
        outputs = blocks_of(eta, size)
        scale = jnp.broadcast_to(values_of(self, outputs[..., 1:], learned)["scale"], outputs.shape[:-1])
        factor = sample("correlation", dist.LKJCholesky(size, self.concentration))
        return observe(dist.MultivariateNormal(outputs[..., 0], scale_tril=scale[..., None] * factor), y)


def _check_count(name: str, num_values: object, least: int) -> None:
    if not isinstance(num_values, int) or isinstance(num_values, bool) or num_values < least:
        raise ValueError(f"{name}: expected an integer of at least {least} as num_values; got {num_values!r}.")


def _check_vectors(name: str, eta: Array, y: AnyArray | None, num_values: int) -> None:
    """Check that there is one y of the right length per row."""
    check_outputs(name, eta)
    shape = (*eta.shape[:-1], num_values)
    if y is not None and jnp.shape(y) != shape:
        raise ValueError(f"Expected y of shape {shape}, {num_values} values per row of x; got {jnp.shape(y)}.")
