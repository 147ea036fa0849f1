"""Sequences of tokens: their distribution given the earlier tokens, and rows for next-token prediction."""

from numbers import Integral
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import constraints


class token_or_padding(constraints.Constraint):  # noqa: N801  (reads as a value, as NumPyro's constraints do)
    """The integers from 0 to num_classes - 1, and the one that marks padding."""

    is_discrete = True

    def __init__(self, num_classes: int, padding: int) -> None:
        self.lower_bound, self.upper_bound, self.padding = 0, num_classes - 1, padding

    def __call__(self, x: Any) -> Any:
        return ((x >= self.lower_bound) & (x <= self.upper_bound) & (x % 1 == 0)) | (x == self.padding)

    def __repr__(self) -> str:
        return f"token_or_padding({self.lower_bound} to {self.upper_bound}, or {self.padding})"

    def feasible_like(self, prototype: Any) -> Array:
        return jnp.zeros_like(prototype)

    def eq(self, other: object, static: bool = False) -> bool:
        return isinstance(other, token_or_padding) and vars(self) == vars(other)

    def tree_flatten(self) -> Any:
        return (), ((), dict(vars(self)))


class Tokens(dist.Distribution):
    """A row of T tokens, independent given their logits (..., T, num_classes): a product of Categoricals.

    The log probability of a row is ``sum_t log softmax(logits_t)[y_t]`` over the tokens that are not `padding`. Under
    teacher forcing the logits of token t are a function of the earlier tokens, and this product is
    ``log p(y_1, ..., y_T)`` by the chain rule.
    """

    loss: ClassVar[str] = "softmax cross-entropy, summed over tokens"
    """The name of its negative log probability."""
    arg_constraints: ClassVar = {"logits": constraints.real_matrix}
    pytree_data_fields = ("logits",)
    pytree_aux_fields = ("padding",)

    def __init__(self, logits: Array, padding: int = -1, *, validate_args: bool | None = None) -> None:
        self.logits, self.padding = logits, padding
        super().__init__(jnp.shape(logits)[:-2], jnp.shape(logits)[-2:-1], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)  # type: ignore[untyped-decorator]
    def support(self) -> constraints.Constraint:
        return constraints.independent(token_or_padding(jnp.shape(self.logits)[-1], self.padding), 1)

    def log_prob(self, value: Array) -> Array:
        is_token = value != self.padding
        each = dist.Categorical(logits=self.logits).log_prob(jnp.where(is_token, value, 0))
        return jnp.where(is_token, each, 0.0).sum(axis=-1)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        return dist.Categorical(logits=self.logits).sample(key, sample_shape)


def next_token_rows(tokens: Any, num_tokens: int, *, start: int, padding: int = -1) -> tuple[np.ndarray, np.ndarray]:
    """Cut texts into rows for next-token prediction: y holds the tokens, x the token before each (teacher forcing).

    Every token is in y once; the last row of a text is filled with `padding`, which adds nothing to the likelihood. In
    x the first token of a text follows `start`, and the first token of a later row follows the last token of the row
    before it; a row has no other memory of earlier rows.

    Args:
        tokens: one text, a vector of integers from 0; or a list of such vectors, which are independent texts. For a
            string, ``alphabet, tokens = np.unique(list(string), return_inverse=True)``.
        num_tokens: T, the number of tokens per row. The memory that a fit needs grows with it.
        start: the token assumed to precede a text, such as that of the newline. A new token, which is never in y,
            would be a class for which the likelihood has no maximum.
        padding: the value of y after the end of a text; x is `start` there.

    Returns:
        x and y, integers of shape (n, num_tokens) each.

    Raises:
        TypeError: when the tokens are not integers.
        ValueError: when a text is empty, or an argument is out of its range.

    Example:
        >>> import numpy as np
        >>> from flatprior.models import next_token_rows
        >>> alphabet, tokens = np.unique(list("hello"), return_inverse=True)
        >>> print(*alphabet, tokens)
        e h l o [1 0 2 2 3]
        >>> x, y = next_token_rows(tokens, 3, start=3)
        >>> print(x.tolist(), y.tolist())
        [[3, 1, 0], [2, 2, 3]] [[1, 0, 2], [2, 3, -1]]
    """
    if not isinstance(num_tokens, Integral) or isinstance(num_tokens, bool) or num_tokens < 1:
        raise ValueError(f"next_token_rows: expected a positive integer as num_tokens; got {num_tokens!r}.")
    several = isinstance(tokens, list | tuple) and len(tokens) > 0 and np.ndim(tokens[0]) > 0
    texts = [_as_text(text, f", text {i}") for i, text in enumerate(tokens)] if several else [_as_text(tokens, "")]
    if not isinstance(start, Integral) or start < 0:
        raise ValueError(f"next_token_rows: expected a token, an integer from 0, as start; got {start!r}.")
    if padding in np.concatenate(texts):
        raise ValueError(f"next_token_rows: expected a padding that is not a token; got {padding!r}.")
    x = np.concatenate([_cut(np.append(start, text[:-1]), num_tokens, start) for text in texts])
    return x, np.concatenate([_cut(text, num_tokens, padding) for text in texts])


def _as_text(tokens: Any, which: str) -> np.ndarray:
    if isinstance(tokens, str):
        raise TypeError(
            f"next_token_rows{which}: expected integers; got a string. Number its characters first: "
            f"alphabet, tokens = np.unique(list(string), return_inverse=True)."
        )
    text = np.asarray(tokens)
    if text.ndim != 1 or len(text) == 0:
        raise ValueError(f"next_token_rows{which}: expected a vector of tokens; got shape {text.shape}.")
    if text.dtype.kind not in "iu":
        raise TypeError(f"next_token_rows{which}: expected integers from 0; got {text.dtype}.")
    if text.min() < 0:
        raise ValueError(
            f"next_token_rows{which}, token {int(np.argmax(text < 0))}: expected integers from 0; got {text.min()}."
        )
    return text.astype(np.int32)


def _cut(text: np.ndarray, num_tokens: int, fill: int) -> np.ndarray:
    """A text as rows of `num_tokens` tokens, the last row filled up."""
    num_rows = -(-len(text) // num_tokens)
    filled = np.append(text, np.full(num_rows * num_tokens - len(text), fill))
    return filled.reshape(num_rows, num_tokens).astype(np.int32)
