"""What a fit has seen of its rows: their digest, their number, and the classes that are absent."""

from dataclasses import dataclass, replace

import jax
import numpy as np

from .digests import digest_of_rows
from .labels import RowCounts, labelled, with_gaps
from .processes import from_all
from .response import Response
from .rows import Data, Rows
from .spread import Shards, digests_of_all, have_weight, taking_part
from .stored import in_parts, stored
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


def seen_of_all(structure: Structure, shards: Shards, data: Data, weights: Rows) -> dict[str, Seen]:
    """Return what `seen_of` does for rows of several processes.

    Args:
        structure: the structure of the model.
        shards: the part of this process.
        data: the rows of this process; those that do not take part have the weight 0.
        weights: the weights that the user has given, or None.
    """
    if len(structure.responses) == 1:
        return {}
    seen, has_weight = {}, have_weight(data)
    own_weights = np.ones(data.num_rows) if data.weights is None else np.asarray(data.weights, float)
    for response in structure.responses:
        of_site = data.of_site(response.site)
        known = [np.asarray(leaf).reshape(data.num_rows, -1) for leaf in jax.tree.leaves(of_site.known)]
        has_label = np.concatenate(known, axis=1).any(axis=1) if known else np.ones(data.num_rows, bool)
        some = replace(of_site, weights=own_weights * has_label)
        counted = shards.counted & (some.weights > 0)
        unlabelled = int((shards.counted & has_weight & ~has_label).sum())
        missing = sum(int((~each[counted]).sum()) for each in known)
        own = [int(counted.sum()), unlabelled, missing, float(some.weights[counted].sum())]
        rows, unlabelled, missing, total = (sum(values) for values in zip(*from_all(own), strict=True))
        counts = RowCounts(rows, unlabelled, 0, missing, None if weights is None else total)
        digest, _ = digests_of_all(shards, some)
        seen[response.site] = Seen(digest, absent_of_all(response, taking_part(some).y), counts)
    return seen


def absent_of_all(response: Response, y: Rows) -> tuple[int, ...]:
    """Return the classes that are absent in every process, from the rows of this one; see `absent_classes`."""
    return tuple(sorted(set.intersection(*map(set, from_all(absent_classes(response, y))))))


def digest_of_weights(weights: Rows) -> str | None:
    """Return a digest of the weights of rows; None where they have none."""
    return None if weights is None else digest_of_rows(weights)


def absent_classes(response: Response, y: Rows) -> tuple[int, ...]:
    """Return the classes, or kinds of tokens, that no row of y has; none where y is no class, or soft labels."""
    leaves = jax.tree.leaves(y)
    if len(leaves) != 1 or response.num_classes is None:
        return ()
    counts = np.zeros(response.num_classes, int)
    (leaf,) = leaves
    for _, part in in_parts(stored(leaf) if isinstance(leaf, np.ndarray) else leaf):  # temporary arrays are small
        symbols = response.symbols(part)
        if symbols is None or symbols[1].dtype.kind not in "biu":
            return ()
        counts += np.bincount(symbols[1].astype(int), minlength=response.num_classes)
    return tuple(np.flatnonzero(counts == 0).tolist())
