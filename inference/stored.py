"""Rows that stay where they are, on disk or with another library, and are read a part at a time."""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm.auto import tqdm

READ_BYTES = 2**28
"""The size of an array up to which it is read whole, 256 MiB: only a larger one stays where it is."""
MEMORY_SHARE = 0.5
"""The largest share of the free memory into which rows are read whole."""
PART_BYTES = 2**26
"""The size of the parts in which rows are read that are needed one after the other, 64 MiB."""
PART_ROWS = 2**20
"""The largest number of rows of such a part: what is computed of each row may be larger than the row."""
_IS_SHOWN = ContextVar("is_shown", default=True)
"""Whether progress bars are shown."""
_FIRST_ROW = ContextVar("first_row", default=0)
"""The number of the first of the rows that are being checked, among all rows."""


@dataclass(frozen=True, eq=False, repr=False)
class Stored:
    """An array that is read when rows of it are asked for, in the type that is asked for.

    It is a leaf of a pytree of rows like an array, has the attributes of one, and gives arrays for its rows:
    ``stored[3:10]``, or ``stored[[2, 7, 5]]``.
    """

    source: Any
    """What it is read from: anything with a shape, a type and rows by slices and by increasing indices."""
    dtype: np.dtype
    """The type of what is read."""
    chosen: np.ndarray | None = None
    """The rows of the source that are its rows, in their order; None is all of them."""
    window: int | None = None
    """The number of rows within which the order is free, where the source gives rows one after the other."""
    fill: np.ndarray | None = None
    """What takes the place of NaN, in the shape of a row; None where nothing does."""
    found: dict[Any, Any] = field(default_factory=dict)
    """What a call has found about the rows of the source; see `remembered`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, (n, ...)."""
        return len(self), *self.source.shape[1:]

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape))

    def __repr__(self) -> str:
        return f"rows of {self.dtype}{list(self.shape)}, read in parts"

    def __len__(self) -> int:
        return int(self.source.shape[0] if self.chosen is None else len(self.chosen))

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Return rows, by a number, a slice or an array of indices."""
        if isinstance(rows, int | np.integer):
            return self[np.array([rows])][0]
        if isinstance(rows, slice) and self.chosen is None:
            start, stop, step = rows.indices(len(self))
            if step == 1:
                return self._read(slice(start, max(start, stop)))
        indices = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows)
        indices = indices if self.chosen is None else self.chosen[indices]
        if isinstance(self.source, np.ndarray):  # `take` needs half the time of an index in brackets
            return self._converted(np.take(self.source, indices, axis=0))
        unique, place = np.unique(indices, return_inverse=True)  # HDF5 reads rows in increasing order
        if len(unique) and unique[-1] - unique[0] == len(unique) - 1:  # much faster, where they follow each other
            return self._read(slice(int(unique[0]), int(unique[-1]) + 1))[place]
        return self._read(unique)[place]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = np.empty(self.shape, dtype or self.dtype)
        for start, part in in_parts(self):
            whole[start : start + len(part)] = part
        return whole

    def _read(self, rows: Any) -> np.ndarray:
        return self._converted(np.asarray(self.source[rows]))

    def _converted(self, values: np.ndarray) -> np.ndarray:
        if self.fill is not None:
            values = np.where(np.isnan(values), self.fill, values)
        return values.astype(self.dtype, copy=False)

    def astype(self, dtype: Any) -> "Stored":
        """Return the same rows in another type, which they have when they are read."""
        return replace(self, dtype=np.dtype(dtype))

    def filled(self, fill: np.ndarray, dtype: Any) -> "Stored":
        """Return the same rows with other numbers in the place of NaN, in a type."""
        return replace(self, fill=fill, dtype=np.dtype(dtype))

    def unfilled(self) -> "Stored":
        """Return the same rows with NaN where the source has it."""
        return self if self.fill is None else replace(self, fill=None, dtype=np.dtype(self.source.dtype))

    def take(self, rows: np.ndarray) -> "Stored":
        """Return some of the rows, by an array of indices, without reading them.

        Where the source gives rows one after the other they are in increasing order.
        """
        if self.window is None:
            return replace(self, chosen=np.asarray(rows) if self.chosen is None else self.chosen[rows])
        chosen = np.sort(rows) if self.chosen is None else self.chosen[np.sort(rows)]
        return replace(self, chosen=chosen, window=max(1, self.window * len(rows) // len(self)))


class ArrowRows:
    """The rows of an Arrow table or record batch, with its columns in their order, in the type that holds them all.

    Such a table may lie in a file: ``pyarrow.ipc.open_file(pyarrow.memory_map(path)).read_all()``.
    """

    def __init__(self, table: Any) -> None:
        self._table = table
        self.shape: tuple[int, int] = (table.num_rows, len(table.column_names))
        types = [np.dtype(field.type.to_pandas_dtype()) for field in table.schema]
        lacks = [
            column.null_count > 0 and dtype.kind != "f" for column, dtype in zip(table.columns, types, strict=True)
        ]
        self.dtype = np.result_type(*types, *([np.float64] if any(lacks) else []))

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Return rows, by a slice or indices; NaN where one has no value."""
        is_slice = isinstance(rows, slice)
        some = self._table.slice(rows.start, rows.stop - rows.start) if is_slice else self._table.take(rows)
        return np.asarray(some).astype(self.dtype, copy=False)


def is_arrow(leaf: Any) -> bool:
    """Return whether rows are an Arrow table or record batch."""
    return all(hasattr(leaf, name) for name in ("column_names", "num_rows", "schema", "slice", "take"))


def stays(leaf: Any) -> bool:
    """Return whether rows stay where they are: in an array on disk, or of another library, larger than `READ_BYTES`."""
    if isinstance(leaf, Stored):
        return True
    if is_arrow(leaf):
        return leaf.nbytes > READ_BYTES  # type: ignore[no-any-return]
    if isinstance(leaf, jax.Array) or (isinstance(leaf, np.ndarray) and not isinstance(leaf, np.memmap)):
        return False
    if not all(hasattr(leaf, name) for name in ("shape", "dtype", "__getitem__")) or hasattr(leaf, "iloc"):
        return False
    try:
        dtype = np.dtype(leaf.dtype)
    except TypeError:  # of a library with types of its own
        return False
    return len(leaf.shape) > 0 and int(np.prod(leaf.shape)) * dtype.itemsize > READ_BYTES


def stored(leaf: Any) -> Stored:
    """Return rows that stay where they are as a leaf."""
    if isinstance(leaf, Stored):
        return replace(leaf, found={})  # what another call has found may have changed
    source = ArrowRows(leaf) if is_arrow(leaf) else leaf
    return Stored(source, np.dtype(source.dtype))


def beside(rows: Any, others: Any) -> Any:
    """Return rows; those in NumPy as rows that are read in parts, where others stay where they are.

    They may be large as well: what is computed of all of them at once, such as labels in another type, would be.
    """
    if not is_stored(others):
        return rows
    return jax.tree.map(lambda leaf: stored(leaf) if isinstance(leaf, np.ndarray) else leaf, rows)


def is_stored(rows: Any) -> bool:
    """Return whether any leaf of a pytree of rows stays where it is."""
    return any(isinstance(leaf, Stored) for leaf in jax.tree.leaves(rows))


def read(rows: Any, caller: str) -> Any:
    """Return a pytree of rows with all of them in memory.

    Args:
        rows: a pytree of arrays with n rows first.
        caller: what needs all rows, for the message.

    Raises:
        ValueError: when they would take more than `MEMORY_SHARE` of the memory that is free.
    """
    needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(rows) if isinstance(leaf, Stored))
    free = free_memory() if needed > READ_BYTES else needed / MEMORY_SHARE
    if needed > MEMORY_SHARE * free:
        raise ValueError(
            f"{caller}: expected rows of at most half of the free memory, {free / 2**30:.3g} GiB, since it needs all "
            f"of them at once; got {needed / 2**30:.3g} GiB of rows that stay on disk. Take some of the rows, or a "
            f"method that reads them by batches, such as MAP(batch_size=1024)."
        )
    return jax.tree.map(lambda leaf: np.asarray(leaf) if isinstance(leaf, Stored) else leaf, rows)


def free_memory() -> float:
    """Return the bytes of memory that this process may still use; infinite where the system does not say."""
    try:
        known = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(known["MemAvailable"].split()[0]) * 2**10
    except (OSError, KeyError, ValueError):  # not Linux
        return math.inf
    try:  # in a container
        limit, used = (Path(f"/sys/fs/cgroup/memory.{name}").read_text() for name in ("max", "current"))
        return min(free, max(0, int(limit) - int(used)))
    except (OSError, ValueError):
        return free


def chosen(rows: Any, indices: np.ndarray) -> Any:
    """Return some of the rows of a pytree, by indices; those that stay where they are are not read."""
    return jax.tree.map(lambda leaf: leaf.take(indices) if isinstance(leaf, Stored) else leaf[indices], rows)


def in_parts(rows: Any, label: str = "") -> Iterator[tuple[int, Any]]:
    """Yield the number of the first row and the rows of each part; rows in memory are one part.

    Args:
        rows: a pytree of arrays with n rows first.
        label: the label of a progress bar, which is shown from the first second on.
    """
    leaves = jax.tree.leaves(rows)
    if not is_stored(rows):
        yield 0, rows
        return
    num_rows = len(leaves[0])
    read = [getattr(leaf.source, "bytes_read", 0) for leaf in leaves if isinstance(leaf, Stored)]
    size = min(PART_ROWS, rows_per_part(max(bytes_per_row(leaves), *read)))
    is_hidden = not label or not _IS_SHOWN.get()
    with tqdm(
        total=num_rows, desc=label, unit="row", disable=is_hidden, delay=1.0, file=sys.stderr, leave=False
    ) as bar:
        for start in range(0, num_rows, size):
            part = slice(start, start + size)
            yield start, jax.tree.map(lambda leaf: leaf[part], rows)  # noqa: B023
            bar.update(min(size, num_rows - start))


def bytes_per_row(rows: Any) -> int:
    """Return the bytes of one row of a pytree of arrays in memory."""
    return sum(leaf.size // max(1, len(leaf)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(rows))


def rows_per_part(bytes_per_row: int) -> int:
    """Return how many rows of some bytes are read together."""
    return max(1, PART_BYTES // max(1, bytes_per_row))


def check_in_parts(check: Callable[[Any], None], rows: Any, label: str = "") -> None:
    """Call a check for each part of some rows; its messages have the numbers of rows among all rows."""
    for start, part in in_parts(rows, label):
        with numbered_from(start):
            check(part)


@contextmanager
def bars(*, are_shown: bool) -> Iterator[None]:
    """Show progress bars where rows are read in parts, or none."""
    token = _IS_SHOWN.set(are_shown)
    try:
        yield
    finally:
        _IS_SHOWN.reset(token)


@contextmanager
def numbered_from(first_row: int) -> Iterator[None]:
    """Let messages number rows from another number than 0."""
    token = _FIRST_ROW.set(_FIRST_ROW.get() + first_row)
    try:
        yield
    finally:
        _FIRST_ROW.reset(token)


def number_of(row: int) -> int:
    """Return the number of a row of the part that is being checked, among all rows."""
    return _FIRST_ROW.get() + int(row)
