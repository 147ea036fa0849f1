"""The path from the prior to the MLE."""

from typing import Any

import numpy as np
import numpyro.distributions as dist
import pytest
from matplotlib.figure import Figure
from sklearn.linear_model import Ridge

from flatprior.inference import MAP, MLE, fit, flat
from flatprior.inference.blocks import Run
from flatprior.inference.methods import descent, prior_path
from flatprior.inference.plots import plot_path
from flatprior.models import MLP, Bernoulli, Model, Normal, gaussian

Rows = tuple[np.ndarray, np.ndarray]
LOGISTIC = Model(MLP(), Bernoulli(), gaussian(0.5))


@pytest.fixture
def labels(data_sets: dict[str, Rows]) -> Rows:
    return data_sets["binary"]


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_member_is_the_map_estimate_of_the_model_with_that_scale(labels: Rows) -> None:
    path = prior_path(LOGISTIC, *labels, key=0, multiples=(0.5, 4.0), progress=False)
    for i, scale in enumerate((0.25, 2.0)):
        alone = fit(Model(MLP(), Bernoulli(), gaussian(scale)), MAP(), *labels, key=1, progress=False)
        for site, value in path.weights.items():
            np.testing.assert_allclose(value[i], alone.draws[site][0, 0], rtol=1e-8, err_msg=site)


@pytest.mark.usefixtures("x64")
def test_the_limit_is_the_maximum_likelihood_estimate(labels: Rows) -> None:
    path = prior_path(LOGISTIC, *labels, key=0, multiples=(1.0,), progress=False)
    mle = fit(LOGISTIC, MLE(), *labels, key=1, progress=False)
    assert path.multiples.tolist() == [1.0, np.inf]
    for site, value in path.weights.items():
        np.testing.assert_allclose(value[-1], mle.draws[site][0, 0], rtol=1e-8, err_msg=site)
    np.testing.assert_allclose(path.log_likelihood[-1], mle.log_likelihood(*labels).sum(), rtol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.slow
def test_ridge_regression_is_on_the_path(data_sets: dict[str, Rows]) -> None:
    x, y = data_sets["real"]
    model = Model(MLP(), Normal(0.4), {"w1": gaussian(0.5), "b1": dist.Uniform(-100, 100)})
    path = prior_path(model, x, y, key=0, multiples=(0.3, 1.0, 3.0), progress=False)
    for i, multiple in enumerate(path.multiples):
        ridge = Ridge(alpha=(0.4 / (0.5 * multiple)) ** 2).fit(x, y)
        np.testing.assert_allclose(path.weights["w1"][i, :, 0], ridge.coef_, rtol=1e-8)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_the_path_comes_to_the_mle_like_one_over_the_squared_scale(labels: Rows) -> None:
    multiples = (10.0, 20.0, 40.0, 80.0)
    path = prior_path(LOGISTIC, *labels, key=0, multiples=multiples, progress=False)
    away = np.abs(path.weights["w1"][:-1] - path.weights["w1"][-1]).max(axis=(1, 2))
    rate = np.polyfit(np.log(multiples), np.log(away), 1)[0]
    assert rate == pytest.approx(-2.0, abs=0.02)
    # Its factor as well: the prior's slope -w / s^2 moves the optimum by the inverse Hessian of the loss times it.
    x, _ = labels
    design = np.c_[x, np.ones(len(x))]
    w = np.append(path.weights["w1"][-1, :, 0], path.weights["b1"][-1])
    p = 1 / (1 + np.exp(-design @ w))
    first_order = -np.linalg.solve(design.T @ (design * (p * (1 - p))[:, None]), w / (0.5 * 80.0) ** 2)
    moved = np.append(path.weights["w1"][-2, :, 0], path.weights["b1"][-2]) - w
    np.testing.assert_allclose(moved, first_order, rtol=2e-2)


@pytest.mark.parametrize("key", range(3))
@pytest.mark.slow
def test_the_likelihood_of_a_network_rises_with_the_scale(data_sets: dict[str, Rows], key: int) -> None:
    model = Model(MLP((6,), "tanh"), Normal(0.4), gaussian(1.0))
    path = prior_path(model, *data_sets["real"], key=key, multiples=np.geomspace(0.1, 10, 8), progress=False)
    assert (np.diff(path.log_likelihood[:-1]) > -0.2).all(), path


@pytest.mark.slow
def test_of_separable_classes_the_path_runs_away() -> None:
    x = np.random.default_rng(0).normal(size=(60, 2))
    y = (x[:, 0] > 0).astype(int)
    path = prior_path(
        LOGISTIC, x, y, key=0, multiples=np.geomspace(0.1, 100, 7), x_test=x[:9], y_test=y[:9], progress=False
    )
    sizes = np.abs(path.weights["w1"]).max(axis=(1, 2))
    assert (np.diff(sizes[:-1]) > 0).all()  # the limit does not exist, and is left where the optimiser ended
    assert [status.level for status in path.statuses] == ["ok"] * 7 + ["failed"]
    assert "There is no maximum" in str(path.limit.reasons[0])
    assert "There is no maximum" in str(path)
    frame = path.to_dataframe()
    assert frame.shape == (8, 5)
    assert frame["test_log_likelihood"].to_numpy() == pytest.approx(path.test_log_likelihood / 9)


@pytest.mark.slow
def test_any_numpyro_model_has_a_path(by_hand: dict[str, Any]) -> None:
    model, x, y = by_hand["dictionary"]
    path = prior_path(model, x, y, key=0, multiples=(0.1, 1.0, 10.0), progress=False)
    mle = fit(model, MLE(), x, y, key=0, progress=False)
    np.testing.assert_allclose(path.weights["slope"][-1], mle.draws["slope"][0, 0], rtol=1e-3)
    assert (np.diff(path.log_likelihood) > -1e-2).all()


BAD = {
    "flat": (
        lambda x, y: prior_path(flat(LOGISTIC), x, y, key=0),
        ValueError,
        "expected a model with a prior; its prior is flat",
    ),
    "decreasing": (lambda x, y: prior_path(LOGISTIC, x, y, key=0, multiples=(2, 1)), ValueError, "increasing positive"),
    "zero": (lambda x, y: prior_path(LOGISTIC, x, y, key=0, multiples=(0, 1)), ValueError, "increasing positive"),
    "infinite": (
        lambda x, y: prior_path(LOGISTIC, x, y, key=0, multiples=(1, np.inf)),
        ValueError,
        "flat prior is",
    ),
    "none": (lambda x, y: prior_path(LOGISTIC, x, y, key=0, multiples=()), ValueError, "increasing positive"),
    "no key": (lambda x, y: prior_path(LOGISTIC, x, y, key=None), TypeError, "integer seed"),
    "rows": (lambda x, y: prior_path(LOGISTIC, x, y[1:], key=0), ValueError, "as many rows in y as in x"),
    "test": (lambda x, y: prior_path(LOGISTIC, x, y, key=0, x_test=x), TypeError, "x_test and y_test together"),
    "test rows": (lambda x, y: prior_path(LOGISTIC, x, y, key=0, x_test=x, y_test=y[1:]), ValueError, "as many rows"),
    "test labels": (lambda x, y: prior_path(LOGISTIC, x, y, key=0, x_test=x, y_test=y + 1), ValueError, "0 or 1"),
    "test columns": (
        lambda x, y: prior_path(LOGISTIC, x, y, key=0, x_test=x[:, 1:], y_test=y),
        ValueError,
        "rows shaped",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str, labels: Rows) -> None:
    call, error, message = BAD[name]
    with pytest.raises(error, match=message):
        call(*labels)


@pytest.mark.slow
def test_the_picture_has_a_line_a_weight_and_says_whether_there_is_a_limit(labels: Rows) -> None:
    x, y = labels
    path = prior_path(LOGISTIC, x, y, key=0, multiples=(0.1, 1.0, 10.0), x_test=x, y_test=y, progress=False)
    estimates, scores = plot_path(path, Figure().subplots(1, 2))
    drawn = {line.get_label(): line.get_ydata() for line in estimates.get_lines()}
    for label, values in {"w1[0, 0]": path.weights["w1"][:-1, 0, 0], "b1": path.weights["b1"][:-1, 0]}.items():
        np.testing.assert_array_equal(drawn[label], values)
    assert [text.get_text() for text in estimates.texts] == ["flat: the MLE"]
    assert {"training rows", "test rows"} <= {line.get_label() for line in scores.get_lines()}

    y = (x[:, 0] > 0).astype(int)
    path = prior_path(LOGISTIC, x, y, key=0, multiples=(0.1, 1.0, 10.0), progress=False)
    estimates, _ = plot_path(path, Figure().subplots(1, 2))
    assert [text.get_text() for text in estimates.texts] == ["flat: no maximum →"]
    with pytest.raises(TypeError, match="expected two axes; got 1"):
        plot_path(path, [estimates])
    with pytest.raises(TypeError, match="plot_path: expected the result of prior_path"):
        plot_path(LOGISTIC)


def test_an_interrupt_before_the_path_ends_it(labels: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descent, "run_in_blocks", lambda block, state, *_, **__: Run(state, 0, "interrupted"))
    with pytest.raises(KeyboardInterrupt):
        prior_path(LOGISTIC, *labels, key=0, multiples=(1.0,), progress=False)
