"""Draws against posteriors that are known: closed forms, a grid, and the reference draws of posteriordb."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "truth.py"
NUM_KEYS = 4
MAX_BIAS = 0.1
"""Standard deviations of the posterior, of chains that are not adjusted."""

truth = SimpleNamespace(**runpy.run_path(str(SCRIPT), run_name="truth"))
NAMES = [*truth.CLOSED, *truth.POSTERIORDB]


def need(name: str) -> None:
    if name in truth.POSTERIORDB and not (truth.FOLDER / name).exists():
        pytest.skip(f"there is no {name} among the reference posteriors")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["NUTS", "MCLMC, adjusted"])
@pytest.mark.parametrize("name", NAMES)
def test_exact_methods_draw_the_posterior(name: str, method: str) -> None:
    need(name)
    results = [truth.run(name, method, key) for key in range(NUM_KEYS)]
    assert sum(result.status == "ok" for result in results) >= NUM_KEYS - 1  # R-hat of one weight is near its limit
    assert max(result.worst for result in results) < truth.BOUND


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_bias_of_the_default_is_bounded(name: str) -> None:
    need(name)
    """Of means and standard deviations, of parameters and of predictions."""
    results = [truth.run(name, "MCLMC, .0002", key) for key in range(NUM_KEYS)]
    assert np.abs(truth.biases(truth.get(name), results)).max() < MAX_BIAS
