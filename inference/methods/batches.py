"""Batches of rows that stay where they are: read ahead, some steps at a time, while others are computed."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import jax
import numpy as np
from jax import Array

from ..rows import Data
from ..start import BATCH_KEY
from ..stored import Stored, bytes_per_row, rows_per_part

MAX_STEPS = 32
"""The largest number of steps whose batches are read together."""


def order_of(key: Array, epoch: int, num_rows: int, window: int | None = None, shard: int | None = None) -> np.ndarray:
    """Return the order of all rows in an epoch, a permutation: the same for rows in memory and on disk.

    NumPy shuffles a million rows in the time in which JAX compiles a sort. Where rows can only be read one after the
    other, they are shuffled within windows of some rows. Of rows that are spread over devices each shard, by its
    number, has an order of its own.
    """
    order = np.arange(num_rows, dtype=np.int32 if num_rows <= np.iinfo(np.int32).max else np.int64)
    own = [] if shard is None else [shard]
    rng = np.random.default_rng([BATCH_KEY, *np.asarray(jax.random.key_data(key)).tolist(), epoch, *own])
    for start in range(0, num_rows, window or num_rows):
        rng.shuffle(order[start : start + (window or num_rows)])
    return order


class Batches:
    """The batches of all steps, in parts of `num_steps` batches each, of which one is read ahead by a thread.

    In memory are two parts, each of at most `PART_BYTES`, or one batch where this is larger; and the orders of two
    epochs. The epochs have the batches of `order_of`; rows that do not fill a batch are left for another epoch.

    Args:
        data: n rows, some of which stay where they are.
        size: the rows of a batch.
        last_step: the number of all steps.
        key: the key of the order.
        put: what brings rows to the devices.
    """

    def __init__(self, data: Data, size: int, last_step: int, key: Array, put: Callable[[Data], Data]) -> None:
        self.data, self.size, self.last_step, self.key, self.put = data, size, last_step, key, put
        self.num_steps = min(MAX_STEPS, last_step, rows_per_part(size * bytes_per_row(data.rows)))
        self._per_epoch = data.num_rows // size
        windows = [leaf.window for leaf in jax.tree.leaves(data.rows) if isinstance(leaf, Stored) and leaf.window]
        self._window = min(windows, default=None)
        self._reader, self._shuffler = (ThreadPoolExecutor(1, thread_name_prefix="flatprior") for _ in range(2))
        self._read: dict[int, Future[Data]] = {}
        self._orders: dict[int, Future[np.ndarray]] = {}

    def __enter__(self) -> "Batches":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        for each in (self._reader, self._shuffler):
            each.shutdown(wait=True, cancel_futures=True)

    def __getitem__(self, number: int) -> Data:
        """Return the rows of one part, on the devices: batch after batch, the last part filled up with other rows."""
        last = (self.last_step - 1) // self.num_steps
        self._read = {i: future for i, future in self._read.items() if i >= number}
        for i in range(number, min(number + 1, last) + 1):
            if i not in self._read:
                self._read[i] = self._reader.submit(self._rows, i)
        return self.put(self._read[number].result())

    def _rows(self, number: int) -> Data:
        steps = np.arange(number * self.num_steps, (number + 1) * self.num_steps)
        return self.data.take(np.concatenate([self._batch(step) for step in steps.tolist()]))

    def _batch(self, step: int) -> np.ndarray:
        epoch, place = divmod(step, self._per_epoch)
        return self._order(epoch)[place * self.size : (place + 1) * self.size]

    def _order(self, epoch: int) -> np.ndarray:
        """Return the order of an epoch, and let that of the next be made meanwhile."""
        self._orders = {i: future for i, future in self._orders.items() if i >= epoch}
        for i in (epoch, epoch + 1):
            if i not in self._orders:
                self._orders[i] = self._shuffler.submit(order_of, self.key, i, self.data.num_rows, self._window)
        return self._orders[epoch].result()
