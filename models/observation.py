"""Observations: distributions of y given the outputs eta. The negative log likelihood is the loss.

An observation of your own is a callable of eta and y that samples the site ``y`` in a plate over rows, and states in
``num_outputs`` how many outputs it needs. The kind of y is read from the distribution of that site when y is not given:
from its ``support``, its ``mean``, ``variance`` and ``cdf`` where they exist, and a parameter ``logits`` in its
``arg_constraints``. Two further attributes, which NumPyro does not define, are optional:

- ``loss``, a string: the name of the negative log probability in deep learning (`SoftCategorical`);
- ``padding``, an integer, with ``logits`` of shape (..., T, K): a row of y is then T tokens, and `padding` is the value
  of y where there is no token (`Tokens`).

The protocol is structural: nothing has to be imported or registered. `flatprior.inference.response` documents it in
full.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from jaxtyping import Float, Shaped
from numpyro.distributions import constraints

from .tokens import Tokens
from .values import compared_by_value

AnyArray = Array | np.ndarray

SITE = "y"
"""The name of the observed site."""

SCALE_FLOOR = 1e-6
"""The smallest scale that a network can express, in units of y: softplus alone is 0 in float32 below -104."""


@dataclass(frozen=True)
class Bernoulli:
    """y is 0 or 1 with log odds eta. The loss is binary cross-entropy with logits."""

    @property
    def num_outputs(self) -> int:
        """The number of outputs that the network must have: one logit."""
        return 1

    def __call__(self, eta: Float[Array, "n 1"], y: Shaped[AnyArray, "..."] | None = None) -> AnyArray:
        """Sample or observe y.

        Raises:
            ValueError: when eta is not (n, 1), or y is not one label per row.
        """
        _check_rows("Bernoulli", eta, y)
        return _observe(dist.Bernoulli(logits=eta[..., 0]), y)


@dataclass(frozen=True)
class Categorical:
    """y is one of 0, ..., num_classes - 1 with probabilities softmax(eta). The loss is softmax cross-entropy.

    Integer labels of shape (n,) are classes. Rows of probabilities, shape (n, num_classes), are soft labels: a row then
    contributes the expected log likelihood ``sum_k y_k log p_k``, the negative cross-entropy of y and p.

    Args:
        num_classes: the number of classes, at least 2.

    Raises:
        ValueError: when there are fewer than two classes.
    """

    num_classes: int

    def __post_init__(self) -> None:
        if not isinstance(self.num_classes, int) or self.num_classes < 2:
            raise ValueError(f"Categorical: expected at least 2 classes; got {self.num_classes!r}.")

    @property
    def num_outputs(self) -> int:
        """The number of outputs that the network must have: one logit per class."""
        return self.num_classes

    def __call__(self, eta: Float[Array, "n k"], y: Shaped[AnyArray, "..."] | None = None) -> AnyArray:
        """Sample or observe y.

        Raises:
            ValueError: when eta is not (n, num_classes), or y is neither one label nor num_classes probabilities per
                row.
            TypeError: when the labels are not integers.
        """
        if eta.ndim == 2 and y is not None and jnp.shape(y) == eta.shape:
            return _observe(SoftCategorical(eta), y)
        _check_rows("Categorical", eta, y, also=f" or, for soft labels, {eta.shape}")
        y = _numbered(y)
        if y is not None and not jnp.issubdtype(jnp.result_type(y), jnp.integer):
            raise TypeError(
                f"Categorical: expected integer labels 0, ..., {self.num_classes - 1}; got {jnp.result_type(y)}. "
                f"Use y.astype(int) if they are classes."
            )
        return _observe(dist.Categorical(logits=eta), y)


@dataclass(frozen=True)
class CategoricalSequence:
    """y is a row of T tokens, each one of 0, ..., num_classes - 1 with probabilities softmax(eta_t).

    The loss of a row is softmax cross-entropy, summed over its tokens. If the outputs of the network at position t
    depend on x up to position t only, and x holds the tokens that precede those of y (`next_token_rows`), it is minus
    the log probability of the whole row, by the chain rule: teacher forcing is maximum likelihood. A row is one
    observation: it has one log probability, and minibatches, folds and scores count rows, not tokens.

    Args:
        num_classes: the number of kinds of tokens, at least 2.
        padding: the value of y where there is no token, at any position. It adds 0 to the log probability; a row of
            padding only is an empty text, of probability 1.

    Raises:
        ValueError: when there are fewer than two kinds of tokens, or `padding` is one of them.

    Example:
        >>> import jax.numpy as jnp
        >>> from numpyro.infer.util import log_density
        >>> from flatprior.models import CategoricalSequence
        >>> rows = jnp.zeros((1, 3, 4)), jnp.array([[0, 3, -1]])  # equal logits, two tokens and padding
        >>> print(log_density(CategoricalSequence(4), rows, {}, {})[0] / jnp.log(4))
        -2.0
    """

    num_classes: int
    padding: int = -1

    def __post_init__(self) -> None:
        if not isinstance(self.num_classes, int) or self.num_classes < 2:
            raise ValueError(f"CategoricalSequence: expected at least 2 classes; got {self.num_classes!r}.")
        if not isinstance(self.padding, int) or 0 <= self.padding < self.num_classes:
            raise ValueError(
                f"CategoricalSequence: expected a padding that is none of the tokens 0, ..., {self.num_classes - 1}; "
                f"got {self.padding!r}. Write y = np.where(is_token, y, -1)."
            )

    @property
    def num_outputs(self) -> int:
        """The number of outputs that the network must have at every token: one logit per class."""
        return self.num_classes

    def __call__(self, eta: Float[Array, "..."], y: Shaped[AnyArray, "..."] | None = None) -> AnyArray:
        """Sample or observe y.

        Raises:
            ValueError: when eta does not have logits for every token, or y is not T tokens per row.
            TypeError: when the tokens are not integers.
        """
        if eta.ndim != 3:
            raise ValueError(
                f"CategoricalSequence: expected outputs for every token, eta of shape (n, T, {self.num_classes}); got "
                f"{eta.shape}. Use a network for sequences, such as Lift(GRU(...)); for one class per row, Categorical."
            )
        if y is not None and jnp.shape(y) != eta.shape[:-1]:
            raise ValueError(
                f"CategoricalSequence: expected y of shape {eta.shape[:-1]}, a token for each of x; got "
                f"{jnp.shape(y)}. Pad shorter rows with {self.padding}."
            )
        y = _numbered(y)
        if y is not None and not jnp.issubdtype(jnp.result_type(y), jnp.integer):
            raise TypeError(
                f"CategoricalSequence: expected integer tokens 0, ..., {self.num_classes - 1}, or {self.padding} for "
                f"padding; got {jnp.result_type(y)}. Use y.astype(int) if they are tokens."
            )
        return _observe(Tokens(eta, self.padding), y)


@compared_by_value
@dataclass(frozen=True, eq=False)
class Normal:
    """y is Normal with mean eta[:, 0]. The loss is squared error, or the Gaussian negative log likelihood.

    Args:
        scale: the standard deviation of y around its mean, in units of y:

            - a number: known and the same for all rows. The loss is ``(y - mean)^2 / (2 scale^2)`` plus a constant:
              least squares.
            - a NumPyro distribution over positive numbers: one unknown scale, the site ``scale``, with this prior.
            - ``"network"``: a second output of the network, ``softplus(eta[:, 1]) + 1e-6`` in each row
              (heteroscedastic; Lakshminarayanan et al. 2017, section 2.2.1). It is never 0.

    Raises:
        ValueError: when the scale is not positive, or none of these.
    """

    scale: float | dist.Distribution | Literal["network"] = "network"

    def __post_init__(self) -> None:
        if isinstance(self.scale, dist.Distribution):
            if self.scale.shape() != () or self.scale.support not in (constraints.positive, constraints.nonnegative):
                raise ValueError(
                    f"Normal: expected the prior of the scale to be one distribution over positive numbers, such as "
                    f"HalfNormal(1.0); got {type(self.scale).__name__} of shape {self.scale.shape()} on "
                    f"{self.scale.support}."
                )
        elif self.scale != "network" and not (
            isinstance(self.scale, int | float) and math.isfinite(self.scale) and self.scale > 0
        ):
            raise ValueError(
                f"Normal: expected a positive number, a NumPyro distribution or 'network' as scale; got {self.scale!r}."
            )

    @property
    def num_outputs(self) -> int:
        """The number of outputs that the network must have: the mean, and the scale if it is an output."""
        return 2 if self.scale == "network" else 1

    def __call__(self, eta: Float[Array, "n k"], y: Shaped[AnyArray, "..."] | None = None) -> AnyArray:
        """Sample or observe y.

        Raises:
            ValueError: when eta is not (n, 1), or (n, 2) with the scale, or y is not one number per row.
        """
        _check_rows("Normal", eta, y)
        if isinstance(self.scale, dist.Distribution):
            scale = numpyro.sample("scale", self.scale)
        elif self.scale == "network":
            scale = jax.nn.softplus(eta[..., 1]) + SCALE_FLOOR
        else:
            scale = self.scale
        return _observe(dist.Normal(eta[..., 0], scale), y)


@dataclass(frozen=True)
class Poisson:
    """y is a count, 0, 1, 2, ..., with rate exp(eta), the log link. The loss is ``rate - y log(rate) + log(y!)``."""

    @property
    def num_outputs(self) -> int:
        """The number of outputs that the network must have: the log of the rate."""
        return 1

    def __call__(self, eta: Float[Array, "n 1"], y: Shaped[AnyArray, "..."] | None = None) -> AnyArray:
        """Sample or observe y.

        Raises:
            ValueError: when eta is not (n, 1), or y is not one count per row.
        """
        _check_rows("Poisson", eta, y)
        return _observe(dist.Poisson(jnp.exp(eta[..., 0])), y)


class SoftCategorical(dist.Distribution):
    """Rows of probabilities under softmax(logits), scored by the expected log likelihood ``sum_k y_k log p_k``.

    For a one-hot row this is the Categorical log probability of its class. It is the likelihood of soft labels, not a
    normalised density over the simplex; samples are one-hot.
    """

    loss: ClassVar[str] = "soft-label cross-entropy"
    """The name of its negative log probability."""
    arg_constraints: ClassVar = {"logits": constraints.real_vector}
    support = constraints.simplex
    pytree_data_fields = ("logits",)

    def __init__(self, logits: Array, *, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(jnp.shape(logits)[:-1], jnp.shape(logits)[-1:], validate_args=validate_args)

    def log_prob(self, value: Array) -> Array:
        return jnp.sum(value * jax.nn.log_softmax(self.logits), axis=-1)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        labels = dist.Categorical(logits=self.logits).sample(key, sample_shape)
        return jax.nn.one_hot(labels, self.event_shape[0], dtype=self.logits.dtype)


def _observe(d: dist.Distribution, y: AnyArray | None) -> AnyArray:
    """Sample or observe y; rows are independent given the weights."""
    with numpyro.plate("row", d.batch_shape[-1]):
        return numpyro.sample(SITE, d, obs=y)


def _numbered(y: AnyArray | None) -> AnyArray | None:
    """Return labels with booleans as the classes 0 and 1, which a Categorical takes as indices."""
    return y.astype(jnp.int32) if y is not None and y.dtype == jnp.bool_ else y


def _check_rows(name: str, eta: Array, y: AnyArray | None, also: str = "") -> None:
    """Check that there is one y per row: NumPyro would silently broadcast (n,) against (n, 1) to (n, n)."""
    if eta.ndim != 2:
        cure = "out[:, None]" if eta.ndim == 1 else "for instance out[:, 0], or give an MLP x.reshape(len(x), -1)"
        expected = eta.shape[:1] + (eta.shape[1:] or (1,))[-1:]
        raise ValueError(
            f"{name}: expected one vector of outputs per row, eta of shape {expected}; got {eta.shape}. Let the "
            f"network return {cure}."
        )
    rows = eta.shape[:-1]
    if y is not None and jnp.shape(y) != rows:
        cure = " Use y[:, 0]." if jnp.shape(y) == (*rows, 1) else ""
        raise ValueError(f"Expected y of shape {rows}, one value per row of x{also}; got {jnp.shape(y)}.{cure}")
