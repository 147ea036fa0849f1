"""The distance of predictions from those of a reference, such as long chains, and the noise of the reference itself."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import jax
import numpy as np
from scipy.special import ndtr

from ..chunks import count_draws
from ..predictive import Predictive
from ..response import Response
from ..result import Fit
from ..rows import Rows, take_rows
from .rows import ScoredRows
from .scores import OF, mean, standard_error

MAX_VALUES = 2**18
"""The number of draws times rows, times elements of y, from which distances of numbers are those at fewer rows."""
MAX_PROBS = 2**24
"""The number of probabilities of tokens from which distances are those at fewer rows."""
NODES = np.linspace(-4.5, 4.5, 37)
"""Quantiles of the standard normal distribution between which a Wasserstein distance is integrated. The trapezoidal
rule is exact to rounding for two Gaussians, but for what is beyond: 2e-4 of the squared difference of the scales."""
VARIANCES = "variance", "variance_of_other"
"""The variances over draws of E[y | x, w]: of the reference, and of the prediction whose distance is measured."""
NOISE = (
    "Distances are from the reference by {method}, {chains}, status {status}. Two halves of it, split by {halves}, "
    "differ by {floor}: what is smaller cannot be told from its noise."
)
"""The note on the reference, and on the distance of its own halves."""
APPROXIMATE = "The draws of the reference are an approximation: a distance from them is none from the posterior itself."
FEWER = "Distances are those at {count} rows, evenly spaced."
WORDS = {
    "agreement": "agreement {value:.1%}",
    "total_variation": "total variation {value:.2g} (se {error:.1g})",
    "w2": "W2 {value:.2g} (se {error:.1g})",
    "w2_mean": "W2 of means {value:.2g} (se {error:.1g})",
    "spread": "spread ratio {value:.2f}",
}
"""The distance of two halves of the reference in words, by measure."""


class Reference:
    """The predictions of a reference at rows of x, and those of its two halves.

    The measures that there are depend on the kind of y; `compare` defines them. Of rows that are spread over processes
    each predicts its own, and all have the distances at all of them.

    Args:
        fit: the reference.
        scored: the rows.
    """

    def __init__(self, fit: Fit, scored: ScoredRows) -> None:
        self.fit, self._scored = fit, scored
        self._shape = next(iter(fit.draws.values())).shape[:2]
        counts = np.ones(len(scored.places), bool) if scored.weights is None else scored.weights > 0
        self._counted = np.flatnonzero(scored.by_place(counts, scored.places))
        """The places of the rows that count, among those of all processes."""
        self._parts, is_several = fit.structure.responses, len(fit.structure.responses) > 1
        self._of = {part.site: f"{OF}{part.site}" if is_several else "" for part in self._parts}
        self._places = {part.site: self._measured_places(part) for part in self._parts}
        self._rows = {site: np.flatnonzero(np.isin(scored.places, places)) for site, places in self._places.items()}
        """Those of this process at which distances are measured, by site."""
        y = scored.y
        self._known = {part.site: self._tokens(part, y[part.site] if is_several else y) for part in self._parts}
        self._whole = fit.predict(scored.x)
        self._predictions = self._at_rows(self._whole)

    def scores(self, members: Sequence[Predictive]) -> dict[str, float]:
        """Return the distances of predictions under several keys, the mean over keys, with standard errors over rows.

        Args:
            members: the predictive distribution at the n rows of each key.
        """
        return self._scores([(self._predictions, self._at_rows(one)) for one in members])

    @cached_property
    def floor(self) -> dict[str, float]:
        """The distances of two halves: every other chain, or the halves of a single chain; with standard errors."""
        chains, draws = self._shape
        numbers = np.arange(chains * draws).reshape(chains, draws)
        halves = (numbers[0::2], numbers[1::2]) if chains > 1 else np.split(numbers, [draws // 2], axis=1)
        one, other = (
            self._at_rows(replace(self._whole, draws=_chosen(self._whole.draws, half.reshape(-1)))) for half in halves
        )
        return self._scores([(one, other)])

    @property
    def notes(self) -> list[str]:
        """The notes on the reference: its kind, its noise, and the rows at which distances are measured."""
        chains, draws = self._shape
        known = {name: value for name, value in self.floor.items() if not math.isnan(value)}
        words = [
            WORDS[measure].format(value=value, error=known.get(f"{measure}_se{of}{site}", math.nan)) + of + site
            for name, value in known.items()
            for measure, of, site in [name.partition(OF)]
            if measure in WORDS
        ]
        notes = [
            NOISE.format(
                method=self.fit.method.name,
                chains=f"{chains} chain{'s' * (chains > 1)} of {draws} draws",
                status=self.fit.status.level,
                halves="chains" if chains > 1 else "draws",
                floor=", ".join(words),
            )
        ]
        if self.fit.kind == "approximation":
            notes.append(APPROXIMATE)
        fewest = min(map(len, self._places.values()))
        return [*notes, FEWER.format(count=fewest)] if fewest < len(self._counted) else notes

    def _measured_places(self, response: Response) -> np.ndarray:
        """Return the places at which distances are measured: of rows that count, all or as many as the work allows."""
        size, limit = math.prod(self._shape), MAX_VALUES
        if response.num_classes is not None:
            size, limit = response.num_classes, MAX_PROBS
        count = min(len(self._counted), max(1, limit // (size * math.prod(response.event_shape))))
        return self._counted[np.unique(np.linspace(0, len(self._counted) - 1, count).round().astype(int))]

    def _tokens(self, response: Response, y: Rows) -> np.ndarray | None:
        """Return which tokens are not padding, (row, T); None where y is not tokens."""
        if response.kind != "tokens":
            return None
        (tokens,) = jax.tree.leaves(y)
        rows = self._rows[response.site]
        return response.is_known(np.asarray(tokens)[rows if len(rows) else [0]])

    def _at_rows(self, predictive: Predictive) -> dict[str, dict[str, np.ndarray]]:
        """Return what is compared of a predictive distribution, by observed site."""
        described = {}
        for site, rows in self._rows.items():
            some = rows if len(rows) else np.zeros(1, int)  # a process without any describes one that is left out
            described[site] = _described(replace(predictive[site], x=take_rows(predictive.x, some)))
        return described

    def _scores(self, pairs: Sequence[tuple[Any, Any]]) -> dict[str, float]:
        """Return the distances of pairs of predictions, the mean over pairs."""
        scores: dict[str, float] = {}
        for site, rows in self._rows.items():
            each = [_distances(one[site], other[site], self._known[site]) for one, other in pairs]
            own = {name: np.mean([one[name] for one in each], axis=0)[: len(rows)] for name in each[0]}
            values = {name: self._of_all(value, rows) for name, value in own.items()}
            weights = None if self._scored.weights is None else self._of_all(self._scored.weights[rows], rows)
            if (known := self._known[site]) is not None:  # from sums over the tokens of a row to means over all tokens
                per_row = max(self._of_all(known[: len(rows)].sum(axis=1), rows).mean(), 1.0)
                values = {name: value / per_row for name, value in values.items()}
            scores |= {f"{name}{self._of[site]}": value for name, value in _summarised(values, weights).items()}
        return scores

    def _of_all(self, own: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the values of the rows of all processes, from those of some rows of this one."""
        return self._scored.by_place(own, self._scored.places[rows])


def check_reference(fit: Any) -> None:
    """Raise unless a fit can be a reference, one with draws from a posterior whose predictions have a distance.

    Raises:
        TypeError: when it is not a fit.
        ValueError: when its draws are not those of a posterior, or predictions of its y have no distance.
    """
    if not isinstance(fit, Fit):
        raise TypeError(
            f"compare: expected reference to be a fit, such as long chains of NUTS() or MCLMC(); got {fit!r}."
        )
    draws = math.prod(next(iter(fit.draws.values())).shape[:2])
    if fit.kind in ("point", "prior") or draws < 2:
        got = "draws from the prior" if fit.kind == "prior" else "one point"
        raise ValueError(
            f"compare: expected reference to have draws from a posterior, such as long chains of NUTS() or MCLMC(); "
            f"got {got}, by {fit.method.name}."
        )
    for part in fit.structure.responses:
        if part.num_classes is None and not part.has_moments:
            raise ValueError(
                f"compare: expected a reference whose predictions have a mean, whose distribution over draws is "
                f"compared; {part.family}, at {part.site!r}, has none. Leave out reference: elpd compares its fits."
            )


def _chosen(draws: Mapping[str, Any], numbers: np.ndarray) -> dict[str, Any]:
    """Return some of the draws of a predictive distribution, in which a site that is equal in all has one draw."""
    count = count_draws(dict(draws))
    return {site: value[numbers] if len(value) == count else value for site, value in draws.items()}


def _described(predictive: Predictive) -> dict[str, np.ndarray]:
    """Return what is compared of a predictive distribution: probabilities, or means and quantiles."""
    response = predictive.response
    if response.num_classes is not None:
        return {"probs": predictive.class_probs}
    described = {"means": predictive.component_means}
    if not response.is_discrete and response.has_cdf:
        described["quantiles"] = predictive.quantile(ndtr(NODES))
    return described


def _distances(
    one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], known: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Return the distance of two predictions at each row, (n,), by measure; and the variances of their means.

    Args:
        one: the reference, as `_described` returns it.
        other: the prediction whose distance is measured.
        known: which tokens are not padding, (n, T), where y is tokens.
    """
    if "probs" in one:
        return class_distances(one["probs"], other["probs"], known)
    values = {}
    if "quantiles" in one and "quantiles" in other:
        values["w2"] = wasserstein_of_quantiles(one["quantiles"], other["quantiles"])
    values["w2_mean"] = wasserstein(one["means"], other["means"])
    values |= {name: each["means"].var(axis=0, dtype=float) for name, each in zip(VARIANCES, (one, other), strict=True)}
    return {name: each.reshape(len(each), -1).mean(axis=1) for name, each in values.items()}


def class_distances(one: np.ndarray, other: np.ndarray, known: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Return whether two predictions have the same most probable class, and their total variation, by row, (n,).

    ``1/2 sum_k |p_k - q_k|``, from 0 to 1 (Izmailov et al. 2021, section 4.3). Of tokens both are sums over those of
    the row that are known.

    Args:
        one: probabilities of the classes, (n, K), or of each token, (n, T, K).
        other: the same of the other prediction.
        known: which tokens are not padding, (n, T).
    """
    values = {
        "agreement": (one.argmax(axis=-1) == other.argmax(axis=-1)).astype(float),
        "total_variation": np.abs(one.astype(float) - other).sum(axis=-1) / 2,
    }
    if known is None:
        return values
    return {name: (each * known).sum(axis=1) for name, each in values.items()}


def wasserstein(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the Wasserstein-2 distance of two sets of equally probable points, in each of many columns.

    ``sqrt(integral over u of (F^-1(u) - G^-1(u))^2)``, where the quantile functions F^-1 and G^-1 are those of the
    points: steps, between which nothing is approximated.

    Args:
        one: points, (s, ...).
        other: points, (t, ...).

    Returns:
        The distances, (...), in units of the points.
    """
    s, t = len(one), len(other)
    ends = np.union1d(
        np.arange(s + 1) * t, np.arange(t + 1) * s
    )  # where either quantile function has a step, times s t
    one, other = np.sort(one, axis=0), np.sort(other, axis=0)
    squares = (one[ends[:-1] // t].astype(float) - other[ends[:-1] // s]) ** 2
    return np.sqrt(np.tensordot(np.diff(ends) / (s * t), squares, axes=1))


def wasserstein_of_quantiles(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the Wasserstein-2 distance of two continuous distributions, (n, ...), in units of y.

    With ``u = Phi(z)`` it is the root of the integral over z of the squared difference of the quantiles times the
    normal density of z.

    Args:
        one: the quantiles of the first at ``Phi(NODES)``, (node, n, ...).
        other: those of the second.
    """
    weights = np.exp(-(NODES**2) / 2) / np.sqrt(2 * np.pi)
    return np.sqrt(np.tensordot(weights / weights.sum(), (one.astype(float) - other) ** 2, axes=1))


def _summarised(values: Mapping[str, np.ndarray], weights: np.ndarray | None) -> dict[str, float]:
    """Return the mean over rows of each measure, and the ratio of spreads, each with its standard error."""
    scores: dict[str, float] = {}
    for name, each in values.items():
        if name not in VARIANCES:
            scores |= {name: mean(each, weights), f"{name}_se": standard_error(each, weights)}
    if VARIANCES[0] in values:
        one, other = (values[name] for name in VARIANCES)
        scores |= _ratio_of_spreads(one, other, weights)
    return scores


def _ratio_of_spreads(variance: np.ndarray, other: np.ndarray, weights: np.ndarray | None) -> dict[str, float]:
    """Return the root of the ratio of two mean variances, and its standard error by the delta method."""
    whole = mean(variance, weights)
    if not whole > 0:
        return {"spread": math.nan, "spread_se": math.nan}
    ratio = mean(other, weights) / whole
    error = standard_error((other - ratio * variance) / whole, weights)
    return {"spread": math.sqrt(ratio), "spread_se": error / (2 * math.sqrt(ratio)) if ratio else 0.0}
