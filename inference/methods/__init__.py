"""Methods: three answers to one density. A method is a frozen dataclass of settings with `run`."""

from .conditional import Conditional
from .ensemble import Ensemble
from .laplace import Laplace
from .mclmc import MCLMC
from .method import Method, Outcome
from .nuts import NUTS
from .point import MAP, MLE

__all__ = ["MAP", "MCLMC", "MLE", "NUTS", "Conditional", "Ensemble", "Laplace", "Method", "Outcome"]
