"""The predictive distribution: p(y | x) as a mixture over draws, in bounded memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .checks import as_key, check_labels, check_positive_integer
from .chunks import PerDraw, Summary, apart, chosen_draws, count_draws, over_rows, over_rows_in_double, sizes
from .crps import crps, draws_used, integer_crps
from .density import Density
from .files import ArrayFiles
from .mixture import (
    exp_by_row,
    integer_modes,
    integer_quantiles,
    log_mean_exp,
    mean_cdf,
    mean_exp,
    mean_interval,
    means_by_row,
    mixed_moments,
    ordered_cdf,
    ordered_interval,
    ordered_quantiles,
    quantiles,
)
from .pointwise import class_log_probs, log_probs_over_rows, moments, row_weights, warn_if_nan
from .response import NO_DISTANCE, Response
from .rows import Data, Rows, Weights, copied, count_rows, take_rows
from .words import named_gaps


@dataclass(frozen=True, eq=False)
class Predictive:
    """The predictive distribution of y at rows of x, ``p(y | x, data) = mean over draws of p(y | x, w_s)``.

    A point estimate is a mixture of one component. Summaries are computed on access, exactly from the components and
    not from samples of y, one chunk of rows at a time: they use about 256 MiB (`chunks.WORKING_BYTES`) beside x, the
    draws and the result. All results are NumPy arrays with n rows, in units of y.

    Where the model has several observed sites, ``predictive["a"]`` is the predictive distribution of site a alone, with
    all summaries. Those of all sites together are `log_prob`, the log of the mean over draws of the product over sites,
    and `sample`, by site: what a row has at one site is not independent of the others, as they share the weights.

    For rows of tokens, `log_prob` is that of whole rows, and the mixture is over rows: draws that predicted the first
    tokens of a row well have more weight in its last ones. `probs` are those of each token alone, given x, with equal
    weights of all draws. `sample` draws the tokens that follow those of x; `generate` continues a text from its own
    tokens. Where y will be padding is unknown, so every position has probabilities of tokens.

    Warns:
        UndefinedPredictionWarning: when a result is NaN in some rows although the draws are finite, as when x contains
            a token outside the vocabulary of the network.
    """

    density: Density
    """The density of which the draws are."""
    draws: Weights
    """The draws by site, (draw, *shape), the chains one after the other; (1, *shape) for a site equal in all draws."""
    x: Rows
    at: Weights = field(default_factory=dict)
    """The weights around which the density is linearised, where it is that of a `tangent.tangent`."""
    out: Path | None = None
    """The folder to which results that depend on x alone are written; see `Fit.predict`."""

    def __getitem__(self, site: str) -> "Predictive":
        """Return the predictive distribution of one observed site alone, where the model has several.

        Raises:
            KeyError: when there is no such observed site.
        """
        self.density.structure.check_site(site)
        out = None if self.out is None else self.out / site
        return replace(self, density=self.density.of_site(site), out=out)

    def parts(self, num_rows: int = 2**16) -> Iterator[tuple[slice, "Predictive"]]:
        """Yield the predictive distributions of some rows after others, each with the slice of these rows.

        So results that are larger than memory can be written to disk:
        ``for rows, part in fit.predict(x).parts(): probs[rows] = part.probs``, where `probs` is a memory map.

        Args:
            num_rows: the number of rows of a part; the last may have fewer.

        Raises:
            ValueError: when the number of rows is not a positive integer.
        """
        check_positive_integer("parts", "num_rows", num_rows)
        for start in range(0, count_rows(self.x), num_rows):
            rows = slice(start, min(start + num_rows, count_rows(self.x)))
            yield rows, replace(self, x=copied(take_rows(self.x, np.arange(rows.start, rows.stop))), out=None)

    @property
    def mean(self) -> np.ndarray:
        """E[y | x], (n,); for a binary y the probability of 1.

        Raises:
            NotImplementedError: when y is a class: classes have probabilities, but no mean.
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
    def std(self) -> np.ndarray:
        """The standard deviation of y given x, (n,), in units of y: the square root of `variance`.

        Raises:
            NotImplementedError: when y is a class.
        """
        self.response.expect("variance", "std")
        return np.sqrt(self.variance)

    @property
    def mode(self) -> np.ndarray:
        """The most probable value of y, (n,): of classes, or of counts; the smallest of several.

        Raises:
            NotImplementedError: when y is continuous, tokens or a vector.
        """
        self.response.expect("mode")
        if self.response.is_class:
            return self.class_probs.argmax(axis=1)
        return self._over_rows(Density.observation, integer_modes, names=["mode"])

    @property
    def probs(self) -> np.ndarray:
        """p(y = 1 | x), (n,), for a binary y; p(y = k | x), (n, num_classes), for classes.

        For rows of tokens p(y_t = k | x), (n, T, num_classes).

        Raises:
            NotImplementedError: when y has no finite set of values.
        """
        return self.response.probs(self.class_probs)

    @property
    def class_probs(self) -> np.ndarray:
        """The same with a column for each class also for a binary y: (n, num_classes), or (n, T, num_classes)."""
        self.response.expect("probs")
        return self._over_rows(class_log_probs, mean_exp, names=["probs"])

    @property
    def component_means(self) -> np.ndarray:
        """E[y | x, w_s] of every draw, (draw, n), or p(y = k | x, w_s), (draw, n, num_classes), where y has no mean.

        For rows of tokens p(y_t = k | x, w_s), (draw, n, T, num_classes).

        The mixture's `mean` or `probs` is their mean over draws; their spread is the uncertainty about the weights.

        Raises:
            NotImplementedError: when y has neither a mean nor classes.
        """
        if self.response.has_moments:
            return np.moveaxis(self._over_rows(moments, means_by_row, names=["component_means"]), 1, 0)
        self.response.expect("probs")
        return np.moveaxis(self._over_rows(class_log_probs, exp_by_row, names=["component_means"]), 1, 0)

    def component_samples(self, key: Any) -> Any:
        """Draw one y from p(y | x, w_s) for every draw of the weights, (draw, n), or (draw, n, T), as `sample` does."""
        return self._sampled(np.arange(count_draws(self.draws)), as_key(key))

    def log_prob(self, y: Any) -> np.ndarray:
        """Return log p(y | x, data) in nats, (n,): the log of the mean, over draws, of the likelihood of each row.

        Where the model weights rows, by a `scale` handler or a mask, it is times the weight of the row: a row of weight
        3 counts as three equal rows. All other summaries are those of y itself. Rows without y, by NaN or a mask, have
        the value 0, and of a vector with missing elements it is the log density of the others.

        Raises:
            TypeError, ValueError: when y is not one observation per row.
        """
        data = self._checked(y)
        log_probs = log_probs_over_rows(log_mean_exp, self.density, self.draws, data)
        return log_probs * row_weights(self.density, self.draws, data)

    def cdf(self, y: Any) -> np.ndarray:
        """Return P(Y <= y | x, data), (n,); for vectors that of each element by itself, (n, d). NaN where y is missing.

        Where y can be censored, Y is the value itself, of which y may be a bound.

        Raises:
            NotImplementedError: when y is a class without an order, or its cdf is unknown.
        """
        self.response.expect("cdf")
        return self._at(y, (class_log_probs, ordered_cdf), (Density.observation, mean_cdf))

    def pit(self, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the interval of the probability integral transform of y: its lower and its upper ends, (n,) each.

        If the predictions are right, a number drawn uniformly from each interval is uniform between 0 and 1. Where y is
        continuous both ends are P(Y <= y); where it is discrete they are P(Y < y) and P(Y <= y) (Czado, Gneiting & Held
        2009). Where y is a bound, they are the probabilities of the values that it leaves open: P(Y <= y) and 1 for a
        right-censored y. For vectors, (n, d), they are those of each element by itself. NaN where y is missing.

        Raises:
            NotImplementedError: when y is a class without an order, or its cdf is unknown.
        """
        self.response.expect("cdf", "pit")
        low, high = self._at(y, (class_log_probs, ordered_interval), (Density.observation, mean_interval))
        return low, high

    def crps(self, y: Any) -> np.ndarray:
        """Return the continuous ranked probability score of y, in its unit, (n,); for vectors of each element, (n, d).

        ``integral of (P(Y <= t) - [y <= t])^2 dt``, or for counts the sum over t (Gneiting & Raftery 2007): a proper
        score, smaller is better, and |y - mean| where the predictions have no spread. NaN where y is missing. With more
        than 2^16 draws times rows it is that of evenly spaced draws, at least 50 of them, whose mixture has a spread
        between draws that is smaller by at most a fiftieth.

        Raises:
            NotImplementedError: when y is a class, may be censored, or its cdf is unknown.
        """
        self.response.expect("crps")
        if not self.response.has_distances(y):
            raise NotImplementedError(f"crps: {NO_DISTANCE}")
        score = Density.observation, integer_crps if self.response.is_discrete else crps
        used = draws_used(count_draws(self.draws), count_rows(self.x))
        draws = {site: value if len(value) == 1 else value[used] for site, value in self.draws.items()}
        return replace(self, draws=draws)._at(y, score, score)

    def _at(self, y: Any, of_classes: tuple[PerDraw, Summary], of_others: tuple[PerDraw, Summary]) -> Any:
        """Return a summary at y, that of classes or that of others, NaN where y is missing."""
        data, is_class = self._checked(y), self.response.is_class
        leaves = jax.tree.leaves(data.y)
        values = leaves[0] if len(leaves) == 1 else data.y
        result = self._over_rows(
            *(of_classes if is_class else of_others), self.response.labels(values) if is_class else values
        )
        if data.known is None:
            return result
        return jax.tree.map(lambda values: np.where(_of_values(data.known, values), values, np.nan), result)

    def quantile(self, q: Any) -> np.ndarray:
        """Return the q-quantile of y, (n,), or (len(q), n) for an array of q, to the precision of the type.

        For counts and ordered classes it is the smallest k with P(Y <= k) >= q. For vectors, (n, d), it is that of each
        element by itself.

        Raises:
            ValueError: when q is not between 0 and 1.
            NotImplementedError: when y is a class without an order, or its cdf is unknown.
        """
        levels = np.atleast_1d(np.asarray(q, float))
        if levels.ndim > 1 or not ((levels > 0) & (levels < 1)).all():
            raise ValueError(f"quantile: expected a number or a vector between 0 and 1; got {q!r}.")
        self.response.expect("quantile")
        per_draw: PerDraw = Density.observation
        summary: Summary = integer_quantiles if self.response.is_discrete else quantiles
        if self.response.is_class:
            per_draw, summary = class_log_probs, ordered_quantiles
        values = np.moveaxis(self._over_rows(per_draw, summary, extra=jnp.asarray(levels), names=["quantile"]), -1, 0)
        return values[0] if np.ndim(q) == 0 else values

    def interval(self, prob: float = 0.9) -> np.ndarray:
        """Return the ends of the central interval of y, (2, n): the quantiles at (1 - prob) / 2 and (1 + prob) / 2.

        For counts and ordered classes it contains y with probability `prob` or more.

        Raises:
            ValueError: when `prob` is not between 0 and 1.
            NotImplementedError: when y is a class without an order, or its cdf is unknown.
        """
        self.response.expect("quantile", "interval")
        if not isinstance(prob, int | float) or not 0 < prob < 1:
            raise ValueError(f"interval: expected a probability between 0 and 1; got {prob!r}.")
        return self.quantile([(1 - prob) / 2, (1 + prob) / 2])

    def sample(self, key: Any, shape: tuple[int, ...] = ()) -> Any:
        """Draw y, (*shape, n), or (*shape, n, T). The rows of a sample share one draw of the weights: it is joint.

        Several observed sites share it too, and the result is a dict by site.
        """
        num_draws = count_draws(self.draws)
        count = int(np.prod(shape, dtype=int))
        key_draw, key_sample = jax.random.split(as_key(key))
        samples = self._sampled(jax.random.randint(key_draw, (count,), 0, num_draws), key_sample)
        return jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), samples)

    def _sampled(self, chosen: Any, key: Array) -> Any:
        """Draw one y at each of some draws of the weights, given by their numbers, (sample, n), by chunks of rows."""
        data, parts = self.data(), []
        size, together = sizes(Density.observations, self.density, self.draws, data, len(chosen))
        for start, some in data.parts(size):
            keys = jax.random.split(key if start == 0 else jax.random.fold_in(key, start), len(chosen))
            with named_gaps():
                samples = _sample(self.density, together, *chosen_draws(self.draws, chosen), keys, some)
            parts.append(jax.tree.map(lambda leaf: np.asarray(leaf)[:, : data.num_rows - start], samples))  # noqa: B023
        return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *parts)

    @property
    def response(self) -> Response:
        """The description of y."""
        return self.density.structure.response

    @property
    def num_classes(self) -> int | None:
        """The number of values that y, or each token, can have: 0, 1, ...; None where they are not a finite set."""
        return self.response.num_classes

    def _moments(self, name: Literal["mean", "variance"]) -> tuple[np.ndarray, np.ndarray]:
        self.response.expect(name)
        return self._over_rows(moments, mixed_moments, names=["mean", "variance"])

    def data(self, x: Rows = None, y: Rows = None) -> Data:
        """Return rows as an argument of the density; by default those of this distribution, without y."""
        return Data(self.x if x is None else x, y, at=self.at)

    def _checked(self, y: Any) -> Data:
        return replace(check_labels(self.density.model, self.x, y), at=self.at).on_device()

    def _over_rows(
        self, per_draw: PerDraw, summary: Summary, y: Rows = None, extra: Any = None, names: Sequence[str] = ()
    ) -> Any:
        is_count = per_draw is Density.observation and self.response.is_discrete
        evaluate = over_rows_in_double if is_count else over_rows
        with named_gaps(), ArrayFiles(self.out if names else None, names) as files:
            values = evaluate(per_draw, summary, self.density, self.draws, self.data(y=y), extra, files=files)
        return warn_if_nan(values, self.draws)


def _of_values(known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return which values are known, from which numbers of y are: two of a value where y is its bounds."""
    known = np.asarray(known)
    return known if known.shape == values.shape else known.all(axis=-1)


@partial(jax.jit, static_argnums=(0, 1))
def _sample(density: Density, together: int, draws: Weights, chosen: Array, keys: Array, data: Data) -> Rows:
    several, one = apart(draws)

    def sample(pair: tuple[Array, Array]) -> Rows:
        index, key = pair
        return density.draw_y(take_rows(several, index) | one, data, key)

    return jax.lax.map(sample, (chosen, keys), batch_size=together)
