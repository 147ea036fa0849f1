"""Weights of evidence: contributions of features to the log odds, in bits."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest

from flatprior.inference import MAP, Fit, Prior, chunks, fit
from flatprior.inference.information import WeightOfEvidence, weight_of_evidence
from flatprior.models import MLP, Bernoulli, Model, Normal, gaussian

from .tables import CommonFit

POINT = MAP(num_steps=30, polish=False)
BITS = 1 / np.log(2)
BASELINE = np.array([0.25, -0.5])
Rows = tuple[np.ndarray, np.ndarray]


def by_probability(x: jax.Array, y: jax.Array | None = None) -> None:
    """Logistic regression, written in probabilities."""
    w1 = numpyro.sample("w1", dist.Normal(jnp.zeros((2, 1)), 1.0).to_event(2))
    b1 = numpyro.sample("b1", dist.Normal(jnp.zeros(1), 1.0).to_event(1))
    numpyro.sample("y", dist.Bernoulli(probs=jax.nn.sigmoid(x @ w1 + b1)[:, 0]), obs=y)


def additive(x: jax.Array, y: jax.Array | None = None) -> None:
    """Contributions of features add up, and one of them is not linear."""
    slope = numpyro.sample("slope", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=slope[0] * x[:, 0] + slope[1] * x[:, 1] ** 2), obs=y)


@pytest.fixture(scope="module")
def fits(data_sets: dict[str, Rows], common_fit: CommonFit) -> dict[str, Fit]:
    binary = data_sets["binary"]
    problems: dict[str, tuple[Any, Any, Rows]] = {
        "by probability": (by_probability, POINT, binary),
        "network": (Model(MLP((3,), "tanh"), Bernoulli(), gaussian(1.0)), Prior(num_samples=30), binary),
        "additive": (additive, POINT, binary),
        "Normal": (Model(MLP(), Normal(1.0)), POINT, data_sets["real"]),
    }
    return {name: fit(model, by, *rows, key=0, progress=False) for name, (model, by, rows) in problems.items()} | {
        "linear by MAP": common_fit("Bernoulli", "MAP"),
        "linear by MCLMC": common_fit("Bernoulli", "MCLMC"),
        "softmax by MCLMC": common_fit("Categorical", "MCLMC"),
    }


def weights(fitted: Fit, classes: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Slopes (draw, features) and intercepts (draw,) of the log odds, in nats, from the draws."""
    slope = fitted.draws["w1"].reshape(-1, *fitted.draws["w1"].shape[2:]).astype(float)
    intercept = fitted.draws["b1"].reshape(-1, fitted.draws["b1"].shape[-1]).astype(float)
    contrast = np.ones(1) if classes is None else classes
    return slope @ contrast, intercept @ contrast


LINEAR: dict[str, tuple[str, dict[str, int], np.ndarray | None, str]] = {
    # fit, classes, how their logits enter, the question
    "MAP": ("linear by MAP", {}, None, "class 1 against class 0"),
    "MCLMC": ("linear by MCLMC", {}, None, "class 1 against class 0"),
    "of class 0": ("linear by MCLMC", {"label": 0}, np.array([-1.0]), "class 0 against class 1"),
    "probabilities": ("by probability", {}, None, "class 1 against class 0"),
    "one of three": ("softmax by MCLMC", {"label": 2, "against": 0}, np.array([-1.0, 0, 1]), "class 2 against class 0"),
    "against all": (
        "softmax by MCLMC",
        {"label": 2},
        np.array([-0.5, -0.5, 1]),
        "class 2 against the mean of the others",
    ),
}


@pytest.mark.parametrize("case", LINEAR)
def test_of_a_linear_logit_it_is_slope_times_distance(
    case: str, fits: dict[str, Fit], data_sets: dict[str, Rows]
) -> None:
    name, classes, contrast, question = LINEAR[case]
    x = data_sets["binary"][0].astype(np.float32).astype(float)  # as the fit has them
    slope, intercept = weights(fits[name], contrast)
    each = slope[:, None] * (x - BASELINE) * BITS
    fitted = weight_of_evidence(fits[name], x, baseline=BASELINE, interval=0.8, **classes)
    tolerance = {"rtol": 1e-9, "atol": 1e-9}
    np.testing.assert_allclose(fitted.bits, each.mean(axis=0), **tolerance)
    np.testing.assert_allclose(fitted.low, np.quantile(each, 0.1, axis=0), **tolerance)
    np.testing.assert_allclose(fitted.high, np.quantile(each, 0.9, axis=0), **tolerance)
    np.testing.assert_allclose(fitted.log_odds, (x @ slope.T + intercept).mean(axis=1) * BITS, **tolerance)
    assert fitted.baseline == pytest.approx((slope @ BASELINE + intercept).mean() * BITS)
    np.testing.assert_allclose(fitted.remainder, 0.0, atol=1e-9)
    assert fitted.kind == "linear"
    assert fitted.question == question
    assert f"Log odds of {question} in bits, mean over 40 rows: {fitted.log_odds.mean():.2f} = " in str(fitted)


def test_of_a_network_it_is_what_the_log_odds_lose(fits: dict[str, Fit], data_sets: dict[str, Rows]) -> None:
    network, x = fits["network"], data_sets["binary"][0]

    def log_odds(rows: np.ndarray) -> np.ndarray:
        ones = np.ones(len(rows), int)
        return (network.log_likelihood(rows, ones) - network.log_likelihood(rows, 0 * ones)).reshape(30, -1) * BITS

    fitted = weight_of_evidence(network, x, baseline=BASELINE)
    for feature in (0, 1):
        without = x.copy()
        without[:, feature] = BASELINE[feature]
        each = log_odds(x) - log_odds(without)
        np.testing.assert_allclose(fitted.bits[:, feature], each.mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(fitted.low[:, feature], np.quantile(each, 0.05, axis=0), atol=1e-5)
        np.testing.assert_allclose(fitted.high[:, feature], np.quantile(each, 0.95, axis=0), atol=1e-5)
    np.testing.assert_allclose(fitted.log_odds, log_odds(x).mean(axis=0), atol=1e-5)
    assert fitted.baseline == pytest.approx(log_odds(BASELINE[None]).mean(), abs=1e-5)
    assert fitted.kind == "ablation"
    assert np.abs(fitted.remainder).max() > 0.01
    assert "(interactions)" in str(fitted)


def test_what_adds_up_and_is_not_linear_is_not_called_linear(fits: dict[str, Fit], data_sets: dict[str, Rows]) -> None:
    fitted = weight_of_evidence(fits["additive"], data_sets["binary"][0], baseline=BASELINE)
    assert fitted.kind == "ablation"
    np.testing.assert_allclose(fitted.remainder, 0.0, atol=1e-9)
    slope = fits["additive"].draws["slope"][0, 0].astype(float)
    x = data_sets["binary"][0].astype(np.float32).astype(float)
    np.testing.assert_allclose(fitted.bits[:, 1], slope[1] * (x[:, 1] ** 2 - BASELINE[1] ** 2) * BITS, rtol=1e-9)


def test_a_baseline_is_a_row_or_the_mean_of_rows(fits: dict[str, Fit], data_sets: dict[str, Rows]) -> None:
    x = data_sets["binary"][0]
    mean = x.astype(np.float32).astype(float).mean(axis=0)
    one = weight_of_evidence(fits["linear by MAP"], x, baseline=mean)
    for baseline in (x, pd.DataFrame(x), pd.Series(mean)):
        other = weight_of_evidence(fits["linear by MAP"], x, baseline=baseline)
        np.testing.assert_allclose(other.bits, one.bits, atol=1e-6)
    np.testing.assert_allclose(one.bits.mean(axis=0), 0.0, atol=1e-6)


def test_chunks_change_nothing(
    fits: dict[str, Fit], data_sets: dict[str, Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = data_sets["binary"][0]
    whole = weight_of_evidence(fits["network"], x, baseline=BASELINE)
    monkeypatch.setattr(chunks, "WORKING_BYTES", 2**14)
    parts = weight_of_evidence(fits["network"], x, baseline=BASELINE)
    for name in ("bits", "low", "high", "log_odds", "baseline"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_it_names_the_columns_and_prints_the_largest_first(data_sets: dict[str, Rows]) -> None:
    x, y = data_sets["binary"]
    frame = pd.DataFrame(x, columns=["age", "dose"])
    fitted = fit(Model(MLP(), Bernoulli(), gaussian(1.0)), Prior(num_samples=30), frame, y, key=0, progress=False)
    result = weight_of_evidence(fitted, frame[:1], baseline=frame)
    assert result.features == ("age", "dose")
    lines = str(result).splitlines()
    assert lines[0].split() == ["bits", "0.05", "0.95"]
    largest = result.features[np.abs(result.bits[0]).argmax()]
    assert lines[1].split()[:2] == [largest, f"{result.bits[0][np.abs(result.bits[0]).argmax()]:.2f}"]
    table = weight_of_evidence(fitted, frame, baseline=frame).to_dataframe()
    assert table.shape == (80, 3)
    np.testing.assert_allclose(
        table.loc[(0, "dose")], [result.bits[0, 1], result.low[0, 1], result.high[0, 1]], rtol=1e-9
    )
    assert "mean |bits|" in str(weight_of_evidence(fitted, frame, baseline=frame))
    with pytest.raises(
        ValueError, match=r"expected the columns \['age', 'dose'\], in this order; got \['dose', 'age'\]"
    ):
        weight_of_evidence(fitted, frame, baseline=frame[["dose", "age"]])


def test_a_point_has_no_intervals_and_small_ones_are_summed() -> None:
    bits = (np.arange(30.0) * np.resize([1, -1], 30))[None]
    names = tuple(f"x{i}" for i in range(30))
    result = WeightOfEvidence(names, bits, bits, bits, np.ones(1), 16.0, "linear", "it", 0.9)
    lines = str(result).splitlines()
    assert lines[0].split() == ["bits"]
    assert [line.split()[0] for line in lines[1:13]] == [f"x{i}" for i in range(29, 17, -1)]
    assert lines[14:] == [
        "And 18 smaller ones: -9.00 bits together.",
        "Log odds of it in bits: 1.00 = 16.00 (baseline) -15.00 (features).",
    ]


BAD: dict[str, tuple[str, dict[str, Any], type[Exception], str]] = {
    # fit, options
    "no fit": ("none", {}, TypeError, "weight_of_evidence: expected a fit; got 'a fit'"),
    "y is a number": ("Normal", {}, TypeError, "expected y to be a class; it can be .*[Rr]eal"),
    "no such class": ("softmax by MCLMC", {"label": 3}, ValueError, "two of the classes 0 to 2; got 3 and None"),
    "no such other": ("softmax by MCLMC", {"against": -1}, ValueError, "two of the classes 0 to 2; got 1 and -1"),
    "against itself": ("linear by MAP", {"against": 1}, ValueError, "two of the classes 0 to 1; got 1 and 1"),
    "interval": ("linear by MAP", {"interval": 1.0}, ValueError, "expected an interval between 0 and 1; got 1.0"),
    "baseline of another width": ("linear by MAP", {"baseline": [0.0]}, ValueError, r"shape \(2,\); got \(1,\)"),
    "baseline of rows of rows": ("linear by MAP", {"baseline": np.zeros((1, 1, 2))}, ValueError, r"got \(1, 1, 2\)"),
    "baseline is NaN": ("linear by MAP", {"baseline": [0.0, np.nan]}, ValueError, "baseline, .* expected finite"),
    "x of another width": ("linear by MAP", {"x": np.zeros((2, 3))}, ValueError, r"rows shaped \(2,\), as in the fit"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_raises(name: str, fits: dict[str, Fit]) -> None:
    which, options, error, message = BAD[name]
    given: dict[str, Any] = {"x": np.zeros((4, 2)), "baseline": np.zeros(2), **options}
    fitted: Any = "a fit" if which == "none" else fits[which]
    with pytest.raises(error, match=message):
        weight_of_evidence(fitted, given.pop("x"), **given)


def test_x_must_be_one_array() -> None:
    def grouped(x: dict[str, jax.Array], y: jax.Array | None = None) -> None:
        w = numpyro.sample("w", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Bernoulli(logits=w * x["z"][:, 0]), obs=y)

    x = {"z": np.ones((6, 1))}
    fitted = fit(grouped, POINT, x, np.arange(6) % 2, key=0, progress=False)
    with pytest.raises(ValueError, match=r"expected a fit to one array x, rows of features; got rows shaped \(1,\) in"):
        weight_of_evidence(fitted, x, baseline=[0.0])
