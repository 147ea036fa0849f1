"""Several observations of one network: each has outputs of its own, and a site of its own name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jax import Array
from numpyro.primitives import Messenger

from .observation import SITE, AnyArray
from .values import compared_by_value


class Observation(Protocol):
    """The distribution of y given eta: states the number of outputs it needs, and samples or observes y when called."""

    @property
    def num_outputs(self) -> int: ...

    def __call__(self, eta: Array, y: Any = None) -> Any: ...


@compared_by_value
@dataclass(frozen=True, eq=False)
class Heads:
    """The observation of several values per row, which are independent given the outputs of the network.

    The outputs are those of the observations one after the other. Each observation samples the site of its name in
    place of ``y``; what it learns beside the network has that name in front, as in ``price/scale``.

    Args:
        parts: pairs of a name and an observation, at least one.

    Raises:
        TypeError: when a name is not a string, or an observation not one.
        ValueError: when there is no observation.
    """

    parts: tuple[tuple[str, Observation], ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("Model: expected an observation, or several by name, {'price': Normal()}; got none.")
        for name, observation in self.parts:
            if not isinstance(name, str) or not name:
                raise TypeError(f"Model: expected names of observations, such as 'price'; got {name!r}.")
            check_observation(observation)

    @property
    def num_outputs(self) -> int:
        """The number of outputs that the network must have: those of all observations."""
        return sum(observation.num_outputs for _, observation in self.parts)

    def __call__(self, eta: Array, y: Mapping[str, AnyArray] | None = None) -> dict[str, AnyArray]:
        """Sample or observe y, by name.

        Args:
            eta: the outputs of the network, (n, ..., num_outputs).
            y: the rows of each observation under its name, or None to sample them.

        Raises:
            ValueError: when eta has another number of outputs, or the keys of y are not the names.
        """
        names = [name for name, _ in self.parts]
        if eta.shape[-1] != self.num_outputs:
            raise ValueError(f"Model: expected {self.num_outputs} outputs of the network; got shape {eta.shape}.")
        if y is not None and (not isinstance(y, Mapping) or set(y) != set(names)):
            got = f"the keys {list(y)}" if isinstance(y, Mapping) else f"an array of shape {np.shape(y)}"
            raise ValueError(
                f"Model: expected y to be a dict with the rows of each observation, {names}; got {got}. Give "
                f"{{{', '.join(f'{name!r}: ...' for name in names)}}}."
            )
        values, start = {}, 0
        for name, observation in self.parts:
            stop = start + observation.num_outputs
            with _Named(name):
                values[name] = observation(eta[..., start:stop], None if y is None else y[name])
            start = stop
        return values

    def __repr__(self) -> str:
        return repr(dict(self.parts))


class _Named(Messenger):
    """Gives the site ``y`` of an observation another name, and puts it in front of those of its other sites."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] in ("sample", "deterministic", "param"):
            msg["name"] = self.name if msg["name"] == SITE else f"{self.name}/{msg['name']}"


def check_observation(observation: Any) -> Observation:
    """Return an observation; raise TypeError for anything else."""
    if isinstance(observation, type) or not hasattr(observation, "num_outputs"):
        raise TypeError(f"Model: expected an observation such as Bernoulli(); got {observation!r}.")
    return observation  # type: ignore[no-any-return]


def as_observation(observation: Any) -> Observation:
    """Return an observation, or several by name as one; raise TypeError for anything else."""
    if isinstance(observation, Mapping):
        return Heads(tuple(observation.items()))
    return check_observation(observation)
