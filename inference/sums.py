"""Sums of many numbers whose differences keep their digits."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

BLOCK = 32
"""The number of values that are summed as usual: their sum has an error of some roundings of its size."""


def two_part_sum(values: Float[Array, " n"]) -> tuple[Array, Array]:
    """Return a sum in two parts, whose own sum has more digits than one number of the type.

    The sums of blocks are cut at a power of two q, so large that the sum of their multiples of q is exact: it is below
    2^24 q in float32. The second part is the sum of what is cut off, of at most q / 2 for each block (Dekker 1971; the
    cut is that of Ogita, Rump & Oishi 2005, section 3). So the difference of two such sums, of both parts, is as exact
    as the sums of blocks.
    """
    num_blocks = -(-len(values) // BLOCK)
    blocks = jnp.pad(values, (0, num_blocks * BLOCK - len(values))).reshape(num_blocks, BLOCK).sum(axis=1)
    _, exponent = jnp.frexp(jnp.abs(blocks).sum())
    q = jnp.ldexp(jnp.ones((), values.dtype), exponent - jnp.finfo(values.dtype).nmant)
    multiples = jnp.round(blocks / q) * q
    return multiples.sum(), (blocks - multiples).sum()
