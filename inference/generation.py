"""Generation: tokens drawn one by one from the predictive distribution of a text."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .checks import as_key, check_positive_integer
from .chunks import sizes
from .density import Density
from .kept import widened
from .pointwise import class_log_probs, log_likelihood
from .predictive import Predictive
from .result import Fit, check_fit
from .rows import Data, Weights, count_rows, take_rows
from .status import warn_if_failed

MAX_CHANGE = 1e-3
"""Nats by which a later token may change the log probability of an earlier one, by rounding."""


def generate(fit: Fit, prompt: Any, num_tokens: int, *, key: Any, shape: tuple[int, ...] = ()) -> np.ndarray:
    """Draw the tokens that follow a prompt, exactly from the predictive distribution given the prompt.

    That distribution is a mixture over draws of the weights, each weighted by the probability that it gives the prompt
    (Bayes' theorem, with the prompt as data)::

        p(z | prompt, data) = sum_s pi_s prod_t p(z_t | prompt, z_1, ..., z_{t-1}, w_s),    pi_s ~ p(prompt | w_s)

    So each text comes from one draw, chosen with probability pi_s, and its tokens one by one: token t from the
    distribution of the observed site at position t, where x is the tokens before. There is no temperature.

    The model is called on whole rows, of the prompt and `num_tokens` tokens: it must accept rows longer than those of
    the fit if these are longer, and later tokens must not change earlier probabilities. The time is `num_tokens` times
    that of a call; as many texts are drawn together as fit into the memory of a prediction. One program serves all
    texts and prompts with the same total number of tokens.

    Args:
        fit: a fit, by any method, of a model whose y is a row of tokens, such as a `CategoricalSequence`, and whose x
            is the tokens before each, as `next_token_rows` makes them.
        prompt: the given tokens, a vector. The first is conditioned on, as the first of a row of x is, and does not
            inform the weights: the token that precedes a text can be the whole prompt.
        num_tokens: the number of tokens to draw.
        key: a typed JAX key or an integer seed.
        shape: the shape of independent texts.

    Returns:
        Tokens, (*shape, num_tokens), without the prompt.

    Raises:
        TypeError: when `fit` is not a fit, y is not a row of tokens, or the prompt is not integers.
        ValueError: when the prompt is empty or contains an invalid token, `num_tokens` is not positive, x is not a row
            of tokens, or the model looks ahead: its probabilities depend on later tokens.

    Example:
        >>> import jax
        >>> import numpy as np
        >>> from flatprior.inference import MAP, fit
        >>> from flatprior.inference.generation import generate
        >>> from flatprior.models import MLP, CategoricalSequence, Model, gaussian, next_token_rows
        >>> def table(x, num_outputs, *, prior):  # the logits of each token after each other one
        ...     return MLP()(jax.nn.one_hot(x, num_outputs), num_outputs, prior=prior)
        >>> alphabet, tokens = np.unique(list("abacad" * 20), return_inverse=True)
        >>> x, y = next_token_rows(tokens, 12, start=3)
        >>> bigrams = fit(Model(table, CategoricalSequence(4), gaussian(3.0)), MAP(), x, y, key=0)
        >>> print("".join(alphabet[generate(bigrams, [3], 20, key=0)]))
        acababadacadacacadac
    """
    check_fit("generate", fit)
    warn_if_failed(fit.status)
    check_positive_integer("generate", "num_tokens", num_tokens)
    key_draw, key_text = jax.random.split(as_key(key))
    predictive, given = _predictive(fit, prompt, int(num_tokens))
    count = math.prod(shape)
    chosen = jax.random.categorical(key_draw, _prompt_log_probs(predictive, given), shape=(count,))
    _, together = sizes(class_log_probs, predictive.density, predictive.draws, predictive.data())
    texts, changed = _continued(
        predictive.density,
        together,
        predictive.draws,
        predictive.at,
        chosen,
        jax.random.split(key_text, count),
        predictive.x[0],
        len(given),
    )
    if float(changed) > MAX_CHANGE:
        raise ValueError(
            f"generate: expected the probabilities of a token to depend on x only up to its position; got a change of "
            f"{changed:.3g} nats when later tokens were drawn. Mask later tokens, as causal attention does."
        )
    return np.asarray(texts)[:, len(given) :].reshape(*shape, num_tokens)


def _predictive(fit: Fit, prompt: Any, num_tokens: int) -> tuple[Predictive, np.ndarray]:
    """Return the predictive distribution at one row, the prompt padded for `num_tokens` more, and the prompt."""
    layout = fit.layout
    if [len(shape) for shape in layout.shapes] != [1] or not np.issubdtype(layout.dtypes[0], np.integer):
        raise ValueError(
            f"generate: expected a fit whose x is rows of tokens, (n, T) integers; got rows of shape "
            f"{', '.join(map(str, layout.shapes))} and type {', '.join(layout.dtypes)}."
        )
    given = np.asarray(prompt)
    if given.ndim != 1 or len(given) == 0:
        raise ValueError(
            f"generate: expected a vector of one token or more as prompt, such as the token that precedes a text; "
            f"got {prompt!r}."
        )
    if given.dtype.kind not in "iu":
        raise TypeError(f"generate: expected integers as prompt; got {given.dtype}.")
    draws = {site: widened(value).reshape(-1, *value.shape[2:]) for site, value in fit.draws.items()}
    row = np.append(given, np.zeros(num_tokens - 1)).astype(layout.dtypes[0])
    predictive = fit.predictive(jax.device_put(draws), jnp.asarray(row)[None])
    num_classes = fit.structure.response.expect_tokens("generate")
    outside = (given < 0) | (given >= num_classes)
    if outside.any():
        position = int(outside.argmax())
        raise ValueError(
            f"generate: expected tokens from 0 to {num_classes - 1} as prompt; got {given[position]} at position "
            f"{position}."
        )
    return predictive, given.astype(row.dtype)


def _prompt_log_probs(predictive: Predictive, given: np.ndarray) -> Array:
    """Return log p(prompt | w_s) in nats, (draw,), of all tokens but the first."""
    if len(given) == 1:
        return jnp.zeros(count_rows(predictive.draws))
    x, y = jnp.asarray(given)[None, :-1], jnp.asarray(given)[None, 1:]
    values = log_likelihood(predictive.density, predictive.draws, predictive.data(x, y))[:, 0]
    if not np.isfinite(values).any():
        raise ValueError("generate: expected a prompt of positive probability; it is 0 for every draw of the weights.")
    return jnp.asarray(values)


@partial(jax.jit, static_argnums=(0, 1))
def _continued(
    density: Density,
    together: int,
    draws: Weights,
    at: Weights,
    chosen: Array,
    keys: Array,
    row: Array,
    num_given: int,
) -> tuple[Array, Array]:
    """Return texts, (text, T + 1), and the largest change of a log probability by tokens drawn later."""

    def one(pair: tuple[Array, Array]) -> tuple[Array, Array]:
        weights, key = take_rows(draws, pair[0]), pair[1]

        def draw(position: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
            text, log_probs = state
            after = class_log_probs(density, weights, Data(text[None, :-1], at=at))[0, position - 1]
            token = jax.random.categorical(jax.random.fold_in(key, position), after)
            return text.at[position].set(token.astype(text.dtype)), log_probs.at[position - 1].set(after[token])

        text = jnp.append(row, 0)
        text, as_drawn = jax.lax.fori_loop(num_given, len(text), draw, (text, jnp.zeros(len(row))))
        log_probs = class_log_probs(density, weights, Data(text[None, :-1], at=at))[0]
        as_read = jnp.take_along_axis(log_probs, text[1:, None], axis=-1)[:, 0]
        return text, jnp.where(jnp.arange(len(row)) >= num_given - 1, jnp.abs(as_read - as_drawn), 0.0).max()

    texts, changed = jax.lax.map(one, (chosen, keys), batch_size=together)
    return texts, changed.max()
