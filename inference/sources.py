"""Data sets of other libraries, item by item or batch by batch, as rows that are read when they are needed."""

from collections.abc import Callable, Iterable, Iterator
from threading import RLock
from typing import Any, NamedTuple

import jax
import numpy as np

from .rows import Rows
from .stored import Stored, rows_per_part


def rows_of(source: Any, *, num_rows: int | None = None) -> tuple[Rows, Rows]:
    """Return the rows of x and y of a data set or a source of batches, which are read when they are needed.

    What is returned takes the place of arrays in `fit`, `predict`, `compare` and all other functions of rows. Fits by
    batches (``MAP(batch_size=...)``, `MLE`, `Ensemble`) read some batches ahead; the others need all rows and read them
    into memory.

    - A data set of items ``(x, y)``, with a length and items by number, such as a ``torch.utils.data.Dataset``, a grain
      ``MapDataset`` or a list: every epoch has all rows in an order of its own, as for arrays. Items are fetched
      together where the data set has ``__getitems__``.
    - A source of batches ``(x, y)`` that can be iterated again, such as a ``torch.utils.data.DataLoader`` or a grain
      ``IterDataset``: rows are shuffled within windows of up to 64 MiB, so let rows be in random order in the source.
      Every pass must give the same rows in the same order, since a likelihood is that of fixed rows: no shuffling and
      no random augmentation. Rows that are needed out of order cost another pass.

    Values of y may be missing, by NaN, as in arrays. Where y has real numbers, the first function that gets what is
    returned reads all rows once more, to find them; labels are best given as integers.

    Args:
        source: the data set or source of batches. x, and y, may be pytrees (dicts or tuples) of arrays or numbers.
        num_rows: the number of rows, for a source of batches.

    Returns:
        The rows of x and those of y.

    Raises:
        TypeError: when the source is neither, or its items or batches are not pairs (x, y).
        ValueError: when the source is empty, or `num_rows` is missing for a source of batches.

    Example:
        >>> import numpy as np
        >>> from flatprior.inference import MAP, fit, rows_of
        >>> from flatprior.models import MLP, Model, Normal, gaussian
        >>> x = np.linspace(-1, 1, 20, dtype=np.float32)[:, None]
        >>> items = [(row, 3 * row[0]) for row in x]
        >>> print(rows_of(items))
        (rows of float32[20, 1], read in parts, rows of float32[20], read in parts)
        >>> line = Model(MLP(), Normal(0.1), gaussian(1.0))
        >>> print(fit(line, MAP(batch_size=10, num_steps=4000), *rows_of(items), key=0))
        Fit by MAP: point, 1 chain of 1 draw, 2 weights, ok
    """
    reader: _Items | _Passes
    if hasattr(source, "__getitem__") and hasattr(source, "__len__") and num_rows is None:
        if not len(source):
            raise ValueError("rows_of: expected items (x, y); got an empty data set.")
        pair, count = _pair("an item", source[0]), len(source)
        reader = _Items(source, sum(leaf.nbytes for leaf in jax.tree.leaves(pair)))
    elif isinstance(source, Iterable) and not isinstance(source, Iterator):
        if not isinstance(num_rows, int) or num_rows < 1:
            raise ValueError(f"rows_of: expected num_rows, the number of rows in the source; got {num_rows!r}.")
        first = _pair("a batch", next(iter(source), None))
        reader, count = _Passes(source, num_rows, jax.tree.leaves(first)), num_rows
        pair = jax.tree.map(lambda leaf: leaf[0], first)
    else:
        raise TypeError(
            f"rows_of: expected a data set with a length and items (x, y), or a source of batches (x, y) that can be "
            f"iterated again; got {source!r:.80}."
        )
    leaves, tree = jax.tree.flatten(pair)
    columns = [_Column(reader, i, (count, *leaf.shape), leaf.dtype) for i, leaf in enumerate(map(np.asarray, leaves))]
    x, y = jax.tree.unflatten(tree, [Stored(column, column.dtype, window=reader.window) for column in columns])
    return x, y


def _pair(what: str, value: Any) -> tuple[Any, Any]:
    """Return an item or a batch as a pair of pytrees of arrays."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(f"rows_of: expected {what} to be a pair (x, y); got {value!r:.80}.")
    x, y = (jax.tree.map(np.asarray, part) for part in value)
    return x, y


class _Column(NamedTuple):
    """One leaf of the items of a reader, as an array."""

    reader: Any
    leaf: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def bytes_read(self) -> int:
        """The bytes that are read for each row: those of all leaves."""
        return self.reader.bytes_per_row  # type: ignore[no-any-return]

    @property
    def found(self) -> dict[str, Any]:
        """What has been found about all rows of the leaf, which every pass gives again."""
        return self.reader.found.setdefault(self.leaf, {})  # type: ignore[no-any-return]

    def __getitem__(self, rows: Any) -> np.ndarray:  # type: ignore[override]
        """Return rows, by a slice or increasing indices."""
        indices = np.arange(self.shape[0])[rows] if isinstance(rows, slice) else rows
        return self.reader.read(indices)[self.leaf]  # type: ignore[no-any-return]


class _Reader:
    """Reads rows of all leaves together; x and y are asked for one after the other, and read once."""

    window: int | None = None
    """The number of rows that can be read in any order, where the source gives them one after the other."""

    def __init__(self, bytes_per_row: int) -> None:
        self.bytes_per_row = bytes_per_row
        """The bytes of a row of all leaves together."""
        self.found: dict[int, dict[str, Any]] = {}
        """What has been found about all rows, by leaf."""
        self._lock = RLock()
        self._last: tuple[np.ndarray, list[np.ndarray]] | None = None

    def read(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return the rows of all leaves, by increasing indices."""
        with self._lock:
            if self._last is None or not np.array_equal(self._last[0], rows):
                self._last = None  # two parts need not be in memory at a time
                self._last = rows, self._read(rows)
            return self._last[1]

    def _read(self, rows: np.ndarray) -> list[np.ndarray]:
        raise NotImplementedError


class _Items(_Reader):
    def __init__(self, items: Any, bytes_per_row: int) -> None:
        super().__init__(bytes_per_row)
        self._fetch: Callable[[list[int]], Iterable[Any]] = getattr(
            items, "__getitems__", lambda numbers: (items[number] for number in numbers)
        )

    def _read(self, rows: np.ndarray) -> list[np.ndarray]:
        items = [jax.tree.leaves(_pair("an item", item)) for item in self._fetch(rows.tolist())]
        return [np.stack(column) for column in zip(*items, strict=True)]


class _Passes(_Reader):
    """Reads a source of batches from its beginning as often as rows are needed that have gone by."""

    def __init__(self, source: Iterable[Any], num_rows: int, first: list[np.ndarray]) -> None:
        super().__init__(sum(leaf.nbytes for leaf in first) // max(1, len(first[0])))
        self._source, self._num_rows = source, num_rows
        self._begin = self._end = 0
        self._batches: list[list[np.ndarray]] = []
        """The leaves of the batches in memory, rows `_begin` to `_end`."""
        self._iterator: Iterator[Any] | None = None
        self.window = min(num_rows, rows_per_part(self.bytes_per_row))

    def _read(self, rows: np.ndarray) -> list[np.ndarray]:
        if self._iterator is None or rows[0] < self._begin:
            self._iterator, self._batches, self._begin, self._end = iter(self._source), [], 0, 0
        taken: list[list[np.ndarray]] = []
        done = 0
        while done < len(rows):
            begin = self._begin
            for batch in self._batches:
                inside = rows[done:][rows[done:] < begin + len(batch[0])] - begin
                if len(inside) and inside[0] >= 0:
                    taken.append([leaf[inside] for leaf in batch])
                    done += len(inside)
                begin += len(batch[0])
            if done < len(rows):
                self._next_batch()
        return [np.concatenate(leaves) for leaves in zip(*taken, strict=True)]

    def _next_batch(self) -> None:
        assert self._iterator is not None
        try:
            batch = jax.tree.leaves(_pair("a batch", next(self._iterator)))
        except StopIteration:
            raise ValueError(
                f"rows_of: expected {self._num_rows} rows in the source, as num_rows says; got {self._end}."
            ) from None
        self._batches.append(batch)
        self._end += len(batch[0])
        while self._begin + len(self._batches[0][0]) <= self._end - 2 * (self.window or 0):
            self._begin += len(self._batches.pop(0)[0])
