"""Figures of what a fit predicts over two dimensions of x."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..criticism.uncertainty import uncertainty
from ..predictive import Predictive
from ..result import Fit, check_fit
from .plane import labels_of, new_axes, num_draws, points_of, reach_of, rows_at
from .style import CLASS_MARKERS, FONT, LINES, TITLE, cycled

if TYPE_CHECKING:  # importing it takes half a second
    from matplotlib.axes import Axes

NUM_POINTS = 81
"""Points along each of the two dimensions."""


def plot_decision(
    fit: Fit, x: Any, y: Any, axes: "Sequence[Axes] | None" = None, *, num_points: int = NUM_POINTS
) -> "np.ndarray[Any, Any]":
    """Draw what a fit predicts over a two-dimensional x, and how far its draws disagree.

    The left axes show, for two classes, the probability of class 1, with a line where it is one half; for more classes
    the most probable one, paler where it is less probable, with lines between them; for a number its mean. The right
    axes show the epistemic part of the `uncertainty`: for classes in nats, for numbers its square root, in units of y.
    A point estimate has none. Both show the data, each class with its own marker.

    Args:
        fit: a fit.
        x: n rows of two numbers each.
        y: n rows.
        axes: two axes to draw in; by default those of a new figure.
        num_points: the number of points along each dimension.

    Returns:
        The two axes, (2,).

    Raises:
        TypeError: when `fit` is not a fit, or `axes` are not two.
        ValueError: when x does not have two numbers per row, or y has several.
    """
    check_fit("plot_decision", fit)
    rows = points_of(fit, x, dimensions=2)
    known, labels = labels_of(fit, x, y)
    labels = fit.structure.response.points(labels)
    if labels.ndim > 1:
        raise ValueError(f"y: expected one number or class per row; got {labels.shape}.")
    pair = new_axes(2) if axes is None else np.asarray(axes, dtype=object).ravel()
    if len(pair) != 2:
        raise TypeError(f"plot_decision: expected two axes; got {len(pair)}.")
    across, up = (np.linspace(*reach_of(column), num_points) for column in rows.T)
    at = rows_at(fit, np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2))
    predictive, site = fit.predict(at), fit.structure.response.site
    is_class = predictive.response.is_class
    if is_class:
        _draw_regions(pair[0], across, up, predictive)
    else:
        _shade(pair[0], across, up, predictive.mean, f"mean of {site}", labels)
    split = uncertainty(fit, at)
    epistemic = split.epistemic if split.unit == "nats" else np.sqrt(split.epistemic)
    unit = "nats" if split.unit == "nats" else f"sd, units of {site}"
    none = ": 0 for a point estimate" if num_draws(fit) == 1 else ""
    _shade(pair[1], across, up, epistemic, f"epistemic, {unit}{none}")
    names = fit.layout.columns or ("x[0]", "x[1]")
    for ax in pair:
        _scatter(ax, rows[known], labels, is_class, coloured=ax is pair[0])
        ax.set(xlabel=names[0], ylabel=names[1], xlim=(across[0], across[-1]), ylim=(up[0], up[-1]))
    if is_class:
        pair[1].legend(title=site, fontsize=FONT, title_fontsize=FONT, framealpha=0.8)
    return pair


def _draw_regions(ax: "Axes", across: np.ndarray, up: np.ndarray, predictive: Predictive) -> None:
    """Draw the probability of class 1 of two, or the most probable of several; lines where the answer changes."""
    probs, site = predictive.class_probs, predictive.response.site
    num_classes = probs.shape[1]
    if num_classes == 2:
        _shade(ax, across, up, probs[:, 1], f"p({site} = 1)", np.array([0.0, 1.0]))
    else:
        from matplotlib.colors import to_rgb

        colours = np.array([to_rgb(cycled(LINES, k)) for k in range(num_classes)])
        sure = (probs.max(axis=1) - 1 / num_classes) / (1 - 1 / num_classes)
        tints = 1 - (1 - colours[probs.argmax(axis=1)]) * (0.1 + 0.6 * sure)[:, None]
        ax.pcolormesh(across, up, tints.reshape(len(up), len(across), 3), shading="nearest", rasterized=True)
        ax.set_title(f"most probable {site}, paler: less probable", loc="left", fontsize=TITLE)
    for k in [1] if num_classes == 2 else range(num_classes):
        lead = (probs[:, k] - np.delete(probs, k, axis=1).max(axis=1)).reshape(len(up), len(across))
        if lead.min() < 0 < lead.max():
            ax.contour(across, up, lead, levels=[0.0], colors="black", linewidths=1.4)


def _shade(
    ax: "Axes", across: np.ndarray, up: np.ndarray, values: np.ndarray, title: str, also: np.ndarray | None = None
) -> None:
    """Draw a map of values and its scale: in grey from 0 on, or in colours that span the values of `also` as well."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    if also is None:
        colours, low, high = colormaps["Greys"], 0.0, float(values.max())
    else:  # without the dark end of the map, on which markers would be invisible
        colours = ListedColormap(colormaps["cividis"](np.linspace(0.3, 1.0, 256)))
        low, high = float(min(values.min(), also.min())), float(max(values.max(), also.max()))
    heights, varies = values.reshape(len(up), len(across)), high > low
    scale: dict[str, Any] = {"vmin": low, "vmax": high if varies else low + 1.0}
    drawn = ax.pcolormesh(across, up, heights, cmap=colours, shading="nearest", rasterized=True, **scale)
    if varies:
        ax.figure.colorbar(drawn, ax=ax)
    ax.set_title(title, loc="left", fontsize=TITLE)


def _scatter(ax: "Axes", x: np.ndarray, y: np.ndarray, is_class: bool, *, coloured: bool) -> None:
    style: dict[str, Any] = {"edgecolors": "black", "linewidths": 0.7, "s": 24, "zorder": 3}
    if not is_class:
        mesh = ax.collections[0]
        style |= {"c": y, "cmap": mesh.get_cmap(), "norm": mesh.norm} if coloured else {"c": "white"}
        ax.scatter(x[:, 0], x[:, 1], **style)
        return
    for k in np.unique(y).astype(int):
        style |= {"c": cycled(LINES, k), "marker": cycled(CLASS_MARKERS, k), "label": str(k)}
        ax.scatter(x[y == k, 0], x[y == k, 1], **style)
