"""Generation: tokens drawn one after the other from the predictive distribution of a text."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .checks import as_key, check_positive_integer
from .density import Density
from .predictive import Predictive, class_log_probs, log_likelihood, sizes
from .result import Fit, check_fit
from .rows import Data, Weights, count_rows, take_rows

LOOKS_AHEAD = 1e-3
"""Nats by which a later token may move the probability of an earlier one: rounding."""


def generate(fit: Fit, prompt: Any, length: int, *, key: Any, shape: tuple[int, ...] = ()) -> np.ndarray:
    """Draw the tokens that follow a prompt, exactly from the predictive distribution given the prompt.

    That distribution is a mixture over draws of the weights, in which a draw counts as much as it foretold the prompt
    (Bayes' theorem, the prompt being data)::

        p(z | prompt, data) = sum_s pi_s prod_t p(z_t | prompt, z_1, ..., z_{t-1}, w_s),    pi_s ~ p(prompt | w_s)

    So each text comes from one draw, chosen with probability pi_s, and its tokens one after the other: token t from
    the distribution of the observed site at place t, x being the tokens before. There is no temperature.

    The model is called on whole rows, of the prompt and `length` tokens: it must take rows longer than those of the
    fit where these are longer, and tokens at later places must not change what comes before. Time grows with `length`
    times that of a call; the prompt is a row of `Fit.log_likelihood`, and as many texts are drawn together as fit into
    the memory of a prediction. One program serves all texts and prompts of as many tokens together.

    Args:
        fit: a fit, by any method, of a model whose y is a row of tokens, such as a `CategoricalSequence`, and whose x
            is the tokens before each, as `next_token_rows` makes them.
        prompt: the tokens that are there, a vector. The first is given, as the first of a row of x is, and says
            nothing about the weights: the token that comes before a text is a prompt.
        length: how many tokens are drawn.
        key: a typed JAX key or an integer seed.
        shape: the shape of independent texts.

    Returns:
        Tokens, (*shape, length), without the prompt.

    Raises:
        TypeError: when `fit` is not a fit, y no row of tokens, or the prompt not integers.
        ValueError: when the prompt is empty or holds what is no token, the length is not positive, x is no row of
            tokens, or the model looks ahead: its probabilities depend on tokens that are still to come.

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
    check_positive_integer("generate", "length", length)
    key_draw, key_text = jax.random.split(as_key(key))
    predictive, given = _before(fit, prompt, int(length))
    count = math.prod(shape)
    chosen = jax.random.categorical(key_draw, _prompt_log_probs(predictive, given), shape=(count,))
    _, together = sizes(class_log_probs, fit.density, predictive.draws, Data(predictive.x))
    texts, changed = _continued(
        fit.density,
        together,
        predictive.draws,
        chosen,
        jax.random.split(key_text, count),
        predictive.x[0],
        len(given),
    )
    if float(changed) > LOOKS_AHEAD:
        raise ValueError(
            f"generate: expected the probabilities of a token to depend on x up to its place alone; a token changed by "
            f"{changed:.3g} nats when those after it were drawn. Mask what is to come, as a causal attention does."
        )
    return np.asarray(texts)[:, len(given) :].reshape(*shape, length)


def _before(fit: Fit, prompt: Any, length: int) -> tuple[Predictive, np.ndarray]:
    """The predictive distribution after a row of prompt and room for so many tokens, and the prompt."""
    layout = fit.layout
    if [len(shape) for shape in layout.shapes] != [1] or not np.issubdtype(layout.dtypes[0], np.integer):
        raise ValueError(
            f"generate: expected a fit whose x is rows of tokens, (n, T) integers; got rows of shape "
            f"{', '.join(map(str, layout.shapes))} and type {', '.join(layout.dtypes)}."
        )
    given = np.asarray(prompt)
    if given.ndim != 1 or len(given) == 0:
        raise ValueError(
            f"generate: expected a vector of one token or more as prompt, such as the token that comes before a text; "
            f"got {prompt!r}."
        )
    if given.dtype.kind not in "iu":
        raise TypeError(f"generate: expected integers as prompt; got {given.dtype}.")
    draws = {site: value.reshape(-1, *value.shape[2:]) for site, value in fit.draws.items()}
    row = np.append(given, np.zeros(length - 1)).astype(layout.dtypes[0])
    predictive = Predictive(fit.density, jax.device_put(draws), jnp.asarray(row)[None])
    response = fit.structure.response
    if response.kind != "tokens":
        raise TypeError(f"generate: expected y to be a row of tokens; it can be {response.support!r}.")
    num_classes = response.num_classes or 0
    outside = (given < 0) | (given >= num_classes)
    if outside.any():
        place = int(outside.argmax())
        raise ValueError(
            f"generate: expected tokens from 0 to {num_classes - 1} as prompt; got {given[place]} at place {place}."
        )
    return predictive, given.astype(row.dtype)


def _prompt_log_probs(predictive: Predictive, given: np.ndarray) -> Array:
    """Log p(prompt | w_s) in nats, (draw,), of all tokens but the first."""
    if len(given) == 1:
        return jnp.zeros(count_rows(predictive.draws))
    x, y = jnp.asarray(given)[None, :-1], jnp.asarray(given)[None, 1:]
    values = log_likelihood(predictive.density, predictive.draws, Data(x, y))[:, 0]
    if not np.isfinite(values).any():
        raise ValueError("generate: expected a prompt that is possible; no draw of the weights gives it a probability.")
    return jnp.asarray(values)


@partial(jax.jit, static_argnums=(0, 1))
def _continued(
    density: Density,
    together: int,
    draws: Weights,
    chosen: Array,
    keys: Array,
    row: Array,
    num_given: int,
) -> tuple[Array, Array]:
    """Texts, (text, T + 1), and how far the log probability of a token moved by what was drawn after it."""

    def one(pair: tuple[Array, Array]) -> tuple[Array, Array]:
        weights, key = take_rows(draws, pair[0]), pair[1]

        def draw(place: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
            text, log_probs = state
            after = class_log_probs(density, weights, Data(text[None, :-1]))[0, place - 1]
            token = jax.random.categorical(jax.random.fold_in(key, place), after)
            return text.at[place].set(token.astype(text.dtype)), log_probs.at[place - 1].set(after[token])

        text = jnp.append(row, 0)
        text, as_drawn = jax.lax.fori_loop(num_given, len(text), draw, (text, jnp.zeros(len(row))))
        log_probs = class_log_probs(density, weights, Data(text[None, :-1]))[0]
        as_read = jnp.take_along_axis(log_probs, text[1:, None], axis=-1)[:, 0]
        return text, jnp.where(jnp.arange(len(row)) >= num_given - 1, jnp.abs(as_read - as_drawn), 0.0).max()

    texts, changed = jax.lax.map(one, (chosen, keys), batch_size=together)
    return texts, changed.max()
