"""Models as NumPyro models: their sites, their priors, and what NumPyro itself makes of them."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import Array
from numpyro.handlers import condition, scope, seed, substitute, trace
from numpyro.infer import MCMC, SVI, Predictive, Trace_ELBO
from numpyro.infer import NUTS as NumPyroNUTS
from numpyro.infer.autoguide import AutoDelta
from numpyro.infer.util import log_density

from flatprior.models import MLP, Bernoulli, Categorical, Model, Normal, Poisson, fan_in, gaussian

from .tables import some_by_default

MODELS: dict[str, tuple[Callable[[], Model], str]] = {
    "logistic": (lambda: Model(MLP(), Bernoulli()), "binary"),
    "softmax": (lambda: Model(MLP((4,), "tanh"), Categorical(3)), "classes"),
    "least squares": (lambda: Model(MLP(), Normal(0.5), gaussian(2.0)), "real"),
    "heteroscedastic": (lambda: Model(MLP((3, 2)), Normal("network"), fan_in()), "real"),
    "learned scale": (
        lambda: Model(MLP((3,)), Normal(dist.HalfNormal(1.0)), {"w*": fan_in(), "b*": gaussian()}),
        "real",
    ),
    "Poisson": (lambda: Model(MLP(), Poisson(), gaussian()), "counts"),
}
every_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture
def data(name: str, data_sets: dict[str, Any]) -> tuple[Array, Array]:
    x, y = data_sets[MODELS[name][1]]
    return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.int32 if y.dtype.kind == "i" else jnp.float32)


def sites_of(model: Callable[..., Any], *args: Any) -> dict[str, Any]:
    result = trace(seed(model, 0)).get_trace(*args)
    return {name: site for name, site in result.items() if site["type"] == "sample"}


@pytest.mark.parametrize(
    ("widths", "expected"),
    [
        ((), {"w1": ((2, 3), ["feature", "output"]), "b1": ((3,), ["output"])}),
        (
            (5, 4),
            {
                "w1": ((2, 5), ["feature", "hidden1"]),
                "b1": ((5,), ["hidden1"]),
                "w2": ((5, 4), ["hidden1", "hidden2"]),
                "b2": ((4,), ["hidden2"]),
                "w3": ((4, 3), ["hidden2", "output"]),
                "b3": ((3,), ["output"]),
            },
        ),
    ],
)
def test_sites_of_a_network(widths: tuple[int, ...], expected: dict[str, Any]) -> None:
    sites = sites_of(lambda x: MLP(widths)(x, 3), jnp.ones((7, 2)))
    assert {k: (s["value"].shape, s["infer"]["event_dims"]) for k, s in sites.items()} == expected


@pytest.mark.parametrize("num_rows", [1, 3, 200])
@pytest.mark.parametrize("activation", ["relu", "silu", "gelu", "elu", "tanh", "sigmoid", "softplus", jnp.sin])
def test_a_network_is_affine_maps_and_activations(x64: None, num_rows: int, activation: Any) -> None:
    """Also on either side of the number of rows at which its layout in memory changes."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (2, 6), "b1": (6,), "w2": (6, 4), "b2": (4,), "w3": (4, 3), "b3": (3,)}
    w = {site: rng.normal(size=shape) for site, shape in shapes.items()}
    x = rng.normal(size=(num_rows, 2))
    function = activation if callable(activation) else getattr(jnp if activation == "tanh" else jax.nn, activation)
    hidden = function(function(x @ w["w1"] + w["b1"]) @ w["w2"] + w["b2"])
    eta = seed(substitute(MLP((6, 4), activation), data=w), 0)(x, 3)
    np.testing.assert_allclose(eta, hidden @ w["w3"] + w["b3"], rtol=1e-12, atol=1e-12)


def test_a_network_takes_axes_before_the_features() -> None:
    x = np.random.default_rng(0).normal(size=(4, 5, 2))
    network = seed(MLP((3,)), 0)
    whole = network(x, 2)
    assert whole.shape == (4, 5, 2)
    np.testing.assert_allclose(whole.reshape(20, 2), seed(MLP((3,)), 0)(x.reshape(20, 2), 2), rtol=1e-5, atol=1e-6)


PRIORS: dict[str, tuple[Any, Callable[[str, tuple[int, ...]], dist.Distribution]]] = {
    "gaussian": (gaussian(2.0), lambda site, shape: dist.Normal(0.0, 2.0)),
    "fan_in": (fan_in(3.0), lambda site, shape: dist.Normal(0.0, 3.0 / (shape[0] ** 0.5 if len(shape) > 1 else 1.0))),
    "distribution": (dist.Laplace(0.0, 0.5), lambda site, shape: dist.Laplace(0.0, 0.5)),
    "function": (
        lambda site, shape: dist.StudentT(3.0 + len(shape)),
        lambda site, shape: dist.StudentT(3.0 + len(shape)),
    ),
    "function of its own shape": (
        lambda site, shape: dist.Normal(jnp.ones(shape), 1.0).to_event(len(shape)),
        lambda site, shape: dist.Normal(1.0, 1.0),
    ),
    "per site": (
        {"w1": gaussian(0.1), "w*": dist.Cauchy(0.0, 1.0), "*": gaussian(5.0)},
        lambda site, shape: {"w1": dist.Normal(0.0, 0.1), "w2": dist.Cauchy()}.get(site, dist.Normal(0.0, 5.0)),
    ),
}


@pytest.mark.parametrize("name", some_by_default(PRIORS, "gaussian", "fan_in"))
def test_every_weight_has_the_prior_it_was_given(x64: None, name: str) -> None:
    prior, expected = PRIORS[name]
    sites = sites_of(Model(MLP((4,)), Normal(1.0), prior), jnp.ones((3, 2)))
    del sites["y"]
    assert list(sites) == ["w1", "b1", "w2", "b2"]
    for site, result in sites.items():
        value, shape = result["value"], result["value"].shape
        log_prob = result["fn"].log_prob(value)
        assert log_prob.shape == (), "all of a site is one event: no plate has to be named"
        np.testing.assert_allclose(log_prob, expected(site, shape).log_prob(value).sum(), rtol=1e-12)


def test_keys_of_a_prior_that_match_no_site_raise() -> None:
    model = Model(MLP((4,)), Bernoulli(), {"w1": gaussian(), "kernel*": gaussian(), "*": gaussian()})
    with pytest.raises(
        ValueError, match=r"keys \['kernel\*'\] match no site; the sites are \['w1', 'b1', 'w2', 'b2'\]"
    ):
        seed(model, 0)(jnp.ones((3, 2)))


def test_sites_without_a_prior_raise() -> None:
    model = Model(MLP((4,)), Bernoulli(), {"w*": gaussian()})
    with pytest.raises(ValueError, match=r"sites \['b1', 'b2'\] match none of the keys \['w\*'\]"):
        seed(model, 0)(jnp.ones((3, 2)))


@pytest.mark.parametrize("eta", [-1e4, -200.0, -1.0, 0.0, 1e4])
def test_the_scale_of_a_network_is_positive_and_its_gradient_finite(eta: float) -> None:
    """In float32 softplus is 0 below -104, and the log likelihood of a scale of 0 is not a number."""

    def log_prob(eta: Array, y: Array) -> tuple[Array, Array]:
        site = trace(seed(Normal("network"), 0)).get_trace(jnp.stack([jnp.zeros(1), eta], -1), y)["y"]
        return site["fn"].log_prob(y).sum(), site["fn"].scale

    for y in (0.0, 1.0):
        (value, scale), gradient = jax.value_and_grad(log_prob, has_aux=True)(jnp.array([eta]), jnp.array([y]))
        assert scale.dtype == jnp.float32
        assert (scale > 0).all()
        assert jnp.isfinite(value)
        assert jnp.isfinite(gradient).all()


def test_soft_labels_are_scored_by_the_expected_log_likelihood(x64: None) -> None:
    rng = np.random.default_rng(0)
    eta, soft = jnp.asarray(rng.normal(size=(8, 3))), jnp.asarray(rng.dirichlet(np.ones(3), size=8))
    site = trace(seed(Categorical(3), 0)).get_trace(eta, soft)["y"]
    by_class = np.stack([dist.Categorical(logits=eta).log_prob(np.full(8, k)) for k in range(3)], axis=1)
    np.testing.assert_allclose(site["fn"].log_prob(soft), (soft * by_class).sum(1), rtol=1e-12)


def test_soft_labels_that_are_one_hot_are_labels(x64: None) -> None:
    rng = np.random.default_rng(1)
    eta, labels = jnp.asarray(rng.normal(size=(8, 3))), jnp.asarray(rng.integers(0, 3, 8))

    def log_prob(eta: Array, y: Any) -> Array:
        return trace(seed(Categorical(3), 0)).get_trace(eta, y)["y"]["fn"].log_prob(y)

    np.testing.assert_allclose(log_prob(eta, jnp.eye(3)[labels]), log_prob(eta, labels), rtol=1e-12)


VALUES: dict[str, Callable[[], Any]] = {
    "MLP": lambda: MLP([4, 4], "tanh"),
    "Bernoulli": Bernoulli,
    "Categorical": lambda: Categorical(3),
    "Normal": lambda: Normal(0.5),
    "Poisson": Poisson,
    "gaussian": lambda: gaussian(2.0),
    "fan_in": lambda: fan_in(2.0),
    "Model": lambda: Model(MLP((4,)), Normal("network"), {"w*": fan_in(), "*": gaussian()}),
}


@pytest.mark.parametrize("name", VALUES)
def test_models_and_their_parts_are_values(name: str) -> None:
    one, other = VALUES[name](), VALUES[name]()
    assert one == other
    assert hash(one) == hash(other)
    assert {one: 1}[other] == 1


@pytest.mark.parametrize("name", [name for name in VALUES if name not in ("Bernoulli", "Poisson")])
def test_models_and_their_parts_are_frozen(name: str) -> None:
    value = VALUES[name]()
    with pytest.raises(AttributeError):
        setattr(value, next(iter(vars(value))), 1)


def test_models_that_differ_are_not_equal() -> None:
    models = {
        Model(MLP((width,), activation), observation, prior)
        for width in (3, 4)
        for activation in ("tanh", "relu")
        for observation in (Normal(1.0), Normal("network"))
        for prior in (gaussian(1.0), fan_in(1.0), {"*": gaussian(1.0)})
    }
    assert len(models) == 24


@every_model
def test_without_y_a_model_samples_it(name: str, data: tuple[Array, Array]) -> None:
    x, y = data
    site = sites_of(MODELS[name][0](), x)["y"]
    assert not site["is_observed"]
    assert site["value"].shape == y.shape
    assert [frame.name for frame in site["cond_indep_stack"]] == ["row"]


@every_model
def test_predictive_of_numpyro_draws_prior_and_data(name: str, data: tuple[Array, Array]) -> None:
    x, y = data
    draws = Predictive(MODELS[name][0](), num_samples=3)(jax.random.key(0), x)
    assert draws["y"].shape == (3, *y.shape)
    assert draws["w1"].shape[:2] == (3, 2)


@every_model
def test_condition_is_observing(name: str, data: tuple[Array, Array]) -> None:
    x, y = data
    model = MODELS[name][0]()
    weights = {k: s["value"] for k, s in sites_of(model, x).items() if k != "y"}
    conditioned = jax.jit(lambda w: log_density(condition(model, {"y": y}), (x,), {}, w)[0])(weights)
    observed = jax.jit(lambda w: log_density(model, (x, y), {}, w)[0])(weights)
    np.testing.assert_allclose(conditioned, observed, rtol=1e-6)


@pytest.mark.parametrize("name", ["logistic"])
def test_svi_of_numpyro_lowers_the_loss(name: str, data: tuple[Array, Array]) -> None:
    model = MODELS[name][0]()
    svi = SVI(model, AutoDelta(model), numpyro.optim.Adam(0.01), Trace_ELBO())
    losses = svi.run(jax.random.key(0), 50, *data, progress_bar=False).losses
    assert losses[-1] < losses[0]


def test_mcmc_of_numpyro_samples_every_weight(data_sets: dict[str, Any]) -> None:
    x, y = data_sets["binary"]
    mcmc = MCMC(NumPyroNUTS(MODELS["logistic"][0]()), num_warmup=5, num_samples=5, progress_bar=False)
    mcmc.run(jax.random.key(0), jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.int32))
    assert {site: draws.shape for site, draws in mcmc.get_samples().items()} == {"w1": (5, 2, 1), "b1": (5, 1)}


@every_model
def test_numpyro_renders_the_graph(name: str, data: tuple[Array, Array]) -> None:
    graph = numpyro.render_model(MODELS[name][0](), model_args=data)
    assert all(site in graph.source for site in ("w1", "b1", "y", "row"))


def test_two_networks_in_one_model_are_distinguished_by_scope() -> None:
    def model(x: Array, y: Array | None = None) -> None:
        mean = scope(MLP((3,)), "mean")(x)[:, 0]
        scale = jnp.exp(scope(MLP(), "log_scale")(x, prior=gaussian(0.1))[:, 0])
        with numpyro.plate("row", x.shape[0]):
            numpyro.sample("y", dist.Normal(mean, scale), obs=y)

    sites = sites_of(model, jnp.ones((5, 2)))
    expected = ["mean/w1", "mean/b1", "mean/w2", "mean/b2", "log_scale/w1", "log_scale/b1", "y"]
    assert list(sites) == expected


INVALID: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "width of 0": (lambda: MLP((4, 0)), ValueError, r"positive integers as widths; got \(4, 0\)"),
    "width a float": (lambda: MLP((4.0,)), ValueError, r"positive integers as widths; got \(4\.0,\)"),
    "widths a number": (lambda: MLP(4), ValueError, r"a sequence of widths, such as \(16, 16\); got 4"),
    "widths text": (lambda: MLP("16"), ValueError, "positive integers as widths"),
    "activation": (lambda: MLP((4,), "swish"), ValueError, "one of relu, .* as activation; got 'swish'"),
    "one class": (lambda: Categorical(1), ValueError, "at least 2 classes; got 1"),
    "classes a float": (lambda: Categorical(3.0), ValueError, "at least 2 classes; got 3.0"),
    "scale of 0": (lambda: Normal(0.0), ValueError, "a positive number, .* as scale; got 0.0"),
    "scale negative": (lambda: Normal(-1), ValueError, "a positive number, .* as scale; got -1"),
    "scale infinite": (lambda: Normal(float("inf")), ValueError, "as scale; got inf"),
    "scale unknown": (lambda: Normal("learned"), ValueError, "'network' as scale; got 'learned'"),
    "scale None": (lambda: Normal(None), ValueError, "'network' as scale; got None"),
    "scale on the real line": (lambda: Normal(dist.Normal()), ValueError, "over positive numbers.* got Normal"),
    "scale of many": (lambda: Normal(dist.HalfNormal(jnp.ones(3))), ValueError, r"one distribution .* shape \(3,\)"),
    "gaussian of 0": (lambda: gaussian(0.0), ValueError, "gaussian: expected a positive finite scale; got 0.0"),
    "gaussian of NaN": (lambda: gaussian(float("nan")), ValueError, "positive finite scale; got nan"),
    "fan_in negative": (lambda: fan_in(-1.0), ValueError, "fan_in: expected a positive finite scale; got -1.0"),
    "fan_in text": (lambda: fan_in("1"), ValueError, "fan_in: expected a positive finite scale; got '1'"),
    "network a class": (lambda: Model(MLP, Bernoulli()), TypeError, r"a network such as MLP\(\(16,\)\)"),
    "network None": (lambda: Model(None, Bernoulli()), TypeError, "a network such as .* got None"),
    "observation a class": (lambda: Model(MLP(), Bernoulli), TypeError, r"an observation such as Bernoulli\(\)"),
    "observation text": (lambda: Model(MLP(), "normal"), TypeError, "an observation such as .* got 'normal'"),
    "prior a number": (lambda: Model(MLP(), Bernoulli(), 1.0), TypeError, r"Expected a prior: .* got 1\.0"),
    "prior a class": (lambda: Model(MLP(), Bernoulli(), gaussian), TypeError, "Expected a prior"),
    "prior of a site": (lambda: Model(MLP(), Bernoulli(), {"*": 1.0}), TypeError, r"Expected a prior: .* got 1\.0"),
    "prior that returns a number": (
        lambda: seed(MLP(), 0)(jnp.ones((3, 2)), prior=lambda site, shape: 1.0),
        TypeError,
        "prior of 'w1' should be a NumPyro distribution; got 1.0",
    ),
    "prior of another shape": (
        lambda: seed(MLP(), 0)(jnp.ones((3, 2)), prior=dist.Normal(jnp.zeros(5))),
        ValueError,
        r"prior of 'w1' should have shape \(2, 1\) or \(\); got \(5,\)",
    ),
    "x a vector": (lambda: seed(MLP(), 0)(jnp.ones(3)), ValueError, r"x of shape \(n, d\).* x\[:, None\]"),
    "y of shape (n, 1)": (
        lambda: seed(Model(MLP(), Bernoulli()), 0)(jnp.ones((3, 2)), jnp.ones((3, 1), int)),
        ValueError,
        r"y of shape \(3,\).* got \(3, 1\)\. Use y\[:, 0\]",
    ),
    "soft labels of other classes": (
        lambda: seed(Model(MLP(), Categorical(3)), 0)(jnp.ones((5, 2)), jnp.ones((5, 2)) / 2),
        ValueError,
        r"for soft labels, \(5, 3\); got \(5, 2\)",
    ),
    "float classes": (
        lambda: seed(Model(MLP(), Categorical(3)), 0)(jnp.ones((5, 2)), jnp.ones(5)),
        TypeError,
        r"integer labels 0, \.\.\., 2; got float32\. Use y\.astype\(int\)",
    ),
}


OUTPUTS: dict[str, tuple[Any, tuple[int, ...], str]] = {
    "an axis of one": (Bernoulli(), (5, 1, 1), r"Bernoulli: .* eta of shape \(5, 1\); got \(5, 1, 1\)\..*out\[:, 0\]"),
    "an image": (Categorical(3), (5, 28, 3), r"eta of shape \(5, 3\); got \(5, 28, 3\)\. .*give an MLP x.reshape"),
    "a vector": (Normal(0.5), (5,), r"eta of shape \(5, 1\); got \(5,\)\. Let the network return out\[:, None\]"),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_of_another_shape_are_reported_before_those_of_y(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user has it: without the checks of annotations that the tests put before it."""
    observation, shape, message = OUTPUTS[name]
    monkeypatch.setattr(type(observation), "__call__", inspect.unwrap(type(observation).__call__))
    for y in (None, jnp.zeros(5, int), jnp.zeros(shape, int)):
        with pytest.raises(ValueError, match=message):
            seed(observation, 0)(jnp.zeros(shape), y)


@pytest.mark.parametrize("name", INVALID)
def test_what_is_not_a_model_raises(name: str) -> None:
    call, exception, match = INVALID[name]
    with pytest.raises(exception, match=match):
        call()
