"""Parameters of an observation beside its first output: known numbers, learned with a prior, or further outputs.

Every such parameter has the same three forms:

- a number: known, and the same for all rows;
- a NumPyro distribution: one unknown number for all rows, a site with the name of the parameter, with this prior;
- ``"network"``: a further output of the network, mapped to the values that the parameter can have.

A field of an observation is a parameter by its metadata: ``field(default="network", metadata=SCALE)``.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, fields
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jaxtyping import Float
from numpyro.distributions import constraints

type Parameter = float | dist.Distribution | Literal["network"]
"""A parameter of an observation: a number, the prior of one unknown number, or "network", an output of the network."""

NETWORK = "network"
FLOOR = 1e-6
"""The smallest scale or concentration that a network can express: softplus and exp are 0 in float32 far below 0."""


@dataclass(frozen=True)
class Kind:
    """The values that a parameter can have."""

    words: str
    """A number of this kind, in words."""
    supports: tuple[constraints.Constraint, ...]
    """The supports of priors of such numbers."""
    example: str
    """A prior."""
    largest: float
    """The numbers are positive, and below this."""
    of_output: Callable[[Array], Array]
    """The map from an output of the network to such a number."""

    def allows(self, value: object) -> bool:
        """Return whether a value is a number of this kind."""
        return isinstance(value, int | float) and math.isfinite(value) and 0 < value < self.largest


def _kind(*args: Any) -> dict[str, Kind]:
    """Return the metadata of a field that is a parameter of some kind."""
    return {"kind": Kind(*args)}


POSITIVE = (constraints.positive, constraints.nonnegative, constraints.softplus_positive)
SCALE = _kind("a positive number", POSITIVE, "HalfNormal(1.0)", math.inf, lambda eta: jax.nn.softplus(eta) + FLOOR)
"""The metadata of a field that is a scale, in units of y or of log y."""
CONCENTRATION = _kind("a positive number", POSITIVE, "LogNormal(1.0, 2.0)", math.inf, lambda eta: jnp.exp(eta) + FLOOR)
"""The same of a number without units that may be of any order of magnitude."""
PROBABILITY = _kind("a number between 0 and 1", (constraints.unit_interval,), "Beta(2.0, 2.0)", 1.0, jax.nn.sigmoid)
"""The same of a probability."""


def any_concentration() -> dist.Distribution:
    """Return the default prior of a concentration, LogNormal(1, 2): weakly informative.

    It has 95% of its mass between 0.05 and 137: from counts with a variance of 20 times their squared mean, or shares
    that are nearly always 0 or 1, to a spread of 9% of the mean. Its density is 0 at 0 and at infinity, so that there
    is a mode also where the data alone have none, as counts that vary less than a Poisson.
    """
    return dist.LogNormal(1.0, 2.0)


def any_probability() -> dist.Distribution:
    """Return the default prior of a probability, Beta(2, 2): its density is 0 at 0 and at 1, where MLEs may end."""
    return dist.Beta(2.0, 2.0)


def parameters_of(observation: Any) -> dict[str, Parameter]:
    """Return the parameters of an observation by name, in the order of its fields."""
    return {each.name: getattr(observation, each.name) for each in _fields(observation)}


def check_parameters(observation: Any) -> None:
    """Raise ValueError where a parameter has none of the three forms."""
    name = type(observation).__name__
    for each in _fields(observation):
        kind, value = each.metadata["kind"], getattr(observation, each.name)
        if isinstance(value, dist.Distribution):
            if value.shape() != () or value.support not in kind.supports:
                over = "positive numbers" if kind.largest == math.inf else "numbers between 0 and 1"
                raise ValueError(
                    f"{name}: expected the prior of the {each.name} to be one distribution over {over}, such as "
                    f"{kind.example}; got {type(value).__name__} of shape {value.shape()} on {value.support}."
                )
        elif value != NETWORK and not kind.allows(value):
            raise ValueError(
                f"{name}: expected {kind.words}, a NumPyro distribution or 'network' as {each.name}; got {value!r}."
            )


def count_outputs(observation: Any) -> int:
    """Return the number of parameters that are outputs of the network."""
    return sum(_is_output(value) for value in parameters_of(observation).values())


def priors_of(observation: Any) -> dict[str, dist.Distribution]:
    """Return the priors of the parameters that are learned, by name."""
    return {name: value for name, value in parameters_of(observation).items() if isinstance(value, dist.Distribution)}


def values_of(
    observation: Any, outputs: Float[Array, "... m"], learned: Mapping[str, Array]
) -> dict[str, Array | float]:
    """Return the values of the parameters, by name.

    Args:
        observation: the observation whose parameters they are.
        outputs: the outputs of the network that are parameters, in the order of the fields.
        learned: the values of those that are learned.
    """
    values: dict[str, Array | float] = {}
    rest = iter(jnp.moveaxis(outputs, -1, 0))
    for each in _fields(observation):
        value = getattr(observation, each.name)
        if isinstance(value, dist.Distribution):
            values[each.name] = learned[each.name]
        else:
            values[each.name] = each.metadata["kind"].of_output(next(rest)) if _is_output(value) else value
    return values


def of_output(observation: Any, name: str, output: Array) -> Array:
    """Return the values of a parameter that are outputs of the network."""
    kind = next(each.metadata["kind"] for each in _fields(observation) if each.name == name)
    return jnp.asarray(kind.of_output(output))


def _fields(observation: Any) -> tuple[Field[Any], ...]:
    return tuple(each for each in fields(observation) if "kind" in each.metadata)


def _is_output(value: Parameter) -> bool:
    return isinstance(value, str)
