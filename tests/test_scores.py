"""Scores of forecasts: against their formulas, and of rows that count several times."""

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats

from flatprior.inference.criticism import scores
from flatprior.inference.criticism.scores import Forecast, mean, standard_error

NUM_ROWS = 57
RNG = np.random.default_rng(0)
WEIGHTS = RNG.integers(0, 5, NUM_ROWS)
LOG_PROB = RNG.normal(size=NUM_ROWS)
PROBS = RNG.dirichlet(np.ones(3), NUM_ROWS)
CLASSES = RNG.integers(0, 3, NUM_ROWS)
ENDS = np.tile(0.9 * RNG.random(NUM_ROWS)[:, None], 2)
FORECASTS: dict[str, dict[str, Any]] = {
    "classes": {"y": CLASSES, "probs": PROBS},
    "soft labels": {"y": RNG.dirichlet(np.ones(3), NUM_ROWS), "probs": PROBS},
    "numbers": {"y": RNG.normal(size=NUM_ROWS), "mean": RNG.normal(size=NUM_ROWS), "transform": ENDS},
    "counts": {
        "y": CLASSES,
        "transform": np.sort(ENDS + 0.1 * RNG.random((NUM_ROWS, 2))),
        "crps": RNG.random(NUM_ROWS),
    },
    "ordered classes": {"y": CLASSES, "probs": PROBS, "rps": RNG.random(NUM_ROWS)},
    "vectors": {"y": RNG.normal(size=(NUM_ROWS, 2)), "mean": RNG.normal(size=(NUM_ROWS, 2)), "crps": ENDS},
    "with gaps": {"y": np.where(RNG.random((NUM_ROWS, 2)) < 0.2, np.nan, 1.0), "mean": RNG.normal(size=(NUM_ROWS, 2))},
    "tokens": {"y": RNG.integers(0, 3, (NUM_ROWS, 4)), "num_tokens": RNG.integers(0, 5, NUM_ROWS)},
}


@pytest.mark.parametrize("name", FORECASTS)
def test_a_row_of_weight_w_counts_as_w_equal_rows(name: str) -> None:
    """A row of weight 0 adds nothing, whatever its values: it may have no label."""
    forecast = Forecast(log_prob=LOG_PROB, **FORECASTS[name])
    unlabelled = np.where(WEIGHTS > 0, LOG_PROB, np.nan)
    weighted = Forecast(log_prob=unlabelled, weights=WEIGHTS.astype(float), **FORECASTS[name])
    replicated = forecast.rows(np.repeat(np.arange(NUM_ROWS), WEIGHTS))
    assert weighted.scores().keys() == forecast.scores().keys() != set()
    for score, value in replicated.scores().items():
        assert weighted.scores()[score] == pytest.approx(value, rel=1e-12), score
    assert weighted.scores() == pytest.approx(weighted.replicated().scores(), rel=1e-12)
    assert forecast.replicated() is forecast


def test_means_and_standard_errors_are_those_of_replicated_rows() -> None:
    values = np.where(WEIGHTS > 0, LOG_PROB, -np.inf)
    replicated = np.repeat(LOG_PROB, WEIGHTS)
    assert mean(values, WEIGHTS) == pytest.approx(replicated.mean(), rel=1e-12)
    assert standard_error(values, WEIGHTS) == pytest.approx(scipy.stats.sem(replicated), rel=1e-12)
    assert standard_error(LOG_PROB) == pytest.approx(scipy.stats.sem(LOG_PROB), rel=1e-12)
    assert math.isnan(standard_error(LOG_PROB[:1]))
    assert math.isnan(standard_error(values))
    assert math.isnan(mean(values, np.zeros(NUM_ROWS)))


def test_the_calibration_error_has_the_bins_of_equal_count() -> None:
    """By the definition, over `equal_bins`; weights need not be whole."""
    confidence, correct = PROBS.max(axis=1), PROBS.argmax(axis=1) == CLASSES
    bins = scores.equal_bins(confidence, scores.NUM_BINS)
    expected = sum(abs(confidence[rows].sum() - correct[rows].sum()) for rows in bins) / NUM_ROWS
    assert scores.confidence_calibration_error(confidence, correct) == pytest.approx(expected, rel=1e-12)
    tenths = scores.confidence_calibration_error(confidence, correct, np.full(NUM_ROWS, 1.1))
    assert tenths == pytest.approx(expected, abs=0.03)
