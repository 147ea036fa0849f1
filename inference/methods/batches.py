"""The batches of rows of every step, of rows on the devices and of rows that stay where they are.

These are read ahead, some steps at a time, while others are computed. Compiled steps take both in one way: they get an
order and rows, a `Part`, and take batches of these by `batch_of`.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from ..devices import Sharding, Spread, by_shard
from ..rows import Data
from ..start import BATCH_KEY
from ..stored import Stored, bytes_per_row, rows_per_part

MAX_STEPS = 32
"""The largest number of steps whose batches are read together."""
SHUFFLED_ROWS = 2**20
"""The number of rows that are shuffled at a time, in whole epochs: the length of the array that blocks read."""


class Part(NamedTuple):
    """Steps whose batches are taken from the same rows."""

    order: Array | np.ndarray
    """The indices of rows, batch after batch: (order,), or of rows that are spread (shard, order) within each shard."""
    first: int
    """The first step, counted from the beginning of the order."""
    last: int
    """The step after the last one."""
    data: Data
    """The rows, on the devices."""


def batch_of(data: Data, order: Array, i: Array | int, size: int | None) -> Data:
    """Return the batch of the i-th step of an order, under a trace; all rows where it has no size."""
    if size is None:
        return data
    size = size * order.shape[-1] // order.size  # of one shard
    rows = jax.lax.dynamic_slice_in_dim(order, i * size, size, axis=-1)
    # The barrier keeps XLA from transposing all of x before the loop instead of a batch inside it.
    return jax.lax.optimization_barrier(by_shard(data, rows) if order.ndim > 1 else data.take(rows))


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


class Epochs(NamedTuple):
    """The orders of rows in epochs, each in whole batches; rows that do not fill a batch are left for another epoch."""

    key: Array
    num_rows: int
    """The number of rows, of one shard where these are spread."""
    size: int
    """The rows of a batch, of one shard."""
    returning: bool = False
    """Whether every second epoch has the batches of the one before, from the last to the first."""
    window: int | None = None
    """See `order_of`; rows that can only be read one after the other are not read backwards."""

    def order(self, epoch: int, shard: int | None = None) -> np.ndarray:
        """Return the rows of an epoch, batch after batch."""
        used = self.num_rows - self.num_rows % self.size
        if not self.returning or self.window is not None:
            return order_of(self.key, epoch, self.num_rows, self.window, shard)[:used]
        order = order_of(self.key, epoch // 2, self.num_rows, shard=shard)[:used].reshape(-1, self.size)
        return order[:: 1 - 2 * (epoch % 2)].reshape(-1)


class Resident:
    """The batches of all steps, of rows that are on the devices.

    Args:
        data: n rows.
        size: the rows of a batch; None is all of them at every step.
        last_step: the number of all steps.
        key: the key of the order.
        spread: how the rows are spread over devices. A batch then has as many rows of each shard, which epochs shuffle
            within the shard: no row is sent, only the gradient.
        returning: see `Epochs`.
    """

    def __init__(
        self,
        data: Data,
        size: int | None,
        last_step: int,
        key: Array,
        spread: Spread | None = None,
        *,
        returning: bool = False,
    ) -> None:
        self.data, self.last_step, self.spread, self.is_whole = data, last_step, spread, size is None
        shards = 1 if spread is None else spread.num_shards
        num_rows, size = data.num_rows // shards, (size or data.num_rows) // shards
        self._epochs = Epochs(key, num_rows, size, returning)
        self._per_epoch, self._num_epochs = num_rows // size, max(1, SHUFFLED_ROWS // data.num_rows)
        self._order: tuple[int, Array | np.ndarray] = (-1, np.zeros(0, np.int32))

    def parts(self, begin: int, end: int) -> Iterator[Part]:
        """Yield the steps begin, ..., end - 1 in parts."""
        if self.is_whole:
            yield Part(self._order[1], begin, end, self.data)
            return
        together = self._num_epochs * self._per_epoch
        while begin < end:
            number, first = divmod(begin, together)
            if number != self._order[0]:
                self._order = number, self._shuffled(number * self._num_epochs)
            last = min(together, first + end - begin)
            yield Part(self._order[1], first, last, self.data)
            begin += last - first

    def _shuffled(self, first: int) -> Array | np.ndarray:
        """Return the order of the epochs from `first` on that blocks read together, padded to one length."""
        used = self._per_epoch * self._epochs.size
        count = min(self._num_epochs, -(-self.last_step // self._per_epoch) - first)

        def of_shard(shard: int | None) -> np.ndarray:
            orders = np.zeros((self._num_epochs, used), np.int32)
            for i in range(count):
                orders[i] = self._epochs.order(first + i, shard)
            return orders.reshape(-1)

        if self.spread is None:
            return of_shard(None)
        each, shape = range(self.spread.num_shards), (self.spread.num_shards, self._num_epochs * used)
        return jax.make_array_from_callback(
            shape,
            self.spread.sharding,
            lambda index: np.stack([of_shard(i) for i in each[index[0]]]),  # type: ignore[index]
        )


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
        returning: see `Epochs`.
    """

    def __init__(
        self,
        data: Data,
        size: int,
        last_step: int,
        key: Array,
        put: Callable[[Data], Data],
        *,
        returning: bool = False,
    ) -> None:
        self.data, self.size, self.last_step, self.put = data, size, last_step, put
        self.num_steps = min(MAX_STEPS, last_step, rows_per_part(size * bytes_per_row(data.rows)))
        self._per_epoch = data.num_rows // size
        windows = [leaf.window for leaf in jax.tree.leaves(data.rows) if isinstance(leaf, Stored) and leaf.window]
        self._epochs = Epochs(key, data.num_rows, size, returning, min(windows, default=None))
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

    def parts(self, begin: int, end: int) -> Iterator[Part]:
        """Yield the steps begin, ..., end - 1 in parts."""
        order = np.arange(self.num_steps * self.size, dtype=np.int32)
        while begin < end:
            number, first = divmod(begin, self.num_steps)
            last = min(self.num_steps, first + end - begin)
            yield Part(order, first, last, self[number])
            begin += last - first

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
                self._orders[i] = self._shuffler.submit(self._epochs.order, i)
        return self._orders[epoch].result()


@contextmanager
def batches_of(
    data: Data, size: int | None, num_steps: int, key: Array, sharding: Sharding, *, returning: bool = False
) -> Iterator[Resident | Batches]:
    """Yield the batches of all steps of a run, on the devices of a sharding; see `Resident` and `Batches`."""

    def put(some: Data) -> Data:
        return sharding.place(some) if sharding.mesh.size > 1 else jax.device_put(some)

    if data.is_stored and size is not None:
        with Batches(data, size, num_steps, key, put, returning=returning) as batches:
            yield batches
        return
    yield Resident(sharding.place(data), size, num_steps, key, sharding.spread, returning=returning)


def check_batch_size(method: str, size: int | None, data: Data) -> None:
    """Raise ValueError where a batch cannot be taken from the rows."""
    spread = Spread.of(data)
    if size is None:
        return
    if size > data.num_rows:
        raise ValueError(f"{method}: expected batch_size to be at most {data.num_rows}, the rows to fit; got {size}.")
    if spread is not None and size % spread.num_shards:
        raise ValueError(
            f"{method}: expected batch_size to be a multiple of {spread.num_shards}, the shards of the rows, each of "
            f"which has as many rows of every batch; got {size}."
        )
