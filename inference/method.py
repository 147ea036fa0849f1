"""What a method takes and gives."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import numpy as np
from jax import Array

from .density import Density
from .rows import Data
from .status import Status

Kind = Literal["point", "approximation", "chain"]
"""What the draws of a fit are: one point, draws from an approximation, or a Markov chain."""


@dataclass(frozen=True)
class Outcome:
    """What a method found."""

    draws: Mapping[str, np.ndarray]
    """Latent site -> draws, shaped (chain, draw, *shape of the site). A point is one chain of one draw."""
    status: Status
    sample_stats: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Statistics of each draw under ArviZ's names, shaped (chain, draw)."""
    stats: Mapping[str, np.ndarray] = field(default_factory=dict)
    """What else the method recorded."""
    log_evidence: float | None = None
    """Log p(y | x) of the model in nats, by methods that estimate it; NaN where it does not exist."""


class Method(Protocol):
    """A way to answer the one density. Settings are fields; a setting that does not exist raises."""

    kind: ClassVar[Kind]
    """What the draws of its fits are."""

    @property
    def name(self) -> str:
        """What it is called in tables, such as "MAP"."""
        ...

    @property
    def draws_chains(self) -> bool:
        """Whether Markov chains make its draws: those of the posterior, or of some sites given the others."""
        ...

    def run(self, density: Density, data: Data, *, key: Array, progress: bool) -> Outcome:
        """Fit a density to checked rows.

        A method that draws chains takes one argument more, ``store``: where the run is saved as it goes, or None.

        Args:
            density: what is maximised, sampled or approximated.
            data: n rows.
            key: a typed JAX key; the same key gives the same bits.
            progress: show progress bars.
        """
        ...
