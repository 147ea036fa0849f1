"""The random numbers of steps, where those of `jax.random.normal` would cost more than the step itself.

On a CPU a normal number takes about 5 ns, of which the random bits are half: for a network of 87,000 weights half a
millisecond, half the time of the gradient of 128 rows.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

SHARING = 8
"""The number of successive steps whose noise is cut from one array."""
SPACING = 128
"""The mean distance between the places at which it is cut."""


class Shared(NamedTuple):
    """Standard normal numbers for the noise of `SHARING` successive steps, which is cut from them at random places.

    The noise of each step, (particle, d), is that of independent standard normal numbers. Two steps have the same
    numbers, but no coordinate has the same number twice, and a random sign makes those of a step uncorrelated with
    those of another (the table of noise of Salimans et al. 2017, section 2.1, drawn anew all the time).
    """

    numbers: Array
    """(particle, d + SHARING SPACING)."""
    places: Array
    """The place of each step, (step,)."""
    signs: Array
    """The sign of each step, (step,)."""

    @classmethod
    def of(cls, key: Array, num_particles: int, size: int, dtype: Any) -> "Shared":
        """Return the numbers for vectors of a size."""
        key_numbers, key_places, key_signs = jax.random.split(key, 3)
        numbers = jax.random.normal(key_numbers, (num_particles, size + SHARING * SPACING), dtype)
        places = jax.random.randint(key_places, (SHARING,), 0, SPACING) + SPACING * jnp.arange(SHARING)
        return cls(numbers, places, jax.random.rademacher(key_signs, (SHARING,), dtype))

    def of_step(self, i: Array, size: int) -> Array:
        """Return the noise of the i-th step, (particle, size)."""
        place = i % SHARING
        return self.signs[place] * jax.lax.dynamic_slice_in_dim(self.numbers, self.places[place], size, axis=-1)


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
