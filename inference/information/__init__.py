"""Fits as codes: what y costs in bits, and which features pay for it.

- `code_length` gives the bits of y beside those of simpler codes; `cross_entropy` splits the cost of soft labels.
- `compress` writes labels in as many bytes, and `decompress` reads them.
- `prequential` counts the cost of the fit as well.
- `weight_of_evidence` shares the log odds of a row among its features.
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
