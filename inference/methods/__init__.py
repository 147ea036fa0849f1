"""Methods: three answers to one density. A method is a frozen dataclass of settings with `run`."""

from .method import Method, Outcome
from .nuts import NUTS
from .point import MAP, MLE

__all__ = ["MAP", "MLE", "NUTS", "Method", "Outcome"]
