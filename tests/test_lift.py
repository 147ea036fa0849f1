"""Modules of Flax NNX and Equinox as networks: their density, sites, priors and starts, and what is refused."""

import subprocess
import sys
from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from flax import linen, nnx
from jax import Array
from numpyro.handlers import scope
from numpyro.infer import init_to_value
from scipy.stats import norm

from flatprior.inference import (
    MAP,
    MCLMC,
    MLE,
    NUTS,
    Ensemble,
    Fit,
    Laplace,
    compare,
    diagnose,
    explain,
    fit,
    flat,
    log_density,
)
from flatprior.inference.checks import check_problem
from flatprior.inference.methods.chains import first_points
from flatprior.inference.methods.descent import starting_points
from flatprior.inference.objective.place import weights_at
from flatprior.inference.sites import abstract_trace, is_latent
from flatprior.inference.start import START_KEY
from flatprior.models import MLP, Bernoulli, Categorical, Lift, Model, Normal, fan_in, gaussian, priors

from .tables import observation

RNG = np.random.default_rng(7)
X = RNG.normal(size=(24, 2))
BINARY = (X[:, 0] + RNG.logistic(size=24) > 0).astype(int)
Y = {"Bernoulli": BINARY, "Categorical": np.arange(24) % 3, "Normal": X[:, 0] * X[:, 1]}
OBSERVATIONS = {"Bernoulli": Bernoulli(), "Categorical": Categorical(3), "Normal": Normal("network")}
PRIORS = {"Bernoulli": gaussian(0.7), "Categorical": fan_in(1.3), "Normal": dist.Laplace(0.1, 2.0)}
WIDTH = 5


class Perceptron(nnx.Module):
    """A list of linear maps with SiLU between them."""

    def __init__(self, widths: tuple[int, ...], *, rngs: nnx.Rngs, **settings: Any) -> None:
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs, **settings) for a, b in pairwise(widths)])

    def __call__(self, x: Array) -> Array:
        for layer in list(self.layers)[:-1]:
            x = jax.nn.silu(layer(x))
        return self.layers[-1](x)


def perceptron(num_outputs: int = 1, **settings: Any) -> Perceptron:
    return Perceptron((2, WIDTH, num_outputs), rngs=nnx.Rngs(0), **settings)


def equinox_mlp(num_outputs: int = 1) -> eqx.nn.MLP:
    return eqx.nn.MLP(2, num_outputs, WIDTH, 1, activation=jax.nn.silu, key=jax.random.key(0))


@cache
def lifted(library: str = "NNX") -> Lift:
    return Lift(perceptron() if library == "NNX" else equinox_mlp())


@pytest.fixture
def both() -> None:
    """Lifted before a model that is written by hand asks for them."""
    lifted(), lifted("Equinox")


def sites_of(model: Any, x: Any = X) -> dict[str, Any]:
    """The latent sites of a model, without values."""
    return {name: site for name, site in abstract_trace(model, x).items() if is_latent(site) and name != "y"}


def logits_of(model: Model, weights: dict[str, Any]) -> Array:
    """Of Bernoulli or Categorical, at some weights."""
    return jax.jit(lambda w: observation(model, w, X).logits)(weights)


# One density.


def same_networks(num_outputs: int) -> list[tuple[Lift, Callable[[dict[str, Any]], dict[str, Any]]]]:
    """Networks, each with a function that turns the weights of an MLP into its own."""

    def naming(weight: str, turn: Callable[[Any], Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
        return lambda w: {
            f"layers.{i}.{name}": value
            for i in (0, 1)
            for name, value in ((weight, turn(w[f"w{i + 1}"])), ("bias", w[f"b{i + 1}"]))
        }

    return [
        (Lift(perceptron(num_outputs)), naming("kernel", lambda w: w)),
        (Lift(equinox_mlp(num_outputs)), naming("weight", jnp.transpose)),
    ]


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("kind", OBSERVATIONS)
def test_the_same_weights_have_the_same_density_as_in_an_mlp(kind: str, precision: str) -> None:
    observation, y, prior = OBSERVATIONS[kind], Y[kind], PRIORS[kind]
    networks = same_networks(observation.num_outputs)
    rng = np.random.default_rng(3)
    with jax.enable_x64(precision == "float64"):
        shapes = MLP((WIDTH,)).sites(2, observation.num_outputs)
        w = {site: rng.normal(size=shape).astype(precision) for site, (shape, _) in shapes.items()}

        @jax.jit
        def densities(w: dict[str, Array]) -> list[Array]:
            pairs = [(MLP((WIDTH,)), w), *((net, as_in(w)) for net, as_in in networks)]
            return [log_density(Model(net, observation, prior), w, X, y) for net, w in pairs]

        expected, *result = densities(w)
    assert str(expected.dtype) == precision
    np.testing.assert_allclose(result, [expected] * 2, rtol=1e-6 if precision == "float32" else 1e-12)


def test_the_gradient_is_that_of_the_module_by_its_own_library() -> None:
    net = perceptron()
    lift = Lift(net)
    w = {site: jnp.asarray(value) for site, value in lift.parts.values.items()}
    result = jax.jit(jax.grad(lambda w: -log_density(flat(Model(lift, Bernoulli())), w, X, BINARY)))(w)

    def loss(net: Perceptron) -> Array:
        return optax.sigmoid_binary_cross_entropy(net(jnp.asarray(X))[:, 0], BINARY).sum()

    gradient = nnx.to_flat_state(nnx.grad(loss)(net))
    for path, leaf in gradient:
        np.testing.assert_allclose(result[".".join(map(str, path))], leaf.get_value(), rtol=1e-5, atol=1e-6)
    assert len(gradient) == len(result) == 4


# Parameters.


def test_sites_are_the_paths_of_the_parameters_in_the_order_in_which_they_were_made() -> None:
    class Nested(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.stem = nnx.Linear(2, 4, rngs=rngs)
            self.blocks = nnx.List([Perceptron((4, 3, 4), rngs=rngs) for _ in range(2)])
            self.by_name = nnx.Dict(z=nnx.LayerNorm(4, rngs=rngs), a=nnx.Linear(4, 1, rngs=rngs))

        def __call__(self, x: Array) -> Array:
            h = self.stem(x)
            for block in self.blocks:
                h = h + block(h)
            return self.by_name["a"](self.by_name["z"](h))

    lift = Lift(Nested(nnx.Rngs(0)))
    sites = sites_of(Model(lift, Bernoulli()))
    layers = [f"blocks.{i}.layers.{j}" for i in (0, 1) for j in (0, 1)]
    assert list(sites) == [
        "stem.kernel",
        "stem.bias",
        *(f"{layer}.{name}" for layer in layers for name in ("kernel", "bias")),
        "by_name.z.scale",
        "by_name.z.bias",
        "by_name.a.kernel",
        "by_name.a.bias",
    ]
    assert sites["blocks.1.layers.0.kernel"]["value"].shape == (4, 3)
    assert repr(lift) == "Lift(Nested, 14 parameters, 87 weights)"


class Tied(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.second = nnx.Linear(2, 2, use_bias=False, rngs=rngs)
        self.first = self.second

    def __call__(self, x: Array) -> Array:
        return self.second(jnp.tanh(self.first(x)))


class Shared(eqx.Module):
    pair: eqx.nn.Shared

    def __init__(self) -> None:
        keys = jax.random.split(jax.random.key(0))
        pair = [eqx.nn.Linear(2, 2, use_bias=False, key=key) for key in keys]
        self.pair = eqx.nn.Shared(pair, where=lambda pair: pair[1].weight, get=lambda pair: pair[0].weight)

    def __call__(self, x: Array) -> Array:
        first, second = self.pair()
        return second(jnp.tanh(first(x)))


class Twice(eqx.Module):
    first: eqx.nn.Linear
    second: eqx.nn.Linear

    def __init__(self) -> None:
        self.first = self.second = eqx.nn.Linear(2, 2, use_bias=False, key=jax.random.key(0))

    def __call__(self, x: Array) -> Array:
        return self.second(jnp.tanh(self.first(x)))


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: Tied(nnx.Rngs(0)), ["first.kernel"]),
        (Shared, ["pair.pytree.0.weight"]),
        (Twice, ["first.weight", "second.weight"]),
    ],
    ids=["NNX", "Shared", "the same array twice"],
)
def test_a_shared_parameter_is_one_site(make: Callable[[], Any], names: list[str]) -> None:
    module = make()
    model = Model(Lift(module), Categorical(2), fan_in(1.0))
    sites = sites_of(model)
    assert list(sites) == names
    w = RNG.normal(size=(2, 2)).astype(np.float32)
    eta = logits_of(model, dict.fromkeys(sites, w))
    w = w.T if isinstance(module, eqx.Module) else w
    np.testing.assert_allclose(eta, np.tanh(X @ w) @ w, rtol=1e-4, atol=1e-5)


def test_the_module_is_copied() -> None:
    class Plain(eqx.Module):
        table: np.ndarray
        weight: np.ndarray

        def __call__(self, x: Array) -> Array:
            return (x @ self.weight)[None] + self.table[0]

    net, plain = perceptron(), Plain(np.array([1]), np.ones(2, np.float32))
    models = [Model(Lift(net), Bernoulli()), Model(Lift(plain), Bernoulli())]

    def starts() -> list[np.ndarray]:
        own = [weights_at(None, *check_problem(model, X, BINARY)) for model in models]
        logits = [model.network.rebuild({}) for model in models]
        return [*jax.tree.leaves(own), np.asarray(logits[0](X)), np.asarray(jax.vmap(logits[1])(jnp.asarray(X)))]

    before = starts()
    net.layers[0].kernel.set_value(jnp.full((2, WIDTH), 9.0))
    net.layers.append(nnx.Linear(1, 1, rngs=nnx.Rngs(1)))
    plain.weight[:] = 9.0
    plain.table[:] = 9
    for first, again in zip(before, starts(), strict=True):
        np.testing.assert_array_equal(first, again)


def test_rebuild_gives_the_module_of_a_draw() -> None:
    lift = Lift(equinox_mlp())
    w = {site: jnp.asarray(RNG.normal(size=shape), float) for site, shape in lift.parts.shapes.items()}
    eta = logits_of(Model(lift, Bernoulli()), w)
    np.testing.assert_allclose(jax.vmap(lift.rebuild(w))(jnp.asarray(X))[:, 0], eta, rtol=1e-5, atol=1e-6)
    own = lift.rebuild({"layers.1.bias": np.array([3.0])})
    np.testing.assert_array_equal(own.layers[0].weight, lift.parts.values["layers.0.weight"])
    np.testing.assert_array_equal(own.layers[1].bias, [3.0])
    with pytest.raises(ValueError, match=r"expected values for some of the sites \['layers.0.weight', .*got 'w1'"):
        lift.rebuild({"w1": 0.0})
    with pytest.raises(ValueError, match=r"expected shape \(5,\) for 'layers.0.bias'; got \(1, 1, 5\). .*\[0, 0\]"):
        lift.rebuild({"layers.0.bias": np.zeros((1, 1, 5))})


class Constants(nnx.Module):
    """Integers, a plain array, a plain variable, a stream of random numbers that is not used, dropout that is off."""

    def __init__(self, rngs: nnx.Rngs, *, counts: bool = False) -> None:
        self.linear = nnx.Linear(2, 1, rngs=rngs)
        self.integers = nnx.Param(jnp.array([1, 0]))
        self.plain = jnp.array([10.0])
        self.variable = nnx.Variable(jnp.array([100.0]))
        self.rngs = rngs.fork()
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.counts = counts

    def __call__(self, x: Array) -> Array:
        if self.counts:
            self.variable.set_value(self.variable.get_value() + 1)
        return self.dropout(self.linear(x) + self.integers[jnp.int32(0)] + self.plain + self.variable.get_value())


class OfTwo(eqx.Module):
    linear: eqx.nn.Linear

    def __call__(self, x: dict[str, Array]) -> Array:
        return self.linear(jnp.append(x["features"], x["group"]))


def test_x_may_be_a_pytree() -> None:
    model = Model(Lift(OfTwo(eqx.nn.Linear(3, 1, key=jax.random.key(0)))), Bernoulli())
    w = {"linear.weight": jnp.array([[1.0, 2.0, 3.0]]), "linear.bias": jnp.zeros(1)}
    x = {"features": X, "group": BINARY}
    expected = jax.nn.log_sigmoid((2 * BINARY - 1) * (X @ [1.0, 2.0] + 3 * BINARY)).sum()
    np.testing.assert_allclose(log_density(flat(model), w, x, BINARY), expected, rtol=1e-5)


class Recurrent(nnx.Module):
    """Draws keys at every call, for a state that begins at 0."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.rnn = nnx.RNN(nnx.LSTMCell(1, 2, rngs=rngs), rngs=rngs)
        self.head = nnx.Linear(2, 1, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.head(self.rnn(x[..., None])[:, -1])


def test_recurrent_layers_of_flax_are_functions() -> None:
    net = Recurrent(nnx.Rngs(0))
    lift = Lift(net)
    logits = logits_of(Model(lift, Bernoulli()), lift.parts.values)
    np.testing.assert_allclose(logits, net(jnp.asarray(X))[:, 0], rtol=1e-4, atol=1e-6)


def test_what_is_no_parameter_is_constant() -> None:
    module = Constants(nnx.Rngs(0))
    module.eval()
    model = Model(Lift(module), Bernoulli())
    sites = sites_of(model)
    assert list(sites) == ["linear.kernel", "linear.bias"]
    zeros = {site: jnp.zeros(sites[site]["value"].shape) for site in sites}
    np.testing.assert_array_equal(logits_of(model, zeros), 111.0)


def test_half_precision_is_computed_with_but_not_summed_in() -> None:
    net = perceptron(param_dtype=jnp.bfloat16, dtype=jnp.bfloat16)
    model = Model(Lift(net), Bernoulli(), gaussian(1.0))
    sites = sites_of(model)
    assert {str(site["value"].dtype) for site in sites.values()} == {"float32"}
    own = {site: jnp.asarray(value, float) for site, value in model.network.parts.values.items()}
    logits = logits_of(model, own)
    assert logits.dtype == jnp.float32
    in_float32 = logits_of(Model(lifted(), Bernoulli()), own)  # of the same initial values, before they were rounded
    assert 0 < np.abs(logits - in_float32).max() < 0.1
    assert (logits == logits.astype(jnp.bfloat16)).all()
    assert jax.eval_shape(lambda w: log_density(model, w, X, BINARY), own).dtype == jnp.float32


def test_neither_library_is_imported_by_the_models() -> None:
    code = "import sys, flatprior.models; sys.exit(any(name in sys.modules for name in ('flax.nnx', 'equinox')))"
    subprocess.run([sys.executable, "-c", code], check=True)


# Priors.


def test_the_table_of_priors_says_who_set_them() -> None:
    prior = {"*.kernel": fan_in(2.0), "layers.0.bias": "fixed", "layers.1.bias": dist.Laplace(0.0, 0.5)}
    table = priors(Model(Lift(perceptron()), Normal(dist.HalfNormal(1.0)), prior), X)
    expected = """\
site             shape   size  prior              set by
layers.0.kernel  (2, 5)    10  Normal(0, 1.414)   key '*.kernel'
layers.0.bias    (5,)       5  fixed              key 'layers.0.bias'
layers.1.kernel  (5, 1)     5  Normal(0, 0.8944)  key '*.kernel'
layers.1.bias    (1,)       1  Laplace(0, 0.5)    key 'layers.1.bias'
scale            ()         1  HalfNormal(1)      the model

4 sites with 17 weights. Fixed: 1 parameter with 5 weights."""
    assert str(table) == repr(table) == expected
    assert table.to_dataframe()["size"].sum() == 22
    assert "<table" in table._repr_html_()


def test_a_module_is_lifted_outside_of_the_model() -> None:
    def model(x: Array, y: Array | None = None) -> None:
        eta = Lift(perceptron())(x)
        numpyro.sample("y", dist.Normal(eta[:, 0], 1.0), obs=y)

    with pytest.raises(ValueError, match=r"'layers.0.kernel' of Perceptron is being traced. Make the module"):
        fit(model, MAP(), X, Y["Normal"], key=0)


def by_hand(x: Array, y: Array | None = None) -> None:
    """Two lifted networks, told apart by scopes, and weights with priors of other kinds."""
    spread = numpyro.sample("spread", dist.HalfNormal(1.0))
    with scope(prefix="a"):
        eta = lifted()(x, 1, prior={"*kernel": dist.Normal(0.0, spread), "*": "flat"})
    with scope(prefix="b"):
        eta = eta + lifted("Equinox")(x, 1, prior={"*.0.*": "fixed", "*": gaussian(1.0)})
    level = numpyro.sample("level", dist.ImproperUniform(dist.constraints.real, (), ()))
    numpyro.sample("y", dist.Normal(eta[:, 0] + level, 0.5), obs=y)


def test_models_written_by_hand_have_a_table_too(both: None) -> None:
    table = priors(by_hand, X).to_dataframe()
    assert table.to_dict("index") == {
        "spread": {"shape": "()", "size": 1, "prior": "HalfNormal(1)", "set_by": "the model"},
        "a/layers.0.kernel": {"shape": "(2, 5)", "size": 10, "prior": "Normal(0, scale)", "set_by": "key '*kernel'"},
        "a/layers.0.bias": {"shape": "(5,)", "size": 5, "prior": "flat", "set_by": "key '*'"},
        "a/layers.1.kernel": {"shape": "(5, 1)", "size": 5, "prior": "Normal(0, scale)", "set_by": "key '*kernel'"},
        "a/layers.1.bias": {"shape": "(1,)", "size": 1, "prior": "flat", "set_by": "key '*'"},
        "b/layers.0.weight": {"shape": "(5, 2)", "size": 10, "prior": "fixed", "set_by": "key '*.0.*'"},
        "b/layers.0.bias": {"shape": "(5,)", "size": 5, "prior": "fixed", "set_by": "key '*.0.*'"},
        "b/layers.1.weight": {"shape": "(1, 5)", "size": 5, "prior": "Normal(0, 1)", "set_by": "key '*'"},
        "b/layers.1.bias": {"shape": "(1,)", "size": 1, "prior": "Normal(0, 1)", "set_by": "key '*'"},
        "level": {"shape": "()", "size": 1, "prior": "flat", "set_by": "the model"},
    }
    assert set(priors(Model(MLP(), Bernoulli(), fan_in(1.0)), X).to_dataframe()["set_by"]) == {"one prior for all"}
    with pytest.raises(TypeError, match=r"priors: expected a NumPyro model, .* got 3"):
        priors(3, X)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"priors: expected a model; got the network MLP\(.*Give Model\(MLP\("):
        priors(MLP(), X)


def test_the_table_says_where_nobody_has_set_a_prior() -> None:
    def by_hand(x: Array, y: Array | None = None) -> None:
        numpyro.sample("y", dist.Normal(MLP()(x)[:, 0], 1.0), obs=y)

    def set_by(model: Any) -> set[str]:
        return set(priors(model, X).to_dataframe()["set_by"])

    for model in (Model(MLP(), Bernoulli()), Model(lifted(), Bernoulli()), by_hand):
        assert set_by(model) == {"default"}
    for prior in (gaussian(1.0), "flat"):
        assert set_by(Model(lifted(), Bernoulli(), prior)) == {"one prior for all"}
    assert Model(MLP(), Bernoulli()) == Model(MLP(), Bernoulli(), gaussian(1.0)), "they share compiled code"


class Bracketed(nnx.Module):
    """Names that `fnmatch` reads as patterns."""

    def __init__(self) -> None:
        self.d = nnx.Dict({f"w[{i}]": nnx.Linear(2, 2 - i, rngs=nnx.Rngs(i)) for i in (0, 1)})

    def __call__(self, x: Array) -> Array:
        return self.d["w[1]"](self.d["w[0]"](x))


def test_a_name_with_brackets_is_a_key() -> None:
    keys: dict[str, Any] = {"d.w[0].kernel": fan_in(1.0), "d.w[[]0]*": "flat", "*": gaussian(2.0)}
    table = priors(Model(Lift(Bracketed()), Bernoulli(), keys), X).to_dataframe()
    assert table["set_by"].to_dict() == {
        "d.w[0].kernel": "key 'd.w[0].kernel'",
        "d.w[0].bias": "key 'd.w[[]0]*'",
        "d.w[1].kernel": "key '*'",
        "d.w[1].bias": "key '*'",
    }
    with pytest.raises(ValueError, match=r"the keys \['d.w\[2\].kernel'\] match no site"):
        priors(Model(Lift(Bracketed()), Bernoulli(), {"d.w[2].kernel": "flat", "*": "flat"}), X)


def test_a_flat_prior_adds_nothing_and_a_fixed_parameter_stays() -> None:
    lift = Lift(perceptron())
    w = {site: jnp.asarray(RNG.normal(size=shape), float) for site, shape in lift.parts.shapes.items()}
    some = Model(lift, Bernoulli(), {"*.kernel": "flat", "*": gaussian(2.0)})
    penalty = sum(dist.Normal(0, 2).log_prob(w[f"layers.{i}.bias"]).sum() for i in (0, 1))
    likelihood = log_density(flat(some), w, X, BINARY)
    np.testing.assert_allclose(log_density(some, w, X, BINARY), likelihood + penalty, rtol=1e-5)
    np.testing.assert_allclose(log_density(Model(lift, Bernoulli(), "flat"), w, X, BINARY), likelihood, rtol=1e-6)

    fixed = Model(lift, Bernoulli(), {"layers.0.*": "fixed", "*": "flat"})
    own = {site: w[site] if "1" in site else value for site, value in lift.parts.values.items()}
    free = {site: value for site, value in own.items() if "1" in site}
    assert list(sites_of(fixed)) == list(free)
    np.testing.assert_array_equal(log_density(fixed, free, X, BINARY), log_density(flat(some), own, X, BINARY))


def test_flat_priors_are_seen_by_what_needs_a_posterior() -> None:
    model = Model(Lift(perceptron()), Bernoulli(), {"*.kernel": gaussian(1.0), "*": "flat"})
    for method in (NUTS(), MCLMC(), Laplace()):
        with pytest.raises(ValueError, match=r"prior is flat at the sites"):
            fit(model, method, X, BINARY, key=0)
    with pytest.raises(
        ValueError, match=r"latent sites to fit; got only \['row', 'y'\]. .* a prior other than 'fixed'"
    ):
        fit(Model(Lift(perceptron()), Bernoulli(), "fixed"), MAP(), X, BINARY, key=0)


def rngs() -> nnx.Rngs:
    return nnx.Rngs(0)


def key() -> Array:
    return jax.random.key(0)


LAYERS: dict[str, tuple[Callable[[], Any], tuple[int, ...] | int]] = {
    # the layer, and the shape of its x (of NNX a batch, of Equinox a row), or an index
    "nnx.Linear": (lambda: nnx.Linear(6, 3, rngs=rngs()), (1, 6)),
    "nnx.Conv": (lambda: nnx.Conv(4, 3, (2, 3), padding="VALID", rngs=rngs()), (1, 2, 3, 4)),
    "nnx.Conv of groups": (
        lambda: nnx.Conv(4, 6, (2,), feature_group_count=2, padding="VALID", rngs=rngs()),
        (1, 2, 4),
    ),
    "nnx.ConvTranspose": (lambda: nnx.ConvTranspose(4, 3, (1,), transpose_kernel=True, rngs=rngs()), (1, 1, 4)),
    "nnx.LinearGeneral to heads": (lambda: nnx.LinearGeneral(6, (2, 4), rngs=rngs()), (1, 6)),
    "nnx.LinearGeneral of heads": (lambda: nnx.LinearGeneral((2, 4), 5, axis=(1, 2), rngs=rngs()), (1, 2, 4)),
    "nnx.Embed": (lambda: nnx.Embed(7, 3, rngs=rngs()), 2),
    "eqx.nn.Linear": (lambda: eqx.nn.Linear(6, 3, key=key()), (6,)),
    "eqx.nn.Conv2d": (lambda: eqx.nn.Conv2d(4, 3, (2, 3), key=key()), (4, 2, 3)),
    "eqx.nn.Conv1d of groups": (lambda: eqx.nn.Conv1d(4, 6, 2, groups=2, key=key()), (4, 2)),
    "eqx.nn.ConvTranspose1d": (lambda: eqx.nn.ConvTranspose1d(4, 3, 1, key=key()), (4, 1)),
    "eqx.nn.Embedding": (lambda: eqx.nn.Embedding(7, 3, key=key()), 2),
}


def stacked_nnx() -> Any:
    """Five layers whose kernels are one array."""
    return nnx.vmap(lambda rngs: nnx.Linear(3, 2, rngs=rngs))(rngs().split(5))


def stacked_equinox() -> Any:
    return eqx.filter_vmap(lambda key: eqx.nn.Linear(3, 2, key=key))(jax.random.split(key(), 5))


@pytest.mark.slow
def test_fan_in_gives_every_unit_of_every_layer_the_same_spread() -> None:
    """A unit is linear in its weights, so its variance is the sum of theirs times its slopes squared."""
    prior, lifts = fan_in(1.7), {name: Lift(make()) for name, (make, _) in LAYERS.items()}

    @jax.jit
    def slopes(own: dict[str, Any]) -> dict[str, Any]:
        def outputs(name: str, w: dict[str, Array]) -> Array:
            _, x = LAYERS[name]
            return lifts[name].rebuild(w)(jnp.array(x) if isinstance(x, int) else jnp.ones(x))

        return {name: jax.jacobian(partial(outputs, name))(own[name]) for name in LAYERS}

    for name, by_site in slopes({name: lift.parts.values for name, lift in lifts.items()}).items():
        for site, slope in by_site.items():
            shape = lifts[name].parts.shapes[site]
            scale = prior(site, shape).base_dist.scale
            squares = np.sum((scale * np.asarray(slope)) ** 2, axis=tuple(range(-len(shape), 0)))
            np.testing.assert_allclose(squares, 1.7**2, rtol=1e-6, err_msg=f"{name}: {site}")


@pytest.mark.parametrize(
    ("make", "counts"),
    [
        (
            lambda: nnx.MultiHeadAttention(num_heads=2, in_features=6, decode=False, rngs=rngs()),
            {"query.kernel": 6, "query.bias": 1, "out.kernel": 6, "out.bias": 1},
        ),
        (lambda: nnx.GRUCell(3, 4, rngs=rngs()), {"dense_i.kernel": 3, "dense_i.bias": 1, "dense_h.kernel": 4}),
        (lambda: nnx.LayerNorm(3, rngs=rngs()), {"scale": 1, "bias": 1}),
        (stacked_nnx, {"kernel": 3, "bias": 1}),
        (stacked_equinox, {"weight": 3, "bias": 1}),
        (lambda: eqx.nn.GRUCell(3, 4, key=key()), {"weight_ih": 3, "weight_hh": 4, "bias": 1, "bias_n": 1}),
        (lambda: eqx.nn.LayerNorm((2, 3)), {"weight": 1, "bias": 1}),
        (lambda: eqx.nn.MultiheadAttention(2, 6, key=key()), {"query_proj.weight": 6, "output_proj.weight": 6}),
    ],
    ids=[
        "nnx.MultiHeadAttention",
        "nnx.GRUCell",
        "nnx.LayerNorm",
        "nnx.vmap",
        "filter_vmap",
        "GRUCell",
        "LayerNorm",
        "MultiheadAttention",
    ],
)
def test_the_inputs_of_other_layers(make: Callable[[], Any], counts: dict[str, int]) -> None:
    shapes = Lift(make()).parts.shapes
    assert {site: shapes[site].num_inputs for site in counts} == counts


class Own(nnx.Module):
    """Parameters that belong to no layer."""

    def __init__(self) -> None:
        self.weight = nnx.Param(jnp.ones((1, 2)))
        self.bias = nnx.Param(jnp.zeros(1))

    def __call__(self, x: Array) -> Array:
        return x @ self.weight.get_value().T + self.bias.get_value()


class OwnEquinox(eqx.Module):
    weight: Array

    def __call__(self, x: Array) -> Array:
        return self.weight @ x


@pytest.mark.parametrize("library", ["NNX", "Equinox"])
def test_fan_in_does_not_guess_the_inputs_of_unknown_parameters(library: str) -> None:
    lift = Lift(Own() if library == "NNX" else OwnEquinox(jnp.ones((1, 2))))
    for prior in (fan_in(2.0), {"*": fan_in(2.0)}, lambda site, shape: fan_in(2.0)(site, shape)):
        with pytest.raises(ValueError, match=r"fan_in: expected 'weight', shape \(1, 2\), to belong to a known layer"):
            sites_of(Model(lift, Bernoulli(), prior))
    rest: dict[str, Any] = {"bias": "flat"} if library == "NNX" else {}
    sites = sites_of(Model(lift, Bernoulli(), {"weight": fan_in(2.0, inputs=(1,)), **rest}))
    np.testing.assert_allclose(sites["weight"]["fn"].base_dist.base_dist.scale, 2 / np.sqrt(2))
    with pytest.raises(ValueError, match=r"fan_in: expected inputs to be axes of 'weight', \(1, 2\); got \(2,\)"):
        sites_of(Model(lift, Bernoulli(), {"weight": fan_in(1.0, inputs=(2,)), **rest}))


def not_a_distribution(site: str, shape: tuple[int, ...]) -> Any:
    return 1.0


BAD_PRIORS: dict[str, tuple[Any, type[Exception], str]] = {
    "a mistyped key": (
        {"*.kernal": gaussian(1.0), "*": gaussian(1.0)},
        ValueError,
        r"the keys \['\*.kernal'\] match no site; the sites are \['layers.0.kernel', 'layers.0.bias', ",
    ),
    "a parameter without a prior": (
        {"*.kernel": gaussian(1.0)},
        ValueError,
        r"the sites \['layers.0.bias', 'layers.1.bias'\] match none of the keys",
    ),
    "a key that comes too late": (
        {"*": gaussian(1.0), "*.bias": "flat"},
        ValueError,
        r"the keys \['\*.bias'\] set no prior, since earlier keys match all their sites",
    ),
    "another word": ({"*": "free"}, TypeError, "'flat', 'fixed', or a mapping .* got 'free'"),
    "a mapping in a mapping": ({"layers*": {"*": gaussian(1.0)}}, TypeError, r"\['layers\*'\] hold mappings"),
    "no distribution": (not_a_distribution, TypeError, "'layers.0.kernel' should be a NumPyro distribution; got 1.0"),
    "of another shape": (
        {"*.kernel": dist.Normal(jnp.zeros(3), 1.0), "*": gaussian(1.0)},
        ValueError,
        r"'layers.0.kernel' should have shape \(2, 5\) or \(\); got \(3,\)",
    ),
}


@pytest.mark.parametrize("name", BAD_PRIORS)
def test_a_prior_that_does_not_fit_raises(name: str) -> None:
    prior, error, message = BAD_PRIORS[name]
    with pytest.raises(error, match=message):
        priors(Model(lifted(), Bernoulli(), prior), X)


def test_the_weights_of_an_mlp_can_be_flat_but_not_fixed() -> None:
    w = {"w1": jnp.ones((2, 1)), "b1": jnp.ones(1)}
    unpenalised = log_density(Model(MLP(), Bernoulli(), {"*": "flat"}), w, X, BINARY)
    np.testing.assert_array_equal(unpenalised, log_density(flat(Model(MLP(), Bernoulli())), w, X, BINARY))
    with pytest.raises(ValueError, match="'w1' cannot be 'fixed', since this network has no values of its own"):
        fit(Model(MLP(), Bernoulli(), {"w1": "fixed", "*": "flat"}), MAP(), X, BINARY, key=0)


# Starts.


@pytest.mark.parametrize("library", ["NNX", "Equinox"])
def test_only_the_first_start_is_at_the_modules_own_values(library: str) -> None:
    model, own = Model(lifted(library), Bernoulli(), gaussian(1.0)), lifted(library).parts.values
    density, data = check_problem(model, X, BINARY)
    starts = starting_points(MAP(num_restarts=3), density, data, key=jax.random.key(5))
    for site, value in own.items():
        np.testing.assert_array_equal(starts[site][0], value)
        for other in starts[site][1:]:
            np.testing.assert_array_equal(np.sort(other, axis=None), np.sort(value, axis=None))
            assert (np.asarray(other) != value).any() == (value.ndim > 1)
    for site, value in weights_at(None, density, data).items():
        np.testing.assert_array_equal(value, own[site])


def test_every_order_of_a_matrix_is_as_likely() -> None:
    """Of a matrix of 3 numbers, in 600 restarts: chi-squared of the 6 orders, beyond 25.7 once in 10,000 (5 df)."""
    model = Model(Lift(OwnEquinox(jnp.array([[1.0, 2.0, 3.0]]))), Bernoulli(), gaussian(1.0))
    x = np.ones((4, 3))
    density, data = check_problem(model, x, BINARY[:4])
    starts = starting_points(MAP(num_restarts=601), density, data, key=jax.random.key(0))["weight"]
    _, counts = np.unique(np.asarray(starts)[1:, 0], axis=0, return_counts=True)
    assert counts.size == 6
    assert ((counts - 100) ** 2 / 100).sum() < 25.7


def test_chains_begin_there_and_an_init_strategy_overrides() -> None:
    model = Model(lifted(), Bernoulli(), gaussian(1.0))
    density, data = check_problem(model, X, BINARY)
    how: dict[str, Any] = {"key": jax.random.key(0), "progress": False, "store": None}
    u, _ = first_points(NUTS(start=None, num_chains=2), density, data, **how)
    np.testing.assert_array_equal(u["layers.0.kernel"][0], lifted().parts.values["layers.0.kernel"])
    assert (u["layers.0.kernel"][1] != u["layers.0.kernel"][0]).any()
    values = {site: jnp.full(shape, 0.25) for site, shape in density.structure.latents.items()}
    settings = NUTS(start=None, num_chains=2, init_strategy=init_to_value(values=values))
    u, _ = first_points(settings, density, data, **how)
    assert all((value == 0.25).all() for value in u.values())


def test_a_value_that_the_prior_rules_out_is_no_start() -> None:
    prior = {"*.kernel": gaussian(1.0), "*.bias": dist.HalfNormal(1.0)}
    model = Model(lifted(), Bernoulli(), prior)  # the biases of the module are 0
    density, data = check_problem(model, X, BINARY)
    start = weights_at(None, density, data)
    assert (start["layers.0.bias"] > 0.1).all()
    np.testing.assert_array_equal(start["layers.0.kernel"], lifted().parts.values["layers.0.kernel"])


@pytest.mark.parametrize("count", [1, 3])
def test_an_mlp_starts_where_it_always_did(count: int) -> None:
    model, key = Model(MLP((3,)), Bernoulli(), gaussian(1.0)), jax.random.key(2)
    density, data = check_problem(model, X, BINARY)
    starts = starting_points(MAP(num_restarts=count), density, data, key=key)

    @jax.jit
    def expected(key: Array) -> dict[str, Array]:
        noise = jax.random.normal(jax.random.split(key)[0], (13,))
        return {
            "w1": noise[:6].reshape(2, 3) / np.sqrt(2).item(),
            "b1": 0.1 * noise[6:9],
            "w2": noise[9:12].reshape(3, 1) / np.sqrt(3).item(),
            "b2": 0.1 * noise[12:],
        }

    keys = jax.random.split(jax.random.fold_in(key, START_KEY), count)
    for i, each in enumerate(keys):
        for site, value in expected(each).items():
            np.testing.assert_allclose(starts[site][i], value, rtol=1e-6)  # programs differ in a last digit


# Fits.

METHODS: dict[str, Any] = {
    "MAP": MAP(num_steps=20, polish=False),
    "Ensemble": Ensemble(base=MAP(num_steps=20, polish=False), num_members=2),
    "NUTS": NUTS(num_warmup=4, num_samples=4, num_chains=2, start=None, max_tree_depth=3),
    "MLE": MLE(num_steps=20, polish=False),
    "Laplace": Laplace(base=MAP(num_steps=20), num_samples=4),
    "MCLMC": MCLMC(num_warmup=4, num_samples=4, num_chains=2, start=None),
}
SLOW = ("MAP", "MLE", "Laplace", "NUTS", "MCLMC")
every_method = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in METHODS]
)
HELD: Any = {"layers.0.kernel": "fixed", "*.kernel": fan_in(1.0), "*": gaussian(1.0)}


@cache
def fitted(name: str) -> Fit:
    return fit(Model(lifted(), Bernoulli(), HELD), METHODS[name], X, BINARY, key=0, progress=False)


@every_method
def test_every_method_fits_a_lifted_module(name: str, tmp_path: Path) -> None:
    result = fitted(name)
    assert set(result.draws) == {"layers.0.bias", "layers.1.kernel", "layers.1.bias"}
    probs = result.predict(X).probs
    assert ((probs > 0) & (probs < 1)).all()
    tree = result.to_datatree(X, BINARY)
    dims = ("chain", "draw", "layers.1.kernel_dim_0", "layers.1.kernel_dim_1")
    assert tree["posterior"]["layers.1.kernel"].dims == dims
    again = Fit.load(result.save(tmp_path / "fit.nc"), Model(Lift(perceptron()), Bernoulli(), HELD))
    np.testing.assert_array_equal(again.predict(X).probs, probs)
    assert compare({"it": result}, X, BINARY).to_dataframe().loc["it", "elpd"] < 0
    if result.kind == "chain":
        explanation = diagnose(result, X, BINARY)
        assert not any("copies" in note for note in explanation.notes)


def test_a_fit_begins_at_the_loss_of_the_module_itself() -> None:
    """By optax and SciPy."""
    loss = fitted("Ensemble").stats["loss"][:, 0]
    net = perceptron()
    likelihood = optax.sigmoid_binary_cross_entropy(net(jnp.asarray(X))[:, 0], BINARY).sum()
    scales = {"layers.0.bias": 1.0, "layers.1.kernel": 1 / np.sqrt(WIDTH), "layers.1.bias": 1.0}
    penalty = -sum(norm.logpdf(lifted().parts.values[site], scale=scale).sum() for site, scale in scales.items())
    np.testing.assert_allclose(loss[0], likelihood + penalty, rtol=1e-5)
    assert abs(loss[1] - loss[0]) > 1e-3


@pytest.mark.slow
def test_its_objective_is_explained() -> None:
    explanation = explain(Model(lifted("Equinox"), Bernoulli(), {"*.weight": gaussian(2.0), "*": "flat"}), X, BINARY)
    names = {term.site: term.name for term in explanation.terms}
    assert names["layers.0.weight"] == "weight decay, |layers.0.weight|^2 / (2 * 2^2)"
    assert names["layers.0.bias"] == "none: flat"
    assert explanation.value_difference < 1e-10
    assert explanation.gradient_difference < 1e-10


def test_another_module_is_distinguished_from_the_one_that_was_fitted(tmp_path: Path) -> None:
    path = fitted("Ensemble").save(tmp_path / "fit.nc")
    other = Lift(Perceptron((2, WIDTH, 1), rngs=nnx.Rngs(1)))  # with other values of what is fixed
    with pytest.raises(
        ValueError, match=r"the model has changed: .*'y'.*Model\(network=Lift\(Perceptron, 4 parameters"
    ):
        Fit.load(path, Model(other, Bernoulli(), HELD))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::flatprior.inference.FailedFitWarning")  # a scale and its weights shrink to 0
def test_networks_in_a_model_written_by_hand(both: None, tmp_path: Path) -> None:
    result = fit(by_hand, MAP(num_steps=3, polish=False), X, Y["Normal"], key=0, progress=False)
    assert {"a/layers.0.kernel", "b/layers.1.weight"} <= set(result.draws)
    again = Fit.load(result.save(tmp_path / "fit.nc"), by_hand)
    np.testing.assert_array_equal(again.predict(X).mean, result.predict(X).mean)
    tree = result.to_datatree(X, Y["Normal"])
    assert tree["posterior"].sizes["a.layers.0.kernel_dim_1"] == WIDTH


# Errors.


class Normalised(nnx.Module):
    def __init__(self, norm: Any) -> None:
        self.linear, self.norm = nnx.Linear(2, 1, rngs=nnx.Rngs(0)), norm

    def __call__(self, x: Array) -> Array:
        return self.norm(self.linear(x))


class Buffered(nnx.Module):
    def __init__(self) -> None:
        self.linear, self.seen = nnx.Linear(2, 1, rngs=nnx.Rngs(0)), nnx.BatchStat(jnp.zeros(1))

    def __call__(self, x: Array) -> Array:
        return self.linear(x)


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x: Array) -> Array:
        return linen.Dense(1)(x)


def equinox_with(layer: Any) -> eqx.Module:
    return eqx.nn.Sequential([eqx.nn.Linear(2, 1, key=jax.random.key(0)), layer])


NOT_NETWORKS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "nnx.BatchNorm": (
        lambda: Normalised(nnx.BatchNorm(1, rngs=nnx.Rngs(0))),
        ValueError,
        "without state; 'norm' is an nnx.BatchNorm. .* Use nnx.LayerNorm or nnx.GroupNorm",
    ),
    "nnx.Dropout": (
        lambda: Normalised(nnx.Dropout(0.5, rngs=nnx.Rngs(0))),
        ValueError,
        r"'norm' is an nnx.Dropout .*switch it off: module.eval\(\). .* Ensemble\(\), or a posterior by NUTS",
    ),
    "attention with dropout": (
        lambda: nnx.MultiHeadAttention(num_heads=1, in_features=2, decode=False, dropout_rate=0.1, rngs=nnx.Rngs(0)),
        ValueError,
        "'' is an nnx.MultiHeadAttention with dropout",
    ),
    "another variable": (
        Buffered,
        ValueError,
        "'seen' is a variable of the type BatchStat. Use nnx.Param for parameters",
    ),
    "eqx.nn.BatchNorm": (
        lambda: equinox_with(eqx.nn.make_with_state(eqx.nn.BatchNorm)(1, "batch", mode="batch")[0]),
        ValueError,
        "'layers.1' is an eqx.nn.BatchNorm. .* Use eqx.nn.LayerNorm or eqx.nn.GroupNorm",
    ),
    "eqx.nn.Dropout": (
        lambda: equinox_with(eqx.nn.Dropout(0.5)),
        ValueError,
        r"'layers.1' is an eqx.nn.Dropout. .*switch it off: eqx.nn.inference_mode\(module\)",
    ),
    "eqx.nn.StateIndex": (
        lambda: equinox_with(eqx.nn.StateIndex(jnp.zeros(1))),
        ValueError,
        "'layers.1' is an eqx.nn.StateIndex. A network is a function of x and its weights",
    ),
    "no parameters": (lambda: nnx.Sequential(jnp.tanh), ValueError, "a module with parameters; Sequential has none"),
    "complex parameters": (
        lambda: OwnEquinox(jnp.ones((1, 2), complex)),
        ValueError,
        "real parameters; 'weight' of OwnEquinox is complex64",
    ),
    "shapes without values": (
        lambda: nnx.eval_shape(perceptron),
        ValueError,
        "parameters that are arrays; 'layers.0.bias' holds ShapeDtypeStruct",
    ),
    "two parameters of one name": (
        lambda: Normalised(nnx.Dict({"a.b": nnx.Param(jnp.ones(1)), "a": nnx.Dict(b=nnx.Param(jnp.ones(1)))})),
        ValueError,
        "two parameters are called 'norm.a.b'",
    ),
    "a function": (lambda: jnp.tanh, TypeError, "expected a module of Flax NNX or Equinox; got <"),
    "a class": (lambda: Perceptron, TypeError, r"got the class Perceptron. Make one: Perceptron\(...\)"),
    "Flax Linen": (LinenNet, TypeError, "got LinenNet, of Flax Linen, .* Write it with flax.nnx"),
    "not callable": (lambda: nnx.Rngs(0), TypeError, "expected a module"),
}


@pytest.mark.parametrize("name", NOT_NETWORKS)
def test_what_is_no_network_is_refused(name: str) -> None:
    make, error, message = NOT_NETWORKS[name]
    with pytest.raises(error, match=message):
        Lift(make())


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_dropout_that_is_off_is_no_state(rate: float) -> None:
    net = Normalised(nnx.Dropout(rate, rngs=nnx.Rngs(0)))
    other = equinox_with(eqx.nn.Dropout(rate))
    if rate:
        net.eval()
        other = eqx.nn.inference_mode(other)
    for module in (net, other):
        model = Model(Lift(module), Bernoulli())
        own = model.network.parts.values
        kernel, bias = own.values()
        np.testing.assert_allclose(logits_of(model, own), (X @ kernel.reshape(2, 1) + bias)[:, 0], rtol=1e-4)


class Returns(nnx.Module):
    def __init__(self, what: Callable[[Array], Any]) -> None:
        self.linear, self.what = nnx.Linear(2, 2, rngs=nnx.Rngs(0)), what

    def __call__(self, x: Array) -> Any:
        return self.what(self.linear(x))


def returning(what: Callable[[Array], Any]) -> Callable[[], Any]:
    return lambda: Returns(what)


def counting() -> Constants:
    module = Constants(rngs(), counts=True)
    module.eval()
    return module


BAD_OUTPUTS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "too many": (
        returning(lambda out: out),
        ValueError,
        r"expected 1 outputs per row, .* got 2, from outputs of shape \(24, 2",
    ),
    "one number a row": (
        returning(lambda out: out[:, 0]),
        ValueError,
        r"shape \(24, 1\), .* got \(24,\). .*out\[:, None\]",
    ),
    "one number a row, by Equinox": (
        lambda: eqx.nn.Linear(2, "scalar", key=key()),
        ValueError,
        r"got \(24,\). .* in Equinox out\[None\]",
    ),
    "other rows": (returning(lambda out: out[:1]), ValueError, r"shape \(24, 1\), rows first .* got \(1, 2\)"),
    "a tuple": (returning(lambda out: (out, out)), TypeError, "one array of floats, the outputs; got tuple"),
    "classes": (
        returning(lambda out: out.argmax(-1)),
        TypeError,
        "one array of floats, the outputs; got an array of int",
    ),
    "another x": (returning(lambda out: out @ jnp.ones((3, 1))), TypeError, "dot_general"),
    "state": (counting, ValueError, "'variable' is a variable that a call changes"),
}


@pytest.mark.parametrize("name", BAD_OUTPUTS)
def test_outputs_that_are_not_what_the_observation_needs_raise(name: str) -> None:
    make, error, message = BAD_OUTPUTS[name]
    with pytest.raises(error, match=message) as raised:
        fit(Model(Lift(make()), Bernoulli(), gaussian(1.0)), MAP(), X, BINARY, key=0)
    notes = " ".join(raised.value.__notes__)
    assert "Raised by the model when called as model(x, y) with x (24, 2)" in notes
    if name == "another x":
        assert "Raised by the module of Lift(Returns, 2 parameters, 6 weights), called with x of shape (24, 2)" in notes


class Around(nnx.Module):
    """A linear map, and what is done around it."""

    def __init__(self, what: Callable[[Any, Array], Any]) -> None:
        self.linear, self.what = nnx.Linear(2, 1, rngs=nnx.Rngs(0)), what

    def __call__(self, x: Array) -> Any:
        return self.what(self.linear, x)


def summed(along: Array) -> Array:
    return jax.lax.scan(lambda carry, row: (carry + row, carry), jnp.zeros(2), along)[1]


def of_its_sign(x: Array) -> Array:
    sign = (x[:, 0] > 0).astype(int)
    return jax.ops.segment_sum(x, sign, 2)[sign]


ROWS: dict[str, tuple[Callable[[Any, Array], Any], bool]] = {
    # what is done around a linear map, and whether it mixes rows
    "centred": (lambda f, x: f(x - x.mean(0)), True),
    "centred outputs": (lambda f, x: f(x) - f(x).mean(0), True),
    "standardised": (lambda f, x: f((x - x.mean(0)) / jnp.sqrt(x.var(0) + 0.1)), True),
    "largest": (lambda f, x: f(x / x.max()), True),
    "turned round": (lambda f, x: f(x[::-1]), True),
    "rolled": (lambda f, x: f(jnp.roll(x, 1, axis=0)), True),
    "sorted": (lambda f, x: f(jnp.sort(x, axis=0)), True),
    "the first": (lambda f, x: f(x) + f(x[:1]), True),
    "cumulated": (lambda f, x: f(jnp.cumsum(x, axis=0)), True),
    "scanned": (lambda f, x: f(summed(x)), True),
    "attention between rows": (lambda f, x: f(jax.nn.softmax(x @ x.T) @ x), True),
    "reshaped": (lambda f, x: f(x.reshape(2, -1).T), True),
    "groups": (lambda f, x: f(of_its_sign(x)), True),
    "plain": (lambda f, x: f(x), False),
    "of each row": (lambda f, x: f((x - x.mean(1, keepdims=True)) / (1 + x.std(1, keepdims=True))), False),
    "sorted within": (lambda f, x: f(jnp.cumsum(jnp.sort(x, axis=1), axis=1)[:, ::-1]), False),
    "there and back": (lambda f, x: f(x[::-1])[::-1], False),
    "not used": (lambda f, x: (x.mean(0), f(x))[1], False),
    "mapped": (lambda f, x: f(jax.lax.map(jnp.tanh, x)), False),
    "by vmap": (lambda f, x: nnx.vmap(lambda f, row: f(row), in_axes=(None, 0))(f, x), False),
    "merged": (lambda f, x: f(jnp.tanh(jnp.stack([x, x], 1).reshape(-1, 2)).reshape(-1, 2, 2)[:, 1]), False),
    "loops": (lambda f, x: jax.lax.fori_loop(0, 3, lambda i, h: jnp.tanh(h) + h, f(x)), False),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_module_that_mixes_rows_is_refused(name: str) -> None:
    what, mixes = ROWS[name]
    module = Around(what)
    alone, among = module(jnp.asarray(X[3:5])), module(jnp.asarray(X))[3:5]
    assert np.allclose(alone, among, rtol=1e-4, atol=1e-5) != mixes
    model = Model(Lift(module), Bernoulli(), gaussian(1.0))
    if not mixes:
        assert sites_of(model)
        return
    with pytest.raises(
        ValueError,
        match=r"depends on that row only. .* not a likelihood of independent rows.* Compute quantities over all",
    ):
        sites_of(model)


def test_rows_are_held_against_each_other_where_nothing_has_been_trained_too() -> None:
    """The last layer is 0, so are all outputs; and x is indices. A module of Equinox sees one row."""

    class Zeros(nnx.Module):
        def __init__(self) -> None:
            self.table, self.head = nnx.Embed(3, 2, rngs=nnx.Rngs(0)), nnx.Linear(2, 1, rngs=nnx.Rngs(0))
            self.head.kernel.set_value(jnp.zeros((2, 1)))

        def __call__(self, x: dict[str, Array]) -> Array:
            h = self.table(x["group"]) + x["z"]
            return self.head(h - h.mean(axis=0))

    x = {"group": np.arange(24) % 3, "z": X}
    with pytest.raises(ValueError, match="depends on that row only"):
        fit(Model(Lift(Zeros()), Bernoulli(), gaussian(1.0)), MAP(), x, BINARY, key=0)
    assert sites_of(Model(Lift(OwnEquinox(jnp.ones((1, 2)))), Bernoulli()))


class Colliding(nnx.Module):
    def __init__(self, name: str) -> None:
        setattr(self, name, nnx.Param(jnp.ones((2, 1))))
        self.name = name

    def __call__(self, x: Array) -> Array:
        return x @ getattr(self, self.name).get_value()


COLLISIONS: dict[str, tuple[str, Any, Any]] = {
    "y": ("y", Bernoulli(), gaussian(1.0)),
    "the plate": ("row", Bernoulli(), gaussian(1.0)),
    "a fixed one": ("row", Normal(dist.HalfNormal(1.0)), "fixed"),
    "the scale": ("scale", Normal(dist.HalfNormal(1.0)), {"*": gaussian(1.0)}),
}


@pytest.mark.parametrize("name", COLLISIONS)
def test_a_parameter_with_the_name_of_a_site_of_the_observation_is_reported(name: str) -> None:
    site, observation, prior = COLLISIONS[name]
    model = Model(Lift(Colliding(site)), observation, prior)
    message = (
        rf"got '{site}' in both the observation and Lift\(Colliding.*\. Rename the parameter, or make the module a"
    )
    with pytest.raises(ValueError, match=message):
        fit(model, MAP(), X, Y["Normal"] if "Normal" in str(observation) else BINARY, key=0)
    with pytest.raises(ValueError, match=message):
        priors(model, X)
    known = Model(Lift(Colliding("scale")), Normal(1.0), gaussian(1.0))  # which has no such site
    assert list(sites_of(known)) == ["scale"]


def test_a_module_that_was_not_lifted_is_reported() -> None:
    with pytest.raises(TypeError, match=r"expected a network, .* got a module. Use Lift\(Perceptron\)"):
        Model(perceptron(), Bernoulli())  # type: ignore[arg-type]
