"""Compression: labels as bytes, by a fit that writer and reader share."""

import math
import struct
import zlib
from functools import cache
from typing import Any

import constriction
import numpy as np

from ..checks import check_labels
from ..labels import check_complete
from ..predictive import Predictive
from ..result import Fit, check_fit
from ..rows import count_rows
from .bits import check_classes, in_double_precision

MAGIC, VERSION = b"flpr", 1
HEADER = struct.Struct("<4sBIQII")
"""Magic, version, number of classes, number of rows, position of the boundaries, CRC-32 of the labels."""
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

    Args:
        fit: a fit, by any method, whose y is one of a finite set of classes.
        x: n rows.
        y: labels, (n,).

    Returns:
        The labels as bytes. They contain no part of x or of the fit, but checksums by which `decompress` detects
        damaged bytes and wrong labels.

    Raises:
        TypeError: when `fit` is not a fit or y is not a class.
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
        130 500
        >>> print((decompress(logistic, x, blob) == y).all())
        True
    """
    predictive = _predictive("compress", fit, x)
    data = check_labels(fit.model, predictive.x, y)
    check_complete("compress", data.known)
    labels = check_classes("compress", data.y).astype(np.int32)
    log2_probs = _log2_probs(predictive)
    position, margin = _widest_gap(log2_probs)
    if margin < TOLERANCE:
        raise ValueError(
            f"compress: expected a gap of {TOLERANCE:g} bits or more around the boundaries of the cells; got "
            f"{margin:.2g} for {len(labels)} rows of {log2_probs.shape[1]} classes. Compress the rows in parts."
        )
    encoder = constriction.stream.queue.RangeEncoder()
    encoder.encode(labels, _family(), _frequencies(log2_probs, position))
    header = HEADER.pack(MAGIC, VERSION, log2_probs.shape[1], len(labels), position, _checksum(labels))
    body = header + encoder.get_compressed().astype("<u4").tobytes()
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
        TypeError: when `fit` is not a fit, its y is not a class, or `blob` is not bytes.
        ValueError: when the bytes are not those of `compress` or are damaged, or fit and x are not those that wrote
            them. The chance that such an error passes is one in 2^32.
    """
    predictive = _predictive("decompress", fit, x)
    num_classes, num_rows, position, checksum, words = _read(blob)
    if (got := count_rows(predictive.x)) != num_rows:
        raise ValueError(f"decompress: expected x of the {num_rows} rows whose labels were compressed; got {got} rows.")
    if num_classes != predictive.num_classes:
        raise ValueError(f"decompress: expected a fit of {num_classes} classes; got one of {predictive.num_classes}.")
    decoder = constriction.stream.queue.RangeDecoder(words)
    frequencies = _frequencies(_log2_probs(predictive), position)
    try:
        labels = np.asarray(decoder.decode(_family(), frequencies))
    except (AssertionError, ValueError):  # impossible under these frequencies
        labels = None
    if labels is None or _checksum(labels) != checksum:
        raise ValueError(
            "decompress: expected the fit, with the same draws, and the rows of x, in the same order, that the labels "
            "were compressed with; got others, as the checksum of the labels does not match."
        )
    return labels.astype(int)


def _predictive(name: str, fit: Fit, x: Any) -> Predictive:
    """Return the predictive distribution of a fit of classes."""
    check_fit(name, fit)
    predictive = fit.predict(x)
    predictive.response.expect_class(name)
    fit.structure.check_unweighted(name)
    return predictive


def _read(blob: bytes) -> tuple[int, int, int, int, np.ndarray]:
    """Return number of classes and rows, position of the boundaries, checksum of the labels, words of the coder."""
    if not isinstance(blob, bytes | bytearray | memoryview):
        raise TypeError(f"decompress: expected bytes, the result of compress; got {type(blob).__name__}.")
    blob = bytes(blob)
    if blob[: len(MAGIC)] != MAGIC or len(blob) < HEADER.size + FOOTER.size:
        raise ValueError(f"decompress: expected the bytes of compress, which begin with {MAGIC!r}; got {blob[:8]!r}.")
    body, footer = blob[: -FOOTER.size], blob[-FOOTER.size :]
    if FOOTER.pack(zlib.crc32(body)) != footer or (len(body) - HEADER.size) % 4:
        raise ValueError(f"decompress: the {len(blob)} bytes are damaged or truncated: their checksum does not match.")
    _, version, num_classes, num_rows, position, checksum = HEADER.unpack_from(body)
    if version != VERSION:
        raise ValueError(f"decompress: expected version {VERSION} of the format; got {version}.")
    words = np.frombuffer(body, dtype="<u4", offset=HEADER.size).astype(np.uint32)
    return num_classes, num_rows, position, checksum, words


def _checksum(labels: np.ndarray) -> int:
    return zlib.crc32(labels.astype("<i4").tobytes())


def _family() -> Any:
    return constriction.stream.model.Categorical(perfect=False)


def _log2_probs(predictive: Predictive) -> np.ndarray:
    """Return log2 p(k | x_i, data), (n, num_classes), in float64, class by class, so that nothing underflows."""
    labels = np.zeros(count_rows(predictive.x), int)
    with in_double_precision(predictive) as precise:
        nats = [precise.log_prob(labels + k) for k in range(precise.num_classes or 0)]
    return np.maximum(np.stack(nats, axis=1) / math.log(2), FLOOR)


def _widest_gap(log2_probs: np.ndarray) -> tuple[int, float]:
    """Return the position in a cell, in units of 1 / POSITIONS, furthest from all values, and its distance in bits."""
    within = np.sort(np.mod(log2_probs.ravel() * CELLS, 1.0))
    gaps = np.diff(within, append=within[0] + 1.0)
    widest = int(gaps.argmax())
    position = int((within[widest] + gaps[widest] / 2) * POSITIONS) % POSITIONS
    return position, float(gaps[widest] / 2 - 1 / POSITIONS) / CELLS


def _frequencies(log2_probs: np.ndarray, position: int) -> np.ndarray:
    """Return integers proportional to p, up to rounding to cells, (n, num_classes): the same on every machine.

    The coder takes float64, which represents them and their sums exactly.
    """
    cells = np.floor(log2_probs * CELLS - position / POSITIONS).astype(np.int64)
    whole, part = np.divmod(cells, CELLS)
    return (_powers()[part] >> -whole).astype(np.float64)


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
