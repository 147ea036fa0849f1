"""Ranks of the truth among draws are uniform for exact methods, and the same harness finds samplers that are broken."""

import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "sbc.py"
REPLICATES = range(160)

sbc = SimpleNamespace(**runpy.run_path(str(SCRIPT), run_name="sbc"))
TESTS = len(sbc.PROBLEMS) * len(sbc.EXACT)


@pytest.mark.slow
@pytest.mark.parametrize("method", sbc.EXACT)
@pytest.mark.parametrize("problem", sbc.PROBLEMS)
def test_exact_methods_have_uniform_ranks(problem: str, method: str) -> None:
    result = sbc.ranks(problem, method, REPLICATES)
    assert sbc.right(result, TESTS), {quantity: sbc.p_value(rank) for quantity, rank in result.items()}


@pytest.mark.slow
def test_laplace_is_exact_where_the_posterior_is_normal() -> None:
    assert sbc.right(sbc.ranks("linear", "Laplace", REPLICATES))


@pytest.mark.slow
@pytest.mark.parametrize("method", sbc.BROKEN)
@pytest.mark.parametrize("problem", ["linear", "network"])
def test_broken_samplers_are_found(problem: str, method: str) -> None:
    assert not sbc.right(sbc.ranks(problem, method, REPLICATES), TESTS)


DISTORTED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "too narrow": lambda u: np.clip(0.5 + (u - 0.5) * 1.5, 0, 1),
    "too wide": lambda u: 0.5 + (u - 0.5) / 1.5,
    "shifted": lambda u: u**1.6,
}


def test_the_test_of_uniformity_is_one() -> None:
    """It rejects uniform ranks as often as it says, and distorted ones nearly always."""
    rng = np.random.default_rng(0)
    rejected = np.mean([sbc.p_value(rng.integers(0, sbc.DRAWS + 1, 256)) < 0.05 for _ in range(1000)])
    assert abs(rejected - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 1000)
    for name, distort in DISTORTED.items():
        ranks = [np.minimum(sbc.DRAWS, (distort(rng.random(256)) * (sbc.DRAWS + 1)).astype(int)) for _ in range(100)]
        assert np.mean([sbc.right({"f": rank}, TESTS) for rank in ranks]) < 0.1, name
