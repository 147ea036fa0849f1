"""Criticism of fits: scores on new rows, calibration, uncertainty and convergence.

- `compare` scores fits on rows that none of them has seen; `cross_validate` scores methods on every row once.
- `tune` sets prior scales by the evidence, by held-out rows or by leave-one-out.
- `calibration` compares probabilities with frequencies; `temperature_scaling` corrects them after the fit.
- `uncertainty` separates noise from uncertainty that more data would reduce.
- `diagnose` checks the convergence of chains; `loo` estimates the score of each row from all other rows.
"""

from .calibration import Calibration, calibration
from .compare import compare
from .convergence import Diagnosis, diagnose
from .left_out import loo
from .table import Comparison
from .temperature import Tempered, temperature_scaling
from .tuning import Tuned, tune
from .uncertainty import Uncertainty, uncertainty
from .validation import CrossValidation, cross_validate

__all__ = [
    "Calibration",
    "Comparison",
    "CrossValidation",
    "Diagnosis",
    "Tempered",
    "Tuned",
    "Uncertainty",
    "calibration",
    "compare",
    "cross_validate",
    "diagnose",
    "loo",
    "temperature_scaling",
    "tune",
    "uncertainty",
]
