"""The loss is the likelihood and the regulariser is the prior: value and gradient, in float64, to rounding."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from jax import Array
from jax.scipy.stats import norm
from numpyro.handlers import seed, trace
from numpyro.infer import init_to_value
from numpyro.infer.util import log_density as density_of_numpyro
from sklearn.metrics import log_loss

from flatprior.inference import MAP, MLE, fit, flat, log_density
from flatprior.inference.checks import check_problem
from flatprior.inference.rows import Data
from flatprior.models import MLP, Bernoulli, Categorical, Model, Normal, fan_in, gaussian

from .tables import some_by_default

pytestmark = pytest.mark.usefixtures("x64")
PRECISION = 1e-10
Weights = dict[str, Array]
Loss = Callable[[Weights, Array, Array], Array]


def forward(w: Weights, x: Array) -> Array:
    """A network with one tanh layer, or none, written without the library."""
    if "w2" not in w:
        return x @ w["w1"] + w["b1"]
    return jnp.tanh(x @ w["w1"] + w["b1"]) @ w["w2"] + w["b2"]


def cross_entropy(w: Weights, x: Array, y: Array) -> Array:
    return optax.sigmoid_binary_cross_entropy(forward(w, x)[:, 0], y).sum()


def softmax_cross_entropy(w: Weights, x: Array, y: Array) -> Array:
    return optax.softmax_cross_entropy_with_integer_labels(forward(w, x), y).sum()


def soft_cross_entropy(w: Weights, x: Array, y: Array) -> Array:
    return optax.softmax_cross_entropy(forward(w, x), y).sum()


def squared_error(w: Weights, x: Array, y: Array) -> Array:
    """With its constant, for a scale of 0.7."""
    return ((y - forward(w, x)[:, 0]) ** 2).sum() / (2 * 0.7**2) + len(y) / 2 * math.log(2 * math.pi * 0.7**2)


def gaussian_nll(w: Weights, x: Array, y: Array) -> Array:
    return -norm.logpdf(y, forward(w, x)[:, 0], w["scale"]).sum()


def heteroscedastic_nll(w: Weights, x: Array, y: Array) -> Array:
    eta = forward(w, x)
    return -norm.logpdf(y, eta[:, 0], jnp.log1p(jnp.exp(eta[:, 1])) + 1e-6).sum()


LOSSES: dict[str, tuple[Any, str, Loss]] = {
    "Bernoulli": (Bernoulli(), "binary", cross_entropy),
    "Categorical": (Categorical(3), "classes", softmax_cross_entropy),
    "Categorical, soft labels": (Categorical(3), "soft", soft_cross_entropy),
    "Normal, known scale": (Normal(0.7), "real", squared_error),
    "Normal, learned scale": (Normal(dist.Exponential(1.5)), "real", gaussian_nll),
    "Normal, scale of the network": (Normal("network"), "real", heteroscedastic_nll),
}
NETWORKS = {"linear": MLP(), "one hidden layer": MLP((3,), "tanh")}


def normal_penalty(value: Array, scale: float) -> Array:
    """|w|^2 / (2 s^2) and the constant."""
    return (value**2).sum() / (2 * scale**2) + value.size / 2 * math.log(2 * math.pi * scale**2)


def ridge(w: Weights) -> Array:
    return sum(normal_penalty(value, 1.7) for value in w.values())


def ridge_by_inputs(w: Weights) -> Array:
    return sum(normal_penalty(value, 0.9 / math.sqrt(len(value)) if value.ndim == 2 else 0.9) for value in w.values())


def ridge_and_lasso(w: Weights) -> Array:
    """Ridge for the biases; for the weights the lasso, which is a Laplace prior."""
    lasso = sum(jnp.abs(v).sum() / 0.4 + v.size * math.log(2 * 0.4) for k, v in w.items() if k.startswith("w"))
    return lasso + sum(normal_penalty(value, 3.0) for site, value in w.items() if site.startswith("b"))


PENALTIES: dict[str, tuple[Any, Callable[[Weights], Array]]] = {
    "gaussian": (gaussian(1.7), ridge),
    "fan_in": (fan_in(0.9), ridge_by_inputs),
    "per site": ({"w*": dist.Laplace(0.0, 0.4), "b*": gaussian(3.0)}, ridge_and_lasso),
}


@pytest.fixture
def data(x64: None, observation: str, data_sets: dict[str, Any]) -> tuple[Array, Array]:
    kind = LOSSES[observation][1]
    if kind == "soft":
        x, _ = data_sets["classes"]
        return jnp.asarray(x), jnp.asarray(np.random.default_rng(3).dirichlet(np.ones(3), size=len(x)))
    x, y = data_sets[kind]
    return jnp.asarray(x), jnp.asarray(y)


def random_weights(model: Model, x: Array, seed: int = 0) -> Weights:
    """Some weights in the coordinates of the model."""
    rng, scale = np.random.default_rng(seed), isinstance(getattr(model.observation, "scale", None), dist.Distribution)
    sites = model.network.sites(x.shape[1], model.observation.num_outputs)
    weights = {site: jnp.asarray(rng.normal(size=shape)) for site, (shape, _) in sites.items()}
    return {**weights, "scale": jnp.asarray(0.8)} if scale else weights


def assert_same(one: Callable[[Weights], Array], other: Callable[[Weights], Array], at: Weights) -> None:
    """Two functions agree in value and in gradient."""
    (value, gradient), (expected, expected_gradient) = (jax.jit(jax.value_and_grad(f))(at) for f in (one, other))
    assert value.dtype == jnp.float64
    np.testing.assert_allclose(value, expected, rtol=PRECISION)
    for site in at:
        np.testing.assert_allclose(
            gradient[site], expected_gradient[site], rtol=PRECISION, atol=PRECISION, err_msg=site
        )


@pytest.mark.parametrize(
    ("observation", "network"), [*((name, "one hidden layer") for name in LOSSES), ("Categorical", "linear")]
)
def test_the_objective_of_mle_is_the_loss(observation: str, network: str, data: tuple[Array, Array]) -> None:
    model = Model(NETWORKS[network], LOSSES[observation][0])
    loss = LOSSES[observation][2]
    assert_same(lambda w: -log_density(flat(model), w, *data), lambda w: loss(w, *data), random_weights(model, data[0]))


@pytest.mark.parametrize(
    ("observation", "penalty"),
    [*((name, "gaussian") for name in LOSSES), *(("Normal, learned scale", name) for name in ("fan_in", "per site"))],
)
def test_the_objective_of_map_is_the_loss_and_the_penalty(
    observation: str, penalty: str, data: tuple[Array, Array]
) -> None:
    prior, regulariser = PENALTIES[penalty]
    model = Model(MLP((3,), "tanh"), LOSSES[observation][0], prior)

    def objective(w: Weights) -> Array:
        of_scale = 1.5 * w["scale"] - math.log(1.5) if "scale" in w else 0.0
        return LOSSES[observation][2](w, *data) + regulariser({k: v for k, v in w.items() if k != "scale"}) + of_scale

    assert_same(lambda w: -log_density(model, w, *data), objective, random_weights(model, data[0]))


@pytest.mark.parametrize("observation", ["Bernoulli", "Categorical"])
def test_the_objective_of_mle_is_log_loss_of_sklearn(observation: str, data: tuple[Array, Array]) -> None:
    model = Model(MLP((3,), "tanh"), LOSSES[observation][0])
    weights = random_weights(model, data[0])
    eta = forward(weights, data[0])
    eta = jnp.concatenate([jnp.zeros_like(eta), eta], axis=1) if observation == "Bernoulli" else eta
    expected = log_loss(np.asarray(data[1]), np.asarray(jax.nn.softmax(eta)), normalize=False)
    np.testing.assert_allclose(-log_density(flat(model), weights, *data), expected, rtol=PRECISION)


def unconstrained(w: Weights) -> Weights:
    return {site: jnp.log(value) if site == "scale" else value for site, value in w.items()}


def constrained(params: Weights) -> Weights:
    return {site: jnp.exp(value) if site == "scale" else value for site, value in params.items()}


@pytest.mark.parametrize(
    ("observation", "masked"),
    some_by_default(
        [*((name, False) for name in LOSSES), ("Bernoulli", True), ("Normal, learned scale", True)],
        ("Categorical", False),
        ("Normal, learned scale", False),
        ("Normal, learned scale", True),
    ),
)
def test_the_loss_of_the_program_is_the_density(observation: str, masked: bool, data: tuple[Array, Array]) -> None:
    """What is compiled and minimised; of a scale without the Jacobian of its logarithm."""
    plain = Model(MLP((3,), "tanh"), LOSSES[observation][0])
    model = flat(plain) if masked else plain
    density, rows = check_problem(model, *data)
    assert_same(
        lambda u: density.loss(u, rows) * len(data[0]),
        lambda params: -log_density(model, constrained(params), *data),
        unconstrained(random_weights(plain, data[0])),
    )


@pytest.mark.parametrize(
    ("observation", "method"), some_by_default([("Bernoulli", MLE), ("Normal, learned scale", MAP)], ("Bernoulli", MLE))
)
def test_the_losses_of_a_fit_are_those_of_a_loop_by_hand(
    observation: str, method: Any, data: tuple[Array, Array]
) -> None:
    """Five steps of Adam on the negative log density a row: no term is added by the fit, and no weight decays."""
    plain = Model(MLP((3,), "tanh"), LOSSES[observation][0])
    model = flat(plain) if method is MLE else plain
    start, optimizer = random_weights(plain, data[0]), optax.adam(0.1)
    settings = method(optimizer=optimizer, num_steps=5, init_strategy=init_to_value(values=start), polish=False)
    recorded = fit(plain, settings, *data, key=0, progress=False).stats["loss"]

    @jax.jit
    def step(params: Weights, state: Any) -> tuple[Weights, Any, Array]:
        loss, gradient = jax.value_and_grad(lambda p: -log_density(model, constrained(p), *data) / len(data[0]))(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, loss * len(data[0])

    params, losses = unconstrained(start), []
    state = optimizer.init(params)
    for _ in range(5):
        params, state, loss = step(params, state)
        losses.append(loss)
    assert recorded.shape == (1, 5)
    np.testing.assert_allclose(recorded[0, 0], -log_density(model, start, *data), rtol=PRECISION)
    np.testing.assert_allclose(recorded[0], losses, rtol=PRECISION)


@pytest.mark.parametrize(
    ("observation", "batch_size"),
    some_by_default(
        [*((name, 8) for name in LOSSES), ("Bernoulli", 1), ("Bernoulli", 40)],
        ("Bernoulli", 1),
        ("Bernoulli", 40),
        ("Normal, learned scale", 8),
    ),
)
def test_batches_of_an_epoch_average_to_the_objective(
    observation: str, batch_size: int, data: tuple[Array, Array]
) -> None:
    """The prior counts once an epoch and not once a batch, and the likelihood of a batch stands for all rows."""
    model, (x, y) = Model(MLP((3,), "tanh"), LOSSES[observation][0], gaussian(0.5)), data
    density, _ = check_problem(model, x, y)
    batches = np.random.default_rng(0).permutation(len(x)).reshape(-1, batch_size)

    def epoch(w: Weights) -> Array:
        def one(rows: Array) -> Array:
            return -density_of_numpyro(density.per_row, (Data(x[rows], y[rows]), len(x)), {}, w)[0]

        return jax.lax.map(one, jnp.asarray(batches)).mean()

    assert_same(epoch, lambda w: -log_density(model, w, x, y) / len(x), random_weights(model, x))


@pytest.mark.parametrize("observation", ["Normal, learned scale"])
def test_the_first_loss_on_a_batch_stands_for_all_rows(observation: str, data: tuple[Array, Array]) -> None:
    """A batch of all rows is the whole objective, whatever the order of the rows."""
    model = Model(MLP((3,), "tanh"), LOSSES[observation][0])
    start = init_to_value(values=random_weights(model, data[0]))
    fits = [
        fit(model, MAP(num_steps=1, batch_size=size, init_strategy=start, polish=False), *data, key=0, progress=False)
        for size in (None, len(data[0]))
    ]
    np.testing.assert_allclose(fits[0].stats["loss"], fits[1].stats["loss"], rtol=PRECISION)


SETTINGS: dict[str, dict[str, Any]] = {
    "all rows": {"num_steps": 50},
    "batches": {"num_steps": 50, "batch_size": 8, "polish": False},
    "restarts": {"num_steps": 50, "num_restarts": 3, "polish": False},
}


@pytest.mark.parametrize(
    ("observation", "name"),
    some_by_default(
        [("Bernoulli", "all rows"), ("Categorical", "batches"), ("Normal, learned scale", "restarts")],
        ("Categorical", "batches"),
        ("Normal, learned scale", "restarts"),
    ),
)
def test_mle_is_map_of_the_flat_model_to_the_bit(observation: str, name: str, data: tuple[Array, Array]) -> None:
    model = Model(MLP((2,), "tanh"), LOSSES[observation][0])
    for key in range(3):
        mle = fit(model, MLE(**SETTINGS[name]), *data, key=key, progress=False)
        map_ = fit(flat(model), MAP(**SETTINGS[name]), *data, key=key, progress=False)
        assert mle.status == map_.status
        np.testing.assert_array_equal(mle.stats["loss"], map_.stats["loss"])
        for site in mle.draws:
            np.testing.assert_array_equal(mle.draws[site], map_.draws[site])


@pytest.mark.parametrize("observation", ["Normal, scale of the network"])
def test_the_restart_with_the_smallest_loss_is_kept(observation: str, data: tuple[Array, Array]) -> None:
    """Its last recorded loss is that of its weights: by then the learning rate is 0."""
    model = Model(MLP((3,), "tanh"), LOSSES[observation][0])
    for key in range(3):
        result = fit(model, MAP(num_steps=100, num_restarts=4, polish=False), *data, key=key, progress=False)
        last = np.sort(result.stats["loss"][:, -1])
        assert last[1] - last[0] > 0.01, "the restarts end in different places"
        stored = -log_density(model, {site: jnp.asarray(value[0, 0]) for site, value in result.draws.items()}, *data)
        assert abs(stored - last[0]) < 0.1 * (last[1] - last[0])


def test_flat_keeps_supports_shapes_and_draws_from_the_prior(data_sets: dict[str, Any]) -> None:
    x = jnp.asarray(data_sets["real"][0])
    model = Model(MLP((3,)), Normal(dist.HalfNormal(1.0)))
    plain, masked = (trace(seed(m, 0)).get_trace(x) for m in (model, flat(model)))
    for site in ("w1", "b1", "w2", "b2", "scale", "y"):
        np.testing.assert_array_equal(plain[site]["value"], masked[site]["value"])
        assert plain[site]["fn"].support is masked[site]["fn"].support or site != "scale"


def test_flat_models_are_values() -> None:
    model = Model(MLP((3,)), Bernoulli())
    assert flat(model) == flat(Model(MLP((3,)), Bernoulli()))
    assert len({flat(model), flat(model), flat(flat(model))}) == 2
