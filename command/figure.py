"""The figure of the command: what the fits predict along one feature, their scores and their calibration."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..inference import Comparison, Fit
from ..inference.criticism import calibration
from ..inference.files import atomic_write
from ..inference.plots import plot_calibration, plot_compare
from ..inference.plots.style import FONT, GREY, styles_of
from ..inference.status import no_failure_warnings
from .data import Rows, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NUM_BINS, BIN_ROWS = 10, 10
"""The largest number of bins, and the number of rows that a bin should have."""
NUM_POINTS = 101
"""Points along the feature."""
MOST_FEATURES = 50
"""The number of features among which the one that matters most is sought."""
REACH = 0.15
"""How far the curves go beyond the rows that were fitted, as a share of their range."""
LEVELS = (0.05, 0.95)


def draw(fits: Mapping[str, Fit], comparison: Comparison, train: Rows, test: Rows, table: Table, path: Path) -> Path:
    """Write the figure as a PNG and return its path."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.use("Agg")
    figure = Figure(figsize=(12, 6), layout="constrained")
    axes = figure.subplot_mosaic([["fit", "scores"], ["fit", "calibration"]], width_ratios=(1, 1), height_ratios=(2, 3))
    with no_failure_warnings():  # the table has their statuses
        draw_fits(fits, comparison, train, table, axes["fit"])
        plot_compare(comparison, axes["scores"]).set_title(
            "elpd on test rows, minus that of the best", fontsize=10, loc="left"
        )
        draw_calibration(fits, test, axes["calibration"])
    figure.suptitle(
        f"{table.target.name} of {table.sheet.title}: one network, {len(fits)} answers",
        x=0.01,
        ha="left",
        fontweight="bold",
    )
    return atomic_write(path, lambda file: figure.savefig(file, dpi=150))


def draw_fits(fits: Mapping[str, Fit], comparison: Comparison, train: Rows, table: Table, ax: "Axes") -> None:
    """Draw what each fit predicts along the feature that matters most to the best fit, the others at their medians.

    Lines are medians, of counts means, with the 90% band of y, that of the best fit filled; or where y is a class, the
    probability of the last class of two, or of the most frequent of several, with the band of 90% of the draws.
    """
    best = fits[str(comparison.to_dataframe().index[0])]
    feature = most_important(best, train)
    values = train.x[feature]
    room = REACH * (values.max() - values.min())
    at = np.linspace(values.min() - room, values.max() + room, NUM_POINTS)
    rows = slice_of(train.x, feature, at)
    styles = styles_of(fits, {name: fit.method.name for name, fit in fits.items()})
    classes = table.target.classes
    k = 1 if len(classes) == 2 else int(pd.Series(train.y).mode()[0]) if classes else None
    for name, fit in fits.items():
        middle, band = curve(fit, rows, k)
        style = styles[name]
        ax.plot(at, middle, label=name, linewidth=2.0, zorder=3, **style.line)
        if band is None:
            continue
        if fit is best:
            ax.fill_between(at, *band, color=style.color, alpha=0.18, linewidth=0)
        else:
            for end in band:
                ax.plot(at, end, linewidth=0.9, zorder=2.5, **style.line)
    y = train.y if k is None else np.where(np.isnan(train.y), np.nan, train.y == k)
    ax.plot(values, y, "." if k is None else "|", color=GREY, markersize=3 if k is None else 7, alpha=0.5, zorder=2)
    if k is not None:
        ax.set(ylim=(-0.05, 1.2), yticks=np.linspace(0, 1, 6))  # with room for the legend
    else:
        span = np.nanmax(y) - np.nanmin(y)
        ax.set_ylim(np.nanmin(y) - 0.2 * span, np.nanmax(y) + 0.2 * span)
    what = table.target.name if k is None else f"P({table.target.name} = {classes[k]})"
    ax.set(xlim=(at[0], at[-1]), xlabel=f"{feature}; all other features at their medians", ylabel=what)
    bands = "90% bands of y" if k is None else "90% bands of the draws"
    ax.set_title(f"What each predicts, with {bands}; grey: training rows", fontsize=10, loc="left")
    ax.legend(frameon=False, fontsize=FONT)
    ax.spines[["top", "right"]].set_visible(False)


def most_important(fit: Fit, train: Rows) -> str:
    """Return the feature along which the predictions of a fit change most, between the 5% and 95% quantiles of it."""
    features = [str(name) for name in train.x]
    varying = [name for name in features if train.x[name].nunique() > 2][:MOST_FEATURES] or features[:1]
    grids = {name: np.quantile(train.x[name], np.linspace(0.05, 0.95, 7)) for name in varying}
    rows = pd.concat([slice_of(train.x, name, grid) for name, grid in grids.items()], ignore_index=True)
    middle = centre(fit, rows).reshape(len(varying), 7, -1)
    return varying[int(np.ptp(middle, axis=1).max(axis=1).argmax())]


def slice_of(x: pd.DataFrame, feature: str, at: np.ndarray) -> pd.DataFrame:
    """Return rows with given values of one feature, all others at their medians."""
    typical = pd.DataFrame(np.tile(x.median().to_numpy(), (len(at), 1)), columns=x.columns)
    return typical.assign(**{feature: at})


def centre(fit: Fit, rows: pd.DataFrame) -> np.ndarray:
    """Return the mean of y, (n,), its median where it has none, or the probabilities of classes, (n, classes)."""
    predictive = fit.predict(rows)
    if predictive.num_classes is not None:
        return predictive.class_probs
    return predictive.mean if predictive.response.has_moments else predictive.quantile(0.5)


def curve(fit: Fit, rows: pd.DataFrame, k: int | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the middle, (n,), and the ends of the band, (2, n); of a class k its probability, of points no band."""
    predictive = fit.predict(rows)
    if k is None and not predictive.response.is_discrete:  # one program less than with the mean
        low, middle, high = predictive.quantile((LEVELS[0], 0.5, LEVELS[1]))
        return middle, np.stack([low, high])
    if k is None:
        return predictive.mean, predictive.quantile(LEVELS)
    probs, draws = predictive.class_probs[:, k], predictive.component_means
    if len(draws) == 1:
        return probs, None
    of_class = draws[..., k] if draws.ndim == 3 else draws
    return probs, np.quantile(of_class, LEVELS, axis=0)


def draw_calibration(fits: Mapping[str, Fit], test: Rows, ax: "Axes") -> None:
    """Draw the calibration of fits on test rows, each row as often as its weight where weights are whole numbers."""
    num_bins = max(1, min(NUM_BINS, len(test.y) // BIN_ROWS))
    is_whole = test.weights is not None and not np.any(test.weights % 1)
    weights = test.weights if is_whole else None
    calibrations = {
        name: calibration(fit, test.x, test.y, weights=weights, num_bins=num_bins) for name, fit in fits.items()
    }
    plot_calibration(calibrations, ax)
    if test.weights is not None and not is_whole:
        ax.set_title("each row once: its weights are not whole numbers", fontsize=10, loc="left")
