"""Pictures of what fits predict along one dimension of x."""

from collections.abc import Mapping
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from ..criticism.compare import check_comparable
from ..predictive import Predictive, count_draws
from ..result import Fit
from .likelihood import DASHES, FONT, LINES
from .plane import labels_of, named_fits, new_axes, num_draws, points_of, reach_of, rows_at

if TYPE_CHECKING:  # it takes half a second to import: only who draws waits for it
    from matplotlib.axes import Axes

POINTS = 201
"""Places along x at which a fit is drawn."""
BEYOND = 0.75
"""The same for y: where there are no data a band may grow without end."""
LEVELS = (0.05, 0.25, 0.75, 0.95)
"""Quantiles: the ends of the intervals of 90% and 50%."""


def plot_fit(fits: Fit | Mapping[str, Fit], x: Any, y: Any, ax: "Axes | None" = None, *, grid: Any = None) -> "Axes":
    """Draw what fits say of y along a one-dimensional x, with the data.

    A line is the predictive mean; where y is a class, the probability of each class, of two classes that of 1. The
    first fit with several draws has bands of 50% and 90%: of y, with thin lines around 90% of the draws' means, or,
    where y is a class, of the draws' probabilities (of more than two classes that of 90% alone). Of other fits with
    several draws thin lines mark the outer band. A point has the bands of y where it is alone, and none of its mean.

    Args:
        fits: a fit, or name -> fit.
        x: n rows of one number each; drawn with y.
        y: n rows. Classes are ticks at the bottom, the second of two at the top.
        ax: where to draw; by default a new figure.
        grid: the places at which the fits are drawn, (m,); by default 201 over the range of x and 5% beyond.

    Returns:
        The axes.

    Raises:
        TypeError: when `fits` are not fits.
        ValueError: when x has not one number a row, or y has several, or the fits do not predict the same y.
    """
    named = named_fits(fits, "plot_fit")
    first = next(iter(named.values()))
    rows = points_of(first, x, dimensions=1)[:, 0]
    labels = labels_of(first, x, y)
    places = np.linspace(*reach_of(rows), POINTS) if grid is None else np.sort(np.ravel(np.asarray(grid, float)))
    predictives = {name: fit.predict(rows_at(fit, places[:, None])) for name, fit in named.items()}
    check_comparable({name: [predictive] for name, predictive in predictives.items()})
    ax = new_axes(1)[0] if ax is None else ax
    several = [name for name, fit in named.items() if num_draws(fit) > 1]
    banded = (several or [*named][: len(named) == 1] or [""])[0]
    draw = _draw_classes if first.structure.response.is_name else _draw_numbers
    draw(ax, places, predictives, rows, labels, banded)
    ax.set(xlim=(places[0], places[-1]), xlabel=(first.layout.columns or ("x",))[0])
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
    ax.legend(frameon=False, fontsize=FONT, ncols=3, columnspacing=1.2, **place)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _draw_numbers(
    ax: "Axes", at: np.ndarray, predictives: Mapping[str, Predictive], x: np.ndarray, y: np.ndarray, banded: str
) -> None:
    for (name, predictive), style in zip(predictives.items(), _styles(), strict=False):
        mean, several = predictive.mean, count_draws(predictive.draws) > 1
        ax.plot(at, mean, label=f"{name}, mean", linewidth=2.0, zorder=3, **style)
        bands = _quantiles(predictive)
        if name == banded:
            if bands is not None:
                _fill(ax, at, bands, style["color"], f"{name}, 50% and 90% of y")
            if several:
                ends = np.quantile(predictive.component_means, (LEVELS[0], LEVELS[-1]), axis=0)
                _edge(ax, at, ends, {**style, "linestyle": (0, (1, 1))}, f"{name}, 90% of the mean")
        elif several and bands is not None:
            _edge(ax, at, bands[[0, -1]], style, f"{name}, 90% of y")
    ax.plot(x, y, ".", color="0.1", markersize=4, label="data", zorder=2.5)
    low, high = ax.get_ylim()
    room = BEYOND * (np.ptp(y) or 1.0)
    site = next(iter(predictives.values())).response.site
    ax.set(ylim=(max(low, y.min() - room), min(high, y.max() + room)), ylabel=site)


def _draw_classes(
    ax: "Axes", at: np.ndarray, predictives: Mapping[str, Predictive], x: np.ndarray, y: np.ndarray, banded: str
) -> None:
    """Two classes are one line, coloured by fit; of more the colours tell classes apart, and the dashes fits."""
    first = next(iter(predictives.values()))
    site, num_classes = first.response.site, first.class_probs.shape[1]
    binary = num_classes == 2
    of = "50% and 90% of the draws" if binary else "90% of the draws"  # of several classes they lie on one another
    for (name, predictive), by_fit in zip(predictives.items(), _styles(), strict=False):
        probs, draws = predictive.class_probs, predictive.component_means
        for k in [1] if binary else range(num_classes):
            style = by_fit if binary else {**by_fit, "color": LINES[k % len(LINES)]}
            named = binary or k == 0  # the legend tells fits apart; classes are named on their lines
            ax.plot(at, probs[:, k], label=name if named else None, linewidth=2.0, zorder=3, **style)
            if len(draws) == 1:
                continue
            bands = np.quantile(draws[..., k] if draws.ndim == 3 else draws, LEVELS, axis=0)
            if name == banded:
                shown = bands if binary else bands[[0, -1]]
                _fill(ax, at, shown, style["color"], f"{name}, {of}" if named else None)
            else:
                _edge(ax, at, bands[[0, -1]], style, f"{name}, 90% of the draws" if named else None)
    _rug(ax, site, x, y, num_classes)
    if not binary:
        _name_classes(ax, at, first.class_probs)
    ax.set(yticks=np.linspace(0, 1, 6), ylabel=f"p({site} = 1)" if binary else "probability")


def _rug(ax: "Axes", site: str, x: np.ndarray, y: np.ndarray, num_classes: int) -> None:
    """The rows of each class as ticks, with its name beside them."""
    binary = num_classes == 2
    for k in range(num_classes):
        height = (-0.04, 1.04)[k] if binary else -0.04 - 0.06 * k
        colour = "0.1" if binary else LINES[k % len(LINES)]
        ax.plot(x[y == k], np.full((y == k).sum(), height), "|", color=colour, markersize=7, zorder=4)
        beside: dict[str, Any] = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "fontsize": FONT}
        ax.annotate(f"{site} = {k}", (1.0, height), xycoords=("axes fraction", "data"), color=colour, **beside)
    ax.set_ylim(*((-0.09, 1.09) if binary else (-0.04 - 0.06 * num_classes, 1.04)))


def _name_classes(ax: "Axes", at: np.ndarray, probs: np.ndarray) -> None:
    """Each line's class, where it is furthest above the others or least below them."""
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1}
    margin = max(1, len(at) // 50)
    for k in range(probs.shape[1]):
        lead = probs[:, k] - np.delete(probs, k, axis=1).max(axis=1)
        best = int(np.clip(np.argmax(lead), margin, len(at) - 1 - margin)) if len(at) > 2 * margin else 0
        style: dict[str, Any] = {"color": LINES[k % len(LINES)], "ha": "center", "va": "center", "bbox": box}
        ax.text(at[best], probs[best, k], str(k), fontsize=FONT, zorder=5, **style)


def _quantiles(predictive: Predictive) -> np.ndarray | None:
    return None if "quantile" in predictive.response.missing else predictive.quantile(LEVELS)


def _fill(ax: "Axes", at: np.ndarray, bands: np.ndarray, colour: str, label: str | None) -> None:
    """Fill between the outermost of an even number of bands, (2 k, m), then between those inside."""
    for i in range(len(bands) // 2):
        said = label if i == 0 else None
        ax.fill_between(at, bands[i], bands[-1 - i], color=colour, alpha=0.18 + 0.07 * i, linewidth=0, label=said)


def _edge(ax: "Axes", at: np.ndarray, ends: np.ndarray, style: dict[str, Any], label: str | None) -> None:
    for end, said in zip(ends, (label, None), strict=True):
        ax.plot(at, end, label=said, linewidth=0.9, zorder=2.8, **style)


def _styles() -> Any:
    """Colours and dashes, so that lines are told apart in grey as well."""
    return ({"color": colour, "linestyle": dash} for colour, dash in zip(cycle(LINES), cycle(DASHES), strict=False))
