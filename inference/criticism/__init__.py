"""What to make of fits: scores on new rows, calibration, convergence, and repairs.

- `compare` scores fits on rows that none of them has seen; `cross_validate` scores methods on every row once.
- `calibration` compares probabilities with frequencies; `temperature_scaling` repairs them, outside of the one density.
- `uncertainty` separates noise from what more data would settle.
- `diagnose` asks whether chains can be trusted; `loo` leaves out one row at a time.
"""

from .calibration import Calibration, calibration
from .compare import compare
from .convergence import Diagnosis, diagnose, loo
from .table import Comparison
from .temperature import Tempered, temperature_scaling
from .uncertainty import Uncertainty, uncertainty
from .validation import CrossValidation, cross_validate

__all__ = [
    "Calibration",
    "Comparison",
    "CrossValidation",
    "Diagnosis",
    "Tempered",
    "Uncertainty",
    "calibration",
    "compare",
    "cross_validate",
    "diagnose",
    "loo",
    "temperature_scaling",
    "uncertainty",
]
