"""Figures, drawn by matplotlib.

- `plot_fit` and `plot_decision` draw what fits predict along one or two dimensions of x, `plot_loss` their losses.
- `plot_compare` and `plot_calibration` draw scores, `plot_distance` the distance from a reference;
  `plot_likelihood` and `plot_path` the likelihood and its maxima.

A method has the same colour in every figure, by the name of the fit or by its method: MLE orange, MAP blue, ensemble
light blue, Laplace pink, and the posterior (also NUTS and MCLMC) green.
"""

from .calibration import plot_calibration
from .fits import plot_fit
from .likelihood import plot_likelihood
from .path import plot_path
from .regions import plot_decision
from .scores import plot_compare, plot_distance, plot_loss

__all__ = [
    "plot_calibration",
    "plot_compare",
    "plot_decision",
    "plot_distance",
    "plot_fit",
    "plot_likelihood",
    "plot_loss",
    "plot_path",
]
