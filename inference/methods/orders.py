"""The orders in which epochs take rows, each made when it is needed."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from ..start import BATCH_KEY

AHEAD = 4
"""The next order is made in the last of so many parts of an epoch, when as much of the present one is in memory."""


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

    @property
    def per_order(self) -> int:
        """The number of steps whose batches are from one order."""
        return self.num_rows // self.size * (2 if self.turns else 1)

    @property
    def turns(self) -> bool:
        """Whether an order is read forwards and then backwards."""
        return self.returning and self.window is None

    def place(self, step: int) -> tuple[int, int]:
        """Return the number of the order that the batch of a step is from, and which of its batches this is."""
        number, i = divmod(step, self.per_order)
        return number, min(i, self.per_order - 1 - i) if self.turns else i

    def numbered(self, number: int, shard: int | None = None) -> np.ndarray:
        """Return an order by its number, batch after batch."""
        used = self.num_rows - self.num_rows % self.size
        return order_of(self.key, number, self.num_rows, self.window, shard)[:used]

    def order(self, epoch: int, shard: int | None = None) -> np.ndarray:
        """Return the rows of an epoch, batch after batch."""
        if not self.turns:
            return self.numbered(epoch, shard)
        order = self.numbered(epoch // 2, shard).reshape(-1, self.size)
        return order[:: 1 - 2 * (epoch % 2)].reshape(-1)


class Orders:
    """The rows of the batches of all steps, from one order at a time; the next is made ahead by a thread.

    In memory is one order and, while the next is made, what is left of it, at most a quarter.

    Args:
        epochs: the orders of all epochs.
        last_step: the number of all steps.
    """

    def __init__(self, epochs: Epochs, last_step: int) -> None:
        self._epochs, self._last_step = epochs, last_step
        self._ahead = -(-epochs.num_rows // epochs.size // AHEAD)
        self._shuffler = ThreadPoolExecutor(1, thread_name_prefix="flatprior")
        self._number, self._first, self._order = -1, 0, np.zeros(0, np.int32)
        """The number of the order, the first of its batches that is in memory, and the rows from there on."""
        self._next: tuple[int, Future[np.ndarray]] | None = None

    def close(self) -> None:
        """End the thread."""
        self._shuffler.shutdown(wait=True, cancel_futures=True)

    def batch(self, step: int) -> np.ndarray:
        """Return the rows of the batch of a step, in memory of their own."""
        size, (number, place) = self._epochs.size, self._epochs.place(step)
        if number != self._number or not 0 <= (place - self._first) * size < len(self._order):
            self._begin(number)
        begin = (place - self._first) * size
        rows = self._order[begin : begin + size].copy()
        after = (number + 1) * self._epochs.per_order
        if self._next is None and after - self._ahead <= step and after < self._last_step:
            left = slice(0, begin + size) if self._epochs.turns else slice(begin, None)
            self._order, self._first = self._order[left].copy(), self._first + left.start // size
            self._next = number + 1, self._shuffler.submit(self._epochs.numbered, number + 1)
        return rows

    def _begin(self, number: int) -> None:
        self._order = np.zeros(0, np.int32)  # two need not be in memory at a time
        made, self._next = self._next, None
        is_next = made is not None and made[0] == number
        self._order = made[1].result() if made is not None and is_next else self._epochs.numbered(number)
        self._number, self._first = number, 0
