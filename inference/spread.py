"""Rows that arrive sharded over devices or processes: what each process has of them, and checks."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax
import numpy as np

from .arrays import is_array
from .devices import Spread, row_axes
from .digests import digest_of_rows
from .labels import Labelled, RowCounts, labelled, with_gaps
from .processes import from_all, rows_of_all
from .rows import Data, Rows, count_rows
from .scales import spaced
from .stored import numbered_from

SAMPLED = 2**20
"""The largest number of elements of the rows that each process sends to the others for checks."""


@dataclass(frozen=True)
class Shards:
    """Rows that are sharded over a mesh, and the part of them that this process has."""

    spread: Spread
    num_rows: int
    """The number of rows of all processes."""
    ranges: tuple[tuple[int, int], ...]
    """The first row, and the one after the last, of each shard that this process has."""
    owned: tuple[bool, ...]
    """Whether this is the first process that has the shard, so that it counts once."""

    @classmethod
    def of(cls, x: Rows, y: Rows, weights: Any) -> "Shards | None":
        """Return the shards of rows of x; None where no process or device has a part of them.

        Raises:
            ValueError: when rows are sharded in another way than by rows, or those of y and weights than those of x.
        """
        leaves = [
            (f"{name}{jax.tree_util.keystr(path)}", leaf)
            for name, rows in (("x", x), ("y", y), ("weights", weights))
            for path, leaf in jax.tree.leaves_with_path(rows, is_leaf=is_array)
            if isinstance(leaf, jax.Array) and not leaf.is_fully_replicated
        ]
        if not leaves:
            return None
        first, leaf = leaves[0]
        for name, each in leaves:
            _check_by_rows(name, each)
            if not each.sharding.is_equivalent_to(_as_rows(leaf), each.ndim):
                raise ValueError(f"{name}: expected the sharding of {first}, {leaf.sharding}; got {each.sharding}.")
        holders: dict[tuple[int, int], list[int]] = {}
        for device, index in leaf.sharding.devices_indices_map(leaf.shape).items():
            assert index is not None
            assert isinstance(device, jax.Device)
            start, stop, _ = index[0].indices(leaf.shape[0])
            holders.setdefault((start, stop), []).append(device.process_index)
        own = {bounds: held for bounds, held in sorted(holders.items()) if jax.process_index() in held}
        is_first = tuple(min(held) == jax.process_index() for held in own.values())
        return cls(Spread.of_array(leaf), leaf.shape[0], tuple(own), is_first)

    def of_process(self, name: str, rows: Rows) -> Rows:
        """Return the rows of this process in NumPy; of arrays that are not sharded, its part of the rows.

        Raises:
            ValueError: when an array has another number of rows.
        """

        def part(leaf: Any) -> Any:
            if np.ndim(leaf) == 0 or len(leaf) != self.num_rows:
                raise ValueError(f"{name}: expected {self.num_rows} rows, as x has; got shape {np.shape(leaf)}.")
            if isinstance(leaf, jax.Array) and not leaf.is_fully_replicated:
                pieces = {_start(shard): shard.data for shard in leaf.addressable_shards}
                return np.concatenate([np.asarray(pieces[start]) for start, _ in self.ranges])
            return np.concatenate([np.asarray(leaf[start:stop]) for start, stop in self.ranges])

        return jax.tree.map(part, rows)

    def own(self, x: Rows, y: Rows, weights: Any) -> list[Rows]:
        """Return the rows of this process, of x, y and weights; see `of_process`."""
        return [self.of_process(name, rows) for name, rows in (("x", x), ("y", y), ("weights", weights))]

    def of_all(self, rows: Rows, given: Rows) -> Rows:
        """Return the rows of all processes, sharded, from those of this one.

        Args:
            rows: the rows of this process.
            given: the sharded arrays that they are from, whose memory is used where no value has changed.
        """
        leaves, tree = jax.tree.flatten(rows)
        sources = jax.tree.leaves(given)
        sources = sources if len(sources) == len(leaves) else [None] * len(leaves)
        return jax.tree.unflatten(tree, [self._of_all(*pair) for pair in zip(leaves, sources, strict=True)])

    def _of_all(self, leaf: np.ndarray, given: Any) -> jax.Array:
        shape = (self.num_rows, *leaf.shape[1:])
        if isinstance(given, jax.Array) and not given.is_fully_replicated and given.dtype == leaf.dtype:
            pieces = [shard.data for shard in given.addressable_shards]
            return jax.make_array_from_single_device_arrays(shape, self.spread.sharding, pieces)
        begins = np.cumsum([0, *(stop - start for start, stop in self.ranges)])
        places = {start: int(begin) for (start, _), begin in zip(self.ranges, begins, strict=False)}

        def piece(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(self.num_rows)
            return leaf[places[start] : places[start] + stop - start]

        return jax.make_array_from_callback(shape, self.spread.sharding, piece)

    @property
    def first_row(self) -> int:
        """The number of the first row of this process, where its rows follow each other, as on most meshes; else 0."""
        follow = all(stop == start for (_, stop), (start, _) in pairwise(self.ranges))
        return self.ranges[0][0] if follow else 0

    @property
    def counted(self) -> np.ndarray:
        """Whether each row of this process is counted by it, and by no other one."""
        return np.concatenate(
            [np.full(stop - start, owned) for (start, stop), owned in zip(self.ranges, self.owned, strict=True)]
        )


def labelled_part(shards: Shards, x: Rows, y: Rows, weights: Any) -> Labelled:
    """Return the rows of this process and which of them take part; the others remain, with a weight of 0."""
    parts = shards.own(x, y, weights)
    with numbered_from(shards.first_row):
        given = labelled(*parts)
    if given.kept is None:
        return given
    takes_part = np.isin(np.arange(count_rows(given.y)), given.kept)
    own = np.ones(len(takes_part)) if given.weights is None else given.weights
    return given._replace(kept=None, weights=np.where(takes_part, own, 0).astype(jax.dtypes.canonicalize_dtype(float)))


def sample_of_all(given: Labelled) -> tuple[Rows, Rows]:
    """Return some rows of x and y of all processes: those of one may be alike where they are sorted."""
    num_rows = count_rows(given.y)
    per_row = max(1, max(leaf.size // num_rows for leaf in jax.tree.leaves((given.x, given.y))))
    chosen = spaced(num_rows)
    chosen = chosen[:: -(-len(chosen) // max(2, SAMPLED // per_row))]
    return jax.tree.map(lambda leaf: rows_of_all(np.asarray(leaf)[chosen]), (given.x, given.y))


def over_processes(shards: Shards, data: Data, x: Rows, y: Rows, weights: Any) -> Data:
    """Return the data of all processes, sharded like the arrays of the user.

    Raises:
        ValueError: when the processes have rows of different shapes or types.
    """
    kinds = [[str((leaf.shape[1:], str(leaf.dtype))) for leaf in jax.tree.leaves(rows)] for rows in (data.x, data.y)]
    found = from_all([kinds, data.weights is not None, data.known is not None])
    for i, (others, _, _) in enumerate(found):
        if others != found[0][0]:
            raise ValueError(
                f"Expected rows of the same shapes and types in every process; got {found[0][0]} in process 0, and "
                f"{others} in process {i}. Labels of which only some processes miss values are to be real numbers."
            )
    own, known = data.weights, data.known
    if own is None and any(has for _, has, _ in found):
        own = np.ones(data.num_rows, jax.dtypes.canonicalize_dtype(float))
    if known is None and any(has for _, _, has in found):
        known = jax.tree.map(lambda leaf: np.ones(np.shape(leaf), bool), data.y)
    x, y = shards.of_all(data.x, x), shards.of_all(data.y, y)
    return data.with_rows((x, y, shards.of_all(own, weights), shards.of_all(known, None)))


def counts_of_all(shards: Shards, counts: RowCounts, x: Rows, y: Rows, weights: Any) -> RowCounts:
    """Return the rows of all processes, each counted once.

    Args:
        shards: the part of this process.
        counts: the rows of this process, some of which others may have as well.
        x: the sharded rows of x.
        y: those of y.
        weights: those of the weights, or None.
    """
    if all(shards.owned):
        return summed_counts(counts)
    chosen = np.flatnonzero(shards.counted)
    if not chosen.size:
        return summed_counts(RowCounts(0))
    some = (jax.tree.map(lambda leaf: leaf[chosen], rows) for rows in shards.own(x, y, weights))
    return summed_counts(labelled(*some).counts)


def summed_counts(counts: RowCounts) -> RowCounts:
    """Return the sums of the counts of all processes, each of rows that no other counts."""
    own = list(vars(counts).values())
    of_all = [each for each in from_all(own) if each[0]]
    weight = sum(each[4] for each in of_all) if of_all[0][4] is not None else None
    rows, unlabelled, unweighted, missing = (sum(each[i] for each in of_all) for i in range(4))
    return RowCounts(rows, unlabelled, unweighted, missing, weight)


def taking_part(data: Data) -> Data:
    """Return the rows of this process that have a label and a positive weight."""
    return data if data.weights is None else data.take(np.flatnonzero(have_weight(data)))


def have_weight(data: Data) -> np.ndarray:
    """Return whether each row of this process has a positive weight: those without a label have none."""
    return np.ones(data.num_rows, bool) if data.weights is None else np.asarray(data.weights) > 0


def digests_of_all(shards: Shards, data: Data) -> tuple[str, str]:
    """Return the digests of the rows of all processes that take part, and of their weights.

    They are those of one process which has all of them.

    Args:
        shards: the part of this process.
        data: the rows of this process.
    """
    takes_part = have_weight(data)
    parts = np.split(takes_part, np.cumsum([stop - start for start, stop in shards.ranges])[:-1])
    own = [(start, int(part.sum())) for (start, _), part in zip(shards.ranges, parts, strict=True)]
    counts = {start: count for each in from_all(own) for start, count in each}
    begins = dict(zip(sorted(counts), np.cumsum([0, *(counts[start] for start in sorted(counts))]), strict=False))
    ends = [begins[start] + np.cumsum(part) for (start, _), part in zip(shards.ranges, parts, strict=True)]
    chosen = np.flatnonzero(takes_part & shards.counted)
    some = data.take(chosen)
    where = {"numbers": np.concatenate(ends)[chosen] - 1, "num_rows": sum(counts.values())}
    row_weights = np.ones(len(chosen)) if some.weights is None else some.weights
    return digest_of_rows(some.x, with_gaps(some.y, some.known), **where), digest_of_rows(row_weights, **where)


def check_spreads(method: Any, shards: Shards) -> None:
    """Raise ValueError where a method cannot compute with rows that are sharded."""
    if not getattr(method, "spreads_rows", False):
        name = type(method).__name__
        raise ValueError(
            f"{name}: expected all rows on every device; got rows in {shards.spread.num_shards} shards, over which "
            f"MLE, MAP, Ensemble, Variational, NUTS, MCLMC and SGMCMC compute, and {name} does not. Gather them first: "
            f"np.asarray(x), or of several processes jax.experimental.multihost_utils.process_allgather(x, tiled=True)."
        )


def check_same(text: str, rows: str) -> None:
    """Raise ValueError unless every process has the same settings, and the same rows by their digest."""
    digests = from_all([text, rows])
    for i, (settings, _) in enumerate(digests):
        if settings != digests[0][0]:
            raise ValueError(f"Expected the same method and key in every process; got others in process {i} than in 0.")
    for i, (_, own) in enumerate(digests):
        if own != digests[0][1]:
            raise ValueError(
                f"Expected the same rows in every process, or arrays that are sharded over processes; process {i} has "
                f"others than process 0. Join the rows of all by jax.make_array_from_process_local_data."
            )


def _start(shard: Any) -> int:
    return int(shard.index[0].start or 0)


def _check_by_rows(name: str, array: jax.Array) -> None:
    """Raise ValueError unless an array is sharded along its first axis alone."""
    spec: Any = getattr(array.sharding, "spec", array.sharding)
    if not row_axes(array) or any(axis is not None for axis in spec[1:]):
        raise ValueError(
            f"{name}: expected rows sharded along the first axis alone, as by "
            f'jax.device_put({name}, NamedSharding(mesh, PartitionSpec("rows"))); got {spec}.'
        )


def _as_rows(array: jax.Array) -> jax.sharding.NamedSharding:
    """Return the sharding by rows of an array for arrays with another number of axes."""
    return Spread.of_array(array).sharding
