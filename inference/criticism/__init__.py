"""What to make of fits."""

from .compare import Comparison, compare

__all__ = ["Comparison", "compare"]
