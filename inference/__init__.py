"""How a model is fitted, and what to make of the fits."""

from .density import flat, log_density
from .methods import MAP, MLE, NUTS
from .predictive import Predictive
from .result import Fit
from .run import fit
from .status import Status

__all__ = ["MAP", "MLE", "NUTS", "Fit", "Predictive", "Status", "fit", "flat", "log_density"]
