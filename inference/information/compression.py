"""Compression: labels as bytes, by a fit that writer and reader have in common."""

import math
import struct
import zlib
from functools import cache
from typing import Any

import constriction
import numpy as np

from ..checks import check_labels
from ..predictive import Predictive
from ..result import Fit, check_fit
from ..rows import count_rows
from .bits import check_classes, in_double_precision

MAGIC, VERSION = b"flpr", 1
HEADER = struct.Struct("<4sBIQII")
"""Magic, version, number of classes, number of rows, place of the borders, CRC-32 of the labels."""
FOOTER = struct.Struct("<I")
"""CRC-32 of all before it."""
CELLS = 128
"""Cells a bit. All classes of a row are off by less than a cell of each other, so a label of probability p costs less
than (1 - p) (2^(1/128) - 1) nats more, which is at most 0.55% of its -log p."""
FLOOR = -32
"""The lowest log2 p. The coder gives no label less than 2^-24."""
SCALE = 48
"""Bits of the integer that stands for probability 1: those of a row can be summed in float64 without rounding."""
PLACES = 2**32
"""Places at which the borders of the cells may lie."""
TOLERANCE = 1e-10
"""Bits by which a log2 p in double precision may differ between writer and reader. Rounding is about 1e-14."""


def compress(fit: Fit, x: Any, y: Any) -> bytes:
    """Write labels in as many bits as the fit gives them: ``code_length(fit, x, y).total``, to within 1% and 64 bytes.

    The bytes are those of a range coder (Martin 1979; the library constriction, Bamler 2022) that codes label k of row
    i by p(k | x_i, data). Who has the fit, or makes it again, and the same rows of x in the same order gets the labels
    back by `decompress`. A label that the fit calls impossible costs 24 bits.

    Two computers, or two batch sizes, do not give the same probabilities to the last digit, and who reads by others
    than were written by reads noise. So log2 p is computed in double precision, whatever that of the fit, and rounded
    to cells of 1/128 bit; and the borders of the cells, whose place is sent along, are laid into the widest gap between
    the n K values modulo a cell. A reader whose values differ from the writer's by less than half of this gap, which is
    1 / (256 n K) bits or more, has the same cells. All that follows is exact. (A model that insists on float32 inside
    is off by some 1e-6 bits: enough for some thousand values.)

    Args:
        fit: a fit, by any method, whose y is one of a finite set of classes.
        x: n rows.
        y: labels, (n,).

    Returns:
        The labels as bytes. They hold no part of x or of the fit, but checksums by which `decompress` knows damaged
        bytes, and labels that are not those that were written.

    Raises:
        TypeError: when `fit` is not a fit or y is not a class.
        ValueError: when x and y are not rows like those of the fit, or n K is so large (beyond 10^7) that the gap
            comes near to rounding: compress the rows in parts.

    Example:
        >>> import numpy as np
        >>> from flatprior.inference import MLE, fit
        >>> from flatprior.inference.information import compress, decompress
        >>> from flatprior.models import MLP, Bernoulli, Model
        >>> x = np.linspace(-3, 3, 4000)[:, None]
        >>> y = (np.random.default_rng(0).random(4000) < 1 / (1 + np.exp(-4 * x[:, 0]))).astype(int)
        >>> known = fit(Model(MLP(), Bernoulli()), MLE(), x, y, key=0)
        >>> blob = compress(known, x, y)
        >>> print(round(len(blob), -1), len(np.packbits(y)))  # bytes; the latter are one bit a label
        130 500
        >>> print((decompress(known, x, blob) == y).all())
        True
    """
    predictive = _predictive("compress", fit, x)
    labels = check_classes("compress", check_labels(fit.model, predictive.x, y)).astype(np.int32)
    log2_probs = _log2_probs(predictive)
    place, margin = _widest_gap(log2_probs)
    if margin < TOLERANCE:
        raise ValueError(
            f"compress: expected a gap of {TOLERANCE:g} bits or more around the borders of the cells; got {margin:.2g} "
            f"for {len(labels)} rows of {log2_probs.shape[1]} classes. Compress the rows in parts."
        )
    encoder = constriction.stream.queue.RangeEncoder()
    encoder.encode(labels, _family(), _frequencies(log2_probs, place))
    header = HEADER.pack(MAGIC, VERSION, log2_probs.shape[1], len(labels), place, _checksum(labels))
    body = header + encoder.get_compressed().astype("<u4").tobytes()
    return body + FOOTER.pack(zlib.crc32(body))


def decompress(fit: Fit, x: Any, blob: bytes) -> np.ndarray:
    """The labels that `compress` wrote, exactly: in another process, batch size or session in double precision as well.

    Args:
        fit: the fit that wrote them, or one with the same draws.
        x: the n rows, in the same order.
        blob: what `compress` returned.

    Returns:
        The labels, (n,), integers.

    Raises:
        TypeError: when `fit` is not a fit, its y is not a class, or `blob` is not bytes.
        ValueError: when the bytes are not those of `compress` or are damaged, or fit and x are not those that wrote
            them. What passes by chance is one in 2^32.
    """
    predictive = _predictive("decompress", fit, x)
    num_classes, num_rows, place, checksum, words = _read(blob)
    if num_rows != count_rows(predictive.x):
        got = count_rows(predictive.x)
        raise ValueError(f"decompress: expected x of the {num_rows} rows whose labels were compressed; got {got} rows.")
    if num_classes != predictive.num_classes:
        raise ValueError(f"decompress: expected a fit of {num_classes} classes; got one of {predictive.num_classes}.")
    decoder = constriction.stream.queue.RangeDecoder(words)
    frequencies = _frequencies(_log2_probs(predictive), place)
    try:
        labels = np.asarray(decoder.decode(_family(), frequencies))
    except (AssertionError, ValueError):  # impossible under these frequencies
        labels = None
    if labels is None or _checksum(labels) != checksum:
        raise ValueError(
            "decompress: the labels that were read are not those that were compressed. Expected the same fit, to the "
            "same draws, and the same rows of x in the same order."
        )
    return labels.astype(int)


def _predictive(name: str, fit: Fit, x: Any) -> Predictive:
    """The predictive distribution of a fit of classes."""
    check_fit(name, fit)
    predictive = fit.predict(x)
    predictive.response.expect_class(name)
    return predictive


def _read(blob: bytes) -> tuple[int, int, int, int, np.ndarray]:
    """Number of classes and rows, place of the borders, checksum of the labels, and the words of the coder."""
    if not isinstance(blob, bytes | bytearray | memoryview):
        raise TypeError(f"decompress: expected bytes, as compress returns them; got {type(blob).__name__}.")
    blob = bytes(blob)
    if blob[: len(MAGIC)] != MAGIC or len(blob) < HEADER.size + FOOTER.size:
        raise ValueError(f"decompress: expected bytes that compress wrote, from {MAGIC!r} on; got {blob[:8]!r}.")
    body, footer = blob[: -FOOTER.size], blob[-FOOTER.size :]
    if FOOTER.pack(zlib.crc32(body)) != footer or (len(body) - HEADER.size) % 4:
        raise ValueError(f"decompress: the {len(blob)} bytes are damaged or cut short: their checksum does not agree.")
    _, version, num_classes, num_rows, place, checksum = HEADER.unpack_from(body)
    if version != VERSION:
        raise ValueError(f"decompress: expected version {VERSION} of the format; got {version}.")
    words = np.frombuffer(body, dtype="<u4", offset=HEADER.size).astype(np.uint32)
    return num_classes, num_rows, place, checksum, words


def _checksum(labels: np.ndarray) -> int:
    return zlib.crc32(labels.astype("<i4").tobytes())


def _family() -> Any:
    return constriction.stream.model.Categorical(perfect=False)


def _log2_probs(predictive: Predictive) -> np.ndarray:
    """Log2 p(k | x_i, data), (n, num_classes), in float64, class by class, so that nothing underflows."""
    labels = np.zeros(count_rows(predictive.x), int)
    with in_double_precision(predictive) as precise:
        nats = [precise.log_prob(labels + k) for k in range(precise.num_classes or 0)]
    return np.maximum(np.stack(nats, axis=1) / math.log(2), FLOOR)


def _widest_gap(log2_probs: np.ndarray) -> tuple[int, float]:
    """Where in a cell, in units of 1 / PLACES, its border is furthest from all values, and how far that is, in bits."""
    within = np.sort(np.mod(log2_probs.ravel() * CELLS, 1.0))
    gaps = np.diff(within, append=within[0] + 1.0)
    widest = int(gaps.argmax())
    place = int((within[widest] + gaps[widest] / 2) * PLACES) % PLACES
    return place, float(gaps[widest] / 2 - 1 / PLACES) / CELLS


def _frequencies(log2_probs: np.ndarray, place: int) -> np.ndarray:
    """Integers in proportion to p, but for rounding to cells, (n, num_classes): the same on every machine.

    As float64, which holds them exactly and which the coder takes. Their sums are rounded nowhere either.
    """
    cells = np.floor(log2_probs * CELLS - place / PLACES).astype(np.int64)
    whole, part = np.divmod(cells, CELLS)
    return (_powers()[part] >> -whole).astype(np.float64)


@cache
def _powers() -> np.ndarray:
    """floor(2^(SCALE + i / CELLS)), (CELLS,), by integers: exp2 differs between machines in the last digit."""
    powers = []
    for i in range(CELLS):
        power = 1 << (SCALE * CELLS + i)
        for _ in range(CELLS.bit_length() - 1):  # the CELLS-th root, by square roots
            power = math.isqrt(power)
        powers.append(power)
    return np.array(powers)
