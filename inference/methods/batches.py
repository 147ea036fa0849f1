"""The batches of rows of every step, of rows on the devices and of rows that stay where they are.

These are read ahead, some steps at a time, while others are computed, or taken from the memory to which their file is
mapped. Compiled steps take all in one way: they get an order and rows, a `Part`, and take batches of these by
`batch_of`.
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
from ..mapped import Misses, are_mapped, on_cpu, read_at_random
from ..rows import Data
from ..stored import Stored, bytes_per_row, rows_per_part
from .orders import Epochs, Orders

MAX_STEPS = 32
"""The largest number of steps whose batches are read together."""
SHUFFLED_ROWS = 2**20
"""The number of rows that are shuffled at a time, in whole epochs: the length of the array that blocks read."""
READERS = 16
"""The number of threads that wait for pages of files."""
MISSED = 1 / 2048
"""The share of rows whose pages are missing in memory from which threads wait for them, and steps do not."""
JUDGED_ROWS = 2**15
"""The number of rows of steps by which this is judged: a process waits for pages of its programs as well."""
KEPT_PARTS = 4
"""The number of parts whose rows are known: that of the steps, and those that are read ahead."""
CLEAN_PARTS = 8
"""The number of parts without such pages after which steps no longer wait for threads."""


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

    In memory are two parts, each of at most `PART_BYTES`, or one batch where this is larger; and the order of an epoch.
    The epochs have the batches of `order_of`; rows that do not fill a batch are left for another epoch.

    Rows in memory maps are not read ahead while their pages are in memory, and by several threads where some are not.

    Args:
        data: n rows, some of which stay where they are.
        size: the rows of a batch.
        last_step: the number of all steps.
        key: the key of the order.
        put: what brings rows to the devices.
        returning: see `Epochs`.
        mapped: the same rows, as arrays of the device; None where it has a memory of its own.
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
        mapped: Data | None = None,
    ) -> None:
        self.data, self.size, self.last_step, self.put = data, size, last_step, put
        self.num_steps = min(MAX_STEPS, last_step, rows_per_part(size * bytes_per_row(data.rows)))
        windows = [leaf.window for leaf in jax.tree.leaves(data.rows) if isinstance(leaf, Stored) and leaf.window]
        self._orders = Orders(Epochs(key, data.num_rows, size, returning, min(windows, default=None)), last_step)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="flatprior")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="flatprior") if are_mapped(data) else None
        self._read: dict[int, Future[Data]] = {}
        self._rows: dict[int, np.ndarray] = {}
        """The rows of the last parts, by number."""
        self._mapped, self._is_mapped, self._misses = mapped, mapped is not None, Misses()
        self._taken, self._clean = 0, 0
        """The rows that steps have taken since it was judged whether they wait, and the last parts without waiting."""

    def __enter__(self) -> "Batches":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        for each in (self._reader, self._readers):
            if each is not None:
                each.shutdown(wait=True, cancel_futures=True)
        self._orders.close()

    def parts(self, begin: int, end: int) -> Iterator[Part]:
        """Yield the steps begin, ..., end - 1 in parts."""
        self._judge()
        self._taken += (end - begin) * self.size
        in_turn = np.arange(self.num_steps * self.size, dtype=np.int32)
        while begin < end:
            number, first = divmod(begin, self.num_steps)
            last = min(self.num_steps, first + end - begin)
            if self._is_mapped and self._mapped is not None:
                yield Part(self._rows_of(number), first, last, self._mapped)
            else:
                yield Part(in_turn, first, last, self[number])
            begin += last - first

    def _judge(self) -> None:
        """Decide whether steps take rows from the memory to which files are mapped, or threads read them ahead."""
        if self._is_mapped and self._taken >= JUDGED_ROWS:
            self._is_mapped = not self._are_missed(self._taken)
            self._taken, self._clean = 0, 0
        elif self._mapped is not None and not self._is_mapped and self._clean >= CLEAN_PARTS:
            for future in self._read.values():  # what is made of orders is made by one thread at a time
                future.result()
            self._read, self._is_mapped, self._taken = {}, True, 0
            self._misses.since()

    def __getitem__(self, number: int) -> Data:
        """Return the rows of one part, on the devices: batch after batch, the last part filled up with other rows."""
        last = (self.last_step - 1) // self.num_steps
        self._read = {i: future for i, future in self._read.items() if i >= number}
        for i in range(number, min(number + 1, last) + 1):
            if i not in self._read:
                self._read[i] = self._reader.submit(self._part, i)
        return self.put(self._read[number].result())

    def _part(self, number: int) -> Data:
        rows = self._rows_of(number)
        if self._readers is None or self._clean:
            data = self.data.take(rows)
        else:
            pieces = list(self._readers.map(self.data.take, np.array_split(rows, READERS)))
            data = jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)
        self._clean = 0 if self._are_missed(len(rows)) else self._clean + 1
        return data

    def _rows_of(self, number: int) -> np.ndarray:
        """Return the rows of one part, batch after batch; those after the last step are the rows of the last step."""
        if number not in self._rows:
            steps = range(number * self.num_steps, (number + 1) * self.num_steps)
            batches = [self._orders.batch(min(step, self.last_step - 1)) for step in steps]
            self._rows = {i: rows for i, rows in self._rows.items() if i > number - KEPT_PARTS}
            self._rows[number] = np.concatenate(batches)
        return self._rows[number]

    def _are_missed(self, num_rows: int) -> bool:
        """Return whether the pages of too many of the last rows were missing in memory."""
        return self._misses.since() > MISSED * num_rows


@contextmanager
def batches_of(
    data: Data, size: int | None, num_steps: int, key: Array, sharding: Sharding, *, returning: bool = False
) -> Iterator[Resident | Batches]:
    """Yield the batches of all steps of a run, on the devices of a sharding; see `Resident` and `Batches`."""

    def put(some: Data) -> Data:
        return sharding.place(some) if sharding.mesh.size > 1 else jax.device_put(some)

    if data.is_stored and size is not None:
        device = sharding.mesh.devices.flat[0]
        mapped = on_cpu(data, device) if sharding.mesh.size == 1 else None
        with (
            read_at_random(data),
            Batches(data, size, num_steps, key, put, returning=returning, mapped=mapped) as batches,
        ):
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
