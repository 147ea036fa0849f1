"""What a fit has seen of its rows: their digest, their number, and the classes that are absent."""

from dataclasses import dataclass

import jax
import numpy as np

from .fingerprint import digest_of_rows
from .labels import RowCounts, labelled, with_gaps
from .response import Response
from .rows import Data, Rows
from .stored import in_parts
from .structure import Structure


@dataclass(frozen=True)
class Seen:
    """What a fit has seen of one of several observed sites."""

    rows: str | None = None
    """The digest of the rows of x and of this site; None where it is not known."""
    absent: tuple[int, ...] = ()
    """The classes that occur in none of these rows."""
    counts: RowCounts | None = None
    """These rows, counted."""


def seen_of(structure: Structure, data: Data) -> dict[str, Seen]:
    """Return the rows of each of several observed sites that have a label there; nothing where there is one site."""
    if len(structure.responses) == 1:
        return {}
    seen = {}
    for response in structure.responses:
        of_site = data.of_site(response.site)
        given = labelled(of_site.x, with_gaps(of_site.y, of_site.known), of_site.weights)
        x, y, _ = given.scored
        seen[response.site] = Seen(digest_of_rows(x, y), absent_classes(response, y), given.counts)
    return seen


def digest_of_weights(weights: Rows) -> str | None:
    """Return a digest of the weights of rows; None where they have none."""
    return None if weights is None else digest_of_rows(weights)


def absent_classes(response: Response, y: Rows) -> tuple[int, ...]:
    """Return the classes, or kinds of tokens, that no row of y has; none where y is no class, or soft labels."""
    leaves = jax.tree.leaves(y)
    if len(leaves) != 1 or response.num_classes is None:
        return ()
    counts = np.zeros(response.num_classes, int)
    for _, part in in_parts(leaves[0]):
        symbols = response.symbols(part)
        if symbols is None or symbols[1].dtype.kind not in "biu":
            return ()
        counts += np.bincount(symbols[1].astype(int), minlength=response.num_classes)
    return tuple(np.flatnonzero(counts == 0).tolist())
