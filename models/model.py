"""A network, an observation and a prior: a NumPyro model."""

from dataclasses import dataclass
from inspect import signature
from typing import Protocol

from jax import Array
from jaxtyping import Num, PyTree, Shaped

from .modules import library_of
from .network import UNIT
from .observation import AnyArray
from .prior import Prior, as_prior


class Network(Protocol):
    """Turns x into outputs and samples its weights: ``network(x, num_outputs, prior=prior)`` -> eta (n, outputs)."""

    def __call__(self, x: AnyArray, num_outputs: int = 1, *, prior: Prior = ...) -> Array: ...


class Observation(Protocol):
    """The distribution of y given eta: says how many outputs it needs, and samples or observes y when called."""

    @property
    def num_outputs(self) -> int: ...

    def __call__(self, eta: Array, y: AnyArray | None = None) -> AnyArray: ...


@dataclass(frozen=True)
class Model:
    """A network as a NumPyro model, ``p(y | x, w) p(w)``.

    Frozen and hashable: equal models share their compiled code.

    Args:
        network: turns x into outputs; `MLP`, `Lift` of a module, or any function ``network(x, num_outputs,
            prior=prior)`` that samples its weights.
        observation: the distribution of y given the outputs.
        prior: the prior of the weights; see `flatprior.models`.

    Raises:
        TypeError: when a part is not of its kind.

    Example:
        >>> from flatprior.models import MLP, Categorical, Model, fan_in, gaussian
        >>> Model(MLP((16, 16)), Categorical(3), {"w*": fan_in(1.0), "b*": gaussian(0.5)}).observation.num_outputs
        3
    """

    network: Network
    observation: Observation
    prior: Prior = UNIT

    def __post_init__(self) -> None:
        if isinstance(self.network, type) or not callable(self.network):
            raise TypeError(f"Model: expected a network such as MLP((16,)); got {self.network!r}.")
        if library_of(self.network) and "prior" not in signature(self.network).parameters:
            name = type(self.network).__name__
            raise TypeError(f"Model: expected a network, which samples its weights; got a module. Use Lift({name}).")
        if isinstance(self.observation, type) or not hasattr(self.observation, "num_outputs"):
            raise TypeError(f"Model: expected an observation such as Bernoulli(); got {self.observation!r}.")
        object.__setattr__(self, "prior", as_prior(self.prior))

    def __call__(self, x: PyTree[Num[AnyArray, "n ..."]], y: Shaped[AnyArray, "..."] | None = None) -> AnyArray:
        """The NumPyro model: sample the weights, then sample or observe y.

        Args:
            x: n rows of features; a pytree of such arrays for a network that takes one.
            y: n observations, or None to sample them.
        """
        eta = self.network(x, self.observation.num_outputs, prior=self.prior)
        return self.observation(eta, y)
