"""The predictive distribution: p(y | x) as a mixture over draws, in bounded memory."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import constraints

from .checks import as_key, check_labels
from .density import (
    NumPyroModel,
    Rows,
    Structure,
    Weights,
    abstract_trace,
    count_rows,
    element,
    observation,
    row_log_probs,
    take_rows,
    unmasked,
)
from .status import warn_of_nan

WORKING_BYTES = 2**28
"""What a prediction may hold on the device beside x, the draws and its result: a bound of about 256 MiB."""
COPIES = 4
"""How many arrays of (draw, row) a summary holds at a time."""
BISECTIONS = {"float32": 32, "float64": 64}
"""Halvings that bring a bracket down to the precision of the type."""

CATEGORICALS = dist.CategoricalLogits | dist.CategoricalProbs

PerDraw = Callable[[NumPyroModel, str, Weights, Rows, Rows], Any]
Summary = Callable[[Any, Rows, Any], Any]


def over_rows(
    per_draw: PerDraw,
    summary: Summary,
    model: NumPyroModel,
    site: str,
    draws: Weights,
    x: Rows,
    y: Rows = None,
    extra: Any = None,
) -> Any:
    """Evaluate a function at every draw and row, and summarise it over draws, a chunk of rows at a time.

    The one place that bounds the memory of predictions. Rows are cut so that (draws x rows of a chunk) results fit in
    `WORKING_BYTES`, and within a chunk as many draws are evaluated together as their intermediate values fit.

    Args:
        per_draw: (model, site, weights, x, y) -> a pytree with one entry a row, at one draw.
        summary: (that pytree with a leading axis of draws, y, extra) -> a pytree of arrays with rows first.
        model: the model.
        site: the observed site.
        draws: site -> (draw, *shape), or (1, *shape) where all draws are one: what depends on such sites alone is then
            evaluated once for all draws that are evaluated together.
        x: n rows.
        y: n rows, or None.
        extra: passed to the summary.

    Returns:
        The summary, with n rows, as NumPy arrays.
    """
    num_rows = count_rows(x)
    chunk, together = sizes(per_draw, model, site, draws, x, y)
    whole: Any = None
    for start in range(0, num_rows, chunk):
        rows = np.minimum(np.arange(start, start + chunk), num_rows - 1)  # the last chunk repeats its last row
        part = (x, y) if chunk == num_rows else (take_rows(x, rows), take_rows(y, rows))
        result = _evaluate(per_draw, summary, model, site, together, draws, *part, extra)
        if whole is None:
            whole = jax.tree.map(lambda leaf: np.empty((num_rows, *leaf.shape[1:]), leaf.dtype), result)
        for into, leaf in zip(jax.tree.leaves(whole), jax.tree.leaves(result), strict=True):
            into[start : start + chunk] = np.asarray(leaf)[: num_rows - start]
    return whole


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _evaluate(
    per_draw: PerDraw,
    summary: Summary,
    model: NumPyroModel,
    site: str,
    together: int,
    draws: Weights,
    x: Rows,
    y: Rows,
    extra: Any,
) -> Any:
    several, one = _apart(draws)
    values = jax.lax.map(lambda weights: per_draw(model, site, weights | one, x, y), several, batch_size=together)
    return summary(values, y, extra)


def count_draws(draws: Weights) -> int:
    """How many draws there are; a site of which all are one has but that."""
    return max(len(value) for value in draws.values())


def _apart(draws: Weights) -> tuple[Weights, Weights]:
    """The sites of several draws, (draw, *shape), and the values of those of which all draws are one."""
    count = count_draws(draws)
    several = {site: value for site, value in draws.items() if len(value) == count}
    return several, {site: value[0] for site, value in draws.items() if site not in several}


def sizes(per_draw: PerDraw, model: NumPyroModel, site: str, draws: Weights, x: Rows, y: Rows) -> tuple[int, int]:
    """How many rows make a chunk, and how many draws are evaluated together."""
    num_rows, num_draws = count_rows(x), count_draws(draws)
    probe = min(num_rows, 64)
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), draws)
    few = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((probe, *leaf.shape[1:]), leaf.dtype), (x, y))
    jaxpr, out = jax.make_jaxpr(partial(per_draw, model, site), return_shape=True)(one, *few)
    result = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(out)) / probe
    values = [v.aval for equation in jaxpr.eqns for v in equation.outvars if isinstance(v.aval, jax.core.ShapedArray)]
    work = sum(aval.size * aval.dtype.itemsize for aval in values) / probe
    chunk = max(1, min(num_rows, int(WORKING_BYTES / (num_draws * max(result, 4) * COPIES))))
    chunk = -(-num_rows // -(-num_rows // chunk))  # chunks of equal size
    together = max(1, min(num_draws, int(WORKING_BYTES / (chunk * max(work, 4)))))
    return chunk, together


def log_likelihood(model: NumPyroModel, structure: Structure, draws: Weights, x: Rows, y: Rows) -> np.ndarray:
    """Log p(y_i | x_i, w_s) in nats, (draw, n)."""
    return _told(over_rows(_log_prob, _transposed, model, structure.observed, draws, x, y), draws).T


def _log_prob(model: NumPyroModel, site: str, weights: Weights, x: Rows, y: Rows) -> Array:
    return row_log_probs(model, weights, x, y, site)


def _observation(model: NumPyroModel, site: str, weights: Weights, x: Rows, y: Rows) -> dist.Distribution:
    return observation(model, weights, x, site)


@dataclass(frozen=True, eq=False)
class Predictive:
    """The predictive distribution of y at rows of x, ``p(y | x, data) = mean over draws of p(y | x, w_s)``.

    A point estimate is a mixture of one. Summaries are computed when they are asked for, exactly from the components
    and not from samples of y, a chunk of rows at a time: beside x, the draws and the result they hold about 256 MiB
    (`WORKING_BYTES`). All results are NumPy arrays with n rows, in units of y.

    Where y is a row of tokens, `log_prob` is that of whole rows, and the mixture is over rows: draws that foretold the
    first tokens of a row count for more in its last ones. `probs` are those of each token by itself, given x, by all
    draws alike. `sample` draws tokens after those that x holds; a text that goes on from its own tokens is
    `generate`'s. Padding is not known before y is, and has probabilities like any token.

    Warns:
        UndefinedPredictionWarning: when what is asked for is NaN in some rows although the draws are finite, as where x
            holds a token beyond the vocabulary of the network.
    """

    model: NumPyroModel
    structure: Structure
    draws: Weights
    """Site -> (draw, *shape), the chains one after the other; (1, *shape) of a site that is the same in all draws."""
    x: Rows

    @property
    def mean(self) -> np.ndarray:
        """E[y | x], (n,); of a Bernoulli the probability of 1.

        Raises:
            NotImplementedError: when y is a class: classes have probabilities, and no mean.
        """
        return self._moments("mean")[0]

    @property
    def variance(self) -> np.ndarray:
        """Var[y | x], (n,): the mean of the components' variances plus the variance of their means.

        Raises:
            NotImplementedError: when y is a class.
        """
        return self._moments("variance")[1]

    @property
    def probs(self) -> np.ndarray:
        """p(y = 1 | x), (n,), of a site on {0, 1}; p(y = k | x), (n, num_classes), of one on {0, ..., k}.

        Of rows of tokens p(y_t = k | x), (n, T, num_classes).

        Raises:
            NotImplementedError: when y has no finite set of values.
        """
        if not self.is_finite and self.vocabulary is None:
            raise NotImplementedError(f"probs: y can be {self.structure.support!r}, not one of a finite set of values.")
        probs = self._over_rows(_observation, _mean_probs)
        return probs[:, 1] if self._site.support is constraints.boolean else probs

    @property
    def component_means(self) -> np.ndarray:
        """E[y | x, w_s] of every draw, (draw, n), or p(y = k | x, w_s), (draw, n, num_classes), where y is a class.

        Of rows of tokens p(y_t = k | x, w_s), (draw, n, T, num_classes).

        The mixture's `mean` or `probs` is their mean over draws; what they differ by is what the weights leave open.
        """
        per_row = _probs_by_row if self._is_class else _means_by_row
        return np.moveaxis(self._over_rows(_observation, per_row), 1, 0)

    def log_prob(self, y: Any) -> np.ndarray:
        """Log p(y | x, data) in nats, (n,): the log of the mean, over draws, of the likelihood of each row.

        Raises:
            TypeError, ValueError: when y is not one observation a row.
        """
        return self._over_rows(_log_prob, log_mean_exp, self._checked(y))

    def cdf(self, y: Any) -> np.ndarray:
        """P(Y <= y | x, data), (n,): the probability integral transform of y.

        Raises:
            NotImplementedError: when the distribution of the site has no `cdf`.
        """
        if self.vocabulary is not None:
            raise NotImplementedError("cdf: y is a row of tokens, which have no order; use probs or log_prob.")
        return self._over_rows(_observation, _mean_cdf, self._checked(y))

    def quantile(self, q: Any) -> np.ndarray:
        """The q-quantile of y, (n,), or (len(q), n) for an array of q, to the precision of the type.

        Raises:
            ValueError: when q is not between 0 and 1.
            NotImplementedError: when the distribution of the site is discrete or has no `cdf`.
        """
        levels = np.atleast_1d(np.asarray(q, float))
        if levels.ndim > 1 or not ((levels > 0) & (levels < 1)).all():
            raise ValueError(f"quantile: expected a number or a vector between 0 and 1; got {q!r}.")
        if self.structure.support.is_discrete:
            raise NotImplementedError("quantile: y is discrete; use probs, or sample.")
        quantiles = self._over_rows(_observation, _quantiles, extra=jnp.asarray(levels))
        return quantiles[:, 0] if np.ndim(q) == 0 else quantiles.T

    def sample(self, key: Any, shape: tuple[int, ...] = ()) -> np.ndarray:
        """Draw y, (*shape, n), or (*shape, n, T). All rows of a sample share one draw of the weights: it is joint."""
        num_draws = count_draws(self.draws)
        count = int(np.prod(shape, dtype=int))
        key_draw, key_sample = jax.random.split(as_key(key))
        chosen = jax.random.randint(key_draw, (count,), 0, num_draws)
        _, together = sizes(_observation, self.model, self.structure.observed, self.draws, self.x, None)
        keys = jax.random.split(key_sample, count)
        samples = _sample(self.model, self.structure.observed, together, self.draws, chosen, keys, self.x)
        return np.asarray(samples).reshape(*shape, *samples.shape[1:])

    @property
    def is_finite(self) -> bool:
        """Whether y has a finite set of values, so that `probs` exists."""
        return self.num_classes is not None

    @property
    def num_classes(self) -> int | None:
        """How many values y can have: 0, 1, ...; None where it is not one of a finite set."""
        support = self._site.support
        if support is constraints.boolean:
            return 2
        # A bounded interval of the real line has bounds as well, and those of counts may be known at run time only.
        is_range = isinstance(support, type(constraints.integer_interval(0, 1)))
        if is_range and support.lower_bound == 0 and isinstance(support.upper_bound, int):
            return support.upper_bound + 1
        return None

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of y in one row: () of a number or a class, (T,) of T tokens."""
        return self._site.event_shape

    @property
    def vocabulary(self) -> int | None:
        """How many values each token can have, 0, 1, ..., where y is a row of tokens; None elsewhere."""
        d = element(self._site)
        if len(self.event_shape) != 1 or not (isinstance(d, CATEGORICALS) or hasattr(d, "padding")):
            return None
        return jnp.shape(d.logits)[-1]

    def is_token(self, y: Any) -> np.ndarray:
        """Which values of y are tokens, and no padding: rows of tokens, (n, T), as booleans."""
        return np.asarray(y) != getattr(element(self._site), "padding", None)

    @cached_property
    def _site(self) -> dist.Distribution:
        """The observed site without its values; labels that were soft in the fit are classes here."""
        return unmasked(abstract_trace(self.model, self.x)[self.structure.observed]["fn"])

    @property
    def _is_class(self) -> bool:
        """Whether y is a class, or a row of classes, of which there is no mean."""
        return isinstance(self._site, CATEGORICALS) or self.vocabulary is not None

    def _moments(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        if self._is_class:
            raise NotImplementedError(f"{name}: y is a class, and classes have no {name}; use probs.")
        return self._over_rows(_observation, _moments)

    def _checked(self, y: Any) -> Rows:
        return jax.device_put(check_labels(self.model, self.x, y))

    def _over_rows(self, per_draw: PerDraw, summary: Summary, y: Rows = None, extra: Any = None) -> Any:
        found = over_rows(per_draw, summary, self.model, self.structure.observed, self.draws, self.x, y, extra)
        return _told(found, self.draws)


def _told(found: Any, draws: Weights) -> Any:
    """What was found, with a warning where rows of it are NaN. Draws that are, and the fit has failed, are told of."""
    for leaf in jax.tree.leaves(found):
        with np.errstate(all="ignore"):
            if not np.isnan(leaf.sum()):  # one pass without a temporary; only a suspect is looked at closely
                continue
        rows = np.isnan(leaf).reshape(len(leaf), -1).any(axis=1)
        if rows.any() and all(jnp.isfinite(value).all() for value in draws.values()):
            warn_of_nan(rows)
            break
    return found


def _transposed(values: Array, y: Rows, extra: Any) -> Array:
    return values.T


def log_mean_exp(log_probs: Array, y: Rows, extra: Any) -> Array:
    """The log of the mean over draws, the first axis, of probabilities: a summary for `over_rows`."""
    return jax.nn.logsumexp(log_probs, axis=0) - jnp.log(log_probs.shape[0])


def _moments(site: dist.Distribution, y: Rows, extra: Any) -> tuple[Array, Array]:
    means, variances = jax.vmap(lambda d: (_by_row(d, d.mean), _by_row(d, d.variance)))(site)
    within, between = split_variance((means, variances), y, extra)
    return means.mean(axis=0), within + between


def split_variance(moments: tuple[Array, Array], y: Rows, extra: Any) -> tuple[Array, Array]:
    """The mean over draws of the variances, and the variance of the means: a summary for `over_rows`."""
    means, variances = moments
    return variances.mean(axis=0), (means - means[0]).var(axis=0)  # less the first: equal draws differ by exactly 0


def _means_by_row(site: dist.Distribution, y: Rows, extra: Any) -> Array:
    return jnp.moveaxis(jax.vmap(lambda d: _by_row(d, d.mean))(site), 0, 1)


def log_prob_of_classes(d: dist.Distribution) -> Array:
    """Log p(y = k | x, w) of a class, (n, num_classes), or of each token of a row, (n, T, num_classes)."""
    if d.event_shape:
        logits = element(d).logits
        return jax.nn.log_softmax(jnp.broadcast_to(logits, (*d.shape(), logits.shape[-1])))
    return d.log_prob(d.enumerate_support(expand=False)).T


def _probs(site: dist.Distribution) -> Array:
    return jax.vmap(lambda d: jnp.exp(log_prob_of_classes(d)))(site)


def _probs_by_row(site: dist.Distribution, y: Rows, extra: Any) -> Array:
    return jnp.moveaxis(_probs(site), 0, 1)


def _mean_probs(site: dist.Distribution, y: Rows, extra: Any) -> Array:
    return _probs(site).mean(axis=0)


def _mean_cdf(site: dist.Distribution, y: Rows, extra: Any) -> Array:
    return jax.vmap(lambda d: d.cdf(y))(site).mean(axis=0)


def _quantiles(site: dist.Distribution, y: Rows, levels: Array) -> Array:
    """Bisection of the mixture's cdf, from a bracket by Cantelli's inequality around the mixture's mean."""
    mean, variance = _moments(site, y, None)
    levels = levels.astype(mean.dtype)

    def one(level: Array) -> Array:
        reach = jnp.sqrt(variance)
        low = mean - reach * jnp.sqrt((1 - level) / level)
        high = mean + reach * jnp.sqrt(level / (1 - level))

        def halve(_: Array, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bracket
            middle = (low + high) / 2
            below = _mean_cdf(site, middle, None) < level
            return jnp.where(below, middle, low), jnp.where(below, high, middle)

        low, high = jax.lax.fori_loop(0, BISECTIONS[str(mean.dtype)], halve, (low, high))
        return (low + high) / 2

    return jax.lax.map(one, levels).T


@partial(jax.jit, static_argnums=(0, 1, 2))
def _sample(
    model: NumPyroModel, site: str, together: int, draws: Weights, chosen: Array, keys: Array, x: Rows
) -> Array:
    several, one = _apart(draws)

    def sample(pair: tuple[Array, Array]) -> Array:
        index, key = pair
        return observation(model, take_rows(several, index) | one, x, site).sample(key)

    return jax.lax.map(sample, (chosen, keys), batch_size=together)


def _by_row(d: dist.Distribution, value: Array) -> Array:
    """A moment with one entry a row: distributions leave out the axes along which it does not vary."""
    return jnp.broadcast_to(value, d.shape())
