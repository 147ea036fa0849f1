"""Figures of the path from the prior to the maximum likelihood."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..methods.path import PriorPath
from .style import DASHES, FONT, LINES, cycled, mark_of

if TYPE_CHECKING:  # importing it takes half a second
    from matplotlib.axes import Axes

MAX_LINES = 12
"""The most weights that are drawn one by one; of more, each site is one line, its root mean square."""


def plot_path(path: PriorPath, axes: "Sequence[Axes] | None" = None) -> "np.ndarray[Any, Any]":
    """Draw the estimates, and the log likelihoods per row, against the scale of the prior.

    The flat prior is at the right, where a square marks the MLE. If it has no maximum, the axis states this, and the
    estimates have no limit. A dot marks the scale at which the test rows are most probable.

    Args:
        path: the result of `prior_path`.
        axes: two axes to draw in; by default those of a new figure.

    Returns:
        The two axes, (2,).

    Raises:
        TypeError: when `path` is not such a result, or `axes` are not two.
    """
    if not isinstance(path, PriorPath):
        raise TypeError(f"plot_path: expected the result of prior_path; got {path!r}.")
    if axes is None:
        import matplotlib.pyplot as plt

        _, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    pair = np.asarray(axes, dtype=object).ravel()
    if len(pair) != 2:
        raise TypeError(f"plot_path: expected two axes; got {len(pair)}.")
    estimates, scores = pair
    lines, ylabel = _estimates(path)
    _draw_path(estimates, path, lines, ylabel)
    rows = {"training rows": path.log_likelihood / path.num_rows}
    if path.test_log_likelihood is not None:
        test = rows["test rows"] = path.test_log_likelihood / path.num_test_rows
        best = int(np.argmax(test[:-1]))
        scores.plot(path.multiples[best], test[best], "o", color=LINES[1], markersize=7)
    _draw_path(scores, path, rows, "log likelihood, nats per row")
    return pair


def _estimates(path: PriorPath) -> tuple[dict[str, np.ndarray], str]:
    """Return label -> values along the path, and the label of their axis."""
    flat = {site: value.reshape(len(value), -1) for site, value in path.weights.items()}
    if sum(value.shape[1] for value in flat.values()) > MAX_LINES:
        return {site: np.sqrt((value**2).mean(axis=1)) for site, value in flat.items()}, "root mean square of a site"
    lines = {}
    for site, value in path.weights.items():
        for index in np.ndindex(value.shape[1:]):
            label = f"{site}[{', '.join(map(str, index))}]" if value[0].size > 1 else site
            lines[label] = value[(slice(None), *index)]
    return lines, "estimate"


def _draw_path(ax: "Axes", path: PriorPath, lines: dict[str, np.ndarray], ylabel: str) -> None:
    scales = path.multiples[:-1]
    exists = bool(path.limit)
    end = scales[-1] * (scales[-1] / scales[0]) ** 0.1
    for i, (label, values) in enumerate(lines.items()):
        style: dict[str, Any] = {"color": cycled(LINES, i), "linestyle": cycled(DASHES, i)}
        ax.plot(scales, values[:-1], label=label, linewidth=1.8, **style)
        if exists:
            ax.plot([scales[-1], end], values[-2:], linewidth=0.8, **style)
            ax.plot(end, values[-1], clip_on=False, **{**mark_of("MLE"), "markersize": 6})
    heights = np.concatenate([values[: None if exists else -1] for values in lines.values()])
    typical = float(np.median(np.abs(heights)))
    if np.ptp(heights) > 100 * max(typical, 1e-12):
        ax.set_yscale("symlog", linthresh=max(1.0, typical))
    ax.set(xscale="log", xlim=(scales[0], end), xlabel="scale of the prior, multiples of the model's", ylabel=ylabel)
    flat = "flat: the MLE" if exists else "flat: no maximum →"
    ax.text(1.0, 1.02, flat, transform=ax.transAxes, ha="right", fontsize=FONT)
    ax.legend(frameon=False, fontsize=FONT)
    ax.spines[["top", "right"]].set_visible(False)
