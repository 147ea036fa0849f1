"""What a method takes and gives."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import numpy as np
from jax import Array

from ..density import NumPyroModel, Rows, Structure
from ..status import Status

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


def name_of(method: "Method") -> str:
    """The name of a method, such as "MAP"; one that was read from a file has it as a field."""
    return getattr(method, "name", type(method).__name__)


def draws_chains(method: "Method") -> bool:
    """Whether Markov chains make its draws: those of the posterior, or of some sites given the others."""
    return getattr(method, "method", method).kind == "chain"


class Method(Protocol):
    """A way to answer the one density. Settings are fields; a setting that does not exist raises."""

    kind: ClassVar[Kind]

    def run(
        self, model: NumPyroModel, structure: Structure, x: Rows, y: Rows, *, key: Array, progress: bool
    ) -> Outcome:
        """Fit the model to checked rows.

        Args:
            model: the NumPyro model.
            structure: what the model is made of.
            x: n rows.
            y: n rows.
            key: a typed JAX key; the same key gives the same bits.
            progress: show progress bars.

        A method that `draws_chains` takes one argument more, ``store``: where the run is kept, or None.
        """
        ...
