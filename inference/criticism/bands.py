"""Bands of frequencies, and intervals for the probability behind a frequency."""

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtri

if TYPE_CHECKING:  # importing it takes a tenth of a second or more
    import pandas as pd

BAND = 0.9
"""Probability of the bands."""


def sum_of_events(probs: np.ndarray) -> np.ndarray:
    """Return the probabilities of 0, ..., m hits among m independent events, (m + 1,): the Poisson binomial.

    The product of the polynomials 1 - p + p z is taken pairwise, which is fast for a million events.
    """
    from scipy.signal import fftconvolve  # imported late; see `binomial_band`

    factors = np.stack([1 - probs, probs], axis=1)
    while len(factors) > 1:
        if len(factors) % 2:
            factors = np.concatenate([factors, np.eye(1, factors.shape[1])])
        factors = fftconvolve(factors[::2], factors[1::2], axes=1)
    mass = np.maximum(factors[0, : len(probs) + 1], 0.0)
    return mass / mass.sum()


def binomial_band(count: np.ndarray, probability: np.ndarray) -> dict[str, np.ndarray]:
    """Return the central 90% range of a binomial frequency, ``low`` to ``high``."""
    from scipy.stats import binom  # a third of the time of importing this library, which only calibration needs

    ends = {"low": (1 - BAND) / 2, "high": (1 + BAND) / 2}
    return {name: binom.ppf(share, count, probability) / count for name, share in ends.items()}


def wilson_intervals(hits: Any, counts: Any) -> "pd.DataFrame":
    """Return Wilson's (1927) 90% intervals for the probabilities behind the frequencies hits / counts."""
    import pandas as pd

    hits, counts = np.asarray(hits, float), np.asarray(counts, float)
    z, share = ndtri((1 + BAND) / 2), hits / counts
    centre = (share + z**2 / (2 * counts)) / (1 + z**2 / counts)
    reach = z * np.sqrt(share * (1 - share) / counts + (z / (2 * counts)) ** 2) / (1 + z**2 / counts)
    return pd.DataFrame({"wilson_low": centre - reach, "wilson_high": centre + reach})
