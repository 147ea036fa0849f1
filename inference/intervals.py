"""Values of y of which only bounds are known: rows of a lower and an upper bound, of which an infinite one is open."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.distributions import constraints

from .words import in_words, index_in_words


def check_intervals(values: np.ndarray, support: constraints.Constraint, name: str) -> None:
    """Raise ValueError at the first row of bounds between which a number in the support cannot be.

    Args:
        values: lower and upper bounds, (n, 2).
        support: the numbers that y can be.
        name: y, in messages.
    """
    lower, upper = values[:, 0], values[:, 1]
    least = getattr(support, "lower_bound", -np.inf)  # 0 is the open lower bound of a positive number
    has_lower = np.asarray(support(lower)) | (lower == -np.inf) | (lower == least)
    has_upper = np.asarray(support(upper)) | (upper == np.inf)
    problems = (
        (lower > upper, "a lower bound up to the upper one", "Swap them."),
        (lower == np.inf, "a lower bound below inf", "A value above t has the bounds (t, inf)."),
        (upper == -np.inf, "an upper bound above -inf", "A value below t has the bounds (-inf, t)."),
        (~has_lower, f"{in_words(support)} as lower bound, or -inf", ""),
        (~has_upper, f"{in_words(support)} as upper bound, or inf", ""),
        ((lower == upper) & ~np.asarray(support(lower)), f"{in_words(support)} where both bounds are equal", ""),
    )
    for is_bad, words, cure in problems:
        if is_bad.any():
            row = int(np.argmax(is_bad))
            got = f"({lower[row]:.7g}, {upper[row]:.7g})"
            raise ValueError(f"{name}{index_in_words((row,))}: expected {words}; got {got}. {cure}".rstrip())


def point_of[Values: (np.ndarray, Array)](bounds: Values) -> Values:
    """Return a finite number of each row of bounds, (..., 2) -> (...): their middle, or the one that is not open.

    It is the value itself where both bounds are equal, and 0 where both are open.
    """
    xp: Any = np if isinstance(bounds, np.ndarray) else jnp
    lower, upper = bounds[..., 0], bounds[..., 1]
    low = xp.where(xp.isfinite(lower), lower, xp.where(xp.isfinite(upper), upper, 0))
    high = xp.where(xp.isfinite(upper), upper, low)
    return low + (high - low) / 2  # type: ignore[no-any-return]
