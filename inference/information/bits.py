"""Information: the cost of y under the predictive distribution, in nats and in bits."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from scipy.special import gammaln

from ..arrays import as_rows, check_finite
from ..checks import check_like
from ..labels import labelled, whole_weights
from ..predictive import Predictive
from ..report import Printed, Report, columns_of
from ..response import Response
from ..result import Fit, check_fit
from ..rows import count_rows, in_double

if TYPE_CHECKING:  # importing it takes a tenth of a second or more
    import pandas as pd

COLUMNS = {
    "fitted": ("fitted", "{}"),
    "coded": ("coded", "{}"),
    "bits": ("bits", "{:.2f}"),
    "bits_per_row": ("bits per row", "{:.3f}"),
    "bits_per_token": ("bits per token", "{:.3f}"),
    "status": ("status", "{}"),
}
"""Column -> (heading, format) of the printed tables of bits."""
NO_CODE = (
    "{caller}: expected one label per row, y of shape (n,); got {shape}. The expected bits of soft labels are "
    "cross_entropy(fit, x, y).total / math.log(2)."
)


@dataclass(frozen=True, eq=False, repr=False)
class CrossEntropy(Printed):
    """The cross-entropy of labels with a predictive distribution, row by row, in nats: ``total = entropy + kl``.

    Prints as a table of the means over rows.
    """

    entropy: np.ndarray
    """H(y) = -sum_k y_k log y_k, (n,): the least cross-entropy of any model; 0 for a hard label."""
    kl: np.ndarray
    """KL(y || p) = sum_k y_k log(y_k / p_k), (n,): the excess of this model; 0 if p = y."""

    @property
    def total(self) -> np.ndarray:
        """H(y, p) = -sum_k y_k log p_k, (n,): the loss of each row."""
        return self.entropy + self.kl

    def to_dataframe(self) -> "pd.DataFrame":
        """Return ``entropy``, ``kl`` and ``total`` in nats, one row per row of y."""
        import pandas as pd

        return pd.DataFrame({"entropy": self.entropy, "kl": self.kl, "total": self.total})

    @property
    def _report(self) -> Report:
        import pandas as pd

        means = self.to_dataframe().mean()
        table = pd.DataFrame({"nats per row": means, "bits per row": means / math.log(2)})
        return Report(table, columns_of(table, "{:.4f}"), [f"{len(self.kl)} rows: total = entropy + kl."])


def cross_entropy(fit: Fit, x: Any, y: Any) -> CrossEntropy:
    """Split the cross-entropy of labels y with the predictive distribution into entropy and KL divergence.

    Hard labels have entropy 0, so cross-entropy, KL divergence and negative log likelihood are equal, and minimising
    one minimises the others. The entropy of soft labels is the least value of the loss. (For hard labels see also
    `Predictive.log_prob`.)

    Args:
        fit: a fit, by any method, whose y is one of a finite set of classes.
        x: n rows.
        y: classes, (n,), or rows of probabilities, (n, num_classes); of a `Bernoulli` those of 0 and of 1.

    Returns:
        The entropy and the KL divergence of each row, in nats.

    Raises:
        TypeError: when `fit` is not a fit or y is not a class.
        ValueError: when x and y are not rows like those of the fit, or y are not probabilities.

    Example:
        >>> import numpy as np
        >>> from flatprior.inference import MLE, fit
        >>> from flatprior.inference.information import cross_entropy
        >>> from flatprior.models import MLP, Categorical, Model
        >>> x, y = np.zeros((2, 1)), np.array([[0.5, 0.5], [1.0, 0.0]])
        >>> even = fit(Model(MLP(), Categorical(2)), MLE(), x, y, key=0)  # predicts 3/4 and 1/4, the mean of the rows
        >>> split = cross_entropy(even, x, y)
        >>> print(split.entropy.round(3), split.kl.round(3), split.total.round(3))
        [0.693 0.   ] [0.144 0.288] [0.837 0.288]
    """
    check_fit("cross_entropy", fit)
    fit.structure.check_unweighted("cross_entropy")
    predictive = fit.predict(x)
    num_classes = predictive.response.expect_class("cross_entropy")
    y = np.asarray(as_rows("y", y))
    check_finite("y", y)
    if y.ndim == 1:
        if (y != np.round(y)).any():
            row = int(np.argmax(y != np.round(y)))
            raise ValueError(
                f"y, row {row}: expected a class; got {y[row]:.6g}. Soft labels are rows of probabilities, one "
                f"per class: for two classes np.stack([1 - y, y], axis=1)."
            )
        return CrossEntropy(np.zeros(len(y)), -predictive.log_prob(y))
    y = _probabilities(y, (count_rows(predictive.x), num_classes))
    # Class by class, so that they equal those of hard labels exactly, and do not underflow.
    labels = np.zeros(len(y), int)
    log_probs = np.stack([predictive.log_prob(labels + k) for k in range(y.shape[1])], axis=1)
    log_y = np.log(np.where(y > 0, y, 1.0))
    kl = np.where(y > 0, y * (log_y - log_probs), 0.0).sum(axis=1)
    return CrossEntropy(0.0 - (y * log_y).sum(axis=1), kl)


def _probabilities(y: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return rows of probabilities in float64, or raise."""
    if y.shape != shape:
        raise ValueError(
            f"y: expected classes, shape {shape[:1]}, or rows of probabilities, shape {shape}; got {y.shape}."
        )
    y = y.astype(float)
    bad = (y < 0).any(axis=1) | (np.abs(y.sum(axis=1) - 1) > 1e-5)
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(f"y, row {row}: expected probabilities that sum to 1; got {y[row].tolist()}.")
    return y


@dataclass(frozen=True, eq=False, repr=False)
class CodeLength(Printed):
    """The cost of rows of y, as the length of a code in bits; see `code_length`. Prints as a table."""

    bits: np.ndarray
    """-log2 p(y_i | x_i, data), (n,). Infinite where y_i has probability 0."""
    uniform: float | None
    """n log2 K: the code with the same length for each of K classes. None where y is not one of a finite set."""
    base_rate: float | None
    """The cost of the labels without x, by an adaptive code. None where y is not one of a finite set."""
    unit: str
    """The unit that is coded, in words: a class, a value, or a density, relative to a cell of size 1."""
    num_tokens: int | None = None
    """The number of tokens without padding; None where y is not a row of tokens."""
    was_fitted: bool = False
    """Whether these are the rows of the fit, whose code is incomplete without that of the fit."""

    @property
    def total(self) -> float:
        """The sum over rows, in bits."""
        return float(self.bits.sum())

    @property
    def standard_error(self) -> float:
        """The standard error of the total, over rows: that of the mean, times n. NaN for one row, or infinite bits."""
        if len(self.bits) < 2 or not np.isfinite(self.total):
            return math.nan
        return float(self.bits.std(ddof=1) * math.sqrt(len(self.bits)))

    @property
    def perplexity(self) -> float:
        """2^(total / n): the number of equally probable classes with the same cost; 1 / geometric mean of a density.

        For rows of tokens it is the perplexity per token, 2^(bits per token).
        """
        with np.errstate(over="ignore"):
            return float(np.exp2(self.bits.mean() if self.per_token is None else self.per_token))

    @property
    def per_token(self) -> float | None:
        """Bits per token without padding (bits per character). None where y is not a row of tokens."""
        if self.num_tokens is None:
            return None
        return self.total / self.num_tokens if self.num_tokens else math.nan

    @property
    def saved(self) -> float | None:
        """`base_rate` minus `total`, in bits: the value of x, the model and the data of the fit for these labels."""
        return None if self.base_rate is None else self.base_rate - self.total

    def to_dataframe(self) -> "pd.DataFrame":
        """Return one row per code: the predictive, and if they exist the base rate and the uniform code."""
        import pandas as pd

        codes = {"predictive": self.total, "base rate": self.base_rate, "uniform": self.uniform}
        table = pd.DataFrame({"bits": {name: bits for name, bits in codes.items() if bits is not None}})
        table = table.assign(bits_per_row=table["bits"] / len(self.bits))
        return table if not self.num_tokens else table.assign(bits_per_token=table["bits"] / self.num_tokens)

    @property
    def _report(self) -> Report:
        tokens = "" if self.num_tokens is None else f", {self.num_tokens} tokens"
        notes = [
            f"{len(self.bits)} rows{tokens}, each {self.unit}. Standard error of the total over rows: "
            f"{self.standard_error:.1f} bits. Perplexity: {self.perplexity:.4g}."
        ]
        if self.saved is not None:
            notes.append(f"Saved against the labels alone (base rate): {self.saved:.1f} bits.")
        if self.was_fitted:
            notes.append("These are the rows of the fit; the cost of the fit itself is not included.")
        return Report(self.to_dataframe(), COLUMNS, notes)


def code_length(fit: Fit, x: Any, y: Any, *, weights: Any = None) -> CodeLength:
    """Return the length of the code for y given x and the fit, ``-log2 p(y_i | x_i, data)`` summed over rows, in bits.

    A code of this length exists (Shannon 1948): `compress` writes it. For classes it is compared with codes that know
    less: the uniform code, log2 K per row, and an adaptive code without x, which codes label k at position i by
    ``(count of k so far + 1/2) / (i + K/2)`` (Krichevsky & Trofimov 1981). It needs no prior knowledge, and its length
    does not depend on the order of the labels. Where y is a row of tokens, both are codes of its tokens, and
    `CodeLength.per_token` is the usual bits per character.

    On new rows the code length measures the value of the fit. On the rows of the fit it omits the cost of communicating
    the fit itself: `prequential` includes it, and so does the evidence p(y | x) of a model: if a fit has a
    ``log_evidence``, in nats, ``-fit.log_evidence / math.log(2)`` bits.

    Args:
        fit: a fit, by any method. For numbers, the bits are those of the density, relative to a cell of size 1 in units
            of y: they can be negative, and only their differences between fits are meaningful.
        x: n rows.
        y: n rows; labels, (n,), or tokens, (n, T), in which padding costs nothing. Rows without y are left out.
        weights: the number of times that each row is coded, (n,), whole numbers; the result has these rows.

    Returns:
        The bits of each row, and the lengths of the other codes.

    Raises:
        TypeError: when `fit` is not a fit.
        ValueError: when x and y are not rows like those of the fit, or y are soft labels, which `cross_entropy` takes.

    Example:
        >>> import numpy as np
        >>> from flatprior.inference import MLE, fit
        >>> from flatprior.inference.information import code_length
        >>> from flatprior.models import MLP, Bernoulli, Model
        >>> x, y = np.zeros((8, 1)), np.array([1, 1, 1, 0, 1, 1, 0, 1])
        >>> coin = fit(Model(MLP(), Bernoulli()), MLE(), x, y, key=0)  # predicts 3/4, the frequency of the ones
        >>> print(code_length(coin, x, y))
                    bits  bits per row
        predictive  6.49         0.811
        base rate   8.37         1.046
        uniform     8.00         1.000
        <BLANKLINE>
        8 rows, each one of 2 classes. Standard error of the total over rows: 2.1 bits. Perplexity: 1.755.
        Saved against the labels alone (base rate): 1.9 bits.
        These are the rows of the fit; the cost of the fit itself is not included.
    """
    check_fit("code_length", fit)
    fit.structure.check_unweighted("code_length")
    was_fitted = fit.was_fitted_to(x, y, weights) is True
    x, y, row_weights = labelled(check_like(fit.layout, x), y, weights).scored
    predictive = fit.predict(x)
    response, bits = predictive.response, row_bits(predictive, y)
    times = whole_weights("code_length", row_weights)
    if times is not None:
        bits, y = np.repeat(bits, times), jax.tree.map(lambda leaf: np.repeat(leaf, times, axis=0), y)
    symbols = Symbols.of("code_length", response, y)
    if symbols is None:
        unit = "a value" if response.is_discrete else "a density, relative to a cell of size 1"
        return CodeLength(bits, None, None, unit, None, was_fitted)
    tokens, unit = response.count_tokens(y), f"one of {symbols.num_classes} classes"
    num_tokens = None if tokens is None else int(tokens.sum())
    return CodeLength(bits, symbols.uniform, symbols.base_rate, unit, num_tokens, was_fitted)


@dataclass(frozen=True, eq=False)
class Symbols:
    """The symbols of rows of y, from a finite set: one class per row, or the tokens of a row."""

    num_classes: int
    values: np.ndarray
    """All symbols, in the order of the rows, without padding."""
    counts: np.ndarray
    """The number of symbols in each row, (n,)."""

    @classmethod
    def of(cls, name: str, response: Response, y: Any) -> "Symbols | None":
        """Return the symbols of y, n rows; None where y is not one of a finite set. Soft labels raise."""
        symbols = response.symbols(y)
        if symbols is None:
            return None
        if response.labels(y).shape != np.shape(y):
            raise ValueError(NO_CODE.format(caller=name, shape=np.shape(y)))
        return cls(*symbols)

    @property
    def uniform(self) -> float:
        """The length of the uniform code, log2 K per symbol, in bits."""
        return len(self.values) * math.log2(self.num_classes)

    @property
    def base_rate(self) -> float:
        """The length of the adaptive code, in bits."""
        return adaptive_bits(self.values, self.num_classes)


def row_bits(predictive: Predictive, y: Any) -> np.ndarray:
    """Return -log2 p(y_i | x_i, data), (n,), in float64."""
    return 0.0 - predictive.log_prob(y).astype(np.float64) / math.log(2)


def check_classes(name: str, y: Any) -> np.ndarray:
    """Return labels, (n,), or raise: soft labels have no code."""
    labels = np.asarray(y)
    if labels.ndim != 1:
        raise ValueError(NO_CODE.format(caller=name, shape=labels.shape))
    return labels


def adaptive_bits(labels: np.ndarray, num_classes: int) -> float:
    """Return the length of labels in the code of Krichevsky and Trofimov (1981), in bits, in closed form."""
    counts = np.bincount(labels.astype(int), minlength=num_classes)
    nats = gammaln(len(labels) + num_classes / 2) - gammaln(num_classes / 2)
    return float((nats - (gammaln(counts + 0.5) - gammaln(0.5)).sum()) / math.log(2))


@contextmanager
def in_double_precision(predictive: Predictive) -> Iterator[Predictive]:
    """Provide the predictive distribution in float64, of the same draws and x as in the precision of the fit."""
    dtype = next(iter(predictive.draws.values())).dtype

    def widen(leaf: Any) -> np.ndarray:
        array = np.asarray(leaf)
        return np.asarray(in_double(array.astype(dtype) if array.dtype.kind == "f" else array))

    with jax.enable_x64(True):
        yield replace(predictive, draws=jax.tree.map(widen, predictive.draws), x=jax.tree.map(widen, predictive.x))
