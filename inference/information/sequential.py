"""The prequential code: what labels cost by a fit that is made on the way."""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import pandas as pd

from ..checks import as_key, check_problem
from ..method import Method
from ..report import Report
from ..rows import Rows
from ..run import fit
from ..sites import NumPyroModel
from ..status import Status, no_failure_warnings
from .bits import COLUMNS, Symbols, row_bits


@dataclass(frozen=True, eq=False, repr=False)
class Prequential:
    """The prequential code of labels, block by block; see `prequential`. Prints as a table."""

    ends: tuple[int, ...]
    """The number of rows up to the end of each block; the last is n."""
    bits: np.ndarray
    """-log2 p(y_i | x_i, all blocks before), (n,), in the order of the rows; log2 K a class in the first block."""
    statuses: tuple[Status, ...]
    """Of the fit that coded each block: of as many rows as come before it. One fewer than there are blocks."""
    uniform: float
    """Log2 K for each class: the code that knows nothing, in bits."""
    base_rate: float
    """What the labels cost without x, by the adaptive code of `code_length`, in bits."""

    @property
    def total(self) -> float:
        """The sum over rows, in bits."""
        return float(self.bits.sum())

    @property
    def block_bits(self) -> np.ndarray:
        """The bits of each block, (blocks,)."""
        return np.add.reduceat(self.bits, [0, *self.ends[:-1]])

    def to_dataframe(self) -> pd.DataFrame:
        """One row a block: how many rows the fit saw, how many it coded, their bits, and the fit's status."""
        fitted = [0, *self.ends[:-1]]
        coded = np.diff([0, *self.ends])
        table = pd.DataFrame({"fitted": fitted, "coded": coded, "bits": self.block_bits})
        table["bits_per_row"] = table["bits"] / coded
        table["status"] = ["no fit", *(status.level for status in self.statuses)]
        return table.rename_axis("block")

    def __str__(self) -> str:
        return str(self._report)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return self._report.html()

    @property
    def _report(self) -> Report:
        notes = [
            f"{len(self.bits)} rows: {self.total:.1f} bits. The labels alone: {self.base_rate:.1f} by an adaptive "
            f"code, {self.uniform:.1f} by the uniform one."
        ]
        told = zip(self.ends, self.statuses, strict=False)
        notes += [f"Fit of the first {end} rows: {status}" for end, status in told if status.level != "ok"]
        return Report(self.to_dataframe(), COLUMNS, notes)


def prequential(
    model: NumPyroModel, method: Method, x: Any, y: Any, *, key: Any, blocks: int | Sequence[int] = 5
) -> Prequential:
    """The length of the code in which each block of labels is coded by a fit of all blocks before it.

    ``sum_b -log2 p(y_b | x_b, y_1, ..., y_{b-1})``, the predictive distribution of each block being that of a fit of
    the rows before it (Dawid 1984; Blier & Ollivier 2018). Sender and receiver both have x, model, method and key, and
    both fit as they go, so that nothing is left out of the count: the weights are never sent. It scores a model and a
    method without held-out rows, and what is learned late costs more. With the exact posterior and one row a block it
    is, but for the first row, the negative log evidence. Rows are taken in the order given: shuffle them where the
    order has a meaning.

    The first block has no fit before it and costs the uniform code. Maximum likelihood may give a class that a short
    prefix lacks a probability near 0, or be sure of what it has seen; what that costs in the next block is counted.

    Args:
        model: a NumPyro model of classes, or of rows of tokens.
        method: how each prefix is fitted. Each fit compiles, since each has another number of rows.
        x: n rows, those that are to be coded in order.
        y: labels, (n,), or tokens, (n, T).
        key: a typed JAX key or an integer seed.
        blocks: the number of blocks, each as long as all before it together, or their ends, the last of which is n.

    Raises:
        TypeError, ValueError: when data, model or blocks are not what they should be; so when y is no class, as no
            uniform code exists for the first block.

    Example:
        >>> import numpy as np
        >>> from flatprior.inference import MLE
        >>> from flatprior.inference.information import prequential
        >>> from flatprior.models import MLP, Bernoulli, Model
        >>> x, y = np.zeros((8, 1)), np.array([1, 0, 1, 1, 0, 1, 1, 1])
        >>> print(prequential(Model(MLP(), Bernoulli()), MLE(), x, y, key=0, blocks=[4, 8]))
        block  fitted  coded  bits  bits per row  status
            0       0      4  4.00         1.000  no fit
            1       4      4  3.25         0.811  ok
        <BLANKLINE>
        8 rows: 7.2 bits. The labels alone: 8.4 by an adaptive code, 8.0 by the uniform one.
    """
    density, data = check_problem(model, x, y)
    rows_x, rows_y, response = data.x, data.y, density.structure.response
    symbols = Symbols.of("prequential", response, rows_y)
    if symbols is None:
        raise ValueError(
            f"prequential: expected y to be a class; it can be {response.support!r}, for which the first "
            f"block has no uniform code. Fit the first k rows, and take code_length(fit, x[k:], y[k:]) of the others."
        )
    labels = np.asarray(rows_y)
    ends = _ends(blocks, len(labels))
    bits = [symbols.counts[: ends[0]] * math.log2(symbols.num_classes)]
    statuses = []
    keys = jax.random.split(as_key(key), len(ends))
    for start, end, each in zip(ends, ends[1:], keys, strict=False):
        try:
            found = fit(model, method, _slice(rows_x, 0, start), labels[:start], key=each, progress=False)
        except Exception as error:
            error.add_note(f"Raised by the fit of the first {start} rows.")
            raise
        with no_failure_warnings():
            bits.append(row_bits(found.predict(_slice(rows_x, start, end)), labels[start:end]))
        statuses.append(found.status)
    return Prequential(
        ends,
        np.concatenate(bits),
        tuple(statuses),
        symbols.uniform,
        symbols.base_rate,
    )


def _slice(rows: Rows, start: int, end: int) -> Rows:
    return jax.tree.map(lambda leaf: leaf[start:end], rows)


def _ends(blocks: int | Sequence[int], num_rows: int) -> tuple[int, ...]:
    """The ends of the blocks: those given, or of so many blocks that each doubles the rows."""
    if isinstance(blocks, int | np.integer):
        ends = [-(-num_rows // 2**k) for k in reversed(range(max(int(blocks), 0)))]
    else:
        ends = [operator.index(end) for end in blocks]
    if not ends or ends[-1] != num_rows or (np.diff([0, *ends]) <= 0).any():
        raise ValueError(
            f"blocks: expected a number of blocks from 1 to {1 + (num_rows - 1).bit_length()}, or their ends, "
            f"ascending to the number of rows, {num_rows}; got {blocks!r}."
        )
    return tuple(ends)
