"""The prequential code: the cost of labels, including that of the fit."""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ..checks import as_key, check_positive_integer, check_problem
from ..method import Method
from ..report import Printed, Report
from ..rows import Rows
from ..run import fit
from ..sites import NumPyroModel
from ..status import Status, no_failure_warnings
from .bits import COLUMNS, Symbols, row_bits

if TYPE_CHECKING:  # importing it takes a tenth of a second or more
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Prequential(Printed):
    """The prequential code of labels, block by block; see `prequential`. Prints as a table."""

    ends: tuple[int, ...]
    """The number of rows up to the end of each block; the last is n."""
    bits: np.ndarray
    """-log2 p(y_i | x_i, all blocks before), (n,), in the order of the rows; log2 K per class in the first block."""
    statuses: tuple[Status, ...]
    """The status of the fit that codes each block but the first, a fit of all rows before it."""
    uniform: float
    """The cost of the labels by the uniform code, log2 K per class, in bits."""
    base_rate: float
    """The cost of the labels without x, by the adaptive code of `code_length`, in bits."""

    @property
    def total(self) -> float:
        """The sum over rows, in bits."""
        return float(self.bits.sum())

    @property
    def block_bits(self) -> np.ndarray:
        """The bits of each block, (blocks,)."""
        return np.add.reduceat(self.bits, [0, *self.ends[:-1]])

    def to_dataframe(self) -> "pd.DataFrame":
        """Return one row per block: the number of rows fitted and coded, the bits, and the status of the fit."""
        import pandas as pd

        fitted = [0, *self.ends[:-1]]
        coded = np.diff([0, *self.ends])
        table = pd.DataFrame({"fitted": fitted, "coded": coded, "bits": self.block_bits})
        table["bits_per_row"] = table["bits"] / coded
        table["status"] = ["no fit", *(status.level for status in self.statuses)]
        return table.rename_axis("block")

    @property
    def _report(self) -> Report:
        notes = [
            f"{len(self.bits)} rows: {self.total:.1f} bits. The labels alone: {self.base_rate:.1f} by an adaptive "
            f"code, {self.uniform:.1f} by the uniform one."
        ]
        fits = zip(self.ends, self.statuses, strict=False)
        notes += [f"Fit of the first {end} rows: {status}" for end, status in fits if status.level != "ok"]
        return Report(self.to_dataframe(), COLUMNS, notes)


def prequential(
    model: NumPyroModel,
    method: Method,
    x: Any,
    y: Any,
    *,
    num_blocks: int = 5,
    ends: Sequence[int] | None = None,
    key: Any,
) -> Prequential:
    """Return the length of the code in which each block of labels is coded by a fit of all blocks before it.

    ``sum_b -log2 p(y_b | x_b, y_1, ..., y_{b-1})``, where the predictive distribution of each block is that of a fit of
    the rows before it (Dawid 1984; Blier & Ollivier 2018). Sender and receiver both have x, model, method and key, and
    both make the fits, so the count is complete: the weights are never sent. It scores a model and a method without
    test rows, and a method that needs many rows to learn pays for it. With the exact posterior and one row per block it
    is, except for the first row, the negative log evidence. Rows are coded in the given order: shuffle them if the
    order has a meaning.

    The first block has no fit before it and costs the uniform code. Maximum likelihood may give a class that a short
    prefix lacks a probability near 0, or be overconfident; the cost of that in the next block is counted.

    Args:
        model: a NumPyro model of classes, or of rows of tokens.
        method: how each prefix is fitted. Each fit compiles, since each has another number of rows.
        x: n rows, in the order in which they are coded.
        y: labels, (n,), or tokens, (n, T).
        num_blocks: the number of blocks, each as long as all before it together.
        ends: the number of rows up to the end of each block, the last of which is n; instead of `num_blocks`.
        key: a typed JAX key or an integer seed.

    Returns:
        The bits of each row, and the lengths of the codes without x.

    Raises:
        TypeError, ValueError: when data, model or blocks are invalid; also when y is not a class, as no uniform code
            exists for the first block.
        KeyboardInterrupt: at Ctrl-C, also where `fit` would return a partial result.

    Example:
        >>> import numpy as np
        >>> from flatprior.inference import MAP
        >>> from flatprior.inference.information import prequential
        >>> from flatprior.models import MLP, Bernoulli, Model, gaussian
        >>> x, y = np.zeros((8, 1)), np.array([1, 0, 1, 1, 0, 1, 1, 1])
        >>> print(prequential(Model(MLP(), Bernoulli(), gaussian(30.0)), MAP(), x, y, ends=[4, 8], key=0))
        block  fitted  coded  bits  bits per row  status
            0       0      4  4.00         1.000  no fit
            1       4      4  3.25         0.811  ok
        <BLANKLINE>
        8 rows: 7.2 bits. The labels alone: 8.4 by an adaptive code, 8.0 by the uniform one.
    """
    density, data = check_problem(model, x, y, caller="prequential")
    density.structure.check_unweighted("prequential")
    rows_x, rows_y, response = data.x, data.y, density.structure.response
    symbols = Symbols.of("prequential", response, rows_y)
    if symbols is None:
        sites = density.structure.observed_sites
        got = (
            f"it can be {response.support!r}" if len(sites) == 1 else f"it has the sites {', '.join(map(repr, sites))}"
        )
        raise ValueError(
            f"prequential: expected y to be a class; {got}, for which the first block has no uniform code. Fit the "
            f"first k rows, and take code_length(fit, x[k:], y[k:]) of the others."
        )
    labels = np.asarray(rows_y)
    ends = _doubling_ends(num_blocks, len(labels)) if ends is None else _check_ends(ends, len(labels))
    bits = [symbols.counts[: ends[0]] * math.log2(symbols.num_classes)]
    statuses = []
    keys = jax.random.split(as_key(key), len(ends))
    for start, end, each in zip(ends, ends[1:], keys, strict=False):
        try:
            result = fit(model, method, _slice(rows_x, 0, start), labels[:start], key=each, progress=False)
        except Exception as error:
            error.add_note(f"Raised by the fit of the first {start} rows.")
            raise
        if result.status.is_interrupted:
            raise KeyboardInterrupt  # a partial fit codes its block as no one could
        with no_failure_warnings():
            bits.append(row_bits(result.predict(_slice(rows_x, start, end)), labels[start:end]))
        statuses.append(result.status)
    return Prequential(ends, np.concatenate(bits), tuple(statuses), symbols.uniform, symbols.base_rate)


def _slice(rows: Rows, start: int, end: int) -> Rows:
    return jax.tree.map(lambda leaf: leaf[start:end], rows)


def _doubling_ends(num_blocks: int, num_rows: int) -> tuple[int, ...]:
    """Return the ends of blocks each of which doubles the number of rows."""
    check_positive_integer("prequential", "num_blocks", num_blocks)
    ends = tuple(-(-num_rows // 2**k) for k in reversed(range(num_blocks)))
    if (np.diff([0, *ends]) <= 0).any():
        most = 1 + (num_rows - 1).bit_length()
        raise ValueError(f"prequential: expected num_blocks from 1 to {most} for {num_rows} rows; got {num_blocks}.")
    return ends


def _check_ends(ends: Sequence[int], num_rows: int) -> tuple[int, ...]:
    ends = tuple(operator.index(end) for end in ends)
    if not ends or ends[-1] != num_rows or (np.diff([0, *ends]) <= 0).any():
        raise ValueError(f"prequential: expected ends that ascend to the number of rows, {num_rows}; got {list(ends)}.")
    return ends
