"""The split of uncertainty into noise and ignorance."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import Array
from scipy.stats import entropy

from flatprior.inference import MAP, NUTS, Fit, chunks, fit
from flatprior.inference.criticism import uncertainty
from flatprior.models import MLP, Bernoulli, Model, Normal, gaussian

from .tables import METHODS, CommonFit, FindProblem, some_by_default

NAMES = ("Bernoulli", "Categorical", "Normal, known scale", "Normal, scale of the network")
CASES = [
    *((name, method) for name in NAMES for method in ("MLE", "Ensemble")),
    *((name, "MCLMC") for name in ("Bernoulli", "Normal, scale of the network")),
]
QUICK = (("Bernoulli", "MLE"), ("Bernoulli", "MCLMC"), ("Categorical", "Ensemble"), (NAMES[-1], "Ensemble"))
every_fit = pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.slow] * (case not in QUICK)) for case in CASES],
    ids=" by ".join,
)


@pytest.fixture
def fits(common_fit: CommonFit, problem: FindProblem) -> Callable[[str, str], tuple[Fit, np.ndarray]]:
    return lambda name, method: (common_fit(name, method), problem(name)[1])


def with_draws(result: Fit, draws: dict[str, np.ndarray]) -> Fit:
    return dataclasses.replace(result, outcome=dataclasses.replace(result.outcome, draws=draws))


@every_fit
def test_the_parts_are_those_of_the_mixture(case: tuple[str, str], fits: Any) -> None:
    """Against SciPy's entropies of the components, or the moments of the components, one by one."""
    result, x = fits(*case)
    split, predictive = uncertainty(result, x), result.predict(x)
    assert split.total.shape == split.aleatoric.shape == split.epistemic.shape == (len(x),)
    np.testing.assert_array_equal(split.total, split.aleatoric + split.epistemic)
    if case[0].startswith("Normal"):
        assert split.unit == "squared units of y"
        np.testing.assert_allclose(split.total, predictive.variance, rtol=1e-5)
        np.testing.assert_allclose(split.epistemic, predictive.component_means.var(axis=0), rtol=1e-3, atol=1e-7)
        return
    assert split.unit == "nats"
    components = predictive.component_means.astype(float)
    if components.ndim == 2:
        components = np.stack([1 - components, components], axis=-1)
    np.testing.assert_allclose(split.total, entropy(components.mean(axis=0), axis=-1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(split.aleatoric, entropy(components, axis=-1).mean(axis=0), rtol=1e-4, atol=1e-6)


@every_fit
def test_points_have_no_epistemic_part_and_others_have_one_everywhere(case: tuple[str, str], fits: Any) -> None:
    result, x = fits(*case)
    epistemic = uncertainty(result, x).epistemic
    if result.kind == "point":
        np.testing.assert_array_equal(epistemic, 0.0)
    else:
        assert (epistemic > 0).all()
    repeated = {site: np.repeat(value[:1, :1], 7, axis=1) for site, value in result.draws.items()}
    np.testing.assert_array_equal(uncertainty(with_draws(result, repeated), x).epistemic, 0.0)


@every_fit
def test_chunks_change_nothing(case: tuple[str, str], fits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    result, x = fits(*case)
    whole = uncertainty(result, x)
    monkeypatch.setattr(chunks, "WORKING_BYTES", 2**11)
    chunked = uncertainty(result, x)
    np.testing.assert_allclose(chunked.aleatoric, whole.aleatoric, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(chunked.epistemic, whole.epistemic, rtol=2e-5, atol=1e-6)


def logits_given(x: Array, y: Array | None = None) -> None:
    """Classes whose logits are x, times a weight."""
    w = numpyro.sample("w", dist.Normal(1.0, 1.0))
    with numpyro.plate("row", len(x)):
        numpyro.sample("y", dist.Categorical(logits=w * x), obs=y)


def test_two_draws_that_are_sure_of_different_classes_leave_one_bit(data_sets: dict[str, Any]) -> None:
    """Their probabilities are 0 and 1 in floating point, of which the entropy must not be NaN."""
    x = np.array([[0.0, 500.0, -500.0], [0.0, 0.0, 0.0]])
    result = fit(logits_given, MAP(num_steps=1, polish=False), x, np.array([1, 0]), key=0, progress=False)
    split = uncertainty(with_draws(result, {"w": np.array([[-1.0, 1.0]], np.float32)}), x)
    np.testing.assert_allclose(split.aleatoric, [0.0, np.log(3)], rtol=1e-6)
    np.testing.assert_allclose(split.epistemic, [np.log(2), 0.0], rtol=1e-6)
    assert split.epistemic[1] == 0.0


@pytest.mark.parametrize("key", some_by_default(range(3), 0))
def test_the_epistemic_variance_is_that_of_the_exact_posterior(key: int) -> None:
    """Of a line with Normal prior and noise it is known: phi' (phi'phi / s^2 + I / t^2)^-1 phi."""
    rng = np.random.default_rng(key)
    x, scale = rng.normal(size=(15, 1)), 0.7
    y = 0.5 * x[:, 0] + scale * rng.normal(size=15)
    chains = NUTS(num_warmup=200, num_samples=1000, num_chains=2, start=None)
    result = fit(Model(MLP(), Normal(scale), gaussian(2.0)), chains, x, y, key=key, progress=False)
    grid = np.linspace(-4, 4, 5)[:, None]
    split = uncertainty(result, grid)
    phi, at = (np.hstack([rows, np.ones_like(rows)]) for rows in (x, grid))
    covariance = np.linalg.inv(phi.T @ phi / scale**2 + np.eye(2) / 4)
    exact = np.einsum("ni,ij,nj->n", at, covariance, at)
    np.testing.assert_allclose(split.aleatoric, scale**2, rtol=1e-5)
    # A variance from m effective draws has a relative standard error of sqrt(2 / m); there are some 1,000 of 2,000.
    assert (np.abs(split.epistemic / exact - 1) < 4.5 * np.sqrt(2 / 800)).all(), split.epistemic / exact


@pytest.mark.slow
def test_more_rows_leave_less_of_the_epistemic_part_and_as_much_noise() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(400, 1))
    y = (0.8 * x[:, 0] + rng.logistic(size=400) > 0).astype(int)
    method = NUTS(num_warmup=150, num_samples=150, num_chains=2, start=None)
    few, many = (
        uncertainty(fit(Model(MLP(), Bernoulli(), gaussian(2.0)), method, x[:n], y[:n], key=0, progress=False), x)
        for n in (20, 400)
    )
    assert many.epistemic.mean() < few.epistemic.mean() / 4
    assert many.aleatoric.mean() > 0.5


def vectors(x: Array, y: Array | None = None) -> None:
    """Two numbers a row, with scales of their own."""
    w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("row", len(x)):
        numpyro.sample("y", dist.Normal(x * w, jnp.array([1.0, 2.0])).to_event(1), obs=y)


def test_numbers_of_a_vector_have_parts_of_their_own() -> None:
    x = np.array([[1.0], [2.0], [3.0]])
    result = fit(vectors, MAP(num_steps=1, polish=False), x, np.ones((3, 2)), key=0, progress=False)
    draws = {"w": np.array([[[0.0, 1.0], [2.0, 1.0]]], np.float32)}
    split = uncertainty(with_draws(result, draws), x)
    np.testing.assert_allclose(split.aleatoric, np.tile([1.0, 4.0], (3, 1)))
    np.testing.assert_allclose(split.epistemic, np.hstack([x**2, 0 * x]))
    table = split.to_dataframe()
    assert table.index.names == ["row", "component"]
    assert table.loc[(1, 0)].to_dict() == {"aleatoric": 1.0, "epistemic": 4.0, "total": 5.0}


@pytest.mark.parametrize("name", some_by_default(["mixture_density", "dictionary"], "dictionary"))
def test_models_by_hand(name: str, by_hand: dict[str, Any]) -> None:
    model, x, y = by_hand[name]
    result = fit(model, METHODS["Ensemble"](), x, y, key=0, progress=False)
    split = uncertainty(result, x)
    np.testing.assert_allclose(split.total, result.predict(x).variance, rtol=1e-4)
    assert (split.epistemic > 0).all()


def without_moments(x: Array, y: Array | None = None) -> None:
    """A distribution that knows no mean."""
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    shifted = dist.TransformedDistribution(dist.Normal(jnp.zeros(len(x)), 1.0), dist.transforms.AffineTransform(w, 2.0))
    with numpyro.plate("row", len(x)):
        numpyro.sample("y", shifted, obs=y)


def test_bad_input_raises(fits: Any) -> None:
    result, x = fits("Normal, known scale", "MLE")
    with pytest.raises(TypeError, match="uncertainty: expected a fit; got 'MAP'"):
        uncertainty("MAP", x)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"rows shaped \(2,\), as in the fit; got \(1,\)"):
        uncertainty(result, x[:, :1])
    other = fit(without_moments, MAP(num_steps=1, polish=False), x, x[:, 0], key=0, progress=False)
    with pytest.raises(NotImplementedError, match=r"uncertainty: .* has no mean and variance"):
        uncertainty(other, x)


def test_it_says_what_it_is(fits: Any) -> None:
    split = uncertainty(*fits("Categorical", "MLE"))
    assert "Means over 40 rows, in nats" in repr(split)
    assert any(line.split() == ["epistemic", "0"] for line in repr(split).splitlines())
    assert "<table" in split._repr_html_()
    with pytest.raises(AttributeError):
        split.epistemic = np.zeros(1)
