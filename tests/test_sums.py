"""Sums in two parts keep the digits of their differences."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flatprior.inference.sums import BLOCK, two_part_sum

sum_of = jax.jit(two_part_sum)


def parts(values: np.ndarray) -> np.ndarray:
    return np.array(sum_of(jnp.asarray(values)), float)


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_differences_are_those_of_the_exact_sums(size: float) -> None:
    """A float32 number of 1.4 million has steps of an eighth: the energy error of a chain is a hundredth."""
    rng = np.random.default_rng(0)
    here = (size * (1.4 + rng.exponential(size=10**6))).astype(np.float32)
    there = (here + size * 1e-5 * rng.normal(size=10**6)).astype(np.float32)
    exact = math.fsum(map(float, there)) - math.fsum(map(float, here))
    assert abs((parts(there) - parts(here)).sum() - exact) < 0.004 * size
    assert np.float32(size * 2.4e6) - np.nextafter(np.float32(size * 2.4e6), np.float32(0)) > 0.2 * size


@pytest.mark.parametrize("count", [1, BLOCK - 1, BLOCK, BLOCK + 1, 1000])
def test_the_sum_of_both_parts_is_the_sum(count: int) -> None:
    values = np.random.default_rng(count).normal(size=count).astype(np.float32)
    np.testing.assert_allclose(parts(values).sum(), values.astype(float).sum(), atol=1e-5)


def test_nothing_and_too_much() -> None:
    assert parts(np.zeros(100, np.float32)).sum() == 0
    assert not np.isfinite(parts(np.array([1.0, np.inf], np.float32)).sum())
