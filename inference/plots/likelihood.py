"""Figures of likelihoods."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from ..objective.likelihood import Likelihood
from .style import BLACK, BOX, DASHED, DOTTED, FONT, GREEN, GREY, METHODS, ORANGE, TITLE, mark_of, text_size

if TYPE_CHECKING:  # importing it takes half a second
    from matplotlib.axes import Axes

type What = Literal["likelihood", "log_likelihood", "posterior"]

LIKELIHOOD: dict[str, Any] = {"color": BLACK, "linewidth": 1.8}
SCALED_LIKELIHOOD: dict[str, Any] = {"color": BLACK, "linewidth": 1.4, "linestyle": DOTTED}
PRIOR: dict[str, Any] = {"color": GREY, "linewidth": 1.5, "linestyle": DASHED}
POSTERIOR: dict[str, Any] = {**METHODS["posterior"].line, "linewidth": 2.4}
FILLS = {"likelihood": ORANGE, "log_likelihood": "0.4", "posterior": GREEN}

SHARES = (0.01, 0.1, 0.5)
"""Contours of a density, as shares of its highest value."""
DROPS = (100.0, 30.0, 10.0, 3.0, 1.0)
"""Contours of a log likelihood, in nats below its highest value."""
LARGEST_EXPONENT = math.log(1e250)
"""Likelihoods from 1e-250 to 1e250 are drawn unscaled; beyond, float64 soon under- or overflows."""
TAIL = 0.02
"""Share of the points of a log likelihood, the lowest ones, that may lie below the axes."""


def plot_likelihood(likelihood: Likelihood, ax: "Axes | None" = None, *, what: What = "likelihood") -> "Axes":
    """Draw a likelihood with the MLE, the MAP and the prior marked: a curve, or a surface as contours.

    A prior that is constant on the grid is not drawn, and its MAP, which is the MLE, is not marked again. A peak on the
    edge of the grid is labelled as such: the likelihood may be higher beyond it.

    Args:
        likelihood: the result of `likelihood_curve` or `likelihood_surface`.
        ax: the axes to draw in; by default those of a new figure.
        what: the quantity that is drawn.

            - ``"likelihood"``: with the prior, scaled to the same height. A likelihood too small or too large for a
              float64 is divided by its largest value; the label of the axis states this.
            - ``"log_likelihood"``: in nats, with the log prior, shifted to the same height. The lowest fiftieth of the
              points may lie below the axes.
            - ``"posterior"``: the density given all other weights, with the prior and the scaled likelihood.

            Contours are labelled with the share of the highest density, or with nats below the highest log likelihood;
            the contours of the prior are dashed.

    Returns:
        The axes.

    Raises:
        TypeError: when `likelihood` is not such a result.
        ValueError: when `what` is none of these.
    """
    if not isinstance(likelihood, Likelihood):
        raise TypeError(
            f"plot_likelihood: expected the result of likelihood_curve or likelihood_surface; got {likelihood!r}."
        )
    if what not in get_args(What.__value__):
        raise ValueError(f"Expected what to be one of {', '.join(get_args(What.__value__))}; got {what!r}.")
    if ax is None:
        import matplotlib.pyplot as plt

        _, ax = plt.subplots(layout="constrained")
    (_draw_curve if len(likelihood.names) == 1 else _draw_surface)(ax, likelihood, what)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


class _Line(NamedTuple):
    label: str
    values: np.ndarray
    style: dict[str, Any]


def _draw_curve(ax: "Axes", likelihood: Likelihood, what: What) -> None:
    (grid,) = likelihood.values
    ylabel, lines = _lines(likelihood, what)
    for line in lines:
        ax.plot(grid, line.values, label=line.label, **line.style)
    ax.set(xlabel=likelihood.names[0], ylabel=ylabel, xlim=(grid[0], grid[-1]), ylim=_limits(lines, what))
    marked = {"MLE": lines[0], "MAP": lines[-1] if what == "posterior" else lines[0]}
    places = {
        name: (peak, float(marked[name].values[np.searchsorted(grid, peak)]))
        for name, (peak,) in _peaks(likelihood).items()
    }
    covered = _mark(ax, likelihood, places)
    if len(lines) > 1:
        _label(ax, grid, lines, covered)


def _lines(likelihood: Likelihood, what: What) -> tuple[str, list[_Line]]:
    """Return the label of the vertical axis, and the lines: the likelihood first, the posterior last."""
    flat, top = _is_flat(likelihood), np.nanmax(likelihood.log_likelihood)
    if what == "posterior":
        density = likelihood.relative_likelihood / np.trapezoid(likelihood.relative_likelihood, likelihood.values[0])
        factors = [_Line("likelihood, scaled", density, SCALED_LIKELIHOOD), _Line("prior", likelihood.prior, PRIOR)]
        return "density", [*([] if flat else factors), _Line("posterior", likelihood.posterior, POSTERIOR)]
    log_prior = likelihood.log_prior - likelihood.log_prior.max()
    if what == "log_likelihood":
        lines = [("log likelihood", likelihood.log_likelihood), ("log prior, shifted", log_prior + top)]
        ylabel = "log likelihood, nats"
    else:
        relative = abs(top) > LARGEST_EXPONENT
        values = likelihood.relative_likelihood if relative else likelihood.likelihood
        lines = [("likelihood", values), ("prior, scaled", np.exp(log_prior) * np.nanmax(values))]
        ylabel = "relative likelihood (1 at its highest)" if relative else "likelihood"
    return ylabel, [_Line(*line, style) for line, style in zip(lines, (LIKELIHOOD, PRIOR), strict=True)][: 2 - flat]


def _limits(lines: Sequence[_Line], what: What) -> tuple[float, float]:
    """Return the range of the vertical axis, with room for the labels of the peaks."""
    if what != "log_likelihood":
        return 0.0, 1.15 * max(float(np.nanmax(line.values)) for line in lines)
    finite = lines[0].values[np.isfinite(lines[0].values)]
    top, low = float(finite.max()), float(np.quantile(finite, TAIL, method="lower"))
    return low, top + 0.15 * ((top - low) or 1.0)


def _draw_surface(ax: "Axes", likelihood: Likelihood, what: What) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    if what == "log_likelihood":
        surface, levels = likelihood.log_likelihood - np.nanmax(likelihood.log_likelihood), [-drop for drop in DROPS]
        title = "log likelihood, nats from the highest"
    else:
        density = likelihood.relative_likelihood if what == "likelihood" else likelihood.posterior
        surface, levels = density / np.nanmax(density), list(SHARES)
        title = f"{'likelihood' if what == 'likelihood' else 'posterior density'}, share of the highest"
    levels = _crossed(levels, surface)
    heights = np.ma.masked_invalid(surface).T
    if levels:
        tint = LinearSegmentedColormap.from_list(what, ["white", FILLS[what]])
        bands = [tint(0.1 + 0.5 * i / len(levels)) for i in range(len(levels))]
        ax.contourf(*likelihood.values, heights, levels=[*levels, heights.max()], colors=bands)
        lines = ax.contour(*likelihood.values, heights, levels=levels, colors=BLACK, linewidths=0.9, linestyles="solid")
        _label_contours(ax, lines, "%.3g", towards=(-0.3, 1.0))
    if not _is_flat(likelihood):
        prior = np.exp(likelihood.log_prior - likelihood.log_prior.max())
        levels = _crossed([0.1, 0.5], prior)
        style: dict[str, Any] = {"colors": GREY, "linewidths": 1.4, "linestyles": [DASHED]}
        dashed = ax.contour(*likelihood.values, prior.T, levels=levels, **style)
        _label_contours(ax, dashed, "prior %.2g", towards=(1.0, 1.0))
    ax.set(xlabel=likelihood.names[0], ylabel=likelihood.names[1])
    ax.set_title(title, loc="left", fontsize=TITLE)
    _mark(ax, likelihood, {name: (peak[0], peak[1]) for name, peak in _peaks(likelihood).items()})


def _label_contours(ax: "Axes", contours: Any, fmt: str, towards: tuple[float, float]) -> None:
    """Label each contour where it extends furthest in a direction, away from the edges; peaks are labelled sideways."""
    places = []
    for path in contours.get_paths():
        shares = _as_shares(ax, *path.vertices.T)
        inside = (np.abs(shares - 0.5) < 0.4).all(axis=1)
        if inside.any():
            places.append(path.vertices[np.argmax(np.where(inside, shares @ towards, -np.inf))])
    if places:
        ax.clabel(contours, manual=places, fmt=fmt, fontsize=FONT)


def _crossed(levels: list[float], surface: np.ndarray) -> list[float]:
    """Return the levels that a surface crosses; if none, the middle of its range; for a constant surface, none."""
    low, high = (float(end(surface[np.isfinite(surface)])) for end in (np.min, np.max))
    middle = [(low + high) / 2] if low < high else []
    return [level for level in levels if low < level < high] or middle


def _is_flat(likelihood: Likelihood) -> bool:
    return bool((likelihood.log_prior == likelihood.log_prior.flat[0]).all())


def _peaks(likelihood: Likelihood) -> dict[str, tuple[float, ...]]:
    return {"MLE": likelihood.mle} | ({} if _is_flat(likelihood) else {"MAP": likelihood.map})


def _mark(ax: "Axes", likelihood: Likelihood, places: dict[str, tuple[float, float]]) -> np.ndarray:
    """Draw markers, each labelled on the side away from the other; return points (k, 2) that the labels cover."""
    for name, place in places.items():
        ax.plot(*place, label=name, linestyle="none", zorder=4, clip_on=False, **mark_of(name))
    peaks = _peaks(likelihood)
    names = {name: name for name in peaks} if len(set(peaks.values())) == len(peaks) else {"MLE": "MLE, MAP"}
    covered = []
    for name, words in names.items():
        text = f"{words} {_coordinates(likelihood, peaks[name])}"
        (x, y), (width, height) = _as_shares(ax, *places[name]), text_size(ax, text)
        reach = width + text_size(ax, "MMM")[0]  # with the marker
        other = "MAP" if name == "MLE" else "MLE"
        rightwards = peaks[name] > peaks[other] if other in names else x < 0.5
        if 0 <= (x + reach if rightwards else x - reach) <= 1:
            left, low, ha = (x if rightwards else x - reach), y - height / 2, "left" if rightwards else "right"
            options: dict[str, Any] = {"xytext": (9 if rightwards else -9, 0), "ha": ha, "va": "center"}
        else:  # no room at its side
            left, low = min(max(x - width / 2, 0.0), 1 - width), y + height / 2
            ha = "left" if left == 0 else "right" if left == 1 - width else "center"
            options = {"xytext": (0, 9), "ha": ha, "va": "bottom"}
        ax.annotate(text, places[name], textcoords="offset points", fontsize=FONT, bbox=BOX, zorder=5, **options)
        covered.append(_points(left, low, reach, 1.2 * height))
    return np.concatenate(covered)


def _coordinates(likelihood: Likelihood, place: tuple[float, ...]) -> str:
    """Return the coordinates as text, with a warning where they lie on the edge of the grid."""
    pairs = list(zip(place, likelihood.values, strict=True))
    numbers = [f"{0.0 if abs(value) < 1e-9 * np.ptp(grid) else value:.3g}" for value, grid in pairs]
    words = numbers[0] if len(numbers) == 1 else f"({', '.join(numbers)})"
    return f"{words}, edge of the grid" if any(value in (grid[0], grid[-1]) for value, grid in pairs) else words


def _label(ax: "Axes", grid: np.ndarray, lines: list[_Line], covered: np.ndarray) -> None:
    """Write each line's name above it, where other lines and labels leave the most room, or else in a legend."""
    steps = np.linspace(grid[0], grid[-1], 201)
    paths = [_as_shares(ax, steps, np.interp(steps, grid, np.nan_to_num(line.values, neginf=-1e9))) for line in lines]
    unnamed: list[str] = []
    for line, path in zip(lines, paths, strict=True):
        width, height = text_size(ax, line.label)
        others = np.concatenate([covered, *(other for other in paths if other is not path)])
        best, place = 0.0, None
        for x, y in path[::2] + np.array([0.0, 0.01]):
            for left in (x + 0.01, x - 0.01 - width):
                box = (left, y, left + width, y + height)
                inside = left > 0.01 and left + width < 1 and y >= 0 and y + height < 1
                room = min(_gap(box, others), 0.1)
                if inside and _gap(box, path) > 0 and room > 0 and room + 0.02 * y > best:
                    best, place = room + 0.02 * y, (left, y)
        if place is None:
            unnamed.append(line.label)
            continue
        ax.text(*place, line.label, transform=ax.transAxes, fontsize=FONT, color=line.style["color"])
        covered = np.concatenate([covered, _points(*place, width, height)])
    if unnamed:
        ax.legend(handles=[line for line in ax.lines if line.get_label() in unnamed], frameon=False, fontsize=FONT)


def _points(left: float, bottom: float, width: float, height: float) -> np.ndarray:
    """Return points (k, 2) spread over a box."""
    grid = np.meshgrid(left + width * np.linspace(0, 1, 9), bottom + height * np.linspace(0, 1, 4))
    return np.stack(grid, axis=-1).reshape(-1, 2)


def _gap(box: tuple[float, float, float, float], points: np.ndarray) -> float:
    """Return the distance of points (k, 2) from a box (left, bottom, right, top): negative where one lies inside."""
    left, bottom, right, top = box
    x, y = points.T
    return float(np.max([left - x, x - right, bottom - y, y - top], axis=0).min())


def _as_shares(ax: "Axes", x: Any, y: Any) -> np.ndarray:
    """Convert points in data coordinates to shares of the width and the height of the axes."""
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    return np.stack([(x - left) / (right - left), (y - low) / (high - low)], axis=-1)
