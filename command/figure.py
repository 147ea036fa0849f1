"""The figure of the command: how well the fits predict, and whether they know how well."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..inference import Comparison, Fit
from .data import Split

COLOURS = {"MLE": "#E69F00", "MAP": "#0072B2", "posterior": "#009E73"}
"""Okabe and Ito's, told apart by colour-blind readers; the markers tell them apart in grey."""
MARKERS = {"MLE": "s", "MAP": "D", "posterior": "o"}
REACH = 3.0
"""How many times the spread of the better fits the first panel shows; what lies further left is an arrow."""


def draw(fits: Mapping[str, Fit], comparison: Comparison, test: Split, title: str, path: Path) -> Path:
    """Write the figure as a PNG and return its path."""
    matplotlib.use("Agg")
    figure = Figure(figsize=(10, 4), layout="constrained")
    scores, calibration = figure.subplots(1, 2)
    _draw_scores(scores, comparison)
    _draw_calibration(calibration, fits, test)
    figure.suptitle(f"{title}: one network, {len(fits)} answers", x=0.01, ha="left", fontweight="bold")
    partial = path.with_suffix(".partial.png")
    figure.savefig(partial, dpi=150)
    return partial.replace(path)


def _draw_scores(axes: Axes, comparison: Comparison) -> None:
    """Held-out log density of each fit with its standard error; a fit far off is an arrow with its value."""
    table = comparison.to_dataframe()
    value, error = table["log_density"], table["log_density_se"]
    near = value >= value.iloc[0] - max(1.0, REACH * error.iloc[0] * 4)
    left = (value - 2 * error)[near].min() - 0.15
    right = (value + 2 * error)[near].max() + 0.1
    for row, name in enumerate(table.index):
        colour = COLOURS.get(name)
        if near[name]:
            axes.errorbar(
                value[name], row, xerr=error[name], capsize=4, color=colour, marker=MARKERS[name], markersize=8
            )
            axes.annotate(
                f"{value[name]:.3f}", (value[name], row), xytext=(0, 9), textcoords="offset points", ha="center"
            )
        else:
            axes.plot(left, row, color=colour, marker="<", markersize=8, clip_on=False)
            axes.annotate(f"{value[name]:,.1f}", (left, row), xytext=(10, 0), textcoords="offset points", va="center")
    axes.set(xlim=(left, right), ylim=(len(table) - 0.5, -0.7), yticks=range(len(table)), yticklabels=table.index)
    axes.set_title("Held-out log density, nats a row (right is better)", fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3)


def _draw_calibration(axes: Axes, fits: Mapping[str, Fit], test: Split) -> None:
    """Stated against observed: coverage of central intervals, or accuracy against confidence."""
    for name, fit in fits.items():
        predictive = fit.predict(test.x)
        if predictive.is_finite:
            stated, observed = _reliability(predictive.probs, test.y)
            axes.set_title("Accuracy against confidence, bins of equal count", fontsize=10, loc="left")
            axes.set(xlabel="confidence of the most probable class", ylabel="accuracy")
            low = 0.4
        else:
            stated = np.arange(1, 20) / 20
            distance = np.abs(predictive.cdf(test.y) - 0.5)
            observed = (distance[:, None] <= stated / 2).mean(axis=0)
            axes.set_title("Coverage of central intervals", fontsize=10, loc="left")
            axes.set(xlabel="probability of the interval", ylabel="share of held-out rows inside")
            low = 0.0
        axes.plot(stated, observed, color=COLOURS.get(name), marker=MARKERS.get(name, "o"), markersize=4, label=name)
    axes.plot([low, 1], [low, 1], color="0.5", linewidth=1, linestyle="--", label="calibrated")
    axes.set(xlim=(low, 1.01), ylim=(low, 1.03))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _reliability(probs: np.ndarray, y: np.ndarray, num_bins: int = 8) -> tuple[np.ndarray, np.ndarray]:
    probs = np.stack([1 - probs, probs], axis=1) if probs.ndim == 1 else probs
    confidence, correct = probs.max(axis=1), probs.argmax(axis=1) == y
    bins = np.array_split(np.argsort(confidence, kind="stable"), num_bins)
    return np.array([confidence[b].mean() for b in bins]), np.array([correct[b].mean() for b in bins])
