"""What to make of fits."""

from .compare import Comparison, compare
from .likelihood import Likelihood, likelihood_curve, likelihood_surface
from .loss import Explanation, Term, explain

__all__ = [
    "Comparison",
    "Explanation",
    "Likelihood",
    "Term",
    "compare",
    "explain",
    "likelihood_curve",
    "likelihood_surface",
]
