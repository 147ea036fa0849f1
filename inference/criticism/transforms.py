"""Probability integral transforms, which are uniform if the predictions are right: their coverage and histogram."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from scipy.special import ndtri

from .bands import BAND, binomial_band, wilson_intervals
from .scores import share_inside

if TYPE_CHECKING:  # importing it takes a tenth of a second or more
    import pandas as pd

LEVELS = np.arange(1, 10) / 10
"""Probabilities of the central intervals."""
ENDS = (1 - LEVELS) / 2, (1 + LEVELS) / 2
"""Where the central intervals begin and end."""


def edges_of(num_bins: int) -> np.ndarray:
    """Return the ends of the central intervals and the inner edges of a histogram, in ascending order."""
    return np.unique(np.concatenate([*ENDS, np.arange(1, num_bins) / num_bins]).round(12))


@dataclass(frozen=True, eq=False)
class Transforms:
    """The transforms of some rows, each uniform in an interval, or one number where y is continuous."""

    ends: np.ndarray
    """The ends of the intervals, (n, 2); see `Predictive.pit`."""
    edges: np.ndarray
    """Numbers between 0 and 1, (edge,), in ascending order; see `edges_of`."""
    cells: np.ndarray | None = None
    """For discrete y, the interval of each row that contains an edge, (edge, n, 2)."""

    @property
    def is_continuous(self) -> bool:
        """Whether each transform is one number."""
        return bool((self.ends[:, 0] == self.ends[:, 1]).all())

    @property
    def band(self) -> str:
        """The probability with which a frequency is in its band, in words."""
        if self.cells is None:
            return "90%" if self.is_continuous else "90% or more"
        return "about 90%"

    def rows(self, chosen: np.ndarray) -> "Transforms":
        """Return the transforms of some of the rows."""
        cells = None if self.cells is None else self.cells[:, chosen]
        return Transforms(self.ends[chosen], self.edges, cells)

    def covered(self) -> np.ndarray:
        """Return the share of each row's interval in each central interval, (n, level)."""
        return np.stack([share_inside(self.ends, level) for level in LEVELS], axis=1)

    def curve(self) -> "pd.DataFrame":
        """Return the frequency of each central interval, with its band and Wilson's interval."""
        import pandas as pd

        covered, count = self.covered(), np.full(len(LEVELS), len(self.ends))
        table = pd.DataFrame({"forecast": LEVELS, "frequency": covered.mean(axis=0), "count": count})
        return table.assign(**self._band(*ENDS)).join(wilson_intervals(covered.sum(axis=0), count))

    def histogram(self, num_bins: int) -> "pd.DataFrame":
        """Return the frequency of each of several bins of equal width, with its band."""
        import pandas as pd

        edges = np.linspace(0, 1, num_bins + 1)
        low, width = self.ends[:, 0], self.ends[:, 1] - self.ends[:, 0]
        inside = (edges[:, None] - low) / np.where(width > 0, width, 1.0)
        below = np.where(width > 0, np.clip(inside, 0.0, 1.0), low < edges[:, None])
        below[0], below[-1] = 0.0, 1.0
        frequency = np.diff(below.mean(axis=1))
        table = pd.DataFrame({"left": edges[:-1], "right": edges[1:], "frequency": frequency})
        return table.assign(**self._band(edges[:-1], edges[1:]))

    def error_if_calibrated(self) -> tuple[float, float]:
        """Return mean and standard deviation of the mean of |coverage - probability| for uniform transforms."""
        covariance = self._covariance(*ENDS)
        sd = np.sqrt(np.diag(covariance))
        r = np.clip(covariance / np.outer(sd, sd), -1, 1)
        of_absolute = 2 / np.pi * (np.sqrt(1 - r**2) + r * np.arcsin(r) - 1)  # Cov(|u|, |v|) of two standard Normals
        deviation = float(np.sqrt((np.outer(sd, sd) * of_absolute).mean()))
        if self.cells is not None:
            return float(sd.mean() * np.sqrt(2 / np.pi)), deviation
        from scipy.stats import binom  # imported late; see `binomial_band`

        num_rows = len(self.ends)
        counts = np.arange(num_rows + 1)[:, None]
        exact = (binom.pmf(counts, num_rows, LEVELS) * np.abs(counts / num_rows - LEVELS)).sum(axis=0)
        return float(exact.mean()), deviation

    def _band(self, start: np.ndarray, end: np.ndarray) -> dict[str, Any]:
        """Return the central 90% range of the frequencies between numbers, ``low`` to ``high``."""
        if self.cells is None:
            return dict(binomial_band(np.full(len(start), len(self.ends)), end - start))
        reach = ndtri((1 + BAND) / 2) * np.sqrt(np.diag(self._covariance(start, end)))
        middle = end - start
        return {"low": np.clip(middle - reach, 0.0, 1.0), "high": np.clip(middle + reach, 0.0, 1.0)}

    def _covariance(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Return the covariance of the frequencies between numbers, of which some are nested, for right predictions.

        Let G(e) be the share of a row's interval below e. For two edges d <= e, of which d lies in the interval from
        low to high, ``E[G(d) G(e)] = low + (d - low) * (share of this interval below e)``; and E[G(e)] = e.
        """
        edges = np.concatenate([[0.0], self.edges, [1.0]])
        if self.cells is None:
            products = len(self.ends) * np.minimum.outer(edges, edges)
        else:
            low, high = (np.pad(each, ((1, 1), (0, 0))) for each in np.moveaxis(self.cells, -1, 0))
            low[-1] = high[-1] = 1.0
            share = (edges[:, None, None] - low) / np.where(high > low, high - low, 1.0)  # (e, d, n)
            share = np.where(high > low, np.clip(share, 0.0, 1.0), 1.0)
            products = np.triu((low + (edges[:, None] - low) * share).sum(axis=-1).T)
            products = products + np.triu(products, 1).T
        covariance = products / len(self.ends) ** 2 - np.outer(edges, edges) / len(self.ends)
        first, last = (np.searchsorted(edges, np.round(ends, 12)) for ends in (start, end))
        between = covariance[last] - covariance[first]
        return between[:, last] - between[:, first]


def transforms_of(
    predictive: Any, y: Any, output: int | None, num_bins: int
) -> tuple[Transforms, np.ndarray, np.ndarray]:
    """Return the transforms where y, or an element of it, is known, the log probabilities of all rows, and these rows.

    Raises:
        ValueError: when y has several elements and none of them is chosen.
        NotImplementedError: when y has no cdf.
    """
    response, edges, log_prob = predictive.response, edges_of(num_bins), predictive.log_prob(y)
    response.expect("cdf", "calibration")
    values = np.asarray(jax.tree.leaves(y)[0])
    if response.is_class:
        ends, cells = _of_ordered_classes(predictive.class_probs, response.labels(values), edges)
        return Transforms(ends, edges, cells), log_prob, np.arange(len(ends))
    chosen = response.element("calibration", values, output)
    ends = np.stack(predictive.pit(y), axis=-1)[chosen].astype(float)
    rows = np.flatnonzero(~np.isnan(ends).any(axis=1))
    if not response.is_discrete:
        return Transforms(ends[rows], edges), log_prob, rows
    at_edges = predictive.quantile(edges).astype(int)
    cells = np.stack([np.stack(predictive.pit(each), axis=-1)[chosen] for each in at_edges])
    return Transforms(ends[rows], edges, cells[:, rows].astype(float)), log_prob, rows


def _of_ordered_classes(probs: np.ndarray, y: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the interval of each row of y, (n, 2), and those that contain the edges, (edge, n, 2)."""
    ends = np.pad(probs.astype(float).cumsum(axis=1), ((0, 0), (1, 0)))
    ends /= ends[:, -1:]
    rows = np.arange(len(ends))

    def interval(classes: np.ndarray) -> np.ndarray:
        return np.stack([ends[rows, classes], ends[rows, classes + 1]], axis=-1)

    last = probs.shape[1] - 1
    return interval(y.astype(int)), np.stack(
        [interval(np.minimum((ends[:, 1:] < edge).sum(axis=1), last)) for edge in edges]
    )
