"""Predictive intervals of the exact posterior cover simulated y of every kind as often as they promise."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

coverage = SimpleNamespace(
    **runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "coverage.py"), run_name="coverage")
)
REPLICATES = range(60)


@pytest.mark.slow
@pytest.mark.parametrize("kind", coverage.KINDS)
def test_intervals_cover_what_they_promise(kind: str) -> None:
    assert abs(coverage.z_score(coverage.covered(kind, REPLICATES))) < coverage.LIMIT


@pytest.mark.slow
def test_a_point_estimate_from_few_rows_is_found_out() -> None:
    assert coverage.z_score(coverage.covered(coverage.BROKEN, REPLICATES)) < -coverage.LIMIT
