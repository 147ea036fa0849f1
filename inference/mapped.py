"""Files that are mapped into memory: read by the processor itself, or ahead by several threads where pages are missing.

While the system has the pages of a file in memory, they are memory: on a CPU, compiled steps take rows from them as
from any array, without a copy. A page that is not there is read from disk when it is touched, and whoever touched it
waits, for some 100 microseconds: steps must not wait, and threads wait side by side.
"""

import mmap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import jax
import numpy as np

from .rows import Data
from .stored import PART_BYTES, Stored, bytes_per_row

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

SCATTERED_BYTES = 2**14
"""The size of rows up to which pages are read one by one, 16 KiB: of larger ones, the pages that follow are needed."""
ALIGNMENT = 64
"""The multiple of bytes at which an array must begin, for JAX to use its memory."""


def on_cpu(data: Data, device: Any) -> Data | None:
    """Return data whose rows on disk are arrays of a CPU in the memory that their files are mapped to.

    Those that are converted when they are read, such as labels in int64, are read into memory, and those in memory are
    copied, up to 64 MiB together. None where there are more, rows are not mapped, some are left out, or the device has
    a memory of its own.
    """
    leaves = jax.tree.leaves(data.rows)
    others = sum(len(leaf) * bytes_per_row(leaf) for leaf in leaves if not _is_array(leaf))
    can_be = resource is not None and device.platform == "cpu" and data.num_rows <= np.iinfo(np.int32).max
    if not can_be or others > PART_BYTES or not any(map(_is_array, leaves)):
        return None
    if not all(_is_shared(leaf.source, device) for leaf in leaves if _is_array(leaf)):
        return None
    arrays = jax.tree.map(lambda leaf: np.asarray(leaf.source if _is_array(leaf) else leaf), data.rows)
    return data.with_rows(jax.device_put(arrays, device))


def _is_array(leaf: Any) -> bool:
    """Return whether rows are those of a mapped file as they are, in memory that JAX can use."""
    if not isinstance(leaf, Stored) or _mapping(leaf.source) is None:
        return False
    source = leaf.source
    as_it_is = leaf.fill is None and leaf.chosen is None and leaf.dtype == source.dtype and source.dtype.isnative
    return as_it_is and source.flags.c_contiguous and source.ctypes.data % ALIGNMENT == 0


def _is_shared(source: np.ndarray, device: Any) -> bool:
    """Return whether JAX uses the memory of an array, as its first row shows: a copy might not fit in memory."""
    first = np.asarray(source[:1])
    return bool(jax.device_put(first, device).unsafe_buffer_pointer() == source.ctypes.data)


def _mapping(source: Any) -> mmap.mmap | None:
    """Return the map of the file in which an array lies; None where it does not."""
    while isinstance(source, np.ndarray):
        source = source.base
    return source if isinstance(source, mmap.mmap) else None


def are_mapped(data: Data) -> bool:
    """Return whether all rows that stay where they are are in memory maps, which several threads can read."""
    stored = [leaf for leaf in jax.tree.leaves(data.rows) if isinstance(leaf, Stored)]
    return bool(stored) and all(isinstance(leaf.source, np.ndarray) for leaf in stored)


@contextmanager
def read_at_random(data: Data) -> Iterator[None]:
    """Let the system read only the pages that are asked for, in a block that takes rows in random order.

    By default it reads 128 KiB for each page that is missing, which takes ten times as long.
    """
    leaves = [leaf for leaf in jax.tree.leaves(data.rows) if isinstance(leaf, Stored)]
    maps = [_mapping(leaf.source) for leaf in leaves if bytes_per_row(leaf) <= SCATTERED_BYTES]
    with ExitStack() as stack:
        for each in maps if hasattr(mmap, "MADV_RANDOM") else ():
            if each is not None:
                each.madvise(mmap.MADV_RANDOM)
                stack.callback(each.madvise, mmap.MADV_NORMAL)
        yield


class Misses:
    """Counts the pages that this process has waited for."""

    def __init__(self) -> None:
        self._before = self._count()

    def since(self) -> int:
        """Return their number since it was asked for the last time."""
        count = self._count()
        before, self._before = self._before, count
        return count - before

    @staticmethod
    def _count() -> int:
        return 0 if resource is None else resource.getrusage(resource.RUSAGE_SELF).ru_majflt
