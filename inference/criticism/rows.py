"""The rows that are scored: of this process, or those of all processes where arrays are sharded over them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from ..digests import digest_of_rows
from ..labels import RowCounts, labelled
from ..processes import from_all, raised_by_all, rows_of_all
from ..response import Response
from ..rows import Rows, count_rows
from ..seen import absent_classes, absent_of_all
from ..spread import Shards, summed_counts
from .scores import COLUMNS, Forecast


@dataclass(frozen=True, eq=False)
class ScoredRows:
    """Rows with labels that this process scores, and what all processes know of theirs."""

    x: Rows
    y: Rows
    weights: np.ndarray | None
    counts: RowCounts
    """The rows of all processes, counted."""
    numbers: np.ndarray | None = None
    """The numbers of these rows among those of all processes; None where this one has all of them."""
    order: np.ndarray | None = None
    """The order of the rows of all processes, of which those of each follow each other."""

    @classmethod
    def of(cls, x: Any, y: Any, weights: Any) -> "ScoredRows":
        """Return rows as they are passed to `compare`; of arrays that are sharded over processes those of this one."""
        leaves = [leaf for leaf in jax.tree.leaves((x, y, weights)) if isinstance(leaf, jax.Array)]
        shards = None if all(leaf.is_fully_addressable for leaf in leaves) else Shards.of(x, y, weights)
        if shards is None:
            given = labelled(x, y, weights)
            return cls(*given.scored, given.counts)
        own = np.flatnonzero(shards.counted)  # what several processes have is scored by the first of them
        with raised_by_all():
            given = labelled(*(jax.tree.map(lambda leaf: leaf[own], part) for part in shards.own(x, y, weights)))
        numbers = np.concatenate([np.arange(*bounds) for bounds in shards.ranges])[own]
        numbers = numbers if given.kept is None else numbers[given.kept]
        order = np.argsort(rows_of_all(numbers))
        return cls(*given.scored, summed_counts(given.counts), numbers, order)

    @property
    def digest(self) -> str:
        """The digest of the rows of all processes."""
        if self.order is None:
            return digest_of_rows(self.x, self.y)
        return digest_of_rows(self.x, self.y, numbers=self.places, num_rows=len(self.order))

    @cached_property
    def places(self) -> np.ndarray:
        """The places of these rows among the scored rows of all processes, (n,)."""
        if self.numbers is None or self.order is None:
            return np.arange(count_rows(self.y))
        return np.searchsorted(rows_of_all(self.numbers)[self.order], self.numbers)

    def by_place(self, own: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Return the values of all processes at some of the rows, in the order of these, from those of this one."""
        return own if self.order is None else rows_of_all(own)[np.argsort(rows_of_all(places))]

    def absent_classes(self, response: Response, y: Rows) -> set[int]:
        """Return the classes that no row of any process has, of the rows of one observed site."""
        return set((absent_classes if self.numbers is None else absent_of_all)(response, y))

    def of_all(self, forecast: Forecast) -> Forecast:
        """Return the forecast of the rows of all processes, in their order, from that of these."""
        if self.order is None:
            return forecast
        return Forecast.joined([_gathered(forecast)], self.order)


def _gathered(forecast: Forecast) -> Forecast:
    columns: dict[str, Any] = {name: getattr(forecast, name) for name in COLUMNS}
    known = {name: _of_all(values) for name, values in columns.items() if values is not None}
    return Forecast(**known, sites={site: _gathered(each) for site, each in forecast.sites.items()})


def _of_all(own: np.ndarray) -> np.ndarray:
    """Return the values of all processes: labels are integers in some and, beside missing ones, real in others."""
    dtype = np.result_type(*map(np.dtype, from_all(own.dtype.str)))
    return rows_of_all(own.astype(dtype))
