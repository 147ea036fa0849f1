"""What to make of fits."""

from .compare import Comparison, compare
from .convergence import Diagnosis, diagnose, loo
from .information import CrossEntropy, cross_entropy
from .likelihood import Likelihood, likelihood_curve, likelihood_surface
from .loss import Explanation, explain
from .path import PriorPath, prior_path
from .plots import plot_likelihood, plot_path
from .terms import Term

__all__ = [
    "Comparison",
    "CrossEntropy",
    "Diagnosis",
    "Explanation",
    "Likelihood",
    "PriorPath",
    "Term",
    "compare",
    "cross_entropy",
    "diagnose",
    "explain",
    "likelihood_curve",
    "likelihood_surface",
    "loo",
    "plot_likelihood",
    "plot_path",
    "prior_path",
]
