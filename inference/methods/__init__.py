"""How the one density is answered: a file for each method, and the path from the prior to the MLE."""

from ..method import Method
from .conditional import Conditional
from .ensemble import Ensemble
from .laplace import Laplace
from .mclmc import MCLMC
from .nuts import NUTS
from .path import PriorPath, prior_path
from .point import MAP, MLE

__all__ = ["MAP", "MCLMC", "MLE", "NUTS", "Conditional", "Ensemble", "Laplace", "Method", "PriorPath", "prior_path"]
