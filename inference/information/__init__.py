"""Fits as codes: the cost of y in bits, and the contribution of each feature.

- `code_length` compares the bits of y with those of simpler codes; `cross_entropy` splits the cost of soft labels.
- `compress` writes labels in as many bits, and `decompress` reads them.
- `prequential` includes the cost of the fit.
- `weight_of_evidence` splits the log odds of a row into contributions of its features.
"""

from .attribution import WeightOfEvidence, weight_of_evidence
from .bits import CodeLength, CrossEntropy, code_length, cross_entropy
from .compression import compress, decompress
from .sequential import Prequential, prequential

__all__ = [
    "CodeLength",
    "CrossEntropy",
    "Prequential",
    "WeightOfEvidence",
    "code_length",
    "compress",
    "cross_entropy",
    "decompress",
    "prequential",
    "weight_of_evidence",
]
