"""Observations of classes: `Bernoulli`, `Categorical`, and `CategoricalSequence` for rows of tokens."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jaxtyping import Float, Shaped
from numpyro.distributions import constraints

from .observation import AnyArray, Family, check_rows, observe
from .tokens import Tokens


@dataclass(frozen=True)
class Bernoulli(Family):
    """y is 0 or 1 with log odds eta, the logit link. The loss is binary cross-entropy with logits."""

    link = "logit"

    def of(self, eta: Array) -> dist.Distribution:
        return dist.Bernoulli(logits=eta)


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
            return observe(SoftCategorical(eta), y)
        check_rows("Categorical", eta, y, also=f" or, for soft labels, {eta.shape}")
        y = _numbered(y)
        if y is not None and not jnp.issubdtype(jnp.result_type(y), jnp.integer):
            raise TypeError(
                f"Categorical: expected integer labels 0, ..., {self.num_classes - 1}; got {jnp.result_type(y)}. "
                f"Use y.astype(int) if they are classes."
            )
        return observe(dist.Categorical(logits=eta), y)


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
        return observe(Tokens(eta, self.padding), y)


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


def _numbered(y: AnyArray | None) -> AnyArray | None:
    """Return labels with booleans as the classes 0 and 1, which a Categorical takes as indices."""
    return y.astype(jnp.int32) if y is not None and y.dtype == jnp.bool_ else y
