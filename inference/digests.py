"""Digests of rows of data, by which a fit recognises its own rows."""

import hashlib
from typing import Any

import jax
import numpy as np

from .processes import from_all
from .remembered import Remembered
from .rows import Rows
from .stored import Stored, in_parts

SPACED_ROWS = 1_024
SUMMED_AT_A_TIME = 2**20


def digest_of_rows(*rows: Rows, numbers: np.ndarray | None = None, num_rows: int | None = None) -> str:
    """Return a digest of rows of data, by which a fit recognises its own rows.

    It is that of up to 1,024 evenly spaced rows, which tell their order, and of the sum of the bits of all numbers,
    which tells a change of any one; all as float32, so that it does not depend on the type in which rows are given. The
    time is that of a sum; a hash of all bytes takes ten times as long. Rows on disk whose digest is known from the
    check of their values are not read again.

    Args:
        rows: the rows of each array or pytree.
        numbers: the numbers of these rows among those of all processes, in which each row is given by one of them; by
            default these are all rows.
        num_rows: the number of rows of all processes.
    """
    leaves = jax.tree.leaves(rows)
    total = len(leaves[0]) if num_rows is None else num_rows
    spaced = _spaced(total)
    places = spaced if numbers is None else np.flatnonzero(np.isin(numbers, spaced))
    digests = [LeafDigest.of(leaf, places, numbers) for leaf in leaves]
    unknown = [i for i, each in enumerate(digests) if not each.is_complete]
    for start, parts in in_parts([leaves[i] for i in unknown]) if unknown else ():
        for i, part in zip(unknown, parts, strict=True):
            digests[i].add(start, np.asarray(part))
    for i in unknown:
        digests[i].complete()
    own = [[each.hashes, each.total] for each in digests]
    every: list[Any] = [own] if numbers is None else from_all(own)
    sha = hashlib.sha256()
    for i, leaf in enumerate(leaves):
        of_leaf = {int(number): each for own in every for number, each in own[i][0].items()}
        sha.update(f"{(total, *np.shape(leaf)[1:])}".encode())
        sha.update("".join(of_leaf[number] for number in sorted(of_leaf)).encode())
        sha.update(f"{sum(own[i][1] for own in every) % 2**64}".encode())
    return sha.hexdigest()


class LeafDigest:
    """What goes into a digest of one array, as its parts go by.

    Args:
        places: the rows that are hashed.
        numbers: the numbers of all rows, by which hashes are kept; by default those from 0.
        known: where it is remembered, if it is.
    """

    def __init__(self, places: np.ndarray, numbers: np.ndarray | None, known: Remembered | None = None) -> None:
        self._places, self._numbers, self._known = places, numbers, known
        self.hashes: dict[int, str] = {}
        """The hash of each of the rows, by number."""
        self.total = 0
        """The sum of the bits of all numbers."""
        self.is_complete = known is not None and known.value is not None
        """Whether all parts have gone by."""
        if known is not None and self.is_complete:
            self.hashes, self.total = known.value

    @classmethod
    def of(cls, leaf: Any, places: np.ndarray | None = None, numbers: np.ndarray | None = None) -> "LeafDigest":
        """Return that of an array, complete where it is known; by default of all of its rows."""
        known = Remembered("digest", leaf, also_here=True) if numbers is None and isinstance(leaf, Stored) else None
        return cls(_spaced(len(leaf)) if places is None else places, numbers, known)

    def add(self, start: int, part: np.ndarray) -> None:
        """Add the rows from a number on."""
        self.total = (self.total + _sum_of_bits(part)) % 2**64
        own = self._places[(self._places >= start) & (self._places < start + len(part))]
        for place, row in zip(own, np.ascontiguousarray(part[own - start], np.float32), strict=True):
            number = place if self._numbers is None else self._numbers[place]
            self.hashes[int(number)] = hashlib.sha256(row.tobytes()).hexdigest()

    def complete(self) -> None:
        """Remember it, when all parts have gone by."""
        self.is_complete = True
        if self._known is not None:
            self._known.keep((self.hashes, self.total))


def _spaced(num_rows: int) -> np.ndarray:
    return np.linspace(0, num_rows - 1, min(num_rows, SPACED_ROWS)).astype(int)


def _sum_of_bits(array: np.ndarray) -> int:
    """Return the sum of the elements as float32, read as integers, modulo 2^64, with a few rows in memory at a time."""
    total, size = 0, max(1, SUMMED_AT_A_TIME // max(1, array[:1].size))
    for start in range(0, len(array), size):
        numbers = np.ascontiguousarray(array[start : start + size], np.float32).reshape(-1)
        total += int(numbers.view(np.uint32).sum(dtype=np.uint64))
    return total % 2**64
