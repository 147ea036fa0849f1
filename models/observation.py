"""Observations: distributions of y given the outputs eta. The negative log likelihood is the loss.

An observation of your own is a callable of eta and y that samples the site ``y`` in a plate over rows, and states in
``num_outputs`` how many outputs it needs. The kind of y is read from the distribution of that site when y is not given:
from its ``support``, its ``mean``, ``variance`` and ``cdf`` where they exist, and a parameter ``logits`` in its
``arg_constraints``. Three further attributes, which NumPyro does not define, are optional:

- ``loss``, a string: the name of the negative log probability in deep learning (`SoftCategorical`);
- ``padding``, an integer, with ``logits`` of shape (..., T, K): a row of y is then T tokens, and `padding` is the value
  of y where there is no token (`Tokens`);
- ``takes_intervals = True``: y may also be bounds, (n, 2) (`Censored`).

The protocol is structural: nothing has to be imported or registered. `flatprior.inference.response` documents it in
full.

Observations of one value per row are a `Scalar` as well, of which others are made: `Independent`, `Mixture`,
`ZeroInflated`, `Censored`. This module has what they share; the observations are in modules by subject.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from jaxtyping import Float, Shaped
from numpyro.distributions import constraints

from .parameters import check_parameters, count_outputs, priors_of, values_of

AnyArray = Array | np.ndarray

SITE = "y"
"""The name of the observed site."""

type Link = Literal["identity", "log", "logit"]
"""The link of the first output: the function of the place of y (its mean, median or scale) that the output is."""


@runtime_checkable
class Scalar(Protocol):
    """An observation of one value per row, given by the distribution of any number of values, and its learned sites."""

    @property
    def num_outputs(self) -> int:
        """The number of outputs that the network must have for each value."""
        ...

    @property
    def learned(self) -> Mapping[str, dist.Distribution]:
        """The priors of what is learned beside the network, by the names of the sites."""
        ...

    def distribution(self, eta: Float[Array, "... m"], learned: Mapping[str, Array]) -> dist.Distribution:
        """Return the distribution of y, one value for each vector of outputs.

        Args:
            eta: the outputs of the network.
            learned: the values of the sites of `learned`, (*batch, *event) with a batch shape that broadcasts against
                that of eta.
        """
        ...


class Family(ABC):
    """An observation whose distribution has one parameter, its place, from the first output, and others as fields.

    Its fields are parameters in the sense of `parameters`. Subclasses are frozen dataclasses and define `of`.
    """

    link: ClassVar[Link]

    @abstractmethod
    def of(self, eta: Float[Array, "..."], *args: Any, **parameters: Any) -> dist.Distribution:
        """Return the distribution of y given the first output and the values of the parameters."""

    def __post_init__(self) -> None:
        check_parameters(self)

    @property
    def num_outputs(self) -> int:
        """The number of outputs that the network must have: the first, and the parameters that are outputs."""
        return 1 + count_outputs(self)

    @property
    def learned(self) -> dict[str, dist.Distribution]:
        """The priors of the parameters that are learned, by the names of the sites."""
        return priors_of(self)

    def distribution(self, eta: Float[Array, "... m"], learned: Mapping[str, Array]) -> dist.Distribution:
        """Return the distribution of y, one value for each vector of outputs; see `Scalar`."""
        return self.of(eta[..., 0], **values_of(self, eta[..., 1:], learned))

    def __call__(self, eta: Float[Array, "n m"], y: Shaped[AnyArray, "..."] | None = None) -> AnyArray:
        """Sample or observe y.

        Raises:
            ValueError: when eta is not one vector of outputs per row, or y is not one value per row.
        """
        return observe_values(self, eta, y)


def observe_values(observation: Scalar, eta: Array, y: AnyArray | None, also: str = "") -> AnyArray:
    """Sample what an observation of one value per row learns, and sample or observe y."""
    check_rows(type(observation).__name__, eta, y, also=also, num_outputs=observation.num_outputs)
    learned = {name: sample(name, prior) for name, prior in observation.learned.items()}
    return observe(observation.distribution(eta, learned), y)


def sample(name: str, prior: dist.Distribution) -> Array:
    """Sample a site that an observation learns beside the weights of the network.

    Fits begin with a concentration of 1, by the site's ``infer["start"]``: at the mean of a prior with a heavy tail, 20
    of the default one, the powers of a Weibull overflow.
    """
    infer = {"start": np.ones(prior.shape())} if name == "concentration" else {}
    return jnp.asarray(numpyro.sample(name, prior, infer=infer))


def observe(d: dist.Distribution, y: AnyArray | None) -> AnyArray:
    """Sample or observe y; rows are independent given the weights."""
    with numpyro.plate("row", d.batch_shape[-1]):
        return numpyro.sample(SITE, d, obs=y)


def check_outputs(name: str, eta: Array, num_outputs: int | None = None) -> None:
    """Check that there is one vector of outputs per row, of the length that the observation needs."""
    if eta.ndim != 2:
        cure = "out[:, None]" if eta.ndim == 1 else "for instance out[:, 0], or give an MLP x.reshape(len(x), -1)"
        expected = eta.shape[:1] + (eta.shape[1:] or (1,))[-1:]
        raise ValueError(
            f"{name}: expected one vector of outputs per row, eta of shape {expected}; got {eta.shape}. Let the "
            f"network return {cure}."
        )
    if num_outputs is not None and eta.shape[1] != num_outputs:
        raise ValueError(
            f"{name}: expected {num_outputs} outputs per row, eta of shape {(eta.shape[0], num_outputs)}; got "
            f"{eta.shape}. Let the network return as many as it is asked for, num_outputs."
        )


def check_rows(name: str, eta: Array, y: AnyArray | None, also: str = "", num_outputs: int | None = None) -> None:
    """Check that there is one y per row: NumPyro would silently broadcast (n,) against (n, 1) to (n, n)."""
    check_outputs(name, eta, num_outputs)
    rows = eta.shape[:-1]
    if y is not None and jnp.shape(y) != rows:
        cure = " Use y[:, 0]." if jnp.shape(y) == (*rows, 1) else ""
        raise ValueError(f"Expected y of shape {rows}, one value per row of x{also}; got {jnp.shape(y)}.{cure}")


def check_scalar(name: str, observation: object) -> None:
    """Raise TypeError unless an observation is of one value per row."""
    if isinstance(observation, type) or not isinstance(observation, Scalar):
        raise TypeError(
            f"{name}: expected an observation of one value per row, such as Normal(1.0); got {observation!r}."
        )


def support_of(observation: Scalar) -> constraints.Constraint:
    """Return the values that y can have, read from shapes alone."""
    found: list[constraints.Constraint] = []

    def run(eta: Array, learned: Mapping[str, Array]) -> list[Array]:
        found.append(observation.distribution(eta, learned).support)
        return []

    real = jnp.result_type(float)
    learned = {name: jax.ShapeDtypeStruct(prior.shape(), real) for name, prior in observation.learned.items()}
    jax.eval_shape(run, jax.ShapeDtypeStruct((1, observation.num_outputs), real), learned)
    return found[0]


def repeated(priors: Mapping[str, dist.Distribution], count: int) -> dict[str, dist.Distribution]:
    """Return the priors of so many values of each site, independent, with an axis for them in front of the event."""
    return {name: prior.expand((count,)).to_event(1) for name, prior in priors.items()}


def blocks_of(eta: Float[Array, "... m"], count: int) -> Float[Array, "... count m//count"]:
    """Return the outputs of each of so many values, which have their first outputs one after the other, then the next.

    Raises:
        ValueError: when the number of outputs is not a multiple of `count`.
    """
    if eta.shape[-1] % count:
        raise ValueError(f"Expected a multiple of {count} outputs of the network; got {eta.shape[-1]}.")
    return jnp.swapaxes(eta.reshape(*eta.shape[:-1], -1, count), -1, -2)
