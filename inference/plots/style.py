"""The style of all figures: colours, dashes, markers and font sizes, and which fit has which.

The colours are those of Okabe & Ito (2008), which colour-blind readers can distinguish; dashes and markers differ as
well, so that lines can be distinguished in grey.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:  # importing it takes half a second
    from matplotlib.axes import Axes

type Dash = str | tuple[int, tuple[float, ...]]

ORANGE, BLUE, SKY, PINK, GREEN, VERMILION = "#E69F00", "#0072B2", "#56B4E9", "#CC79A7", "#009E73", "#D55E00"
BLACK, GREY = "0.1", "0.45"
SOLID: Dash = "solid"
DASHED: Dash = (0, (5, 2))
DOTTED: Dash = (0, (1, 1))
FONT, TITLE = 9.0, 10.0
"""Sizes in points: of legends, labels and notes; of titles."""
BOX: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1}
"""The background of a label that lies on lines."""


class Style(NamedTuple):
    """The look of one fit."""

    color: str
    dash: Dash
    marker: str

    @property
    def line(self) -> dict[str, Any]:
        """Arguments of `Axes.plot` for a line without markers."""
        return {"color": self.color, "linestyle": self.dash}


METHODS = {
    "ensemble": Style(SKY, (0, (2, 1)), "^"),
    "Laplace": Style(PINK, (0, (5, 2, 1, 2, 1, 2)), "v"),
    "posterior": Style(GREEN, SOLID, "o"),
    "MAP": Style(BLUE, (0, (5, 2, 1, 2)), "D"),
    "MLE": Style(ORANGE, DASHED, "s"),
    "prior": Style(GREY, DOTTED, "P"),
}
"""Method -> its style in every figure. In a name with the words of several methods, the first of them counts."""
WORDS = {name.lower(): name for name in METHODS} | dict.fromkeys(("nuts", "mclmc", "chain"), "posterior")
"""Word of a name -> the method that it means."""
COLOURS = (VERMILION, BLACK, "#999933", "#882255", "0.55")
"""Colours of other fits: olive and wine are of Tol (2021)."""
DASHES: tuple[Dash, ...] = (SOLID, DASHED, DOTTED, (0, (5, 2, 1, 2)), (0, (9, 2)), (0, (2, 1)))
MARKERS = ("P", "X", "*", "<", ">", "p", "h")
"""Markers of other fits."""
LINES = (BLUE, VERMILION, GREEN, PINK, SKY, ORANGE, BLACK)
"""Colours of what is not a fit: classes, and the weights and scores along a path."""
CLASS_MARKERS = ("o", "^", "s", "D", "v", "P", "X")


def mark_of(name: str) -> dict[str, Any]:
    """Return the arguments of `Axes.plot` that mark the MLE or the MAP on a curve or a surface."""
    style = METHODS[name]
    size = {"s": 9, "D": 6}[style.marker]  # so that a diamond on a square leaves both visible
    return {
        "marker": style.marker,
        "markersize": size,
        "color": style.color,
        "markeredgecolor": "black",
        "markeredgewidth": 0.8,
    }


def text_size(ax: "Axes", text: str) -> np.ndarray:
    """Return the approximate width and height of a text, as shares of the axes."""
    box, points = ax.get_window_extent(), ax.figure.dpi / 72
    return FONT * points * np.array([0.55 * len(text) / box.width, 1.3 / box.height])


def cycled[T](values: tuple[T, ...], i: int) -> T:
    """Return value number i of a sequence that repeats."""
    return values[i % len(values)]


def styles_of(names: Iterable[str], methods: Mapping[str, str] | None = None) -> dict[str, Style]:
    """Return the style of each named fit: that of its method, which is the same in every figure.

    The method is read from the name, or where the name does not contain one, from `methods`. Fits without a method of
    `METHODS`, and all but the first of one method, get the next free colour, dash and marker.

    Args:
        names: the names of the fits, in the order of the figure.
        methods: name -> what is known of the method beside the name, such as ``fit.method.name``.

    Example:
        >>> from flatprior.inference.plots.style import styles_of
        >>> styles = styles_of(["MLE", "tanh", "NUTS, long", "MLE, again"])
        >>> print({name: style.color for name, style in styles.items()})
        {'MLE': '#E69F00', 'NUTS, long': '#009E73', 'tanh': '#D55E00', 'MLE, again': '0.1'}
    """
    names, first = tuple(names), dict[str, str]()
    for name in names:
        method = _method_in(name) or _method_in((methods or {}).get(name, ""))
        if method is not None:
            first.setdefault(method, name)
    styles = {name: METHODS[method] for method, name in first.items()}
    for name in names:
        if name not in styles:
            styles[name] = _next_free(styles.values())
    return styles


def _method_in(name: str) -> str | None:
    """Return the method that a name contains as a word, or None."""
    words = re.findall("[a-z]+", name.lower())
    if "given" in words:  # the draws of some weights given the others are not those of the method named
        return None
    found = {WORDS[word] for word in words if word in WORDS and (word != "prior" or len(words) == 1)}  # "wide prior"
    return next((method for method in METHODS if method in found), None)


def _next_free(used: Iterable[Style]) -> Style:
    """Return the colour, dash and marker that are used least, each the first of its list among equals."""
    counts: Counter[Any] = Counter(part for style in used for part in style)
    free: list[Any] = [min(pool, key=counts.__getitem__) for pool in (COLOURS, DASHES, MARKERS)]
    return Style(*free)
