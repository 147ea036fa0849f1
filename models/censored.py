"""Observations of which only bounds may be known, such as survival times: `Censored`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from jaxtyping import Float, Shaped
from numpyro.distributions import constraints

from .numbers import Normal, StudentT
from .observation import AnyArray, Link, Scalar, check_outputs, observe, sample
from .positive import Exponential, Gamma, LogNormal, Weibull
from .tails import log1mexp, log_tails
from .values import compared_by_value

CENSORABLE = (Normal, StudentT, LogNormal, Gamma, Weibull, Exponential)
"""The observations whose tails are known."""


@compared_by_value
@dataclass(frozen=True, eq=False)
class Censored:
    """y is as in another observation, but only bounds of some rows are known (Kalbfleisch & Prentice 2002, chapter 3).

    y has shape (n,), or (n, 2) with a lower and an upper bound for each row. The contribution of a row to the log
    likelihood is

    - the log density, where both bounds are the same number: the value is known;
    - ``log P(Y > lower)``, where the upper bound is infinite: right-censored, as a time that had not ended;
    - ``log P(Y <= upper)``, where the lower one is -infinity, or 0 for positive y: left-censored;
    - ``log P(lower < Y <= upper)`` otherwise: interval-censored.

    These are exact in the tails, also in float32. Which rows are censored is assumed to say nothing about y beyond its
    bounds. Predictions are those of y itself, as if it had never been censored.

    Args:
        observation: `Normal`, `StudentT` with a known df, `LogNormal`, `Gamma`, `Weibull` or `Exponential`.

    Raises:
        TypeError: when the observation is none of these.
        ValueError: when it is a `StudentT` whose df is not a number: its tails have no derivative by df.

    Example:
        >>> import jax.numpy as jnp
        >>> from numpyro.infer.util import log_density
        >>> from flatprior.models import Censored, Exponential
        >>> rows = jnp.zeros((2, 1)), jnp.array([[3.0, 3.0], [2.0, jnp.inf]])  # mean 1; one event, one right-censored
        >>> print(log_density(Censored(Exponential()), rows, {}, {})[0])  # -3 - 2
        -5.0
    """

    observation: Scalar

    def __post_init__(self) -> None:
        if not isinstance(self.observation, CENSORABLE):
            names = ", ".join(kind.__name__ for kind in CENSORABLE)
            raise TypeError(f"Censored: expected an observation of {names}; got {self.observation!r}.")
        if isinstance(self.observation, StudentT) and not isinstance(self.observation.df, int | float):
            raise ValueError(
                f"Censored: expected a StudentT whose df is a number, since its tails have no derivative by df; got "
                f"{self.observation!r}."
            )

    @property
    def link(self) -> Link:
        """The link of the first output."""
        return self.observation.link  # type: ignore[attr-defined, no-any-return]

    @property
    def num_outputs(self) -> int:
        """The number of outputs that the network must have."""
        return self.observation.num_outputs

    @property
    def learned(self) -> Mapping[str, dist.Distribution]:
        """The priors of what the observation learns."""
        return self.observation.learned

    def distribution(self, eta: Float[Array, "... m"], learned: Mapping[str, Array]) -> dist.Distribution:
        """Return the distribution of y, one value for each vector of outputs; see `Scalar`."""
        return CensoredDistribution(self.observation.distribution(eta, learned))

    def __call__(self, eta: Float[Array, "n m"], y: Shaped[AnyArray, "..."] | None = None) -> AnyArray:
        """Sample or observe y.

        Raises:
            ValueError: when eta is not one vector of outputs per row, or y is neither one value nor two bounds per row.
        """
        check_outputs("Censored", eta)
        rows = eta.shape[:-1]
        if y is not None and jnp.shape(y) not in (rows, (*rows, 2)):
            cure = " Use y[:, 0]." if jnp.shape(y) == (*rows, 1) else ""
            raise ValueError(
                f"Expected y of shape {rows}, one value per row of x, or {(*rows, 2)}, its bounds; got "
                f"{jnp.shape(y)}.{cure}"
            )
        learned = {name: sample(name, prior) for name, prior in self.learned.items()}
        if y is None or jnp.ndim(y) == 1:
            return observe(self.distribution(eta, learned), y)
        return observe(Intervals(self.observation.distribution(eta, learned)), y)


def censored(time: Any, is_observed: Any) -> np.ndarray:
    """Return rows of bounds for right-censored times, as the y of `Censored`.

    Args:
        time: the time of the event, or until which it had not happened, (n,).
        is_observed: whether the event was observed, as booleans or 0 and 1, (n,).

    Returns:
        (n, 2): ``(time, time)`` where the event was observed, ``(time, inf)`` elsewhere.

    Raises:
        ValueError: when the shapes differ, a time is not finite, or `is_observed` has other values.

    Example:
        >>> from flatprior.models import censored
        >>> print(censored([2.0, 5.0], [True, False]))
        [[ 2.  2.]
         [ 5. inf]]
    """
    times, observed = np.asarray(time, float), np.asarray(is_observed)
    if times.ndim != 1 or observed.shape != times.shape:
        raise ValueError(
            f"censored: expected times and events of one shape (n,); got {times.shape} and {observed.shape}."
        )
    if not np.isfinite(times).all():
        row = int(np.argmin(np.isfinite(times)))
        raise ValueError(f"censored: expected finite times; got {times[row]} in row {row}.")
    if observed.dtype != bool and not np.isin(observed, (0, 1)).all():
        row = int(np.argmin(np.isin(observed, (0, 1))))
        raise ValueError(f"censored: expected booleans as is_observed; got {observed[row]!r} in row {row}.")
    return np.stack([times, np.where(observed.astype(bool), times, np.inf)], axis=1)


class CensoredDistribution(dist.Distribution):
    """The distribution of a number of which only bounds may be observed: that of the number itself.

    Args:
        base_dist: the distribution of the number.
    """

    takes_intervals: ClassVar[bool] = True
    """Whether y may also be rows of bounds, (n, 2)."""
    arg_constraints: ClassVar[dict[str, Any]] = {}
    pytree_data_fields = ("base_dist",)

    def __init__(self, base_dist: dist.Distribution, *, validate_args: bool | None = None) -> None:
        self.base_dist = base_dist
        super().__init__(base_dist.batch_shape, (), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=0)  # type: ignore[untyped-decorator]
    def support(self) -> constraints.Constraint:
        return self.base_dist.support

    @property
    def mean(self) -> Array:
        return self.base_dist.mean

    @property
    def variance(self) -> Array:
        return self.base_dist.variance

    def cdf(self, value: Array) -> Array:
        return self.base_dist.cdf(value)

    def icdf(self, q: Array) -> Array:
        return self.base_dist.icdf(q)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        return self.base_dist.sample(key, sample_shape)

    def log_prob(self, value: Array) -> Array:
        return self.base_dist.log_prob(value)


class _Bounds(constraints.Constraint):  # type: ignore[misc]
    """Bounds of a number, (..., 2): a lower and an upper one.

    A mask replaces what it hides by `feasible_like`, which therefore is a possible value of the number.
    """

    event_dim = 1

    def __init__(self, base_constraint: constraints.Constraint) -> None:
        self.base_constraint = base_constraint
        super().__init__()

    def __call__(self, x: Array) -> Array:
        return x[..., 0] <= x[..., 1]

    def feasible_like(self, prototype: Array) -> Array:
        return self.base_constraint.feasible_like(prototype)


class Intervals(dist.Distribution):
    """The likelihood of bounds of a number, (*batch, 2): the log probability that it is between them.

    Where both bounds are equal it is the log density of the number, so that it is not a normalised density of bounds.
    Unlike NumPyro's censored distributions it does not hold which values are censored: that is part of the values. It
    has no draws: models sample the number itself.

    Args:
        base_dist: the distribution of the number, one of those in `tails.TAILS`.
    """

    takes_intervals: ClassVar[bool] = True
    loss: ClassVar[str] = "censored likelihood: density of known values, probability of intervals"
    """The name of its negative log probability."""
    arg_constraints: ClassVar[dict[str, Any]] = {}
    pytree_data_fields = ("base_dist",)

    def __init__(self, base_dist: dist.Distribution, *, validate_args: bool | None = None) -> None:
        self.base_dist = base_dist
        super().__init__(base_dist.batch_shape, (2,), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=1)  # type: ignore[untyped-decorator]
    def support(self) -> constraints.Constraint:
        return _Bounds(self.base_dist.support)

    def log_prob(self, value: Array) -> Array:
        return _log_prob_of_bounds(self.base_dist, value[..., 0], value[..., 1])


def _log_prob_of_bounds(d: dist.Distribution, lower: Array, upper: Array) -> Array:
    """Return the log probability of intervals, and the log density where both bounds are the same number.

    An interval is a difference of two cdfs, or of two survival functions where these are the smaller ones. Where it is
    so narrow that the difference would cancel, it is the density in the middle times the width, whose relative error is
    of the order of a 24th of the squared difference of the logs.
    """
    least = 0.0 if d.support is constraints.positive else -jnp.inf
    has_lower, has_upper = lower > least, upper < jnp.inf
    # Bounds that are open are replaced before anything is computed: `where` alone keeps NaN in derivatives.
    low = jnp.where(has_lower, lower, jnp.where(has_upper, upper, 1.0))
    high = jnp.where(has_upper, upper, low)
    (cdf_low, sf_low), (cdf_high, sf_high) = log_tails(d, low), log_tails(d, high)
    is_lower_tail = cdf_high < sf_low
    larger = jnp.where(is_lower_tail, cdf_high, sf_low)
    difference = larger - jnp.where(is_lower_tail, cdf_low, sf_high)
    is_narrow = difference < (24 * jnp.finfo(difference.dtype).eps) ** (1 / 3)
    width = jnp.where(high > low, high - low, 1.0)
    narrow = d.log_prob(low + (high - low) / 2) + jnp.log(width)
    wide = larger + log1mexp(jnp.where(is_narrow, 1.0, difference))
    interval = jnp.where(is_narrow, narrow, wide)
    open_ = jnp.where(has_lower, sf_low, jnp.where(has_upper, cdf_high, 0.0))
    closed = jnp.where(lower == upper, d.log_prob(low), interval)
    return jnp.where(has_lower & has_upper, closed, open_)
