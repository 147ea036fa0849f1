"""Pictures of likelihoods. The colours are Okabe and Ito's; markers and line styles tell them apart in grey as well."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from ..methods.path import PriorPath
from ..objective.likelihood import Likelihood

if TYPE_CHECKING:  # it takes half a second to import: only who draws waits for it
    from matplotlib.axes import Axes

type What = Literal["likelihood", "log_likelihood", "posterior"]

ORANGE, BLUE, GREEN, GREY = "#E69F00", "#0072B2", "#009E73", "0.45"
MARKS: dict[str, dict[str, Any]] = {
    "MLE": {"marker": "s", "markersize": 9, "color": ORANGE, "markeredgecolor": "black", "markeredgewidth": 0.8},
    "MAP": {"marker": "D", "markersize": 6, "color": BLUE, "markeredgecolor": "black", "markeredgewidth": 0.8},
}
SOLID: dict[str, Any] = {"color": "0.1", "linewidth": 1.8}
DOTTED: dict[str, Any] = {"color": "0.1", "linewidth": 1.4, "linestyle": (0, (1, 1))}
DASHED: dict[str, Any] = {"color": GREY, "linewidth": 1.5, "linestyle": (0, (5, 2))}
THICK: dict[str, Any] = {"color": GREEN, "linewidth": 2.4}
FILLS = {"likelihood": ORANGE, "log_likelihood": "0.4", "posterior": GREEN}

SHARES = (0.01, 0.1, 0.5)
"""Of the highest density: where the contours of a surface lie."""
DROPS = (100.0, 30.0, 10.0, 3.0, 1.0)
"""Nats below the highest log likelihood: where its contours lie."""
LARGEST_EXPONENT = math.log(1e250)
"""Likelihoods from 1e-250 to 1e250 are drawn as they are; beyond, float64 soon has no numbers for them."""
TAIL = 0.02
"""Share of the points of a log likelihood, the lowest ones, that may lie below the picture."""
FONT = 9.0
"""Points."""


def plot_likelihood(likelihood: Likelihood, ax: "Axes | None" = None, *, what: What = "likelihood") -> "Axes":
    """Draw a likelihood with the MLE, the MAP and the prior marked: a curve, or a surface as contours.

    A prior that is constant on the grid is not drawn, and its MAP, which is the MLE, is not marked again. A peak on the
    edge of the grid says so: the likelihood may be higher beyond.

    Args:
        likelihood: what `likelihood_curve` or `likelihood_surface` returned.
        ax: where to draw; by default a new figure.
        what: what is drawn.

            - ``"likelihood"``: beside it, the prior is scaled to the same height. A likelihood too small or too large
              for a float64 is divided by its largest value, which the axis says.
            - ``"log_likelihood"``: in nats; the log prior is shifted to the same height. The lowest fiftieth of the
              points may lie below the picture.
            - ``"posterior"``: the density along the axes, given all other weights, with those of prior and likelihood.

            Contours are labelled with the share of the highest density, or with nats below the highest log likelihood;
            those of the prior are dashed.

    Returns:
        The axes.

    Raises:
        TypeError: when `likelihood` is something else.
        ValueError: when `what` is none of these.
    """
    if not isinstance(likelihood, Likelihood):
        raise TypeError(f"Expected what likelihood_curve or likelihood_surface returned; got {likelihood!r}.")
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
    on = {"MLE": lines[0], "MAP": lines[-1] if what == "posterior" else lines[0]}
    places = {
        name: (peak, float(on[name].values[np.searchsorted(grid, peak)]))
        for name, (peak,) in _peaks(likelihood).items()
    }
    taken = _mark(ax, likelihood, places)
    if len(lines) > 1:
        _label(ax, grid, lines, taken)


def _lines(likelihood: Likelihood, what: What) -> tuple[str, list[_Line]]:
    """What the vertical axis shows, and the lines: the likelihood first, the posterior last."""
    flat, top = _is_flat(likelihood), np.nanmax(likelihood.log_likelihood)
    if what == "posterior":
        density = likelihood.relative_likelihood / np.trapezoid(likelihood.relative_likelihood, likelihood.values[0])
        beside = [_Line("likelihood, scaled", density, DOTTED), _Line("prior", likelihood.prior, DASHED)]
        return "density", [*([] if flat else beside), _Line("posterior", likelihood.posterior, THICK)]
    log_prior = likelihood.log_prior - likelihood.log_prior.max()
    if what == "log_likelihood":
        lines = [("log likelihood", likelihood.log_likelihood), ("log prior, shifted", log_prior + top)]
        ylabel = "log likelihood, nats"
    else:
        relative = abs(top) > LARGEST_EXPONENT
        values = likelihood.relative_likelihood if relative else likelihood.likelihood
        lines = [("likelihood", values), ("prior, scaled", np.exp(log_prior) * np.nanmax(values))]
        ylabel = "relative likelihood (1 at its highest)" if relative else "likelihood"
    return ylabel, [_Line(*line, style) for line, style in zip(lines, (SOLID, DASHED), strict=True)][: 2 - flat]


def _limits(lines: Sequence[_Line], what: What) -> tuple[float, float]:
    """The range of the vertical axis, with room for the labels of the peaks."""
    if what != "log_likelihood":
        return 0.0, 1.15 * max(float(np.nanmax(line.values)) for line in lines)
    finite = lines[0].values[np.isfinite(lines[0].values)]
    top, low = float(finite.max()), float(np.quantile(finite, TAIL, method="lower"))
    return low, top + 0.15 * ((top - low) or 1.0)


def _draw_surface(ax: "Axes", likelihood: Likelihood, what: What) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    if what == "log_likelihood":
        surface, levels = likelihood.log_likelihood - np.nanmax(likelihood.log_likelihood), [-drop for drop in DROPS]
        title = "log likelihood, nats from its highest"
    else:
        density = likelihood.relative_likelihood if what == "likelihood" else likelihood.posterior
        surface, levels = density / np.nanmax(density), list(SHARES)
        title = f"{'likelihood' if what == 'likelihood' else 'posterior density'}, as a share of its highest"
    levels = _crossed(levels, surface)
    heights = np.ma.masked_invalid(surface).T
    if levels:
        tint = LinearSegmentedColormap.from_list(what, ["white", FILLS[what]])
        bands = [tint(0.1 + 0.5 * i / len(levels)) for i in range(len(levels))]
        ax.contourf(*likelihood.values, heights, levels=[*levels, heights.max()], colors=bands)
        lines = ax.contour(*likelihood.values, heights, levels=levels, colors="0.1", linewidths=0.9, linestyles="solid")
        _label_contours(ax, lines, "%.3g", towards=(-0.3, 1.0))
    if not _is_flat(likelihood):
        prior = np.exp(likelihood.log_prior - likelihood.log_prior.max())
        levels = _crossed([0.1, 0.5], prior)
        style: dict[str, Any] = {"colors": GREY, "linewidths": 1.4, "linestyles": [DASHED["linestyle"]]}
        dashed = ax.contour(*likelihood.values, prior.T, levels=levels, **style)
        _label_contours(ax, dashed, "prior %.2g", towards=(1.0, 1.0))
    ax.set(xlabel=likelihood.names[0], ylabel=likelihood.names[1])
    ax.set_title(title, loc="left", fontsize=10)
    _mark(ax, likelihood, {name: (peak[0], peak[1]) for name, peak in _peaks(likelihood).items()})


def _label_contours(ax: "Axes", contours: Any, fmt: str, towards: tuple[float, float]) -> None:
    """Label each contour where it reaches furthest in a direction, off the edges: the peaks are labelled sideways."""
    places = []
    for path in contours.get_paths():
        shares = _as_shares(ax, *path.vertices.T)
        inside = (np.abs(shares - 0.5) < 0.4).all(axis=1)
        if inside.any():
            places.append(path.vertices[np.argmax(np.where(inside, shares @ towards, -np.inf))])
    if places:
        ax.clabel(contours, manual=places, fmt=fmt, fontsize=FONT)


def _crossed(levels: list[float], surface: np.ndarray) -> list[float]:
    """Those levels that a surface crosses; where it crosses none, the one in the middle; none where it is constant."""
    low, high = (float(end(surface[np.isfinite(surface)])) for end in (np.min, np.max))
    middle = [(low + high) / 2] if low < high else []
    return [level for level in levels if low < level < high] or middle


def _is_flat(likelihood: Likelihood) -> bool:
    return bool((likelihood.log_prior == likelihood.log_prior.flat[0]).all())


def _peaks(likelihood: Likelihood) -> dict[str, tuple[float, ...]]:
    return {"MLE": likelihood.mle} | ({} if _is_flat(likelihood) else {"MAP": likelihood.map})


def _mark(ax: "Axes", likelihood: Likelihood, places: dict[str, tuple[float, float]]) -> np.ndarray:
    """Markers, each with its label on the side away from the other; points (k, 2) that the labels cover."""
    for name, place in places.items():
        ax.plot(*place, label=name, linestyle="none", zorder=4, clip_on=False, **MARKS[name])
    peaks = _peaks(likelihood)
    names = {name: name for name in peaks} if len(set(peaks.values())) == len(peaks) else {"MLE": "MLE, MAP"}
    covered = []
    for name, words in names.items():
        text = f"{words} {_coordinates(likelihood, peaks[name])}"
        (x, y), (width, height) = _as_shares(ax, *places[name]), _size(ax, text)
        beside = width + _size(ax, "MMM")[0]  # with the marker
        other = "MAP" if name == "MLE" else "MLE"
        rightwards = peaks[name] > peaks[other] if other in names else x < 0.5
        if 0 <= (x + beside if rightwards else x - beside) <= 1:
            left, low, ha = (x if rightwards else x - beside), y - height / 2, "left" if rightwards else "right"
            options: dict[str, Any] = {"xytext": (9 if rightwards else -9, 0), "ha": ha, "va": "center"}
        else:  # no room beside it
            left, low = min(max(x - width / 2, 0.0), 1 - width), y + height / 2
            ha = "left" if left == 0 else "right" if left == 1 - width else "center"
            options = {"xytext": (0, 9), "ha": ha, "va": "bottom"}
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1}
        ax.annotate(text, places[name], textcoords="offset points", fontsize=FONT, bbox=box, zorder=5, **options)
        covered.append(_points(left, low, beside, 1.2 * height))
    return np.concatenate(covered)


def _coordinates(likelihood: Likelihood, place: tuple[float, ...]) -> str:
    """The place in words, with a warning where it lies on the edge of the grid."""
    pairs = list(zip(place, likelihood.values, strict=True))
    numbers = [f"{0.0 if abs(value) < 1e-9 * np.ptp(grid) else value:.3g}" for value, grid in pairs]
    words = numbers[0] if len(numbers) == 1 else f"({', '.join(numbers)})"
    return f"{words}, edge of the grid" if any(value in (grid[0], grid[-1]) for value, grid in pairs) else words


def _label(ax: "Axes", grid: np.ndarray, lines: list[_Line], covered: np.ndarray) -> None:
    """Write each line's name above it, where other lines and labels leave the most room; in a legend if none does."""
    steps = np.linspace(grid[0], grid[-1], 201)
    paths = [_as_shares(ax, steps, np.interp(steps, grid, np.nan_to_num(line.values, neginf=-1e9))) for line in lines]
    unnamed: list[str] = []
    for line, path in zip(lines, paths, strict=True):
        width, height = _size(ax, line.label)
        others = np.concatenate([covered, *(other for other in paths if other is not path)])
        best, where = 0.0, None
        for x, y in path[::2] + np.array([0.0, 0.01]):
            for left in (x + 0.01, x - 0.01 - width):
                box = (left, y, left + width, y + height)
                inside = left > 0.01 and left + width < 1 and y >= 0 and y + height < 1
                room = min(_gap(box, others), 0.1)
                if inside and _gap(box, path) > 0 and room > 0 and room + 0.02 * y > best:
                    best, where = room + 0.02 * y, (left, y)
        if where is None:
            unnamed.append(line.label)
            continue
        ax.text(*where, line.label, transform=ax.transAxes, fontsize=FONT, color=line.style["color"])
        covered = np.concatenate([covered, _points(*where, width, height)])
    if unnamed:
        ax.legend(handles=[line for line in ax.lines if line.get_label() in unnamed], frameon=False, fontsize=FONT)


def _points(left: float, bottom: float, width: float, height: float) -> np.ndarray:
    """Points (k, 2) all over a box."""
    grid = np.meshgrid(left + width * np.linspace(0, 1, 9), bottom + height * np.linspace(0, 1, 4))
    return np.stack(grid, axis=-1).reshape(-1, 2)


def _gap(box: tuple[float, float, float, float], points: np.ndarray) -> float:
    """How far points (k, 2) stay from a box (left, bottom, right, top): negative where one lies inside."""
    left, bottom, right, top = box
    x, y = points.T
    return float(np.max([left - x, x - right, bottom - y, y - top], axis=0).min())


def _as_shares(ax: "Axes", x: Any, y: Any) -> np.ndarray:
    """Points of the data as shares of the width and the height of the axes."""
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    return np.stack([(x - left) / (right - left), (y - low) / (high - low)], axis=-1)


def _size(ax: "Axes", text: str) -> np.ndarray:
    """Width and height of a text, roughly, as shares of the axes."""
    box, points = ax.get_window_extent(), ax.figure.dpi / 72
    return FONT * points * np.array([0.55 * len(text) / box.width, 1.3 / box.height])


MOST_LINES = 12
"""Weights that are drawn one by one; of a model with more each site is one line, its root mean square."""
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "0.1")
DASHES = ("solid", (0, (5, 2)), (0, (1, 1)), (0, (5, 2, 1, 2)))


def plot_path(path: PriorPath, axes: "Sequence[Axes] | None" = None) -> "np.ndarray[Any, Any]":
    """Draw a path: estimates and log likelihoods a row against the scale of the prior, the flat prior at the right.

    Where the flat prior has no maximum its place says so, and the estimates have no limit to come to. A dot marks the
    scale that is best for the held-out rows.

    Args:
        path: what `prior_path` returned.
        axes: two axes; by default those of a new figure.

    Returns:
        The two axes, (2,).

    Raises:
        TypeError: when `path` is something else, or `axes` are not two.
    """
    if not isinstance(path, PriorPath):
        raise TypeError(f"Expected what prior_path returned; got {path!r}.")
    if axes is None:
        import matplotlib.pyplot as plt

        _, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    pair = np.asarray(axes, dtype=object).ravel()
    if len(pair) != 2:
        raise TypeError(f"plot_path: expected two axes; got {len(pair)}.")
    estimates, scores = pair
    lines, ylabel = _estimates(path)
    _draw_path(estimates, path, lines, ylabel)
    rows = {"rows of the fit": path.log_likelihood / path.num_rows}
    if path.test_log_likelihood is not None:
        rows["held-out rows"] = path.test_log_likelihood / path.num_test_rows
        best = int(np.argmax(rows["held-out rows"][:-1]))
        scores.plot(path.multiples[best], rows["held-out rows"][best], "o", color=LINES[1], markersize=7)
    _draw_path(scores, path, rows, "log likelihood, nats per row")
    return pair


def _estimates(path: PriorPath) -> tuple[dict[str, np.ndarray], str]:
    """Label -> values along the path, and what they are."""
    flat = {site: value.reshape(len(value), -1) for site, value in path.weights.items()}
    if sum(value.shape[1] for value in flat.values()) > MOST_LINES:
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
        style: dict[str, Any] = {"color": LINES[i % len(LINES)], "linestyle": DASHES[i % len(DASHES)]}
        ax.plot(scales, values[:-1], label=label, linewidth=1.8, **style)
        if exists:
            ax.plot([scales[-1], end], values[-2:], linewidth=0.8, **style)
            ax.plot(end, values[-1], "s", color=style["color"], markersize=6, markeredgecolor="black", clip_on=False)
    heights = np.concatenate([values[: None if exists else -1] for values in lines.values()])
    if np.ptp(heights) > 100 * max(float(np.median(np.abs(heights))), 1e-12):
        ax.set_yscale("symlog", linthresh=max(1.0, float(np.median(np.abs(heights)))))
    ax.set(xscale="log", xlim=(scales[0], end), xlabel="scale of the prior, multiples of the model's", ylabel=ylabel)
    ax.text(
        1.0,
        1.02,
        "flat: the MLE" if exists else "flat: no maximum →",
        transform=ax.transAxes,
        ha="right",
        fontsize=FONT,
    )
    ax.legend(frameon=False, fontsize=FONT)
    ax.spines[["top", "right"]].set_visible(False)
