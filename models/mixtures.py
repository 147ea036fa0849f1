"""Observations made of others: `Mixture` and `ZeroInflated`."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpyro.distributions as dist
from jax import Array
from jaxtyping import Float, Shaped
from numpyro.distributions import constraints

from .censored import Censored
from .observation import AnyArray, Link, Scalar, blocks_of, check_scalar, observe_values, repeated, support_of
from .parameters import PROBABILITY, Parameter, any_probability, check_parameters, count_outputs, priors_of, values_of
from .values import compared_by_value


@compared_by_value
@dataclass(frozen=True, eq=False)
class Mixture:
    """y is drawn from one of K components, copies of another observation: a mixture density network (Bishop 1994).

    ``p(y | x) = sum_k softmax(eta[:, :K])_k p_k(y | x)``. The network gives the weights and everything that it gives
    for one component, in blocks of K: first the logits of the weights, then the first outputs of all components, such
    as their means, then the second ones, such as their scales. What the observation learns beside the network is
    learned for each component. Components can be exchanged, so that chains need not agree on them.

    Args:
        observation: the observation of one value, such as `Normal` or `Poisson`.
        num_components: K, at least 2.

    Raises:
        TypeError: when the observation is not of one value per row, or takes bounds.
        ValueError: when `num_components` is not an integer of at least 2.

    Example:
        >>> from flatprior.models import MLP, Mixture, Model, Normal
        >>> Model(MLP((8,)), Mixture(Normal("network"), 2)).observation.num_outputs  # 2 weights, 2 means, 2 scales
        6
    """

    observation: Scalar
    num_components: int

    def __post_init__(self) -> None:
        check_scalar("Mixture", self.observation)
        if isinstance(self.observation, Censored):
            raise TypeError("Mixture: expected an observation whose y is not bounds; got Censored.")
        size = self.num_components
        if not isinstance(size, int) or isinstance(size, bool) or size < 2:
            raise ValueError(f"Mixture: expected an integer of at least 2 as num_components; got {size!r}.")

    @property
    def num_outputs(self) -> int:
        """The number of outputs that the network must have: for each component a weight and its own."""
        return self.num_components * (1 + self.observation.num_outputs)

    @property
    def learned(self) -> Mapping[str, dist.Distribution]:
        """The priors of what the components learn, for each of them."""
        return repeated(self.observation.learned, self.num_components)

    def distribution(self, eta: Float[Array, "... m"], learned: Mapping[str, Array]) -> dist.Distribution:
        """Return the distribution of y, one value for each vector of outputs; see `Scalar`."""
        outputs = blocks_of(eta, self.num_components)
        components = self.observation.distribution(outputs[..., 1:], learned)
        return dist.MixtureSameFamily(dist.Categorical(logits=outputs[..., 0]), components)

    def __call__(self, eta: Float[Array, "n m"], y: Shaped[AnyArray, "..."] | None = None) -> AnyArray:
        """Sample or observe y.

        Raises:
            ValueError: when eta is not one vector of outputs per row, or y is not one value per row.
        """
        return observe_values(self, eta, y)


@compared_by_value
@dataclass(frozen=True, eq=False)
class ZeroInflated:
    """y is 0 with the probability `gate`, and else a count of another observation, or 0 by it (Lambert 1992).

    The loss of a row is ``-log(gate + (1 - gate) p(0))`` where y is 0, and ``-log(1 - gate) - log p(y)`` elsewhere.

    Args:
        observation: the observation of a count, such as `Poisson` or `NegativeBinomial`.
        gate: the probability of the additional zeros: a number; a distribution over probabilities, the prior of the
            site ``gate`` (by default Beta(2, 2)); or "network", a last output, ``sigmoid(eta[:, -1])``.

    Raises:
        TypeError: when the observation is not of a count.
        ValueError: when the gate has none of these forms.

    Example:
        >>> import jax.numpy as jnp
        >>> from flatprior.models import Poisson, ZeroInflated
        >>> y = ZeroInflated(Poisson(), 0.5).distribution(jnp.log(jnp.array([[3.0]])), {})
        >>> print(y.mean, y.variance)
        [1.5] [3.75]
    """

    observation: Scalar
    gate: Parameter = field(default_factory=any_probability, metadata=PROBABILITY)

    def __post_init__(self) -> None:
        check_scalar("ZeroInflated", self.observation)
        support = support_of(self.observation)
        is_class = support is constraints.boolean or hasattr(support, "upper_bound")
        if not support.is_discrete or is_class:
            raise TypeError(
                f"ZeroInflated: expected an observation of a count, such as Poisson(); got {self.observation!r}."
            )
        check_parameters(self)

    @property
    def link(self) -> Link | None:
        """The link of the first output, which is that of the counts that are not additional zeros."""
        return getattr(self.observation, "link", None)

    @property
    def num_outputs(self) -> int:
        """The number of outputs that the network must have: those of the count, and the gate if it is an output."""
        return self.observation.num_outputs + count_outputs(self)

    @property
    def learned(self) -> Mapping[str, dist.Distribution]:
        """The priors of what the observation learns, and that of the gate if it is learned."""
        return {**self.observation.learned, **priors_of(self)}

    def distribution(self, eta: Float[Array, "... m"], learned: Mapping[str, Array]) -> dist.Distribution:
        """Return the distribution of y, one value for each vector of outputs; see `Scalar`."""
        count = self.observation.num_outputs
        base = self.observation.distribution(eta[..., :count], learned)
        if count_outputs(self):
            return dist.ZeroInflatedDistribution(base, gate_logits=eta[..., count])
        return dist.ZeroInflatedDistribution(base, gate=values_of(self, eta[..., count:], learned)["gate"])

    def __call__(self, eta: Float[Array, "n m"], y: Shaped[AnyArray, "..."] | None = None) -> AnyArray:
        """Sample or observe y.

        Raises:
            ValueError: when eta is not one vector of outputs per row, or y is not one value per row.
        """
        return observe_values(self, eta, y)
