"""Figures of what fits predict along one dimension of x."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..chunks import count_draws
from ..criticism.compare import check_comparable
from ..predictive import Predictive
from ..result import Fit
from .plane import labels_of, named_fits, new_axes, num_draws, points_of, reach_of, rows_at
from .style import BLACK, BOX, DOTTED, FONT, LINES, Style, cycled, styles_of, text_size

if TYPE_CHECKING:  # importing it takes half a second
    from matplotlib.axes import Axes

NUM_POINTS = 201
"""Points along x at which a fit is drawn."""
MARGIN_Y = 0.75
"""How far the axis of y may extend beyond the data, as a share of their range: away from data, bands can be wide."""
LEVELS = (0.05, 0.25, 0.75, 0.95)
"""Quantiles at the ends of the 90% and the 50% interval."""


def plot_fit(
    fits: Fit | Mapping[str, Fit],
    x: Any,
    y: Any,
    ax: "Axes | None" = None,
    *,
    grid: Any = None,
    output: int | None = None,
) -> "Axes":
    """Draw what fits predict of y along a one-dimensional x, with the data.

    A line is the predictive mean, or the median where y has no mean; where y is a class, the probability of each class,
    or of class 1 if there are two. The first fit with several draws has bands of 50% and 90%: of y, with thin lines
    around 90% of the draws' means; or, where y is a class, of the draws' probabilities (90% only for more than two
    classes). For other fits with several draws, thin lines mark the 90% band. A point estimate has bands, those of y,
    only if it is the only fit.

    Args:
        fits: a fit, or name -> fit.
        x: n rows of one number each; drawn with y.
        y: n rows. Classes are ticks at the bottom, the second of two at the top; of values between bounds, (n, 2), the
            bounds are drawn, and a triangle where one is open. Rows without y are left out.
        ax: the axes to draw in; by default those of a new figure.
        grid: the points at which the fits are drawn, (m,); by default 201 over the range of x and 5% beyond.
        output: the element of a vector y that is drawn, by its index.

    Returns:
        The axes.

    Raises:
        TypeError: when `fits` are not fits.
        ValueError: when x does not have one number per row, `output` is not an element of y, or the fits do not predict
            the same y.
        NotImplementedError: when y has neither a mean nor a median.
    """
    named = named_fits(fits, "plot_fit")
    first = next(iter(named.values()))
    rows = points_of(first, x, dimensions=1)[:, 0]
    known, labels = labels_of(first, x, y)
    element = first.structure.response.element("plot_fit", labels, output)
    at = np.linspace(*reach_of(rows), NUM_POINTS) if grid is None else np.sort(np.ravel(np.asarray(grid, float)))
    predictives = {name: fit.predict(rows_at(fit, at[:, None])) for name, fit in named.items()}
    check_comparable("plot_fit", {name: predictive.response for name, predictive in predictives.items()})
    ax = new_axes(1)[0] if ax is None else ax
    several = [name for name, fit in named.items() if num_draws(fit) > 1]
    banded = (several or [*named][: len(named) == 1] or [""])[0]
    styles = styles_of(named, {name: fit.method.name for name, fit in named.items()})
    curves = _Curves(at, predictives, styles, banded, element)
    draw = _draw_classes if first.structure.response.is_name else _draw_numbers
    draw(ax, curves, rows[known], labels[element])
    ax.set(xlim=(at[0], at[-1]), xlabel=(first.layout.columns or ("x",))[0])
    above: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
    ax.legend(frameon=False, fontsize=FONT, ncols=_num_columns(ax), columnspacing=1.2, **above)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


class _Curves(NamedTuple):
    """What is drawn of the fits."""

    at: np.ndarray
    """Points along x, (m,)."""
    predictives: Mapping[str, Predictive]
    styles: Mapping[str, Style]
    banded: str
    """The name of the fit with filled bands, or ""."""
    element: Any
    """The index of the element of each row that is drawn, of y and of summaries."""


def _draw_numbers(ax: "Axes", curves: _Curves, x: np.ndarray, y: np.ndarray) -> None:
    at, predictives, styles, banded, element = curves
    for name, predictive in predictives.items():
        style, several = styles[name].line, count_draws(predictive.draws) > 1
        word, middle = _middle(predictive)
        ax.plot(at, middle[element], label=f"{name}, {word}", linewidth=2.0, zorder=3, **style)
        bands = _quantiles(predictive)
        bands = None if bands is None else bands[:, *element]
        if name == banded:
            if bands is not None:
                _fill(ax, at, bands, style["color"], f"{name}, 50% and 90% of y")
            if several and word == "mean":
                ends = np.quantile(predictive.component_means[:, *element], (LEVELS[0], LEVELS[-1]), axis=0)
                _edge(ax, at, ends, {**style, "linestyle": DOTTED}, f"{name}, 90% of the mean")
        elif several and bands is not None:
            _edge(ax, at, bands[[0, -1]], style, f"{name}, 90% of y")
    response = next(iter(predictives.values())).response
    points = response.points(y)
    _draw_data(ax, x, np.stack([points, points], axis=1) if points.ndim == y.ndim else y)
    low, high = ax.get_ylim()
    room = MARGIN_Y * (np.ptp(points) or 1.0)
    site = response.site if element == (slice(None),) else f"{response.site}[{element[1]}]"
    ax.set(ylim=(max(low, points.min() - room), min(high, points.max() + room)), ylabel=site)


def _draw_data(ax: "Axes", x: np.ndarray, bounds: np.ndarray) -> None:
    """Draw values as points, bounds of them as lines, and open ones as triangles that point to where the value is."""
    style: dict[str, Any] = {"color": BLACK, "markersize": 4, "zorder": 2.5}
    low, high = bounds.T
    has_low, has_high = np.isfinite(low), np.isfinite(high)
    kinds = {"data": (low == high, low, "."), "data, above": (has_low & ~has_high, low, "^")}
    kinds["data, below"] = (~has_low & has_high, high, "v")
    for label, (rows, values, marker) in kinds.items():
        if rows.any():
            ax.plot(x[rows], values[rows], marker, label=label, **style)
    between = has_low & has_high & (low < high)
    if between.any():
        ax.vlines(x[between], low[between], high[between], color=BLACK, linewidth=0.9, label="data, between")


def _middle(predictive: Predictive) -> tuple[str, np.ndarray]:
    """Return the mean, or the median where y has none, with its name."""
    if predictive.response.has_moments or not predictive.response.has_cdf:
        predictive.response.expect("mean", "plot_fit")
        return "mean", predictive.mean
    return "median", predictive.quantile(0.5)


def _draw_classes(ax: "Axes", curves: _Curves, x: np.ndarray, y: np.ndarray) -> None:
    """Draw one line in the fit's colour for two classes; for more, colours stand for classes and dashes for fits."""
    at, predictives, styles, banded, _ = curves
    first = next(iter(predictives.values()))
    site, num_classes = first.response.site, first.class_probs.shape[1]
    binary = num_classes == 2
    levels = "50% and 90% of the draws" if binary else "90% of the draws"  # bands of several classes overlap
    for name, predictive in predictives.items():
        probs, draws = predictive.class_probs, predictive.component_means
        for k in [1] if binary else range(num_classes):
            style = styles[name].line if binary else {**styles[name].line, "color": cycled(LINES, k)}
            named = binary or k == 0  # the legend names fits; classes are named on their lines
            ax.plot(at, probs[:, k], label=name if named else None, linewidth=2.0, zorder=3, **style)
            if len(draws) == 1:
                continue
            bands = np.quantile(draws[..., k] if draws.ndim == 3 else draws, LEVELS, axis=0)
            if name == banded:
                shown = bands if binary else bands[[0, -1]]
                _fill(ax, at, shown, style["color"], f"{name}, {levels}" if named else None)
            else:
                _edge(ax, at, bands[[0, -1]], style, f"{name}, 90% of the draws" if named else None)
    _rug(ax, site, x, y, num_classes)
    if not binary:
        _name_classes(ax, at, first.class_probs)
    ax.set(yticks=np.linspace(0, 1, 6), ylabel=f"p({site} = 1)" if binary else "probability")


def _rug(ax: "Axes", site: str, x: np.ndarray, y: np.ndarray, num_classes: int) -> None:
    """Draw the rows of each class as ticks, with the name of the class at the right."""
    binary = num_classes == 2
    for k in range(num_classes):
        height = (-0.04, 1.04)[k] if binary else -0.04 - 0.06 * k
        colour = BLACK if binary else cycled(LINES, k)
        ax.plot(x[y == k], np.full((y == k).sum(), height), "|", color=colour, markersize=7, zorder=4)
        right: dict[str, Any] = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "fontsize": FONT}
        ax.annotate(f"{site} = {k}", (1.0, height), xycoords=("axes fraction", "data"), color=colour, **right)
    ax.set_ylim(*((-0.09, 1.09) if binary else (-0.04 - 0.06 * num_classes, 1.04)))


def _name_classes(ax: "Axes", at: np.ndarray, probs: np.ndarray) -> None:
    """Write each class on its line, where the line is furthest above the others or least below them."""
    margin = max(1, len(at) // 50)
    for k in range(probs.shape[1]):
        lead = probs[:, k] - np.delete(probs, k, axis=1).max(axis=1)
        best = int(np.clip(np.argmax(lead), margin, len(at) - 1 - margin)) if len(at) > 2 * margin else 0
        style: dict[str, Any] = {"color": cycled(LINES, k), "ha": "center", "va": "center", "bbox": BOX}
        ax.text(at[best], probs[best, k], str(k), fontsize=FONT, zorder=5, **style)


def _quantiles(predictive: Predictive) -> np.ndarray | None:
    return None if "quantile" in predictive.response.missing else predictive.quantile(LEVELS)


def _num_columns(ax: "Axes") -> int:
    """Return the number of columns, at most three, with which the legend is no wider than the axes."""
    widths = [text_size(ax, f"MMMM{label}")[0] for label in ax.get_legend_handles_labels()[1]]
    columns = (n for n in (3, 2) if sum(max(part, default=0) for part in np.array_split(widths, n)) <= 1)
    return next(columns, 1)


def _fill(ax: "Axes", at: np.ndarray, bands: np.ndarray, colour: str, label: str | None) -> None:
    """Fill between the outermost of an even number of bands, (2 k, m), then between those inside."""
    for i in range(len(bands) // 2):
        shown = label if i == 0 else None
        ax.fill_between(at, bands[i], bands[-1 - i], color=colour, alpha=0.18 + 0.07 * i, linewidth=0, label=shown)


def _edge(ax: "Axes", at: np.ndarray, ends: np.ndarray, style: dict[str, Any], label: str | None) -> None:
    for end, shown in zip(ends, (label, None), strict=True):
        ax.plot(at, end, label=shown, linewidth=0.9, zorder=2.8, **style)
