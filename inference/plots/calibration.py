"""Figures of calibration: predicted probabilities against observed frequencies."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from ..criticism.calibration import Calibration
from .style import BLACK, FONT, GREY, Style, styles_of

if TYPE_CHECKING:  # importing it takes half a second
    import pandas as pd
    from matplotlib.axes import Axes

type What = Literal["curve", "histogram"]


def plot_calibration(
    calibrations: Calibration | Mapping[str, Calibration], ax: "Axes | None" = None, *, what: What = "curve"
) -> "Axes":
    """Draw reliability diagrams, or the coverages of intervals, one over the other.

    A calibrated fit follows the diagonal. The consistency bands (Broecker & Smith 2007) lie around the diagonal, not
    around the points: if the forecasts are right, one bin in ten falls outside.

    Args:
        calibrations: name -> result of `calibration`, all of the same quantity; or one result.
        ax: the axes to draw in; by default those of a new figure.
        what: ``"curve"``, frequencies against forecasts; or, where y is a number, ``"histogram"``, the histogram of the
            probability integral transform, which should be level: a hump means that the predictive distribution is too
            wide, a valley that it is too narrow.

    Returns:
        The axes.

    Raises:
        TypeError: when `calibrations` are not results of `calibration`.
        ValueError: when their quantities differ, or a histogram is asked for where y is a class.

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
        >>> ax = plot_calibration({name: calibration(one, x[1::2], y[1::2]) for name, one in fits.items()})
        >>> print(ax.get_xlabel(), [text.get_text() for text in ax.get_legend().get_texts()])
        probability of the central interval ['MLE', 'MAP']
    """
    named = {"": calibrations} if isinstance(calibrations, Calibration) else calibrations
    if not isinstance(named, Mapping) or not named or not all(isinstance(c, Calibration) for c in named.values()):
        raise TypeError(
            f"plot_calibration: expected a result of calibration, or a mapping from names to such; got {named!r}."
        )
    if what not in get_args(What.__value__):
        raise ValueError(f"Expected what to be one of {', '.join(get_args(What.__value__))}; got {what!r}.")
    quantities = {name: each.quantity for name, each in named.items()}
    if len(set(quantities.values())) > 1:
        raise ValueError(f"plot_calibration: expected calibrations of one quantity; got {quantities}.")
    if what == "histogram" and set(quantities.values()) != {"intervals"}:
        raise ValueError("plot_calibration: expected y to be a number for a histogram of its transform; it is a class.")
    if ax is None:
        import matplotlib.pyplot as plt

        _, ax = plt.subplots(figsize=(4.6, 4.6) if what == "curve" else None, layout="constrained")
    (_draw_curves if what == "curve" else _draw_histograms)(ax, named, styles_of(named))
    ax.spines[["top", "right"]].set_visible(False)
    if named.keys() != {""}:
        ax.legend(frameon=False, fontsize=FONT)
    return ax


def _draw_curves(ax: "Axes", named: Mapping[str, Calibration], styles: Mapping[str, Style]) -> None:
    first = next(iter(named.values()))
    low = 0.0 if first.quantity != "confidence" else _lowest(named)
    ax.plot([low, 1], [low, 1], color=BLACK, linewidth=0.9, zorder=1)
    alpha = 0.05 + 0.15 / len(named)  # bands overlap, and lines must stay visible
    is_common = first.quantity == "intervals" and _have_one_band([each.curve for each in named.values()])
    for i, (name, each) in enumerate(named.items()):
        curve, style = each.curve, styles[name]
        band = GREY if is_common else style.color
        if not is_common or i == 0:
            ax.fill_between(curve["forecast"], curve["low"], curve["high"], color=band, alpha=alpha, linewidth=0)
        looks = {**style.line, "linewidth": 1.7, "marker": style.marker, "markersize": 6}
        ax.plot(curve["forecast"], curve["frequency"], label=name, **looks)
    ax.set(xlim=(low, 1.01), ylim=(low, 1.01), aspect="equal", **_labels(first))
    ax.set_title(_counts(first), loc="left", fontsize=FONT, color="0.3")


def _draw_histograms(ax: "Axes", named: Mapping[str, Calibration], styles: Mapping[str, Style]) -> None:
    tables = [each.histogram for each in named.values() if each.histogram is not None]
    is_common = _have_one_band(tables)
    ax.axhline(1.0, color=BLACK, linewidth=0.9)
    for i, (name, table) in enumerate(zip(named, tables, strict=True)):
        left, right, frequency, low, high = (table[c] for c in ("left", "right", "frequency", "low", "high"))
        edges, width = np.append(left, right.iloc[-1]), right - left
        if not is_common or i == 0:
            colour, alpha = (GREY, 0.2) if is_common else (styles[name].color, 0.05 + 0.15 / len(named))
            ax.stairs(high / width, edges, baseline=(low / width).to_numpy(), fill=True, color=colour, alpha=alpha)
        ax.stairs(frequency / width, edges, label=name, linewidth=1.7, **styles[name].line)
    first = next(iter(named.values()))
    ax.set(xlabel="P(Y ≤ y), the probability integral transform", ylabel="density", xlim=(0, 1), ylim=(0, None))
    ax.set_title(_counts(first), loc="left", fontsize=FONT, color="0.3")


def _have_one_band(tables: "Sequence[pd.DataFrame]") -> bool:
    """Return whether all bands are equal, as those of continuous y are: they depend on the number of rows alone."""
    bands = [table[["low", "high"]].to_numpy() for table in tables]
    return all(np.array_equal(band, bands[0]) for band in bands)


def _lowest(named: Mapping[str, Calibration]) -> float:
    """Return where the axes of a confidence begin: it is never below 1 / num_classes, and often far above."""
    columns = ("forecast", "frequency", "low")
    least = min(float(each.curve[column].min()) for each in named.values() for column in columns)
    return max(0.0, np.floor(10 * least - 1e-9) / 10)


def _labels(calibration: Calibration) -> dict[str, str]:
    if calibration.quantity == "intervals":
        return {"xlabel": "probability of the central interval", "ylabel": "share of rows inside"}
    if calibration.quantity == "confidence":
        return {"xlabel": "confidence in the most probable class", "ylabel": "accuracy"}
    return {"xlabel": f"probability of class {calibration.quantity}", "ylabel": "frequency of this class"}


def _counts(calibration: Calibration) -> str:
    counts = sorted(set(calibration.curve["count"]))
    if calibration.quantity == "intervals":
        return f"{counts[0]} rows"
    return f"{' or '.join(map(str, counts))} rows per point"
