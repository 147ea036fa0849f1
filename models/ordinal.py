"""Observations of ordered classes: `Ordinal`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array
from jaxtyping import Float, Shaped
from numpyro.distributions import constraints

from .observation import AnyArray, check_rows, observe, sample
from .parameters import CONCENTRATION, NETWORK, Parameter, check_parameters, of_output
from .values import compared_by_value


def any_gap() -> dist.Distribution:
    """Return the default prior of a gap between two cutpoints: the softplus of a Normal(1, 2).

    The class between them has a probability of at most ``tanh(gap / 4)``, in any row: 95% of gaps are between 0.05 and
    4.9, where this is 0.013 and 0.84. The density is 0 at 0, and falls like that of a Normal, so that there is a mode
    also for a class that never occurs. By softplus a large gap is its own unconstrained coordinate, along which
    Newton's method shows whether a likelihood rises for ever.
    """
    return dist.TransformedDistribution(dist.Normal(1.0, 2.0), dist.transforms.SoftplusTransform())


@compared_by_value
@dataclass(frozen=True, eq=False)
class Ordinal:
    """y is one of the ordered classes 0, ..., K - 1: the proportional odds model (McCullagh 1980).

    ``P(y <= k) = sigmoid(c_k - eta)`` with the cutpoints ``c_0 < ... < c_{K-2}``: the log odds of a class above k are
    eta minus the cutpoint. The loss is minus the log of the difference of two such probabilities. Classes have an
    order, and so a cdf, but no distances, and so no mean.

    The cutpoints sum to 0, since a bias of the network moves all of them: with both, neither would be determined by
    the data. Their gaps are learned, the site ``gaps`` of shape (K - 2,); the cutpoints are the deterministic site
    ``cutpoints``. Software that has K - 1 free cutpoints and no bias, such as statsmodels' `OrderedModel`, fits the
    same model: its cutpoints are ``c_k - bias``. For two classes it is `Bernoulli`.

    Args:
        num_classes: K, at least 2.
        gaps: the distances of neighbouring cutpoints: a number, the same for all; a distribution over positive
            numbers, the prior of each (by default the softplus of a Normal(1, 2)); or "network", K - 2 further outputs,
            ``exp(eta[:, 1:]) + 1e-6``, so that they differ between rows.

    Raises:
        ValueError: when there are fewer than two classes, or the gaps are of none of these forms.

    Example:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> from flatprior.models import Ordinal
        >>> grades = Ordinal(3).distribution(jnp.zeros((1, 1)), {"gaps": jnp.array([2.0])})
        >>> print(np.exp(grades.log_prob(jnp.arange(3))).round(3))
        [0.269 0.462 0.269]
    """

    num_classes: int
    gaps: Parameter = field(default_factory=any_gap, metadata=CONCENTRATION)

    link: ClassVar = "logit"

    def __post_init__(self) -> None:
        if not isinstance(self.num_classes, int) or self.num_classes < 2:
            raise ValueError(f"Ordinal: expected at least 2 classes; got {self.num_classes!r}.")
        check_parameters(self)

    @property
    def num_outputs(self) -> int:
        """The number of outputs that the network must have: the place of y, and the gaps if they are outputs."""
        return 1 + (self.num_classes - 2 if self.gaps == NETWORK else 0)

    @property
    def learned(self) -> dict[str, dist.Distribution]:
        """The prior of the gaps, if they are learned."""
        if not isinstance(self.gaps, dist.Distribution) or self.num_classes == 2:
            return {}
        return {"gaps": self.gaps.expand((self.num_classes - 2,)).to_event(1)}

    def distribution(self, eta: Float[Array, "... m"], learned: Mapping[str, Array]) -> dist.Distribution:
        """Return the distribution of y, one class for each vector of outputs; see `Scalar`."""
        size = self.num_classes - 2
        if "gaps" in learned:
            gaps = learned["gaps"]
        elif self.gaps == NETWORK:
            gaps = of_output(self, "gaps", eta[..., 1:])
        else:
            gaps = jnp.full((size,), self.gaps if isinstance(self.gaps, int | float) else 1.0, eta.dtype)
        return OrdinalLogistic(eta[..., 0], jnp.broadcast_to(gaps, (*eta.shape[:-1], size)))

    def __call__(self, eta: Float[Array, "n m"], y: Shaped[AnyArray, "..."] | None = None) -> AnyArray:
        """Sample or observe y.

        Raises:
            ValueError: when eta is not one vector of outputs per row, or y is not one class per row.
            TypeError: when the classes are not integers.
        """
        check_rows("Ordinal", eta, y)
        if y is not None and not jnp.issubdtype(jnp.result_type(y), jnp.integer):
            raise TypeError(
                f"Ordinal: expected integer classes 0, ..., {self.num_classes - 1}, in their order; got "
                f"{jnp.result_type(y)}. Use y.astype(int) if they are classes."
            )
        learned = {name: sample(name, prior) for name, prior in self.learned.items()}
        if "gaps" in learned:
            numpyro.deterministic("cutpoints", cutpoints_of(learned["gaps"]))
        return observe(self.distribution(eta, learned), y)


def cutpoints_of(gaps: Float[Array, "... m"]) -> Float[Array, "... m+1"]:
    """Return the cutpoints with these gaps that sum to 0."""
    cuts = jnp.pad(jnp.cumsum(gaps, axis=-1), [(0, 0)] * (gaps.ndim - 1) + [(1, 0)])
    return cuts - cuts.mean(axis=-1, keepdims=True)


class OrdinalLogistic(dist.Distribution):
    """Classes between cutpoints of a logistic variable around `predictor`: ``P(Y <= k) = sigmoid(c_k - predictor)``.

    Class probabilities are ``sigmoid(c_k - eta) sigmoid(eta - c_{k-1}) (1 - exp(-gap))``, which is the difference of
    two cdfs without a subtraction: their logs are exact in both tails, also in float32.

    Args:
        predictor: the place of the variable, (*batch).
        gaps: the distances of the cutpoints, which sum to 0, (*batch, K - 2).
    """

    loss: ClassVar[str] = "ordinal cross-entropy, with cumulative logits"
    """The name of its negative log probability."""
    arg_constraints: ClassVar = {
        "predictor": constraints.real,
        "gaps": constraints.independent(constraints.positive, 1),
    }
    pytree_data_fields = ("predictor", "gaps")
    has_enumerate_support = True

    def __init__(self, predictor: Array, gaps: Array, *, validate_args: bool | None = None) -> None:
        self.predictor, self.gaps = predictor, gaps
        super().__init__(jnp.shape(predictor), (), validate_args=validate_args)

    @property
    def num_classes(self) -> int:
        """K."""
        return int(jnp.shape(self.gaps)[-1]) + 2

    @constraints.dependent_property(is_discrete=True, event_dim=0)  # type: ignore[untyped-decorator]
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.num_classes - 1)

    @property
    def class_log_probs(self) -> Float[Array, "... k"]:
        """Log p(y = k) of all classes."""
        above = cutpoints_of(self.gaps) - jnp.asarray(self.predictor)[..., None]
        end = jnp.zeros_like(above[..., :1])
        ends = jnp.concatenate([jax.nn.log_sigmoid(above), end], -1) + jnp.concatenate(
            [end, jax.nn.log_sigmoid(-above)], -1
        )
        widths = jnp.log(-jnp.expm1(-jnp.asarray(self.gaps)))
        return ends + jnp.concatenate([end, widths, end], -1)

    def log_prob(self, value: Array) -> Array:
        table = self.class_log_probs
        shape = jnp.broadcast_shapes(jnp.shape(value), table.shape[:-1])
        chosen = jnp.broadcast_to(value, shape)[..., None]
        return jnp.take_along_axis(jnp.broadcast_to(table, (*shape, table.shape[-1])), chosen, axis=-1)[..., 0]

    def cdf(self, value: Array) -> Array:
        cuts = cutpoints_of(self.gaps)
        last = cuts.shape[-1]
        shape = jnp.broadcast_shapes(jnp.shape(value), cuts.shape[:-1])
        k = jnp.broadcast_to(jnp.floor(value), shape).astype(int)
        cut = jnp.take_along_axis(jnp.broadcast_to(cuts, (*shape, last)), jnp.clip(k, 0, last - 1)[..., None], axis=-1)
        inside = jax.nn.sigmoid(cut[..., 0] - self.predictor)
        return jnp.where(k < 0, 0.0, jnp.where(k >= last, 1.0, inside))

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        return dist.Categorical(logits=self.class_log_probs).sample(key, sample_shape)

    def enumerate_support(self, expand: bool = True) -> Array:
        values = jnp.arange(self.num_classes).reshape(-1, *(1,) * len(self.batch_shape))
        return jnp.broadcast_to(values, (self.num_classes, *self.batch_shape)) if expand else values
