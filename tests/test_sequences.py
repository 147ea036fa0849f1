"""Rows of tokens: teacher forcing is maximum likelihood, in value, in bits and in what is generated."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import Array
from scipy.special import log_softmax, logsumexp, softmax
from scipy.stats import chi2, chisquare

from flatprior.inference import (
    MAP,
    MLE,
    NUTS,
    Code,
    FailedFitWarning,
    Fit,
    Reason,
    Status,
    UndefinedPredictionWarning,
    chunks,
    compare,
    diagnose,
    explain,
    fit,
    generation,
    log_density,
    loo,
)
from flatprior.inference.checks import Layout, check_problem
from flatprior.inference.criticism import calibration, temperature_scaling, uncertainty
from flatprior.inference.density import Density
from flatprior.inference.generation import generate
from flatprior.inference.information import code_length, compress, cross_entropy, prequential, weight_of_evidence
from flatprior.inference.plots import plot_decision, plot_fit
from flatprior.inference.rows import Data
from flatprior.models import MLP, Categorical, CategoricalSequence, Lift, Model, gaussian, next_token_rows
from flatprior.models.architectures import GRU, Transformer
from flatprior.models.tokens import Tokens

from .tables import observation

K, T, WIDTH = 4, 7, 6
"""Kinds of tokens, tokens in a row, and the width of the networks."""
NETWORKS: dict[str, Callable[[], Any]] = {
    "GRU": lambda: GRU(K, WIDTH, rngs=nnx.Rngs(0)),
    "Transformer": lambda: Transformer(K, WIDTH, 1, 2, context=12, rngs=nnx.Rngs(1)),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


@cache
def lifted_network(name: str) -> Any:
    """Return a network, made when it is first asked for: not by every process that only collects tests."""
    return Lift(NETWORKS[name]())


def weights_of(name: str, seed: int = 0) -> dict[str, Array]:
    """Weights at random, far from where a module starts: scales that are not 1 and biases that are not 0."""
    rng = np.random.default_rng(seed)
    own = lifted_network(name).parts.values
    return {site: jnp.asarray(value + 0.7 * rng.normal(size=value.shape)) for site, value in own.items()}


def tokens_at_random(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, K, shape)


def model_of(name: str) -> Model:
    return Model(lifted_network(name), CategoricalSequence(K), "flat")


# The networks, against NumPy.


def gru_by_hand(w: dict[str, np.ndarray], tokens: np.ndarray) -> np.ndarray:
    """The logits after each token of one row, by stepping the cell (Cho et al. 2014)."""
    state, logits = np.zeros(WIDTH), []
    for token in tokens:
        of_x = w["embedding.embedding"][token] @ w["cell.dense_i.kernel"] + w["cell.dense_i.bias"]
        of_h = state @ w["cell.dense_h.kernel"]
        (x_r, x_z, x_n), (h_r, h_z, h_n) = np.split(of_x, 3), np.split(of_h, 3)
        reset, update = 1 / (1 + np.exp(-x_r - h_r)), 1 / (1 + np.exp(-x_z - h_z))
        state = (1 - update) * np.tanh(x_n + reset * h_n) + update * state
        logits.append(state @ w["head.kernel"] + w["head.bias"])
    return np.array(logits)


def transformer_by_hand(w: dict[str, np.ndarray], tokens: np.ndarray) -> np.ndarray:
    """The same of a transformer, one place after the other: a place looks at those up to itself."""

    def normed(h: np.ndarray, site: str) -> np.ndarray:
        scaled = (h - h.mean(axis=-1, keepdims=True)) / np.sqrt(h.var(axis=-1, keepdims=True) + 1e-6)
        return scaled * w[f"{site}.scale"] + w[f"{site}.bias"]

    h = w["embedding.embedding"][tokens] + w["place.embedding"][: len(tokens)]
    at = "blocks.0"
    n = normed(h, f"{at}.norm1")
    q, k, v = (
        np.einsum("td,dhe->the", n, w[f"{at}.attention.{part}.kernel"]) + w[f"{at}.attention.{part}.bias"]
        for part in ("query", "key", "value")
    )
    seen = np.zeros_like(v)
    for t in range(len(tokens)):
        share = softmax(np.einsum("he,she->sh", q[t], k[: t + 1]) / math.sqrt(WIDTH // 2), axis=0)
        seen[t] = np.einsum("sh,she->he", share, v[: t + 1])
    h = h + np.einsum("the,hed->td", seen, w[f"{at}.attention.out.kernel"]) + w[f"{at}.attention.out.bias"]
    up = normed(h, f"{at}.norm2") @ w[f"{at}.up.kernel"] + w[f"{at}.up.bias"]
    gelu = up * (1 + np.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3))) / 2  # Hendrycks & Gimpel 2016
    h = h + gelu @ w[f"{at}.down.kernel"] + w[f"{at}.down.bias"]
    return normed(h, "norm") @ w["head.kernel"] + w["head.bias"]


BY_HAND = {"GRU": gru_by_hand, "Transformer": transformer_by_hand}


@every_network
@pytest.mark.usefixtures("x64")
def test_the_log_density_is_the_sum_over_tokens_of_the_cross_entropies(name: str) -> None:
    x, y, w = tokens_at_random((3, T)), tokens_at_random((3, T), 1), weights_of(name)
    by_hand = np.array([BY_HAND[name]({site: np.asarray(v) for site, v in w.items()}, row) for row in x])
    expected = np.take_along_axis(log_softmax(by_hand, axis=-1), y[..., None], axis=-1)[..., 0]
    each = jax.jit(lambda w: observation(model_of(name), w, x).log_prob(y))(w)
    assert each.dtype == jnp.float64
    np.testing.assert_allclose(each, expected.sum(axis=1), rtol=1e-12)
    density = jax.jit(lambda w: log_density(model_of(name), w, x, y))
    np.testing.assert_allclose(density(w), expected.sum(), rtol=1e-12)


@every_network
def test_a_later_token_never_changes_an_earlier_probability(name: str) -> None:
    model, w = model_of(name), weights_of(name)
    logits = jax.jit(lambda x: observation(model, w, x).logits)
    x = tokens_at_random((8, T))
    before = np.asarray(logits(x))
    for place in range(T):
        changed = x.copy()
        changed[:, place] = (changed[:, place] + 1) % K
        after = np.asarray(logits(changed))
        np.testing.assert_array_equal(after[:, :place], before[:, :place])
        assert (after[:, place:] != before[:, place:]).any(axis=-1).all(), "and it changes all that comes after it"


@every_network
@pytest.mark.usefixtures("x64")
def test_padding_changes_nothing(name: str) -> None:
    """Neither how much of it there is, nor what stands in x there; not in value and not in gradient."""
    model, w = model_of(name), weights_of(name)
    x, y = tokens_at_random((3, T)), tokens_at_random((3, T), 1)
    density = jax.jit(jax.value_and_grad(lambda w, x, y: log_density(model, w, x, y)))
    value, slopes = density(w, x, y)
    for fill in (0, K - 1):
        longer = np.pad(x, ((0, 0), (0, 4)), constant_values=fill), np.pad(y, ((0, 0), (0, 4)), constant_values=-1)
        padded, padded_slopes = density(w, *longer)
        np.testing.assert_allclose(padded, value, rtol=0, atol=1e-12)
        for site, slope in padded_slopes.items():
            np.testing.assert_allclose(slope, slopes[site], rtol=0, atol=1e-12, err_msg=site)
    hole = np.where(np.arange(T) == 2, -1, y)
    after_two = [BY_HAND[name]({site: np.asarray(v) for site, v in w.items()}, row[:3])[2] for row in x]
    missing = log_softmax(after_two, axis=-1)[range(3), y[:, 2]].sum()
    np.testing.assert_allclose(density(w, x, hole)[0], value - missing, rtol=1e-12)
    assert density(w, x, np.full_like(y, -1))[0] == 0


def test_a_row_longer_than_the_context_is_refused() -> None:
    with pytest.raises(ValueError, match="expected rows of at most 12 tokens, its context; got 13"):
        lifted_network("Transformer").rebuild({})(jnp.zeros((1, 13), int))


def test_a_text_with_another_token_is_no_number() -> None:
    """All of it, as the padding of y may hide the token; a text beside it is what it was."""
    for name in NETWORKS:
        lift = lifted_network(name)
        model, w, x = model_of(name), weights_of(name), tokens_at_random((2, T))
        logits = jax.jit(lambda x, model=model, w=w: observation(model, w, x).logits)
        expected = np.asarray(logits(x))[0]
        for wrong in (-1, -K, K, 2**31 - 1):
            x[1, 4] = wrong
            fitted_model = np.asarray(logits(x))
            np.testing.assert_array_equal(fitted_model[0], expected)
            assert np.isnan(fitted_model[1]).all(), (name, wrong)
        with pytest.raises(TypeError, match=r"x to be integer tokens 0, \.\.\., 3; got float32. Use x.astype\(int\)"):
            fit(Model(lift, CategoricalSequence(K), "flat"), MLE(), np.ones((3, T)), np.ones((3, T), int), key=0)


# The distribution.


def test_it_is_a_product_of_categoricals() -> None:
    logits, y = np.random.default_rng(0).normal(size=(5, T, K)), tokens_at_random((5, T))
    y[2, 4:] = -1
    plain = dist.Categorical(logits=logits).mask(y != -1).to_event(1)
    np.testing.assert_allclose(Tokens(logits).log_prob(y), plain.log_prob(np.where(y < 0, 0, y)), rtol=1e-6)
    assert Tokens(logits).log_prob(np.stack([y, y])).shape == (2, 5)
    inside = Tokens(logits, padding=-1).support
    np.testing.assert_array_equal(inside(y), True)
    for wrong in (K, -2, 0.5):
        np.testing.assert_array_equal(inside(np.where(np.arange(T) == 3, wrong, y)), False)
    samples = np.asarray(Tokens(logits).sample(jax.random.key(0), (4_000,)))
    counts = (samples[..., None] == np.arange(K)).sum(axis=0)
    statistic = ((counts - 4_000 * softmax(logits, axis=-1)) ** 2 / (4_000 * softmax(logits, axis=-1))).sum()
    assert chi2.sf(statistic, 5 * T * (K - 1)) > 1e-4


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=30), min_size=1, max_size=3), st.integers(1, 12))
def test_every_token_stands_in_one_row_after_the_token_before_it(texts: list[list[int]], length: int) -> None:
    x, y = next_token_rows([np.array(text) for text in texts], length, start=9)
    assert x.shape == y.shape == (sum(-(-len(text) // length) for text in texts), length)
    assert y[y >= 0].tolist() == [token for text in texts for token in text]
    assert x[y >= 0].tolist() == [token for text in texts for token in (9, *text[:-1])]
    assert (x[y < 0] == 9).all()
    assert (np.diff((y < 0).astype(int), axis=1) >= 0).all(), "padding comes last"
    if len(texts) == 1:
        np.testing.assert_array_equal(next_token_rows(texts[0], length, start=9), (x, y))


BAD_ROWS: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "a string": ("abc", {}, TypeError, r"got a string\. Number its characters first: alphabet, tokens = np.unique"),
    "no tokens": ([], {}, ValueError, r"expected a vector of tokens; got shape \(0,\)"),
    "a matrix": (np.zeros((2, 3), int), {}, ValueError, r"expected a vector of tokens; got shape \(2, 3\)"),
    "floats": ([0.5, 1.0], {}, TypeError, "expected integers from 0; got float64"),
    "negative": (
        [np.array([1]), np.array([1, -1])],
        {},
        ValueError,
        "text 1, token 1: expected integers from 0; got -1",
    ),
    "length": ([1, 2], {"num_tokens": 0}, ValueError, "expected a positive integer as num_tokens; got 0"),
    "start": ([1, 2], {"start": -1}, ValueError, "expected a token, an integer from 0, as start; got -1"),
    "padding": ([1, 2], {"padding": 2}, ValueError, "expected a padding that is not a token; got 2"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_texts_raise(name: str) -> None:
    tokens, options, error, message = BAD_ROWS[name]
    with pytest.raises(error, match=message):
        next_token_rows(tokens, **{"num_tokens": 3, "start": 0, **options})


# Fits: a table of the logits of each token after each other one, which is a Markov chain.


def table(x: Array, num_outputs: int, *, prior: Any) -> Array:
    """The logits of the next token, a row of a table."""
    return MLP()(jax.nn.one_hot(x, num_outputs), num_outputs, prior=prior)


BIGRAMS = Model(table, CategoricalSequence(3), gaussian(1.5))
every_fit = pytest.mark.parametrize("by", ["MAP", "draws"])


class Rows(NamedTuple):
    """Two texts in rows of six tokens, with padding at both their ends."""

    x: np.ndarray
    y: np.ndarray


@pytest.fixture(scope="module")
def rows() -> Rows:
    rng = np.random.default_rng(3)
    return Rows(*next_token_rows([rng.integers(0, 3, 40), rng.integers(0, 3, 15)], 6, start=2))


@pytest.fixture(scope="module")
def fitted(rows: Rows) -> dict[str, Fit]:
    """A point, and what might be the draws of two chains."""
    point = fit(BIGRAMS, MAP(num_steps=100, polish=False), *rows, key=0, progress=False)
    rng = np.random.default_rng(4)
    draws = {
        site: (value + rng.normal(size=(2, 30, *value.shape[2:]))).astype(value.dtype)
        for site, value in point.draws.items()
    }
    return {"MAP": point, "draws": replace(point, outcome=replace(point.outcome, draws=draws))}


@pytest.fixture(scope="module")
def lifted(rows: Rows) -> Fit:
    model = Model(Lift(GRU(3, 4, rngs=nnx.Rngs(0))), CategoricalSequence(3), gaussian(1.0))
    return fit(model, MLE(num_steps=40, batch_size=4, polish=False), *rows, key=0, progress=False)


def by_token(fitted_model: Fit, x: np.ndarray) -> np.ndarray:
    """Log p(y_t = k | x, w_s), (draw, n, T, K), of the table."""
    w, b = (
        fitted_model.draws[site].reshape(-1, *fitted_model.draws[site].shape[2:]).astype(float) for site in ("w1", "b1")
    )
    return log_softmax(w[:, x] + b[:, None, None], axis=-1)


def by_row(fitted_model: Fit, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Log p(y_i | x_i, w_s), (draw, n)."""
    each = np.take_along_axis(by_token(fitted_model, x), np.maximum(y, 0)[None, ..., None], axis=-1)[..., 0]
    return np.where(y >= 0, each, 0.0).sum(axis=-1)


@every_fit
def test_a_fit_answers_as_any_other(by: str, fitted: dict[str, Fit], rows: Rows) -> None:
    fitted_model, (x, y) = fitted[by], rows
    expected = by_row(fitted_model, x, y)
    chains, draws = fitted_model.draws["b1"].shape[:2]
    np.testing.assert_allclose(
        fitted_model.log_likelihood(x, y), expected.reshape(chains, draws, -1), rtol=1e-4, atol=1e-5
    )
    mixture = logsumexp(expected, axis=0) - math.log(len(expected))
    predictive = fitted_model.predict(x)
    np.testing.assert_allclose(predictive.log_prob(y), mixture, rtol=1e-4, atol=1e-5)
    probs = np.exp(by_token(fitted_model, x))
    np.testing.assert_allclose(predictive.component_means, probs, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(predictive.probs, probs.mean(axis=0), rtol=1e-4, atol=1e-6)
    assert predictive.sample(0, (5, 2)).shape == (5, 2, *y.shape)

    column = compare({by: fitted_model}, x, y).to_dataframe().loc[by]
    assert column["bits_per_token"] == pytest.approx(-mixture.sum() / (y >= 0).sum() / math.log(2), rel=1e-5)
    assert column["bits"] == pytest.approx(-mixture.mean() / math.log(2), rel=1e-5)
    tree = fitted_model.to_datatree(x, y)
    assert dict(tree["log_likelihood"]["y"].sizes) == {"chain": chains, "draw": draws, "row": len(y)}
    assert tree["observed_data"]["y"].shape == y.shape

    split = uncertainty(fitted_model, x)
    np.testing.assert_allclose(split.aleatoric, -(probs * np.log(probs)).sum(-1).mean(0), rtol=1e-4, atol=1e-5)
    mean = probs.mean(axis=0)
    np.testing.assert_allclose(split.total, -(mean * np.log(mean)).sum(-1), rtol=1e-4, atol=1e-5)


def test_the_bits_of_a_text_are_those_of_its_tokens(fitted: dict[str, Fit], rows: Rows) -> None:
    fitted_model, (x, y) = fitted["draws"], rows
    result, tokens = code_length(fitted_model, x, y), y[y >= 0]
    mixture = logsumexp(by_row(fitted_model, x, y), axis=0) - math.log(60)
    assert result.num_tokens == len(tokens) == 55
    assert result.total == pytest.approx(-mixture.sum() / math.log(2), rel=1e-5)
    assert result.per_token == pytest.approx(result.total / 55)
    assert result.perplexity == pytest.approx(2 ** (result.total / 55))
    assert result.uniform == pytest.approx(55 * math.log2(3))
    counts, price = np.zeros(3), 0.0
    for i, token in enumerate(tokens):  # Krichevsky and Trofimov's code, token by token
        price -= math.log2((counts[token] + 0.5) / (i + 1.5))
        counts[token] += 1
    assert result.base_rate == pytest.approx(price)
    np.testing.assert_allclose(result.to_dataframe()["bits_per_token"] * 55, result.to_dataframe()["bits"])
    assert f"{len(y)} rows, 55 tokens, each one of 3 classes" in str(result)
    assert "bits per token" in str(result)


@pytest.mark.slow
def test_a_text_can_be_coded_by_fits_that_are_made_on_the_way(rows: Rows) -> None:
    result = prequential(BIGRAMS, MAP(num_steps=50, polish=False), *rows, key=0, num_blocks=2)
    half, (x, y) = result.ends[0], rows
    np.testing.assert_allclose(result.bits[:half], (y >= 0).sum(axis=1)[:half] * math.log2(3))
    assert result.uniform == pytest.approx(55 * math.log2(3))
    first = fit(
        BIGRAMS, MAP(num_steps=50, polish=False), x[:half], y[:half], key=jax.random.split(jax.random.key(0))[0]
    )
    np.testing.assert_allclose(result.bits[half:], code_length(first, x[half:], y[half:]).bits, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Estimated shape parameter")
def test_chains_are_judged_by_the_probabilities_of_tokens(rows: Rows) -> None:
    method = NUTS(num_warmup=30, num_samples=30, num_chains=2, start=None, max_tree_depth=4)
    fitted_model = fit(BIGRAMS, method, *rows, key=0, progress=False)
    judged = diagnose(fitted_model, *rows)
    prediction = judged.predictions["posterior"]["prediction"]
    assert prediction.dims == ("chain", "draw", "row", "token", "class")
    assert prediction.sizes["row"] * prediction.sizes["token"] == 54  # the first number of rows that holds 50 tokens
    assert judged.table.loc["log likelihood of rows", "quantities"] == len(rows.y)
    assert loo(fitted_model, *rows).elpd_i.shape == (len(rows.y),)


def test_the_loss_is_softmax_cross_entropy_summed_over_tokens(rows: Rows) -> None:
    result = explain(BIGRAMS, *rows)
    assert result.terms[0].name == "softmax cross-entropy, summed over tokens"
    assert result.terms[0].checked_by == "optax.softmax_cross_entropy_with_integer_labels"
    assert result.value_difference < 1e-10
    assert result.gradient_difference < 1e-10


def test_a_fit_is_read_as_it_was_written(fitted: dict[str, Fit], rows: Rows, tmp_path: Any) -> None:
    again = Fit.load(fitted["draws"].save(tmp_path / "fit.nc"), BIGRAMS)
    np.testing.assert_array_equal(again.log_likelihood(*rows), fitted["draws"].log_likelihood(*rows))


def test_probabilities_come_in_chunks(fitted: dict[str, Fit], rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    predictive = fitted["draws"].predict(rows.x)
    whole = predictive.probs
    monkeypatch.setattr(chunks, "WORKING_BYTES", 2**16)
    of = Density.observation, predictive.density, predictive.draws, Data(predictive.x)
    assert chunks.sizes(*of)[0] < len(rows.x)
    np.testing.assert_allclose(predictive.probs, whole, rtol=1e-5)


@pytest.mark.slow
def test_a_lifted_network_is_fitted_by_batches(lifted: Fit, rows: Rows) -> None:
    assert lifted.log_likelihood(*rows).shape == (1, 1, len(rows.y))
    assert lifted.stats["loss"].shape == (1, 40)
    text = generate(lifted, [2], 20, key=0, shape=(3,))  # longer than the rows of the fit
    assert text.shape == (3, 20)
    assert ((text >= 0) & (text < 3)).all()


def test_texts_that_the_network_does_not_know_are_reported(lifted: Fit, rows: Rows) -> None:
    x, y = rows.x.copy(), rows.y
    x[[2, 5], 3] = -1, 3
    result = rf"The prediction is NaN in 2 of {len(y)} rows \(row 2 first\).* tokens outside its vocabulary"
    answers: dict[str, Any] = {
        "log_prob": lambda: lifted.predict(x).log_prob(y),
        "probs": lambda: lifted.predict(x).probs,
        "component_means": lambda: lifted.predict(x).component_means,
        "log_likelihood": lambda: lifted.log_likelihood(x, y),
        "compare": lambda: compare({"it": lifted}, x, y),
    }
    for name, ask in answers.items():
        with pytest.warns(UndefinedPredictionWarning, match=result) as record:
            ask()
        assert record[0].filename == __file__, name
    fitted_model = lifted.predict(rows.x).log_prob(y)  # of which nothing is to be said
    assert np.isfinite(fitted_model).all()
    padded = np.where(y == -1, -1, rows.x)  # also where nothing is lost, as y has no token there
    assert (padded != rows.x).any()
    failed = fit(lifted.model, replace(lifted.method, batch_size=None), padded, y, key=0, progress=False)
    assert failed.status.level == "failed"
    assert "at the starting point, before any step. Look for values of x that the network cannot take" in str(
        failed.status
    )


def test_hand_written_sequences_are_rows_of_tokens_too(fitted: dict[str, Fit], rows: Rows) -> None:
    def by_hand(x: Array, y: Array | None = None) -> None:
        eta = table(x, 3, prior=gaussian(1.5))
        with numpyro.plate("row", x.shape[0]):
            numpyro.sample("y", dist.Categorical(logits=eta).to_event(1), obs=y)

    whole = (rows.y >= 0).all(axis=1)
    x, y = rows.x[whole], rows.y[whole]
    fitted_model = replace(fitted["MAP"], density=Density(by_hand, check_problem(by_hand, x, y)[0].structure))
    result = code_length(fitted_model, x, y)
    assert result.num_tokens == y.size
    np.testing.assert_allclose(
        fitted_model.predict(x).probs, np.exp(by_token(fitted_model, x))[0], rtol=1e-4, atol=1e-6
    )
    assert generate(fitted_model, [2, 0], 4, key=0).shape == (4,)
    with pytest.raises(NotImplementedError, match="mean: y is a class, and classes have no mean"):
        _ = fitted_model.predict(x).mean


# What is refused, and how.

REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "mean": (lambda f, x, y: f.predict(x).mean, NotImplementedError, "classes have no mean; use probs"),
    "variance": (lambda f, x, y: f.predict(x).variance, NotImplementedError, "classes have no variance; use probs"),
    "cdf": (lambda f, x, y: f.predict(x).cdf(y), NotImplementedError, "tokens, which have no order"),
    "quantile": (
        lambda f, x, y: f.predict(x).quantile(0.5),
        NotImplementedError,
        "y is tokens, which have no order; use probs",
    ),
    "calibration": (calibration, NotImplementedError, "y is tokens, which have no order"),
    "compress": (compress, TypeError, "expected y to be one class or count per row"),
    "cross_entropy": (cross_entropy, TypeError, "expected y to be a class"),
    "temperature_scaling": (temperature_scaling, TypeError, "expected y to be a class"),
    "weight_of_evidence": (
        lambda f, x, y: weight_of_evidence(f, x, label=0, baseline=x),
        TypeError,
        "expected y to be a class",
    ),
    "plot_fit": (lambda f, x, y: plot_fit({"a": f}, x, y), ValueError, r"expected rows of one number.*; got \(6,\)"),
    "plot_decision": (plot_decision, ValueError, r"expected rows of two numbers"),
    "another length": (lambda f, x, y: f.predict(x[:, :4]), ValueError, r"expected rows shaped \(6,\), as in the fit"),
    "another y": (
        lambda f, x, y: code_length(f, x, y[:, :4]),
        ValueError,
        r"expected y of shape \(\d+, 6\), a token for",
    ),
    "no such token": (
        lambda f, x, y: code_length(f, x, np.where(np.arange(6) == 4, 3, y)),
        ValueError,
        "y, row 0, column 4: expected a token, from 0 to 2, or -1 for padding; got 3",
    ),
    "other padding": (
        lambda f, x, y: f.predict(x).log_prob(np.where(y < 0, -100, y)),
        ValueError,
        "or -1 for padding; got -100",
    ),
    "floats": (lambda f, x, y: f.log_likelihood(x, y * 1.0), TypeError, "expected integer tokens 0, ..., 2, or -1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_meaning_is_refused_in_a_sentence(name: str, fitted: dict[str, Fit], rows: Rows) -> None:
    ask, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        ask(fitted["MAP"], *rows)


def test_other_tokens_cannot_be_compared(fitted: dict[str, Fit], rows: Rows) -> None:
    four = mixture_of(fitted["MAP"], np.full((4, 4), 0.25))
    model = Model(table, CategoricalSequence(4), gaussian(1.5))
    more = replace(four, density=check_problem(model, *rows)[0])
    with pytest.raises(ValueError, match="'a' has 3 kinds of tokens, and 'b' 4 kinds of tokens"):
        compare({"a": fitted["MAP"], "b": more}, *rows)


BAD_PARTS: dict[str, tuple[Any, type[Exception], str]] = {
    "one class": (lambda: CategoricalSequence(1), ValueError, "expected at least 2 classes; got 1"),
    "padding": (lambda: CategoricalSequence(3, padding=0), ValueError, r"none of the tokens 0, \.\.\., 2; got 0"),
    "padding alone": (
        lambda: fit(BIGRAMS, MLE(), np.zeros((5, 2), int), np.full((5, 2), -1), key=0),
        ValueError,
        "y: expected tokens to fit; got only padding, -1",
    ),
    "a token too many": (
        lambda: fit(BIGRAMS, MLE(), np.zeros((5, 2), int), np.array([[0, 1]] * 4 + [[2, 3]]), key=0),
        ValueError,
        "y, row 4, column 1: expected a token, from 0 to 2, or -1 for padding; got 3. There are 4 classes in y",
    ),
    "one output a row": (
        lambda: fit(Model(MLP(), CategoricalSequence(3)), MLE(), np.zeros((5, 2)), np.zeros((5, 2), int), key=0),
        ValueError,
        r"expected outputs for every token, eta of shape \(n, T, 3\); got \(5, 3\)",
    ),
}


@pytest.mark.parametrize("name", BAD_PARTS)
def test_bad_parts_raise(name: str) -> None:
    make, error, message = BAD_PARTS[name]
    with pytest.raises(error, match=message):
        make()


# A text whose entropy is known.

TRANSITIONS = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.4, 0.1, 0.5]])


def markov(size: int, seed: int) -> np.ndarray:
    rng, text = np.random.default_rng(seed), [0]
    for _ in range(size):
        text.append(int(rng.choice(3, p=TRANSITIONS[text[-1]])))
    return np.array(text[1:])


def entropy_rate() -> float:
    """Bits a token of the chain, of its stationary distribution."""
    values, vectors = np.linalg.eig(TRANSITIONS.T)
    stationary = np.real(vectors[:, np.argmax(np.real(values))])
    each = -(TRANSITIONS * np.log2(TRANSITIONS)).sum(axis=1)
    return float(stationary / stationary.sum() @ each)


@pytest.mark.slow
@pytest.mark.parametrize("key", range(3))
def test_maximum_likelihood_pays_the_entropy_rate(key: int) -> None:
    x, y = next_token_rows(markov(6_400, key), 64, start=0)
    fitted_model = fit(BIGRAMS, MLE(), x[:50], y[:50], key=key, progress=False)
    assert fitted_model.status
    result = code_length(fitted_model, x[50:], y[50:])
    error = result.standard_error / result.num_tokens
    assert error < 0.03
    assert abs(result.per_token - entropy_rate()) < 4 * error
    truth = np.log(TRANSITIONS[x[:50], y[:50]]).sum()
    gain = 2 * (fitted_model.log_likelihood(x[:50], y[:50]).sum() - truth)  # Wilks 1938: six numbers are free
    assert 0 < gain < chi2.isf(1e-5, 6)


NO_MAXIMUM: dict[str, tuple[Any, str]] = {
    "a token that never occurs": (lambda y: np.where(y == 1, 0, y), "class 1 occurs in none of the 50 rows"),
    "a pair that never occurs": (
        lambda y: np.where((y == 1) & (np.roll(y, 1, axis=1) == 2), 0, y),  # after 2 there is 0 or 2
        "the classes are separable in part",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NO_MAXIMUM)
def test_where_there_is_no_maximum_the_fit_has_failed(name: str) -> None:
    """The padding is no class, and the fit with all tokens and pairs has many maxima, as of indicators and a bias."""
    change, sentence = NO_MAXIMUM[name]
    x, y = next_token_rows(markov(3_200, 5), 64, start=0)
    text = change(np.concatenate([[0], y[y >= 0]])[None])[0][1:]
    assert fit(BIGRAMS, MLE(), x, y, key=0, progress=False).status.codes == (Code.NOT_UNIQUE,)
    fitted_model = fit(BIGRAMS, MLE(), *next_token_rows(text, 64, start=0), key=0, progress=False)
    assert fitted_model.status.level == "failed"
    assert sentence in str(fitted_model.status)


@pytest.mark.slow
@pytest.mark.parametrize("key", range(3))
def test_a_gru_comes_near_it(key: int) -> None:
    x, y = next_token_rows(markov(12_800, key), 64, start=0)
    network = Lift(GRU(3, 4, rngs=nnx.Rngs(key)))
    model = Model(network, CategoricalSequence(3), gaussian(3.0))
    fitted_model = fit(model, MAP(num_steps=1500, batch_size=32), x[:150], y[:150], key=key, progress=False)
    log_probs = fitted_model.predict(x[150:]).log_prob(y[150:]) / math.log(2)
    excess = (np.log2(TRANSITIONS[x[150:], y[150:]]).sum(axis=1) - log_probs) / 64
    assert excess.mean() < 0.02
    assert excess.mean() > -4 * excess.std() / math.sqrt(len(excess))


# Generation.


def mixture_of(fitted_model: Fit, *tables: np.ndarray) -> Fit:
    """The fit with these tables of probabilities as its draws."""
    with np.errstate(divide="ignore"):
        logits = np.log(np.array(tables, np.float32))[None]
    draws = {"w1": logits, "b1": np.zeros(logits.shape[:3], np.float32)}
    return replace(fitted_model, outcome=replace(fitted_model.outcome, draws=draws))


@pytest.mark.parametrize("key", range(4))
def test_generated_texts_have_the_bigrams_of_the_model(key: int, fitted: dict[str, Fit]) -> None:
    fitted_model = mixture_of(fitted["MAP"], TRANSITIONS)
    texts = generate(fitted_model, [1], 12, key=key, shape=(400,))
    assert texts.shape == (400, 12)
    before = np.concatenate([np.ones((400, 1), int), texts[:, :-1]], axis=1)
    counts = np.zeros((3, 3))
    np.add.at(counts, (before, texts), 1)
    expected = counts.sum(axis=1, keepdims=True) * TRANSITIONS
    assert chi2.sf(((counts - expected) ** 2 / expected).sum(), 6) > 1e-4
    assert len(np.unique(texts, axis=0)) > 350, "texts are independent"


OTHER = np.array([[0.1, 0.1, 0.8], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1]])
PROMPTS = {"of one token": [0], "of four": [0, 2, 1, 0]}


@pytest.mark.parametrize("key", range(2))
@pytest.mark.parametrize("name", PROMPTS)
def test_draws_count_as_much_as_they_foretold_the_prompt(name: str, key: int, fitted: dict[str, Fit]) -> None:
    """Against the probabilities of all 27 continuations of three tokens."""
    fitted_model, prompt = mixture_of(fitted["MAP"], TRANSITIONS, OTHER), PROMPTS[name]
    texts = generate(fitted_model, prompt, 3, key=key, shape=(3_000,))
    joint = np.zeros((2, 27))
    for s, p in enumerate((TRANSITIONS, OTHER)):
        of_prompt = math.prod(p[a, b] for a, b in pairwise(prompt))
        joint[s] = of_prompt * np.einsum("a,ab,bc->abc", p[prompt[-1]], p, p).ravel()
    counts = np.bincount(texts @ [9, 3, 1], minlength=27)
    assert chisquare(counts, 3_000 * joint.sum(axis=0) / joint.sum()).pvalue > 1e-4
    alike = (joint / joint.sum(axis=1, keepdims=True)).mean(axis=0)
    assert (chisquare(counts, 3_000 * alike).pvalue < 1e-10) == (len(prompt) > 1), "the prompt is data"


def test_one_program_serves_all_prompts_and_tokens(fitted: dict[str, Fit]) -> None:
    generate(fitted["draws"], [0, 1], 9, key=0)
    compiled = generation._continued._cache_size()
    generate(fitted["draws"], [0, 1, 2, 0], 7, key=1)
    assert generation._continued._cache_size() == compiled


def test_the_same_key_gives_the_same_text(fitted: dict[str, Fit]) -> None:
    one, same, other = (generate(fitted["draws"], [0, 1], 9, key=key) for key in (0, jax.random.key(0), 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_a_text_by_a_failed_fit_comes_with_a_warning(fitted: dict[str, Fit]) -> None:
    good = fitted["draws"]
    failed = replace(good, outcome=replace(good.outcome, status=Status((Reason.of(Code.NO_CURVATURE),))))
    with pytest.warns(FailedFitWarning, match="This fit has failed"):
        generate(failed, [0, 1], 9, key=0)


BAD_PROMPTS: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "no prompt": ([], 3, ValueError, "expected a vector of one token or more as prompt"),
    "text": (["a"], 3, TypeError, "expected integers as prompt"),
    "no token": ([0, 3], 3, ValueError, "expected tokens from 0 to 2 as prompt; got 3 at position 1"),
    "no tokens": ([0], 0, ValueError, "expected a positive integer as num_tokens; got 0"),
}


@pytest.mark.parametrize("name", BAD_PROMPTS)
def test_bad_prompts_raise(name: str, fitted: dict[str, Fit]) -> None:
    prompt, num_tokens, error, message = BAD_PROMPTS[name]
    with pytest.raises(error, match=message):
        generate(fitted["MAP"], prompt, num_tokens, key=0)


def test_what_cannot_go_on_is_refused(fitted: dict[str, Fit], rows: Rows) -> None:
    with pytest.raises(TypeError, match="generate: expected a fit; got 'a fit'"):
        generate("a fit", [0], 3, key=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a prompt of positive probability; it is 0 for every draw"):
        generate(mixture_of(fitted["MAP"], np.full((3, 3), np.nan)), [0, 1], 3, key=0)
    numbers = replace(fitted["MAP"], layout=Layout.of(None, np.zeros((2, 6), np.float32)))
    with pytest.raises(ValueError, match=r"expected a fit whose x is rows of tokens, \(n, T\) integers; got rows of"):
        generate(numbers, [0], 3, key=0)
    model = Model(MLP(), Categorical(3), gaussian(1.5))
    density, _ = check_problem(model, rows.x.astype(np.float32), rows.y[:, 0])
    classes = replace(fitted["MAP"], density=density)
    with pytest.raises(TypeError, match="expected y to be a row of tokens"):
        generate(classes, [0], 3, key=0)


def test_a_model_that_looks_ahead_is_refused(fitted: dict[str, Fit]) -> None:
    def unmasked(x: Array, num_outputs: int, *, prior: Any) -> Array:
        seen = jax.nn.one_hot(x, num_outputs)
        return MLP()(seen + seen.mean(axis=1, keepdims=True), num_outputs, prior=prior)

    model = Model(unmasked, CategoricalSequence(3), gaussian(1.5))
    fitted_model = replace(fitted["draws"], density=Density(model, fitted["draws"].structure))
    with pytest.raises(
        ValueError, match="expected the probabilities of a token to depend on x only up to its position"
    ):
        generate(fitted_model, [0], 6, key=0)
