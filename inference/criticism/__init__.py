"""What to make of fits."""

from .attribution import WeightOfEvidence, weight_of_evidence
from .calibration import Calibration, calibration
from .compare import compare
from .compression import compress, decompress
from .convergence import Diagnosis, diagnose, loo
from .generation import generate
from .information import CodeLength, CrossEntropy, code_length, cross_entropy
from .likelihood import Likelihood, likelihood_curve, likelihood_surface
from .loss import Explanation, explain
from .path import PriorPath, prior_path
from .plot_calibration import plot_calibration
from .plot_fits import plot_fit
from .plot_regions import plot_decision
from .plot_scores import plot_compare, plot_loss
from .plots import plot_likelihood, plot_path
from .sequential import Prequential, prequential
from .table import Comparison
from .temperature import Tempered, temperature_scaling
from .terms import Term
from .uncertainty import Uncertainty, uncertainty
from .validation import CrossValidation, cross_validate

__all__ = [
    "Calibration",
    "CodeLength",
    "Comparison",
    "CrossEntropy",
    "CrossValidation",
    "Diagnosis",
    "Explanation",
    "Likelihood",
    "Prequential",
    "PriorPath",
    "Tempered",
    "Term",
    "Uncertainty",
    "WeightOfEvidence",
    "calibration",
    "code_length",
    "compare",
    "compress",
    "cross_entropy",
    "cross_validate",
    "decompress",
    "diagnose",
    "explain",
    "generate",
    "likelihood_curve",
    "likelihood_surface",
    "loo",
    "plot_calibration",
    "plot_compare",
    "plot_decision",
    "plot_fit",
    "plot_likelihood",
    "plot_loss",
    "plot_path",
    "prequential",
    "prior_path",
    "temperature_scaling",
    "uncertainty",
    "weight_of_evidence",
]
