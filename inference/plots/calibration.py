"""Pictures of calibration: what was said would happen, against how often it did."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from ..criticism.calibration import Calibration
from .likelihood import DASHES, FONT, GREY, LINES

if TYPE_CHECKING:  # it takes half a second to import: only who draws waits for it
    from matplotlib.axes import Axes

type What = Literal["curve", "histogram"]

MARKERS = ("o", "s", "D", "^", "v", "P", "X")


def plot_calibration(
    calibrations: Calibration | Mapping[str, Calibration], ax: "Axes | None" = None, *, what: What = "curve"
) -> "Axes":
    """Draw reliability diagrams, or the coverages of intervals, one over the other.

    A fit whose probabilities are frequencies follows the diagonal. Each has its consistency band behind it (Broecker &
    Smith 2007), around the diagonal and not around the points: a point outside is one that happens in one of ten bins
    if the forecasts are right. Lines differ in marker and in dashes as well as in colour.

    Args:
        calibrations: name -> what `calibration` returned, all of the same kind; or one of them.
        ax: where to draw; by default a new figure.
        what: ``"curve"``, frequencies against forecasts; or, of numbers, ``"histogram"``, that of the probability
            integral transform, which should be level: a hump says that the predictive distribution is too wide, a
            valley that it is too narrow.

    Returns:
        The axes.

    Raises:
        TypeError: when `calibrations` is something else.
        ValueError: when they differ in kind, or a histogram is asked of classes.

    Example:
        >>> import numpy as np
        >>> from flatprior.inference import MAP, MLE, fit
        >>> from flatprior.inference.criticism import calibration
        >>> from flatprior.inference.plots import plot_calibration
        >>> from flatprior.models import MLP, Model, Normal, gaussian
        >>> x = np.linspace(-1, 1, 20)[:, None]
        >>> y = 2 * x[:, 0] + np.tile([0.5, 0.5, -0.5, -0.5], 5)
        >>> model = Model(MLP(), Normal(0.5), gaussian(0.5))
        >>> fits = {method.__name__: fit(model, method(), x[::2], y[::2], key=0) for method in (MLE, MAP)}
        >>> ax = plot_calibration({name: calibration(found, x[1::2], y[1::2]) for name, found in fits.items()})
        >>> print(ax.get_xlabel(), [text.get_text() for text in ax.get_legend().get_texts()])
        probability of the central interval ['MLE', 'MAP']
    """
    named = {"": calibrations} if isinstance(calibrations, Calibration) else calibrations
    if not isinstance(named, Mapping) or not named or not all(isinstance(c, Calibration) for c in named.values()):
        raise TypeError(f"plot_calibration: expected what calibration returned, or names of such; got {named!r}.")
    if what not in get_args(What.__value__):
        raise ValueError(f"Expected what to be one of {', '.join(get_args(What.__value__))}; got {what!r}.")
    kinds = {name: told.of for name, told in named.items()}
    if len(set(kinds.values())) > 1:
        raise ValueError(f"plot_calibration: expected calibrations of one kind; got {kinds}.")
    (kind,) = set(kinds.values())
    if what == "histogram" and kind != "intervals":
        raise ValueError("plot_calibration: expected y to be a number for a histogram of its transform; it is a class.")
    if ax is None:
        import matplotlib.pyplot as plt

        _, ax = plt.subplots(figsize=(4.6, 4.6) if what == "curve" else None, layout="constrained")
    (_draw_curves if what == "curve" else _draw_histograms)(ax, named)
    ax.spines[["top", "right"]].set_visible(False)
    if named.keys() != {""}:
        ax.legend(frameon=False, fontsize=FONT)
    return ax


def _draw_curves(ax: "Axes", named: Mapping[str, Calibration]) -> None:
    first = next(iter(named.values()))
    low = 0.0 if first.of != "confidence" else _lowest(named)
    ax.plot([low, 1], [low, 1], color="0.1", linewidth=0.9, zorder=1)
    alpha = 0.05 + 0.15 / len(named)  # where bands lie over each other, the lines stay in front
    for i, (name, told) in enumerate(named.items()):
        curve, style = told.curve, _style(i)
        band = GREY if first.of == "intervals" else style["color"]
        if first.of != "intervals" or i == 0:  # one band for all: it depends on the number of rows alone
            ax.fill_between(curve["forecast"], curve["low"], curve["high"], color=band, alpha=alpha, linewidth=0)
        marker = MARKERS[i % len(MARKERS)]
        ax.plot(curve["forecast"], curve["frequency"], label=name, marker=marker, markersize=6, **style)
    ax.set(xlim=(low, 1.01), ylim=(low, 1.01), aspect="equal", **_labels(first))
    ax.set_title(_counts(first), loc="left", fontsize=FONT, color="0.3")


def _draw_histograms(ax: "Axes", named: Mapping[str, Calibration]) -> None:
    for i, (name, told) in enumerate(named.items()):
        assert told.histogram is not None
        left, right, frequency, low, high = (told.histogram[c] for c in ("left", "right", "frequency", "low", "high"))
        edges, width = np.append(left, right.iloc[-1]), right - left
        if i == 0:
            ax.stairs(high / width, edges, baseline=(low / width).to_numpy(), fill=True, color=GREY, alpha=0.2)
            ax.axhline(1.0, color="0.1", linewidth=0.9)
        ax.stairs(frequency / width, edges, label=name, **_style(i))
    first = next(iter(named.values()))
    ax.set(xlabel="P(Y ≤ y), the probability integral transform", ylabel="density", xlim=(0, 1), ylim=(0, None))
    ax.set_title(_counts(first), loc="left", fontsize=FONT, color="0.3")


def _style(i: int) -> dict[str, Any]:
    return {"color": LINES[i % len(LINES)], "linestyle": DASHES[i % len(DASHES)], "linewidth": 1.7}


def _lowest(named: Mapping[str, Calibration]) -> float:
    """Where the axes of a confidence begin: it is never below 1 / num_classes, and often far above."""
    columns = ("forecast", "frequency", "low")
    least = min(float(told.curve[column].min()) for told in named.values() for column in columns)
    return max(0.0, np.floor(10 * least - 1e-9) / 10)


def _labels(told: Calibration) -> dict[str, str]:
    if told.of == "intervals":
        return {"xlabel": "probability of the central interval", "ylabel": "share of rows inside"}
    if told.of == "confidence":
        return {"xlabel": "confidence in the most probable class", "ylabel": "how often it is right"}
    return {"xlabel": f"probability of class {told.of}", "ylabel": "how often it is this class"}


def _counts(told: Calibration) -> str:
    counts = sorted(set(told.curve["count"]))
    if told.of == "intervals":
        return f"{counts[0]} rows"
    return f"{' or '.join(map(str, counts))} rows a point"
