"""The random numbers of steps, where those of `jax.random.normal` would cost more than the step itself.

On a CPU a normal number takes about 5 ns, of which the random bits are half: for a network of 87,000 weights half a
millisecond, half the time of the gradient of 128 rows.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def binomial(key: Array, size: int, dtype: Any) -> Array:
    """Return independent numbers with the moments of standard normal ones up to the third, (size,).

    Each is the number of ones in a byte of random bits, which is binomial, in its standard deviations from its mean.
    Steps of stochastic differential equations need the low moments of their noise alone: a step of time h adds a
    multiple h^(1/2) of it, and what sums of many steps keep of its other moments vanishes with h (Kloeden & Platen
    1992, section 14.1; Milstein & Tretyakov 2004, section 2.1). Here the third moment is 0 and the fourth 2.75, where
    the normal distribution has 3 and a random sign 1. It takes a quarter of the bits of normal numbers, and no inverse
    of a cdf.
    """
    words = jax.random.bits(key, (-(-size // 4),), jnp.uint32)
    ones = jax.lax.population_count(jax.lax.bitcast_convert_type(words, jnp.uint8)).reshape(-1)[:size]
    # The barrier keeps XLA from counting anew in each of the loops that read the numbers.
    return jax.lax.optimization_barrier((ones.astype(dtype) - 4) * 2**-0.5)
