"""Figures of the scores of fits, and of their losses during optimisation."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..criticism.table import Comparison
from ..criticism.validation import CrossValidation
from ..result import Fit
from .plane import named_fits, new_axes
from .style import DASHED, FONT, GREY, styles_of

if TYPE_CHECKING:  # importing it takes half a second
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

MIN_DIFFERENCE = 0.1
"""Nats per row: smaller differences count as this one."""
MAX_JUMP = 30.0
"""A difference more than this factor larger than the one above it is not drawn to scale, nor are those below."""
DISTANCES = {
    "total_variation": "total variation from the reference",
    "w2_mean": "W2 of means from the reference, units of y",
}
"""The measures of distance that are drawn, the first that there is, and the labels of their axes."""
SPAN = 10.0
"""Positive losses that span more than this factor have a logarithmic axis."""


def plot_compare(comparison: Comparison | CrossValidation, ax: "Axes | None" = None) -> "Axes":
    """Draw the elpd of each fit minus that of the best, ``elpd_diff``, in the order of the table.

    Thick lines are one standard error of the paired difference, ``dse``, on either side, thin lines two; the numbers
    are at the right. The marker of a failed fit is hollow. A fit so far behind that the others would coincide is an
    arrow at the left, and a fit whose elpd is not finite a cross.

    Args:
        comparison: the result of `compare` or `cross_validate`.
        ax: the axes to draw in; by default those of a new figure.

    Returns:
        The axes.

    Raises:
        TypeError: when `comparison` is not such a result.

    Example:
        >>> import numpy as np
        >>> from flatprior.inference import MAP, MLE, compare, fit
        >>> from flatprior.inference.plots import plot_compare
        >>> from flatprior.models import MLP, Model, Normal, gaussian
        >>> x = np.linspace(-1, 1, 20)[:, None]
        >>> y = 2 * x[:, 0] + np.tile([0.5, 0.5, -0.5, -0.5], 5)
        >>> model = Model(MLP(), Normal(0.5), gaussian(0.5))
        >>> fits = {method.__name__: fit(model, method(), x[::2], y[::2], key=0) for method in (MLE, MAP)}
        >>> ax = plot_compare(compare(fits, x[1::2], y[1::2]))
        >>> print([label.get_text() for label in ax.get_yticklabels()])
        ['MLE', 'MAP']
    """
    if not isinstance(comparison, Comparison | CrossValidation):
        raise TypeError(f"plot_compare: expected the result of compare or cross_validate; got {comparison!r}.")
    table = comparison.to_dataframe()
    if ax is None:
        import matplotlib.pyplot as plt

        _, ax = plt.subplots(figsize=(6.4, 1.2 + 0.4 * len(table)), layout="constrained")
    values, errors = (table[name].to_numpy(float) for name in ("elpd_diff", "dse"))
    near = _near(values, errors)
    ends = np.concatenate([values[near] - 2 * errors[near], values[near] + 2 * errors[near], [0.0]])
    low, high = np.nanmin(ends), np.nanmax(ends)
    room = 0.08 * ((high - low) or 1.0)
    edge = low - 1.5 * room
    ax.axvline(0.0, color=GREY, linewidth=1.0, linestyle=DASHED, zorder=1)
    styles = styles_of(table.index, dict(zip(table.index, table["kind"], strict=True)))
    for row, (name, value, error, level) in enumerate(zip(table.index, values, errors, table["status"], strict=True)):
        colour = styles[name].color
        fill = "white" if level == "failed" else colour
        style: dict[str, Any] = {"color": colour, "markerfacecolor": fill, "markersize": 7}
        style |= {"zorder": 3, "clip_on": False}
        if near[row]:
            for width, reach in ((3.0, 1), (1.2, 2)):
                ax.plot([value - reach * error, value + reach * error], [row, row], color=colour, linewidth=width)
            ax.plot(value, row, "o", **style)
        else:
            ax.plot(edge, row, "<" if np.isfinite(value) else "x", **style)
    rows = np.arange(len(table))
    ax.set(yticks=rows, yticklabels=table.index, ylim=(len(table) - 0.5, -0.5))
    ax.set(xlim=(low - room if near.all() else edge - room, high + room), xlabel="elpd_diff, nats per row")
    numbers = ax.secondary_yaxis("right")
    numbers.set_yticks(rows, [_number(value, error) for value, error in zip(values, errors, strict=True)])
    numbers.tick_params(length=0, labelsize=FONT)
    numbers.spines["right"].set_visible(False)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def plot_distance(comparison: Comparison, axes: Any = None) -> "np.ndarray":
    """Draw what is gained for what is paid: elpd against the distance from the reference, and this against seconds.

    The distance is the total variation where y is classes or tokens, and else the Wasserstein-2 distance of the
    distributions of E[y | x, w]; both axes of the left panel have bars of one standard error. The grey area is the
    distance between two halves of the reference: distances in it cannot be told from its noise. Seconds are those of
    the run, without compilation. Where the reference is one of the fits, a line shows its elpd at the left, and it has
    no distance at the right. The marker of a failed fit is hollow.

    Args:
        comparison: the result of `compare` with a `reference`.
        axes: the two axes to draw in; by default those of a new figure.

    Returns:
        The two axes.

    Raises:
        TypeError: when `comparison` is not the result of `compare`.
        ValueError: when it has no reference, or distances of several observed sites.
    """
    if not isinstance(comparison, Comparison):
        raise TypeError(f"plot_distance: expected the result of compare; got {comparison!r}.")
    measure = next((name for name in DISTANCES if name in comparison.floor), None)
    if measure is None:
        raise ValueError(
            "plot_distance: expected the comparison of one observed site with a reference: compare(fits, x, y, "
            "reference=...), of fits[site] where there are several."
        )
    table = comparison.to_dataframe()
    left, right = new_axes(2) if axes is None else axes
    styles = styles_of(table.index, dict(zip(table.index, table["kind"], strict=True)))
    for name, row in table.iterrows():
        look, distance = styles[str(name)], row.get(measure, np.nan)
        if np.isnan(distance):
            left.axhline(row["elpd"], color=look.color, linestyle=DASHED, linewidth=1.0, label=name, zorder=1)
            continue
        fill = "white" if row["status"] == "failed" else look.color
        style: dict[str, Any] = {"color": look.color, "marker": look.marker, "markerfacecolor": fill, "linestyle": ""}
        errors = {"xerr": row[f"{measure}_se"], "yerr": row["elpd_se"], "elinewidth": 1.0}
        left.errorbar(distance, row["elpd"], **errors, **style, label=name, zorder=3)
        right.errorbar(row["seconds_run"], distance, yerr=errors["xerr"], elinewidth=1.0, **style, zorder=3)
    left.axvspan(0.0, comparison.floor[measure], color=GREY, alpha=0.2, linewidth=0)
    right.axhspan(0.0, comparison.floor[measure], color=GREY, alpha=0.2, linewidth=0)
    left.set(xlabel=DISTANCES[measure], ylabel="elpd, nats per row", xlim=(0.0, None))
    right.set(xlabel="seconds of the run", ylabel=DISTANCES[measure], xscale="log", ylim=(0.0, None))
    _write_plain_numbers(right.xaxis)
    left.legend(frameon=False, fontsize=FONT)
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    return np.array([left, right])


def _write_plain_numbers(axis: "Axis") -> None:
    """Label a logarithmic axis by 0.2 and 0.5: 2 x 10^-1 and 3 x 10^-1 would overlap."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1, 3)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _near(values: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Return which of the differences, in falling order, are drawn to scale, (fit,)."""
    size = np.maximum(np.abs(values), MIN_DIFFERENCE)
    jumps = np.append(False, ~(size[1:] <= MAX_JUMP * size[:-1]))  # NaN is a jump
    return np.isfinite(values) & ~np.logical_or.accumulate(jumps)


def _number(value: float, error: float) -> str:
    if value == 0:
        return "best"
    if not np.isfinite(value):
        return f"{value}"
    words = f"{value:.3f} ± {error:.3f}" if abs(value) < 100 else f"{value:,.0f} ± {error:,.0f}"
    return words.replace("-", "−")


def plot_loss(fits: Fit | Mapping[str, Fit], ax: "Axes | None" = None, *, num_rows: int | None = None) -> "Axes":
    """Draw the loss at each step of the optimisation of point estimates and ensembles.

    The loss is what the method minimises: for MLE the negative log likelihood, for MAP that plus the negative log
    prior, so their heights cannot be compared. With minibatches it is the loss of each batch, scaled to all rows. The
    axis of steps is logarithmic; so is that of losses if they are positive and span more than a factor of 10. Each
    restart or member is a line; the restart that became the fit is thick.

    Args:
        fits: a fit, or name -> fit.
        ax: the axes to draw in; by default those of a new figure.
        num_rows: the number of rows of the fits; if given, the loss is in nats per row, else in nats over all rows.

    Returns:
        The axes.

    Raises:
        TypeError: when `fits` are not fits.
        ValueError: when a fit has no losses, such as chains, which minimise nothing.
    """
    named = named_fits(fits, "plot_loss")
    curves = {name: _losses(name, fit) / (num_rows or 1) for name, fit in named.items()}
    ax = new_axes(1)[0] if ax is None else ax
    styles = styles_of(named, {name: fit.method.name for name, fit in named.items()})
    for name, losses in curves.items():
        steps = np.arange(1, losses.shape[1] + 1)
        best = int(np.argmin(_last(losses))) if named[name].kind == "point" else None
        for i, loss in enumerate(losses):
            thin = len(losses) > 1 and i != best
            style: dict[str, Any] = {"linewidth": 1.0 if thin else 1.8, "zorder": 2 if thin else 3}
            label = name if i == (best or 0) else None
            ax.plot(steps, loss, label=label, **styles[name].line, **style)
    finite = np.concatenate([losses[np.isfinite(losses)] for losses in curves.values()])
    logarithmic = finite.size and finite.min() > 0 and finite.max() > SPAN * finite.min()
    ax.set(xscale="log", yscale="log" if logarithmic else "linear", xlabel="step")
    ax.set_ylabel("loss, nats per row" if num_rows else "loss, nats")
    ax.legend(frameon=False, fontsize=FONT)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _losses(name: str, fit: Fit) -> np.ndarray:
    """Return the losses of a fit in nats, (restart, step)."""
    if "loss" not in fit.stats:
        raise ValueError(
            f"plot_loss: expected point estimates or ensembles; {name!r}, by {fit.method.name}, has no losses. Chains "
            f"minimise nothing: arviz.plot_trace(fit.to_datatree()) shows their draws."
        )
    return np.atleast_2d(fit.stats["loss"])


def _last(losses: np.ndarray) -> np.ndarray:
    """Return the last finite loss of each restart, infinite where there is none."""
    return np.array([loss[np.isfinite(loss)][-1] if np.isfinite(loss).any() else np.inf for loss in losses])
