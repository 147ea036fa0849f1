"""The type in which draws are kept: the precision of the fit, or a narrower type, which takes less memory.

Chains and guides write their draws in this type (`Density.draws`); where they are evaluated, they are widened again.
Sites whose support is not the whole real line, such as scales, keep the precision of the fit: they are few, and their
relative error matters.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jax import Array
from jax.dtypes import canonicalize_dtype

from .reasons import Code, Reason

DRAWS_DTYPES = ("float16", "float32")
MAX_SHARE = 0.2
"""The rounding error of draws, in their standard deviations within chains, above which they are too coarse: it adds 4%
to the variance."""
PROBE_DRAWS, PROBE_WEIGHTS = 100, 1000
"""The largest number of draws per chain, and of weights per site, at which rounding is measured."""


def as_draws_dtype(given: Any) -> str | None:
    """Return the name of the type in which draws are to be kept; None where it is not narrower than that of the fit.

    Raises:
        ValueError: when it is another type.
    """
    if given is None:
        return None
    try:
        name = np.dtype(given).name
    except TypeError:
        name = ""
    if name not in DRAWS_DTYPES:
        raise ValueError(
            f"draws_dtype: expected 'float16', 'float32' or None, the precision of the fit; got {given!r}."
        )
    return name if np.dtype(name).itemsize < canonicalize_dtype(float).itemsize else None


def narrowed[A: (np.ndarray, Array)](values: A, dtype: str) -> A:
    """Return numbers in a narrower type: the nearest ones, or the largest where they are beyond it."""
    if values.dtype.itemsize <= np.dtype(dtype).itemsize:
        return values
    xp: Any = values.__array_namespace__()
    largest = float(np.finfo(dtype).max)
    return xp.where(xp.isfinite(values), xp.clip(values, -largest, largest), values).astype(dtype)  # type: ignore[no-any-return]


def wide(dtype: np.dtype) -> np.dtype:
    """Return the type in which draws of a type are evaluated, which has at least 32 bits."""
    return np.promote_types(dtype, np.float32) if dtype.kind == "f" else dtype


def widened(values: np.ndarray) -> np.ndarray:
    """Return draws in the type in which they are evaluated."""
    return values.astype(wide(values.dtype), copy=False)


def wide_bytes(values: np.ndarray) -> int:
    """Return the bytes of draws in that type."""
    return values.size * wide(values.dtype).itemsize


def coarseness(draws: Mapping[str, np.ndarray], dtype: str) -> tuple[Reason, ...]:
    """Return a reason if draws in a narrow type, (chain, draw, *shape), are too coarse for their spread."""
    shares = {site: _share(values) for site, values in draws.items() if values.dtype == dtype and values.shape[1] > 1}
    worst = max(shares, key=lambda site: shares[site], default="")
    if not worst or shares[worst] <= MAX_SHARE:
        return ()
    return (Reason.of(Code.COARSE_DRAWS, site=worst, dtype=dtype, share=shares[worst], limit=MAX_SHARE),)


def _share(values: np.ndarray) -> float:
    """Return the largest rounding error of a weight in standard deviations within chains, at most 1.

    It is that of a number that lies anywhere between two neighbours of its type. A number beyond the type has lost all.
    """
    flat = values.reshape(*values.shape[:2], -1)
    steps = [max(1, -(-n // most)) for n, most in zip(flat.shape[1:], (PROBE_DRAWS, PROBE_WEIGHTS), strict=True)]
    some = np.asarray(flat[:, :: steps[0], :: steps[1]])
    if (np.abs(some) == np.finfo(some.dtype).max).any():
        return 1.0
    errors = np.spacing(np.abs(some)).astype(float) / 12**0.5
    error = (errors**2).mean(axis=(0, 1)) ** 0.5
    spread = some.astype(float).var(axis=1).mean(axis=0) ** 0.5
    return float((error / np.maximum(spread, error)).max(initial=0.0))
