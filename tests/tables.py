"""What the laws are asked of: every method, at settings that run within a second, and the draws that it then has.

Settings that compile anew (rows, widths, chains, members) are the same wherever a test does not need its own.
"""

from collections.abc import Callable
from typing import Any

from flatprior.inference import MAP, MCLMC, MLE, NUTS, Conditional, Ensemble, Laplace

NUM_ROWS = 40
NUM_STEPS = 150
POINT: dict[str, Any] = {"num_steps": NUM_STEPS, "polish": False}

METHODS: dict[str, Callable[[], Any]] = {
    "MLE": lambda: MLE(**POINT),
    "MAP": lambda: MAP(**POINT),
    "Ensemble": lambda: Ensemble(base=MAP(**POINT), num_members=3),
    "Laplace": lambda: Laplace(base=MAP(**POINT), num_samples=12),
    "NUTS": lambda: NUTS(num_warmup=30, num_samples=20, num_chains=2, start=None, max_tree_depth=4),
    "MCLMC": lambda: MCLMC(num_warmup=100, num_samples=15, thinning=3, num_chains=3, start=None),
}
"""Each time a new one, equal to the last. `Conditional` has the names of sites, and so is one of a model."""
KINDS = {
    "MLE": "point",
    "MAP": "point",
    "Ensemble": "approximation",
    "Laplace": "approximation",
    "NUTS": "chain",
    "MCLMC": "chain",
    "Conditional": "approximation",
}
LEADING = {
    "MLE": (1, 1),
    "MAP": (1, 1),
    "Ensemble": (1, 3),
    "Laplace": (1, 12),
    "NUTS": (2, 20),
    "MCLMC": (3, 15),
    "Conditional": (1, 12),
}
"""Chains and draws."""


def conditional(*sites: str) -> Conditional:
    """Those sites by the Gaussian of Laplace, the others where MAP puts them."""
    return Conditional(base=MAP(**POINT), sites=sites, method=METHODS["Laplace"]())
