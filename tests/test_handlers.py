"""The law of handlers and primitives of NumPyro: each gives one density in every verb, or is refused by name."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats
from flax import linen, nnx
from jax import Array
from numpyro import handlers
from numpyro.contrib.control_flow import cond, scan
from numpyro.contrib.module import flax_module, nnx_module, random_flax_module, random_nnx_module
from numpyro.infer.reparam import LocScaleReparam, TransformReparam

from flatprior.inference import MAP, MCLMC, MLE, NUTS, Fit, Laplace, compare, cross_validate, explain, fit, log_density
from flatprior.inference.information import code_length, compress, cross_entropy, prequential
from flatprior.models import MLP, Bernoulli, Model, gaussian

NUM_ROWS = 20
RNG = np.random.default_rng(0)
X = RNG.normal(size=(NUM_ROWS, 2))
Y = X @ [1.0, -1.0] + 0.3 * RNG.normal(size=NUM_ROWS)
BINARY = (Y > 0).astype(int)
QUICK = MAP(num_steps=50, polish=False)


def weights() -> Array:
    return numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))


def plain(x: Any, y: Any = None) -> None:
    w, s = weights(), numpyro.sample("s", dist.HalfNormal(1))
    numpyro.sample("y", dist.Normal(x @ w, s), obs=y)


def with_param(x: Any, y: Any = None) -> None:
    w, s = weights(), numpyro.param("s", 1.0, constraint=dist.constraints.positive)
    numpyro.sample("y", dist.Normal(x @ w, s), obs=y)


def with_drawn_param(x: Any, y: Any = None) -> None:
    w = numpyro.param("w", lambda key: 0.1 * jax.random.normal(key, (2,)))
    numpyro.sample("y", dist.Normal(x @ w, 0.3), obs=y)


def hierarchical(x: Any, y: Any = None) -> None:
    s = numpyro.sample("s", dist.HalfNormal(1))
    w = numpyro.sample("w", dist.Normal(0, s).expand([2]).to_event(1))
    numpyro.sample("y", dist.Normal(x @ w, 0.3), obs=y)


def with_transform(x: Any, y: Any = None) -> None:
    s = numpyro.sample("s", dist.TransformedDistribution(dist.Normal(0, 1), dist.transforms.ExpTransform()))
    numpyro.sample("y", dist.Normal(x @ weights(), s), obs=y)


def of_rows(handler: Callable[[Any], Any]) -> Callable[..., None]:
    """A model whose observed site is inside a handler."""

    def model(x: Any, y: Any = None) -> None:
        w = weights()
        with handler(x):
            numpyro.sample("y", dist.Normal(x @ w, 0.3), obs=y)

    return model


def in_plates(x: Any, y: Any = None) -> None:
    with numpyro.plate("feature", 2):
        w = numpyro.sample("w", dist.Normal(0, 1))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ w, 0.3), obs=y)


def with_factor(x: Any, y: Any = None) -> None:
    w = weights()
    numpyro.factor("ridge", -(w[0] ** 2))
    numpyro.sample("y", dist.Normal(x @ w, 0.3), obs=y)


def with_deterministic(x: Any, y: Any = None) -> None:
    w = weights()
    numpyro.deterministic("twice", 2 * w)
    numpyro.sample("y", dist.Normal(numpyro.deterministic("mean", x @ w), 0.3), obs=y)


def latents_in_scan(x: Any, y: Any = None) -> None:
    def step(before: Array, _: Any) -> tuple[Array, Array]:
        w = numpyro.sample("w", dist.Normal(before, 1.0))
        return w, w

    numpyro.sample("y", dist.Normal(x @ scan(step, 0.0, None, length=2)[1], 0.3), obs=y)


def latents_in_cond(x: Any, y: Any = None) -> None:
    def branch(_: Any) -> Array:
        return numpyro.sample("b", dist.Normal(0.0, 1.0))

    b = cond(True, branch, branch, None)
    numpyro.sample("y", dist.Normal(x @ weights() + b, 0.3), obs=y)


def of_module(make: Callable[[], Any]) -> Callable[..., None]:
    def model(x: Any, y: Any = None) -> None:
        numpyro.sample("y", dist.Normal(make()(x)[:, 0], 0.3), obs=y)

    return model


LINEN, NNX, UNIT = linen.Dense(1), nnx.Linear(2, 1, rngs=nnx.Rngs(0)), dist.Normal(0, 1)


class Closure:
    def model(self, x: Any, y: Any = None) -> None:
        plain(x, y)


SUPPORTED: dict[str, Callable[..., Any]] = {
    "param": with_param,
    "param with a drawn initial value": with_drawn_param,
    "lift": handlers.lift(with_param, prior={"s": dist.HalfNormal(1.0)}),
    "scale": handlers.scale(plain, scale=3.0),
    "scale of the rows": of_rows(lambda x: handlers.scale(scale=jnp.abs(x[:, 0]))),
    "mask of the rows": of_rows(lambda x: handlers.mask(mask=x[:, 0] > 0)),
    "plate": in_plates,
    "factor": with_factor,
    "deterministic": with_deterministic,
    "reparam, loc and scale": handlers.reparam(hierarchical, config={"w": LocScaleReparam(0)}),
    "reparam, transform": handlers.reparam(with_transform, config={"s": TransformReparam()}),
    "scope": handlers.scope(plain, prefix="a"),
    "do": handlers.do(plain, data={"s": 0.3}),
    "infer_config": handlers.infer_config(plain, config_fn=lambda site: {}),
    "trace": handlers.trace(plain),
    "scan of latent sites": latents_in_scan,
    "random_flax_module": of_module(lambda: random_flax_module("nn", LINEN, prior=UNIT, input_shape=(1, 2))),
    "random_nnx_module": of_module(lambda: random_nnx_module("nn", NNX, prior=UNIT)),
    "method of an object": Closure().model,
    "partial": partial(plain),
}
DEFAULT = ("scale of the rows", "factor", "scan of latent sites")
some_by_default = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in DEFAULT else pytest.mark.slow) for name in SUPPORTED]
)
IMPROPER = ("param", "param with a drawn initial value")
SAMPLED = ("lift", "scale of the rows", "mask of the rows", "reparam, loc and scale", "scan of latent sites")
"""The models on which chains run; on those that are Gaussian, Laplace as well."""


def scaled_by_a_latent(x: Any, y: Any = None) -> None:
    w, s = weights(), numpyro.sample("s", dist.HalfNormal(1))
    with handlers.scale(scale=s):
        numpyro.sample("y", dist.Normal(x @ w, 0.3), obs=y)


def subsampled(x: Any, y: Any = None) -> None:
    w = weights()
    with numpyro.plate("row", x.shape[0], subsample_size=5) as rows:
        numpyro.sample("y", dist.Normal(x[rows] @ w, 0.3), obs=None if y is None else y[rows])


def gaussian_process(x: Any, y: Any = None) -> None:
    s = numpyro.sample("s", dist.HalfNormal(1))
    numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(len(x)), s * jnp.eye(len(x))), obs=y)


def autoregression(x: Any, y: Any = None) -> None:
    a = numpyro.sample("a", dist.Normal(0, 1))

    def step(before: Array, now: Any) -> tuple[Array, Array]:
        with handlers.condition(data={} if y is None else {"y": now[1]}):
            value = numpyro.sample("y", dist.Normal(a * before + now[0], 1.0))
        return value, value

    scan(step, 0.0, (x[:, 0], jnp.zeros(len(x)) if y is None else y))


def noisy(x: Any, y: Any = None) -> None:
    w = weights()
    numpyro.sample("y", dist.Normal(x @ w + jax.random.normal(numpyro.prng_key()), 0.3), obs=y)


def with_mutable(x: Any, y: Any = None) -> None:
    numpyro.primitives.mutable("state", jnp.zeros(()))
    numpyro.sample("y", dist.Normal(x @ weights(), 0.3), obs=y)


def with_y_in_the_mean(x: Any, y: Any = None) -> None:
    numpyro.sample("y", dist.Normal(x @ weights() + (0.0 if y is None else y.mean()), 0.3), obs=y)


def with_factor_of_y(x: Any, y: Any = None) -> None:
    w = weights()
    if y is not None:
        numpyro.factor("more", -jnp.abs(y - x @ w))
    numpyro.sample("y", dist.Normal(x @ w, 0.3), obs=y)


REFUSED: dict[str, tuple[Callable[..., Any], str]] = {
    "scale by a latent site": (
        scaled_by_a_latent,
        "computed from x; got ones that depend on y or on a latent site",
    ),
    "scale of another shape": (of_rows(lambda x: handlers.scale(scale=jnp.ones((3, 1)))), r"one per row.*got \(3, 1\)"),
    "subsample": (subsampled, "Plate 'row'.*subsample_size=5.*batch_size=5"),
    "gaussian process": (gaussian_process, "'y': expected rows that are independent.*Gaussian process"),
    "scan of the rows": (autoregression, "'y': expected rows that are independent.*inside scan.*lags"),
    "prng_key": (noisy, "depends on a random key, by numpyro.prng_key"),
    "uncondition": (handlers.uncondition(plain), "'y': expected a model without random keys"),
    "mutable": (with_mutable, "Mutable site 'state'.*updates a state"),
    "condition": (handlers.condition(plain, data={"s": jnp.array(0.3)}), "'s': expected y to be the only .*condition"),
    "substitute": (handlers.substitute(plain, data={"s": jnp.array(0.3)}), "'s': expected a site without.*substitute"),
    "replay": (handlers.replay(plain, trace=handlers.trace(handlers.seed(plain, 0)).get_trace(X, Y)), "'w'.*replay"),
    "seed": (handlers.seed(plain, 0), "'w': expected a model without random keys.*seed"),
    "block": (handlers.block(handlers.seed(plain, 0), hide=["w"]), "without random keys of its own"),
    "flax_module": (of_module(lambda: flax_module("nn", LINEN, input_shape=(1, 2))), r"nn\$params.*Lift"),
    "nnx_module": (of_module(lambda: nnx_module("nn", NNX)), r"nn\$params.*Lift"),
    "a prior for some of a module": (
        of_module(lambda: random_flax_module("nn", LINEN, prior={"kernel": UNIT}, input_shape=(1, 2))),
        r"nn\$params.bias.*Lift",
    ),
    "cond": (latents_in_cond, "without numpyro.contrib.control_flow.cond"),
    "y in the mean": (with_y_in_the_mean, "parameters of its distribution depend on y"),
    "a factor of y": (with_factor_of_y, "Factor 'more': expected a numpyro.factor that does not depend on y"),
    "jax.jit": (jax.jit(plain), "under jax.jit.*Leave out jax.jit"),
    "only keywords": (lambda *, x, y=None: plain(x, y), r"model\(x, y=None\); got .*too many positional"),
}


@cache
def fitted(name: str) -> Fit:
    with jax.enable_x64(True):
        return fit(SUPPORTED[name], QUICK, X, Y, key=0, progress=False)


@some_by_default
def test_every_verb_has_the_density_of_numpyro(name: str) -> None:
    """The fit, the public density, the scores, the predictions and the explanation agree in float64."""
    model, one = SUPPORTED[name], fitted(name)
    with jax.enable_x64(True):
        at = {site: jnp.asarray(value[0, 0]) for site, value in one.draws.items()}
        value = float(log_density(model, at, X, Y))
        if name not in IMPROPER:  # NumPyro itself has the parameter at its initial value
            chosen = handlers.seed(model, 0)
            np.testing.assert_allclose(value, numpyro.infer.util.log_density(chosen, (X, Y), {}, at)[0], rtol=1e-12)
        explanation = explain(model, X, Y, at=one)
        np.testing.assert_allclose(-explanation.total, value, rtol=1e-9)
        rows = one.log_likelihood(X, Y)[0, 0]
        np.testing.assert_allclose(one.predict(X).log_prob(Y), rows, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(-sum(t.nats for t in explanation.terms if t.role == "loss"), rows.sum(), rtol=1e-9)
        table = compare({"MAP": one}, X, Y).to_dataframe()
        np.testing.assert_allclose(table.loc["MAP", "elpd"], rows.mean(), rtol=1e-9)


@some_by_default
def test_the_loss_of_the_fit_is_that_density(name: str) -> None:
    one = fitted(name)
    with jax.enable_x64(True):
        at = {site: jnp.asarray(value[0, 0]) for site, value in one.draws.items()}
        end = -float(log_density(SUPPORTED[name], at, X, Y))
        assert one.density.loss(*_unconstrained(one, at)) * NUM_ROWS == pytest.approx(end, rel=1e-9)


def _unconstrained(one: Fit, at: Any) -> tuple[Any, Any]:
    from flatprior.inference.rows import Data

    data = Data(jnp.asarray(X), jnp.asarray(Y))
    return numpyro.infer.util.unconstrain_fn(one.density.model, (data.x, data.y), {}, at), data


@pytest.mark.parametrize("name", REFUSED)
def test_other_effects_are_refused_by_name(name: str) -> None:
    model, words = REFUSED[name]
    with pytest.raises((TypeError, ValueError), match=f"(?s){words}"):
        fit(model, QUICK, X, Y, key=0, progress=False)


@pytest.mark.parametrize("name", ["subsample", "substitute", "nnx_module", "y in the mean"])
def test_they_are_refused_by_every_verb(name: str) -> None:
    model, words = REFUSED[name]
    for verb in (
        lambda: explain(model, X, Y),
        lambda: cross_validate({"MAP": (model, QUICK)}, X, Y, key=0, progress=False),
        lambda: fit(model, NUTS(), X, Y, key=0, progress=False),
    ):
        with pytest.raises((TypeError, ValueError), match=f"(?s){words}"):
            verb()


@pytest.mark.parametrize("name", IMPROPER)
def test_a_parameter_is_a_latent_site_with_a_flat_prior(name: str, tmp_path: Path) -> None:
    model, one = SUPPORTED[name], fitted(name)
    site = next(iter(one.structure.params))
    assert {site} == one.structure.flat
    assert any(term.site == site and term.name == "none: flat" for term in explain(model, X, Y).terms)
    for method in (Laplace(), NUTS(), MCLMC()):
        with pytest.raises(ValueError, match=f"flat at the sites .*{site}"):
            fit(model, method, X, Y, key=0, progress=False)
    with jax.enable_x64(True):
        again = Fit.load(one.save(tmp_path / "fit.nc"), model)
        np.testing.assert_array_equal(again.predict(X).mean, one.predict(X).mean)


def test_the_estimate_of_a_parameter_is_the_one_that_predicts() -> None:
    """The measured lie: the scale was fitted by SVI, and scores and predictions had its initial value."""
    mle = fit(with_param, MLE(), X, Y, key=0, progress=False)
    w = np.linalg.lstsq(X, Y)[0]
    scale = np.sqrt(((Y - X @ w) ** 2).mean())
    assert mle.draws["s"].item() == pytest.approx(scale, rel=1e-4)
    np.testing.assert_allclose(mle.predict(X).variance, scale**2, rtol=1e-3)
    exact = scipy.stats.norm(X @ w, scale).logpdf(Y)
    np.testing.assert_allclose(mle.log_likelihood(X, Y)[0, 0], exact, atol=1e-3)


# Weights of rows.


def test_a_row_of_weight_three_is_three_rows() -> None:
    counts = 1 + np.arange(NUM_ROWS) % 3
    repeated = np.repeat(np.arange(NUM_ROWS), counts)

    def weighted(x: Any, y: Any = None) -> None:
        w = weights()
        with handlers.scale(scale=x[:, 2]):
            numpyro.sample("y", dist.Normal(x[:, :2] @ w, 0.3), obs=y)

    unweighted = of_rows(lambda x: handlers.mask(mask=True))
    with jax.enable_x64(True):
        x = np.column_stack([X, counts])
        one = fit(weighted, MAP(), x, Y, key=0, progress=False)
        other = fit(unweighted, MAP(), X[repeated], Y[repeated], key=0, progress=False)
        np.testing.assert_allclose(one.draws["w"], other.draws["w"], rtol=1e-9)
        for score in (lambda f, x, y: f.log_likelihood(x, y), lambda f, x, y: f.predict(x).log_prob(y)):
            np.testing.assert_allclose(score(one, x, Y).sum(), score(other, X[repeated], Y[repeated]).sum(), rtol=1e-10)
        np.testing.assert_allclose(one.predict(x).mean, other.predict(X).mean, rtol=1e-9)
        np.testing.assert_allclose(one.predict(x).variance, other.predict(X).variance, rtol=1e-12)


@pytest.mark.slow
def test_the_evidence_of_weighted_rows_is_that_of_repeated_rows() -> None:
    twice, once = (of_rows(lambda x, scale=scale: handlers.scale(scale=scale)) for scale in (2.0, 1.0))
    rows = np.tile(X, (2, 1)), np.tile(Y, 2)
    evidence = [fit(twice, Laplace(), X, Y, key=0).log_evidence, fit(once, Laplace(), *rows, key=0).log_evidence]
    assert evidence[0] == pytest.approx(evidence[1], rel=1e-5)


def test_a_masked_row_is_left_out_of_the_likelihood_and_is_predicted() -> None:
    some = X[:, 0] > 0
    masked = fit(SUPPORTED["mask of the rows"], MAP(), X, Y, key=0, progress=False)
    without = fit(of_rows(lambda x: handlers.mask(mask=True)), MAP(), X[some], Y[some], key=0, progress=False)
    np.testing.assert_allclose(masked.draws["w"], without.draws["w"], rtol=1e-4)
    np.testing.assert_allclose(masked.predict(X).mean, without.predict(X).mean, rtol=1e-4)
    assert (masked.log_likelihood(X, Y)[0, 0][~some] == 0).all()
    np.testing.assert_allclose(masked.predict(X).variance, 0.09, rtol=1e-5)


def test_a_row_with_a_weight_has_no_code() -> None:
    weighted = handlers.scale(Model(MLP(), Bernoulli(), gaussian(1.0)), scale=2.0)
    one = fit(weighted, QUICK, X, BINARY, key=0, progress=False)
    for verb in (code_length, compress, cross_entropy):
        with pytest.raises(TypeError, match=f"{verb.__name__}: expected a model in which every row counts once"):
            verb(one, X, BINARY)
    with pytest.raises(TypeError, match="prequential: expected a model in which"):
        prequential(weighted, QUICK, X, BINARY, key=0)


# ArviZ.


def test_deterministic_sites_are_in_the_posterior_group_unless_they_depend_on_x() -> None:
    laplace = fit(with_deterministic, Laplace(num_samples=7), X, Y, key=0, progress=False)
    posterior = laplace.to_datatree(X, Y)["posterior"]
    assert set(posterior.data_vars) == {"w", "twice"}
    np.testing.assert_array_equal(posterior["twice"].values, 2 * laplace.draws["w"])
    centred = fitted("reparam, loc and scale").to_datatree()["posterior"]
    np.testing.assert_allclose(centred["w"], centred["s"].values[..., None] * centred["w_decentered"].values, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "method"),
    [(name, NUTS(num_warmup=300, num_samples=400)) for name in SAMPLED]
    + [(name, MCLMC(num_warmup=4000, num_samples=100)) for name in SAMPLED]
    + [(name, Laplace(num_samples=400)) for name in ("scale of the rows", "mask of the rows")],
)
def test_samplers_have_the_same_density(name: str, method: Any) -> None:
    """Posterior means of predictions agree with those of NumPyro's own NUTS on the untouched model."""
    model = SUPPORTED[name]
    kernel = numpyro.infer.MCMC(numpyro.infer.NUTS(model), num_warmup=500, num_samples=4000, progress_bar=False)
    kernel.run(jax.random.key(1), jnp.asarray(X), jnp.asarray(Y))
    sites = list(fitted(name).draws)
    exact = {site: np.asarray(kernel.get_samples()[site]) for site in sites}
    chains = fit(model, method, X, Y, key=0, progress=False)
    for site in sites:
        draws = chains.draws[site].reshape(-1, *exact[site].shape[1:])
        error = np.abs(draws.mean(axis=0) - exact[site].mean(axis=0)) / exact[site].std(axis=0)
        assert (error < 0.3).all(), (site, error)
