"""The methods, one file each; see `flatprior.inference` for how to choose one.

- Points: `MLE` and `MAP`. `prior_path` follows the MAP estimate to the MLE, as the scale of the prior grows.
- Approximations of the posterior: `Ensemble`, `Laplace`, `Variational`, `SGMCMC` (chains by batches of rows) and
  `Conditional`.
- Markov chains: `NUTS` and `MCLMC`.
- `Prior`: draws that no data have informed.

A method is a frozen dataclass: its fields are its settings, and `Method` is the protocol that it follows.
"""

from ..method import Method
from .conditional import Conditional
from .ensemble import Ensemble
from .laplace import Laplace
from .mclmc import MCLMC
from .nuts import NUTS
from .path import PriorPath, prior_path
from .point import MAP, MLE
from .prior import Prior
from .sgmcmc import SGMCMC
from .variational import Variational

__all__ = [
    "MAP",
    "MCLMC",
    "MLE",
    "NUTS",
    "SGMCMC",
    "Conditional",
    "Ensemble",
    "Laplace",
    "Method",
    "Prior",
    "PriorPath",
    "Variational",
    "prior_path",
]
