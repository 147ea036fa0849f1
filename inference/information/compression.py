"""Compression: labels as bytes, by a fit that writer and reader share."""

import math
import struct
import zlib
from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np
import numpyro.distributions as dist
from jax import Array

from ..checks import check_labels
from ..chunks import over_rows
from ..density import Density
from ..labels import check_complete
from ..mixture import log_mean_exp
from ..predictive import Predictive
from ..result import Fit, check_fit
from ..rows import Rows, count_rows
from .bits import check_classes, in_double_precision

MAGIC, VERSION = b"flpr", 2
HEADER = struct.Struct("<4sBIqIIII")
"""Magic, version, alphabet, number of rows, position of the boundaries, CRC-32 of the labels."""
FOOTER = struct.Struct("<I")
"""CRC-32 of all before it."""
CELLS = 128
"""Cells per bit. The rounding errors of the classes of a row differ by less than a cell, so a label of probability p
costs less than (1 - p) (2^(1/128) - 1) nats more, which is at most 0.55% of its -log p."""
FLOOR = -32
"""The lowest log2 p. The least probability of the coder is 2^-24."""
SCALE = 48
"""log2 of the integer for probability 1: the integers of a row can be summed in float64 without rounding."""
POSITIONS = 2**32
"""The number of possible positions of a boundary within a cell."""
MAX_VALUES, MAX_TABLE = 2**16, 10**7
"""The most values in the alphabet of counts, and the most probabilities of all rows together."""
TOLERANCE = 1e-10
"""Bits by which a log2 p in double precision may differ between writer and reader. Rounding is about 1e-14."""


def compress(fit: Fit, x: Any, y: Any) -> bytes:
    """Write labels in ``code_length(fit, x, y).total`` bits, to within 1% and 64 bytes.

    The bytes are those of a range coder (Martin 1979; the library constriction, Bamler 2022) that codes label k of row
    i by p(k | x_i, data). With the fit, or the same fit made again, and the same rows of x in the same order,
    `decompress` returns the labels. A label of probability 0 costs 24 bits.

    Two computers, or two batch sizes, compute probabilities that differ in the last digits, and decoding with other
    probabilities yields noise. So log2 p is computed in double precision, whatever that of the fit, and rounded to
    cells of 1/128 bit; and the boundaries of the cells, whose position is in the header, lie in the widest gap between
    the n K values modulo a cell. A reader whose values differ from the writer's by less than half of this gap, which is
    1 / (256 n K) bits or more, has the same cells. Everything after that is exact. (A model that computes in float32
    has errors of some 1e-6 bits, small enough for some thousand values.)

    Counts are coded like classes, among the values from the least to the largest count. Where these are too many, the
    alphabet is the window with the most rows, and a count outside of it costs 8 bytes, beside the bits that say so.

    Args:
        fit: a fit, by any method, whose y is one of a finite set of classes, or a count.
        x: n rows.
        y: labels or counts, (n,).

    Returns:
        The labels as bytes. They contain no part of x or of the fit, but checksums by which `decompress` detects
        damaged bytes and wrong labels.

    Raises:
        TypeError: when `fit` is not a fit or y is neither a class nor a count.
        ValueError: when x and y are not rows like those of the fit, or n K is so large (beyond 10^7) that the gap
            approaches rounding errors: compress the rows in parts.

    Example:
        >>> import numpy as np
        >>> from flatprior.inference import MLE, fit
        >>> from flatprior.inference.information import compress, decompress
        >>> from flatprior.models import MLP, Bernoulli, Model
        >>> x = np.linspace(-3, 3, 4000)[:, None]
        >>> y = (np.random.default_rng(0).random(4000) < 1 / (1 + np.exp(-4 * x[:, 0]))).astype(int)
        >>> logistic = fit(Model(MLP(), Bernoulli()), MLE(), x, y, key=0)
        >>> blob = compress(logistic, x, y)
        >>> print(round(len(blob), -1), len(np.packbits(y)))  # bytes; packbits needs one bit per label
        140 500
        >>> print((decompress(logistic, x, blob) == y).all())
        True
    """
    predictive = _predictive("compress", fit, x)
    data = check_labels(fit.model, predictive.x, y)
    check_complete("compress", data.known)
    labels = check_classes("compress", data.y).astype(np.int64)
    alphabet = _Alphabet.of(predictive, labels)
    log2_probs = _log2_probs(predictive, alphabet)
    position, margin = _widest_gap(log2_probs)
    if margin < TOLERANCE:
        raise ValueError(
            f"compress: expected a gap of {TOLERANCE:g} bits or more around the boundaries of the cells; got "
            f"{margin:.2g} for {len(labels)} rows of {log2_probs.shape[1]} classes. Compress the rows in parts."
        )
    symbols, outside = alphabet.symbols(labels)
    encoder = _streams().queue.RangeEncoder()
    encoder.encode(symbols, _family(), _frequencies(log2_probs, position, alphabet.num_outside))
    header = HEADER.pack(MAGIC, VERSION, *alphabet, len(labels), position, _checksum(labels))
    body = header + outside.astype("<i8").tobytes() + encoder.get_compressed().astype("<u4").tobytes()
    return body + FOOTER.pack(zlib.crc32(body))


def decompress(fit: Fit, x: Any, blob: bytes) -> np.ndarray:
    """Return exactly the labels that `compress` wrote, also in another process, batch size or precision.

    Args:
        fit: the fit that wrote them, or one with the same draws.
        x: the n rows, in the same order.
        blob: the result of `compress`.

    Returns:
        The labels, (n,), integers.

    Raises:
        TypeError: when `fit` is not a fit, its y is neither a class nor a count, or `blob` is not bytes.
        ValueError: when the bytes are not those of `compress` or are damaged, or fit and x are not those that wrote
            them. The chance that such an error passes is one in 2^32.
    """
    predictive = _predictive("decompress", fit, x)
    alphabet, num_rows, position, checksum, outside, words = _read(blob)
    if (got := count_rows(predictive.x)) != num_rows:
        raise ValueError(f"decompress: expected x of the {num_rows} rows whose labels were compressed; got {got} rows.")
    if predictive.num_classes not in (None, alphabet.size):
        raise ValueError(f"decompress: expected a fit of {alphabet.size} classes; got one of {predictive.num_classes}.")
    decoder = _streams().queue.RangeDecoder(words)
    frequencies = _frequencies(_log2_probs(predictive, alphabet), position, alphabet.num_outside)
    try:
        labels = alphabet.labels(np.asarray(decoder.decode(_family(), frequencies)), outside)
    except (AssertionError, ValueError):  # impossible under these frequencies
        labels = None
    if labels is None or _checksum(labels) != checksum:
        raise ValueError(
            "decompress: expected the fit, with the same draws, and the rows of x, in the same order, that the labels "
            "were compressed with; got others, as the checksum of the labels does not match."
        )
    return labels


class _Alphabet(NamedTuple):
    """The values that are coded, one symbol each, and the number of rows with other values, of another symbol."""

    size: int
    lowest: int
    num_outside: int

    @classmethod
    def of(cls, predictive: Predictive, labels: np.ndarray) -> "_Alphabet":
        """Return that of classes, or the window of counts that contains the most rows."""
        if predictive.num_classes is not None:
            return cls(predictive.num_classes, 0, 0)
        largest = max(1, min(MAX_VALUES, MAX_TABLE // len(labels)))
        ordered = np.sort(labels)
        inside = np.searchsorted(ordered, ordered + largest) - np.arange(len(labels))
        lowest, num_inside = ordered[inside.argmax()], int(inside.max())
        size = int(ordered[inside.argmax() + num_inside - 1] - lowest) + 1
        return cls(size, int(lowest), len(labels) - num_inside)

    def symbols(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the symbol of each row, and the values of the rows that are outside."""
        is_inside = (labels >= self.lowest) & (labels < self.lowest + self.size)
        return np.where(is_inside, labels - self.lowest, self.size).astype(np.int32), labels[~is_inside]

    def labels(self, symbols: np.ndarray, outside: np.ndarray) -> np.ndarray:
        """Return the values: the inverse of `symbols`. Raise ValueError where there are not as many outside."""
        labels = self.lowest + symbols.astype(np.int64)
        labels[symbols == self.size] = outside
        return labels


def _predictive(name: str, fit: Fit, x: Any) -> Predictive:
    """Return the predictive distribution of a fit of classes or counts."""
    check_fit(name, fit)
    predictive = fit.predict(x)
    response = predictive.response
    if response.is_discrete and response.event_shape:
        raise TypeError(
            f"{name}: expected y to be one class or count per row; got {response.event_shape} of them, which given x "
            f"depend on one another, as they share the weights: the code of each would need those before it."
        )
    if response.kind != "counts":
        response.expect_class(name)
    fit.structure.check_unweighted(name)
    return predictive


def _read(blob: bytes) -> tuple[_Alphabet, int, int, int, np.ndarray, np.ndarray]:
    """Return alphabet, number of rows, position of the boundaries, checksum, values outside, words of the coder."""
    if not isinstance(blob, bytes | bytearray | memoryview):
        raise TypeError(f"decompress: expected bytes, the result of compress; got {type(blob).__name__}.")
    blob = bytes(blob)
    if blob[: len(MAGIC)] != MAGIC or len(blob) < HEADER.size + FOOTER.size:
        raise ValueError(f"decompress: expected the bytes of compress, which begin with {MAGIC!r}; got {blob[:8]!r}.")
    body, footer = blob[: -FOOTER.size], blob[-FOOTER.size :]
    if FOOTER.pack(zlib.crc32(body)) != footer or (len(body) - HEADER.size) % 4:
        raise ValueError(f"decompress: the {len(blob)} bytes are damaged or truncated: their checksum does not match.")
    _, version, size, lowest, num_outside, num_rows, position, checksum = HEADER.unpack_from(body)
    if version != VERSION:
        raise ValueError(f"decompress: expected version {VERSION} of the format; got {version}.")
    outside = np.frombuffer(body, dtype="<i8", offset=HEADER.size, count=num_outside).astype(np.int64)
    words = np.frombuffer(body, dtype="<u4", offset=HEADER.size + outside.nbytes).astype(np.uint32)
    return _Alphabet(size, lowest, num_outside), num_rows, position, checksum, outside, words


def _checksum(labels: np.ndarray) -> int:
    return zlib.crc32(labels.astype("<i8").tobytes())


def _family() -> Any:
    return _streams().model.Categorical(perfect=False)


def _streams() -> Any:
    """Return the range coder of constriction, which only this module needs.

    Raises:
        ImportError: when it is not installed.
    """
    try:
        import constriction
    except ImportError as error:
        raise ImportError("compress and decompress need constriction: pip install 'flatprior[codes]'") from error
    return constriction.stream


def _log2_probs(predictive: Predictive, alphabet: _Alphabet) -> np.ndarray:
    """Return log2 p(k | x_i, data) of the values of an alphabet, (n, size), in float64, so that nothing underflows."""
    with in_double_precision(predictive) as precise:
        if precise.num_classes is None:
            values = alphabet.lowest + np.arange(alphabet.size)
            nats = over_rows(Density.observation, _log_probs_at, precise.density, precise.draws, precise.data(), values)
        else:
            labels = np.zeros(count_rows(precise.x), int)
            nats = np.stack([precise.log_prob(labels + k) for k in range(alphabet.size)], axis=1)
    return np.maximum(nats / math.log(2), FLOOR)


def _log_probs_at(components: dist.Distribution, y: Rows, values: Array) -> Array:
    """Return the log probability of each of several counts, (n, value)."""

    def at(value: Array) -> Array:
        return log_mean_exp(jax.vmap(lambda d: d.log_prob(value))(components), None, None)

    return jax.lax.map(at, values).T


def _widest_gap(log2_probs: np.ndarray) -> tuple[int, float]:
    """Return the position in a cell, in units of 1 / POSITIONS, furthest from all values, and its distance in bits."""
    within = np.sort(np.mod(log2_probs.ravel() * CELLS, 1.0))
    gaps = np.diff(within, append=within[0] + 1.0)
    widest = int(gaps.argmax())
    position = int((within[widest] + gaps[widest] / 2) * POSITIONS) % POSITIONS
    return position, float(gaps[widest] / 2 - 1 / POSITIONS) / CELLS


def _frequencies(log2_probs: np.ndarray, position: int, num_outside: int = 0) -> np.ndarray:
    """Return integers proportional to p, up to rounding to cells, (n, symbols): the same on every machine.

    The coder takes float64, which represents them and their sums exactly.
    """
    cells = np.floor(log2_probs * CELLS - position / POSITIONS).astype(np.int64)
    whole, part = np.divmod(cells, CELLS)
    inside = (_powers()[part] >> -whole).astype(np.float64)
    if not num_outside:
        return inside
    share = (num_outside << SCALE) // len(inside)
    return np.concatenate([inside, np.full((len(inside), 1), float(share))], axis=1)


@cache
def _powers() -> np.ndarray:
    """Return floor(2^(SCALE + i / CELLS)), (CELLS,), by integers: exp2 differs between machines in the last digit."""
    powers = []
    for i in range(CELLS):
        power = 1 << (SCALE * CELLS + i)
        for _ in range(CELLS.bit_length() - 1):  # the CELLS-th root, by square roots
            power = math.isqrt(power)
        powers.append(power)
    return np.array(powers)
