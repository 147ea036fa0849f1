"""A NumPyro model made of a network, an observation and a prior."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, Protocol

from jax import Array
from jaxtyping import PyTree, Shaped
from numpyro.handlers import trace
from numpyro.primitives import Messenger

from .heads import Observation, as_observation
from .modules import library_of
from .observation import AnyArray
from .offsets import add_offset, check_exposure, check_offset, split_offset
from .prior import UNIT, Prior, as_prior
from .values import compared_by_value


class Network(Protocol):
    """A map from x to outputs that samples its weights: ``network(x, num_outputs, prior=prior)`` -> (n, outputs)."""

    def __call__(self, x: AnyArray, num_outputs: int = 1, *, prior: Prior = ...) -> Array: ...


@compared_by_value
@dataclass(frozen=True, eq=False)
class Model:
    """A network as a NumPyro model, ``p(y | x, w) p(w)``.

    Frozen and hashable: equal models share their compiled code.

    Args:
        network: the map from x to outputs; `MLP`, `Lift` of a module, or any function ``network(x, num_outputs,
            prior=prior)`` that samples its weights.
        observation: the distribution of y given the outputs; or several by name, of which each has outputs of its own:
            with ``{"price": Normal(), "sold": Bernoulli()}`` y is a dict with rows of both, and its log probability is
            the sum.
        prior: the prior of the weights; see `flatprior.models`. By default every weight is Normal(0, 1), including
            every parameter of a lifted module, whatever its role; `priors` then prints "default".
        offset: the name of an entry of x, (n,), that is added to the first output of the network: the place of y on
            the scale of its link. x is then a dict, and the network sees the rest of it: the only other entry as an
            array, several as a dict.
        exposure: the same of an entry whose log is added, such as the time in which events were counted; only for an
            observation with a log link, such as `Poisson`. The mean of y is then in proportion to it.

    Raises:
        TypeError: when an argument is not of its kind.
        ValueError: when the observation has not the link that an offset or an exposure needs.

    Example:
        >>> from flatprior.models import MLP, Categorical, Model, fan_in, gaussian
        >>> Model(MLP((16, 16)), Categorical(3), {"w*": fan_in(1.0), "b*": gaussian(0.5)}).observation.num_outputs
        3
        >>> from flatprior.models import Poisson
        >>> events_per_day = Model(MLP(), Poisson(), exposure="days")  # of x = {"features": (n, d), "days": (n,)}
    """

    network: Network
    observation: Observation | Mapping[str, Observation]
    prior: Prior = UNIT
    offset: str | None = field(default=None, kw_only=True)
    exposure: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.network, type) or not callable(self.network):
            raise TypeError(f"Model: expected a network such as MLP((16,)); got {self.network!r}.")
        if library_of(self.network) and "prior" not in signature(self.network).parameters:
            name = type(self.network).__name__
            raise TypeError(f"Model: expected a network, which samples its weights; got a module. Use Lift({name}).")
        object.__setattr__(self, "observation", as_observation(self.observation))
        object.__setattr__(self, "prior", as_prior(self.prior))
        check_offset(self.observation, self.offset, self.exposure)

    @property
    def own_units(self) -> frozenset[str]:
        """The entries of x whose units have a meaning, so that `standardize` leaves them as they are."""
        return frozenset(name for name in (self.offset, self.exposure) if name is not None)

    def check_rows(self, x: Any) -> None:
        """Raise ValueError at the first exposure that is not positive; `fit` calls this before it traces the model."""
        if self.exposure is not None and isinstance(x, Mapping) and self.exposure in x:
            check_exposure(self.exposure, x[self.exposure])

    def __call__(self, x: PyTree[Shaped[AnyArray, "n ..."]], y: PyTree[Shaped[AnyArray, "..."]] | None = None) -> Any:
        """The NumPyro model: sample the weights, then sample or observe y.

        Args:
            x: n rows of features; or a pytree of such arrays, if the network takes one.
            y: n observations, by name where there are several, or None to sample them.

        Raises:
            ValueError: when a site of the observation has the same name as a weight, or x has not the entries of an
                offset or exposure.
        """
        observation = as_observation(self.observation)
        features, shift = split_offset(x, self.offset, self.exposure)
        with trace() as sites:
            eta = self.network(features, observation.num_outputs, prior=self.prior)
        with _DistinctNames(self.network, [name for name, site in sites.items() if site["type"] != "plate"]):
            return observation(add_offset(eta, shift), y)


class _DistinctNames(Messenger):
    """Rejects sites of an observation that share a name with a weight: NumPyro would let a plate replace a weight."""

    def __init__(self, network: Network, weights: list[str]) -> None:
        super().__init__()
        self.network, self.weights = network, weights

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg.get("name") in self.weights:
            raise ValueError(
                f"Model: expected weights and sites of the observation with different names; got {msg['name']!r} in "
                f"both the observation and {self.network!r}. Rename the parameter, or make the module a field of "
                f"another, which makes its path longer."
            )
