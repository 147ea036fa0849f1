"""The predictive distribution: p(y | x) as a mixture over draws, in bounded memory."""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from .checks import as_key, check_labels
from .chunks import PerDraw, Summary, apart, count_draws, over_rows, sizes
from .density import Density
from .distributions import moments_of
from .mixture import (
    by_row,
    exp_by_row,
    integer_quantiles,
    log_mean_exp,
    mean_cdf,
    mean_exp,
    means_by_row,
    mixed_moments,
    quantiles,
)
from .response import Response
from .rows import Data, Rows, Weights, take_rows
from .status import warn_of_nan, warn_of_precision
from .words import named_gaps


def log_likelihood(density: Density, draws: Weights, data: Data) -> np.ndarray:
    """Return log p(y_i | x_i, w_s) in nats, (draw, n), times the weight of the row where rows have weights."""
    if not density.is_weighted(data):
        return log_probs_over_rows(by_row, density, draws, data).T
    first, *rest = (
        log_probs_over_rows(by_row, part, draws, some).T * _row_weights(part, draws, some)
        for part, some in density.by_site(data)
    )
    return sum(rest, first)


def _row_weights(density: Density, draws: Weights, data: Data) -> np.ndarray:
    """Return the weight of each row in the density, (n,), or 1; it does not depend on the draw.

    Raises:
        ValueError: when a row has different weights at several observed sites.
    """
    if not density.is_weighted(data):
        return np.ones((), jax.dtypes.canonicalize_dtype(float))
    draw = {site: value[:1] for site, value in draws.items()}
    by_site = [
        over_rows(Density.row_weights, by_row, part, draw, some)[:, 0]
        for part, some in density.by_site(replace(data, y=None, known=None))
    ]
    if any((weights != by_site[0]).any() for weights in by_site):
        raise ValueError(
            f"log_prob: expected each row to have one weight, since the sites of a row share a draw; the model weights "
            f"{', '.join(map(repr, sorted(density.structure.weighted)))} by numpyro.handlers.scale, and not all sites "
            f"alike. Ask for one site, or for log_likelihood, which is a sum over sites for each draw."
        )
    return by_site[0]


def log_probs_over_rows(summary: Summary, density: Density, draws: Weights, data: Data) -> np.ndarray:
    """Return a summary over draws of log p(y_i | x_i, w_s) in nats, rows first.

    Where y has probabilities or densities that cancel in float32, the model and the summary are evaluated in float64,
    at the given draws and rows; the result has the default precision.

    Warns:
        PrecisionWarning: where that is not possible, as for a network that fixes the type of its state.
        UndefinedPredictionWarning: when the result is NaN in some rows although the draws are finite.
    """
    dtype, where = jax.dtypes.canonicalize_dtype(float), (summary, density, draws, data)
    if density.structure.response.needs_double and dtype != np.float64:
        try:
            with jax.enable_x64(True):
                values = over_rows(_row_log_probs_in_double, *where, dtype=dtype)
        except TypeError as error:
            values = over_rows(Density.row_log_probs, *where)
            warn_of_precision(error)
    else:
        values = over_rows(Density.row_log_probs, *where)
    return _warn_if_nan(values, draws)


def _row_log_probs_in_double(density: Density, weights: Weights, data: Data) -> Array:
    """Return `Density.row_log_probs` of the same numbers in float64: widened here, a chunk at a time."""

    def widened(leaf: Array) -> Array:
        return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return density.row_log_probs(*jax.tree.map(widened, (weights, data)))


def class_log_probs(density: Density, weights: Weights, data: Data) -> Float[Array, "n *t k"]:
    """Return log p(y = k | x, w), (n, num_classes), or that of each token, (n, T, num_classes)."""
    return density.structure.response.class_log_probs(density.observation(weights, data))


def moments(density: Density, weights: Weights, data: Data) -> tuple[Array, Array]:
    """Return E[y | x, w] and Var[y | x, w] in the shape of y."""
    return moments_of(density.observation(weights, data))


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

    def __getitem__(self, site: str) -> "Predictive":
        """Return the predictive distribution of one observed site alone, where the model has several.

        Raises:
            KeyError: when there is no such observed site.
        """
        self.density.structure.check_site(site)
        return replace(self, density=self.density.of_site(site))

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
        return self._over_rows(class_log_probs, mean_exp)

    @property
    def component_means(self) -> np.ndarray:
        """E[y | x, w_s] of every draw, (draw, n), or p(y = k | x, w_s), (draw, n, num_classes), where y has no mean.

        For rows of tokens p(y_t = k | x, w_s), (draw, n, T, num_classes).

        The mixture's `mean` or `probs` is their mean over draws; their spread is the uncertainty about the weights.

        Raises:
            NotImplementedError: when y has neither a mean nor classes.
        """
        if self.response.has_moments:
            return np.moveaxis(self._over_rows(moments, means_by_row), 1, 0)
        self.response.expect("probs")
        return np.moveaxis(self._over_rows(class_log_probs, exp_by_row), 1, 0)

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
        return log_probs * _row_weights(self.density, self.draws, data)

    def cdf(self, y: Any) -> np.ndarray:
        """Return P(Y <= y | x, data), (n,): the probability integral transform of y, NaN where y is missing.

        Raises:
            NotImplementedError: when the distribution of the site has no `cdf`.
        """
        self.response.expect("cdf")
        data = self._checked(y)
        values = self._over_rows(Density.observation, mean_cdf, data.y)
        return values if data.known is None else np.where(data.known, values, np.nan)

    def quantile(self, q: Any) -> np.ndarray:
        """Return the q-quantile of y, (n,), or (len(q), n) for an array of q, to the precision of the type.

        For counts it is the smallest k with P(Y <= k) >= q.

        Raises:
            ValueError: when q is not between 0 and 1.
            NotImplementedError: when y is a class, or its distribution has no `cdf`.
        """
        levels = np.atleast_1d(np.asarray(q, float))
        if levels.ndim > 1 or not ((levels > 0) & (levels < 1)).all():
            raise ValueError(f"quantile: expected a number or a vector between 0 and 1; got {q!r}.")
        self.response.expect("quantile")
        summary = integer_quantiles if self.response.is_discrete else quantiles
        values = self._over_rows(Density.observation, summary, extra=jnp.asarray(levels))
        return values[:, 0] if np.ndim(q) == 0 else values.T

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
        """Draw one y at each of some draws of the weights, given by their numbers, (sample, n)."""
        _, together = sizes(Density.observations, self.density, self.draws, self.data())
        keys = jax.random.split(key, len(chosen))
        with named_gaps():
            samples = _sample(self.density, together, self.draws, jnp.asarray(chosen), keys, self.data())
        return jax.tree.map(np.asarray, samples)

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
        return self._over_rows(moments, mixed_moments)

    def data(self, x: Rows = None, y: Rows = None) -> Data:
        """Return rows as an argument of the density; by default those of this distribution, without y."""
        return Data(self.x if x is None else x, y, at=self.at)

    def _checked(self, y: Any) -> Data:
        return jax.device_put(replace(check_labels(self.density.model, self.x, y), at=self.at))

    def _over_rows(self, per_draw: PerDraw, summary: Summary, y: Rows = None, extra: Any = None) -> Any:
        with named_gaps():
            values = over_rows(per_draw, summary, self.density, self.draws, self.data(y=y), extra)
        return _warn_if_nan(values, self.draws)


def _warn_if_nan(values: Any, draws: Weights) -> Any:
    """Return the values, and warn about rows that are NaN, unless the draws are: the status of the fit reports that."""
    for leaf in jax.tree.leaves(values):
        with np.errstate(all="ignore"):
            if not np.isnan(leaf.sum()):  # one pass without a temporary; only suspects are examined closely
                continue
        rows = np.isnan(leaf).reshape(len(leaf), -1).any(axis=1)
        if rows.any() and all(jnp.isfinite(value).all() for value in draws.values()):
            warn_of_nan(rows)
            break
    return values


@partial(jax.jit, static_argnums=(0, 1))
def _sample(density: Density, together: int, draws: Weights, chosen: Array, keys: Array, data: Data) -> Rows:
    several, one = apart(draws)

    def sample(pair: tuple[Array, Array]) -> Rows:
        index, key = pair
        return density.draw_y(take_rows(several, index) | one, data, key)

    return jax.lax.map(sample, (chosen, keys), batch_size=together)
