"""The protocol of methods, and their results."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

import numpy as np
from jax import Array

from .density import Density
from .rows import Data
from .status import Status

if TYPE_CHECKING:
    from .store import Store

Kind = Literal["point", "approximation", "chain", "prior"]
"""The kind of draws of a fit: one point, draws from an approximation, a Markov chain, or draws from the prior."""


@dataclass(frozen=True)
class Outcome:
    """The result of a method."""

    draws: Mapping[str, np.ndarray]
    """The draws by latent site, shaped (chain, draw, *shape of the site). A point is one chain of one draw."""
    status: Status
    sample_stats: Mapping[str, np.ndarray] = field(default_factory=dict)
    """The statistics of each draw under ArviZ's names, shaped (chain, draw)."""
    stats: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Other recorded statistics."""
    log_evidence: float | None = None
    """Log p(y | x) of the model in nats, from methods that estimate it; NaN where it does not exist."""
    linearized_at: Mapping[str, np.ndarray] = field(default_factory=dict)
    """The weights, by site, around which the model is linearised for predictions; empty where it predicts itself."""


ARRAYS = ("draws", "sample_stats", "stats", "linearized_at")
"""The parts of an outcome that are arrays by name."""


class Method(Protocol):
    """A way to fit the density of a model. Settings are fields; an unknown setting raises."""

    kind: ClassVar[Kind]
    """The kind of draws of its fits."""

    @property
    def name(self) -> str:
        """The name in tables, such as "MAP"."""
        ...

    @property
    def draws_chains(self) -> bool:
        """Whether it draws Markov chains, for all sites or for some given the others."""
        ...

    @property
    def leaves_out(self) -> str:
        """What its draws leave out of the posterior, in one sentence; empty where that is nothing."""
        ...

    @property
    def streams(self) -> bool:
        """Whether it takes rows by batches, so that rows that stay on disk are not read whole."""
        ...

    @property
    def spreads_rows(self) -> bool:
        """Whether it computes with rows that are sharded over devices, so that none of these has all of them."""
        ...

    @property
    def growing(self) -> tuple[str, ...]:
        """The names of the settings in which a run on disk can be continued with a larger number."""
        ...

    def run(self, density: Density, data: Data, *, key: Array, progress: bool, store: "Store | None" = None) -> Outcome:
        """Fit a density to checked rows.

        Args:
            density: the density that is maximised, sampled or approximated.
            data: n rows.
            key: a typed JAX key; the same key gives the same bits.
            progress: show progress bars.
            store: the folder that a long run writes its state to as it goes, and from which it is continued.
        """
        ...
