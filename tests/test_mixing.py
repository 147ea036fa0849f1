"""Chains are judged by weights that have a meaning, and by the predictions of networks."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from flax import nnx
from jax import Array
from scipy.stats import norm

from flatprior.inference import MCLMC, NUTS, fit
from flatprior.inference.checks import check_problem
from flatprior.inference.methods import chains, mclmc, nuts
from flatprior.inference.methods import mixing as mixing_module
from flatprior.inference.methods.mixing import AGREE_NATS, MAX_NATS, Mixing
from flatprior.inference.reasons import Code
from flatprior.models import MLP, Lift, Model, Normal, gaussian

RNG = np.random.default_rng(4)
X = RNG.normal(size=(60, 2))
Y = np.abs(X @ [1.0, -0.5]) + 0.1 * RNG.normal(size=60)
SHAPE = (4, 200)
"""Chains and draws."""


def absolute(x: Array, y: Array | None = None) -> None:
    """The slopes are known up to their common sign."""
    w = numpyro.sample("w", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("row", len(x)):
        numpyro.sample("y", dist.Normal(jnp.abs(x @ w), 0.1), obs=y)


def by_hand(mark: bool) -> Callable[..., None]:
    """A network written by hand, whose units can be exchanged."""

    def model(x: Array, y: Array | None = None) -> None:
        infer = {"exchangeable": True} if mark else {}
        w1 = numpyro.sample("w1", dist.Normal(jnp.zeros((2, 2)), 1.0).to_event(2), infer=infer)
        w2 = numpyro.sample("w2", dist.Normal(jnp.zeros(2), 1.0).to_event(1), infer=infer)
        with numpyro.plate("row", len(x)):
            numpyro.sample("y", dist.Normal(jnp.tanh(x @ w1) @ w2, 0.1), obs=y)

    return model


NETWORK = Model(MLP((2,), "tanh"), Normal(dist.HalfNormal(1.0)), gaussian(1.0))


def mixing(model: Any, **draws: np.ndarray) -> Mixing:
    density, data = check_problem(model, X, Y)
    return Mixing(density, {site: values.astype(np.float32) for site, values in draws.items()}, data)


def slopes(*signs: int) -> np.ndarray:
    """Draws of the slopes, each chain near one of the two modes."""
    return np.array(signs)[:, None, None] * np.array([1.0, -0.5]) + 0.02 * RNG.normal(size=(*SHAPE, 2))


def units(exchanged: bool) -> dict[str, np.ndarray]:
    """Draws of two hidden units, in half of the chains in the other order."""
    w1, w2 = np.array([[1.0, -0.5], [0.3, 0.8]]), np.array([1.0, -1.0])
    draws = {
        "w1": w1 + 0.02 * RNG.normal(size=(*SHAPE, 2, 2)),
        "w2": w2 + 0.02 * RNG.normal(size=(*SHAPE, 2)),
    }
    if exchanged:
        draws = {site: np.concatenate([values[:2], values[2:, ..., ::-1]]) for site, values in draws.items()}
    return draws


def network(scale: tuple[float, ...] = (0.4,) * 4, **moved: Any) -> Mixing:
    """Draws of the network, its scale by chain, and what is added to its last bias."""
    shapes = {"w1": (2, 2), "b1": (2,), "w2": (2, 1), "b2": (1,)}
    draws = {site: 0.3 + 0.02 * RNG.normal(size=(*SHAPE, *shape)) for site, shape in shapes.items()}
    draws["w1"][:2] *= -1  # the other sign of its units
    draws["b1"][:2] *= -1
    draws["w2"][:2] *= -1
    draws["b2"] = draws["b2"] + np.asarray(moved.get("b2", 0.0))
    draws["scale"] = np.array(scale)[:, None] * np.exp(0.01 * RNG.normal(size=SHAPE))
    return mixing(NETWORK, **draws)


def codes(result: Mixing, limit: float = 1.05) -> list[Code]:
    return [reason.code for reason in result.disagreement(limit)]


def test_chains_in_different_modes_of_slopes_are_named_and_their_predictions_agree() -> None:
    (reason,) = mixing(absolute, w=slopes(1, -1, -1, 1)).disagreement(1.05)
    assert reason.code == Code.WEIGHTS_DISAGREE
    assert "The chains disagree on w: R-hat" in str(reason)
    assert "Their predictions agree" in str(reason)
    assert codes(mixing(absolute, w=slopes(1, 1, 1, 1))) == []


def test_chains_that_predict_differently_are_distinguished_from_those_that_do_not() -> None:
    w = slopes(1, 1, 1, 1)
    w[0] += [0.2, 0.0]
    result = mixing(absolute, w=w)
    (reason,) = result.disagreement(1.05)
    assert result.between_chains > AGREE_NATS
    assert "Their predictions differ as well" in str(reason)


def test_units_that_can_be_exchanged_are_not_asked_where_the_model_marks_them() -> None:
    assert codes(mixing(by_hand(mark=False), **units(exchanged=True))) == [Code.WEIGHTS_DISAGREE]
    assert codes(mixing(by_hand(mark=False), **units(exchanged=False))) == []
    assert codes(mixing(by_hand(mark=True), **units(exchanged=True))) == []


def test_the_scale_of_a_network_is_asked_and_its_units_are_not() -> None:
    assert codes(network()) == []
    (reason,) = network(scale=(0.4, 0.4, 0.4, 0.6)).disagreement(1.05)
    assert "disagree on scale" in str(reason)


def test_the_scale_of_a_network_differs_between_modes_as_far_as_predictions_do_not_show_it() -> None:
    """Scales that differ by 5% have an R-hat above 1.1; the density of a row changes by less than 0.03 nats."""
    few_percent = network(scale=(1.0, 1.02, 1.04, 0.98))
    assert mixing_module._worst(few_percent.draws["scale"], "rhat") > 1.1
    assert codes(few_percent) == []


def bent(x: Array, y: Array | None = None) -> None:
    """A network by hand beside a slope that is known up to its sign."""
    w1 = numpyro.sample("w1", dist.Normal(jnp.zeros((2, 2)), 1.0).to_event(2), infer={"exchangeable": True})
    w2 = numpyro.sample("w2", dist.Normal(jnp.zeros(2), 1.0).to_event(1), infer={"exchangeable": True})
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(x)):
        numpyro.sample("y", dist.Normal(jnp.tanh(x @ w1) @ w2 + jnp.abs(slope * x[:, 0]), 1.0), obs=y)


def test_a_slope_beside_a_network_is_asked_even_where_predictions_agree() -> None:
    def signed(*signs: int) -> Mixing:
        return mixing(bent, **units(exchanged=True), slope=np.array(signs)[:, None] + 0.02 * RNG.normal(size=SHAPE))

    apart = signed(1, -1, -1, 1)
    assert apart.between_chains < AGREE_NATS
    assert codes(apart) == [Code.WEIGHTS_DISAGREE]
    assert codes(signed(1, 1, 1, 1)) == []


LINEAR, DEEP = nnx.Linear(2, 1, rngs=nnx.Rngs(0)), nnx.Linear(2, 2, rngs=nnx.Rngs(0))
MARKED: dict[str, tuple[Any, set[str]]] = {
    "MLP": (Model(MLP((3,)), Normal(dist.HalfNormal(1.0))), {"w1", "b1", "w2", "b2"}),
    "linear": (Model(MLP(), Normal(dist.HalfNormal(1.0))), set()),
    "Lift": (
        Model(Lift(nnx.Sequential(DEEP, nnx.tanh, LINEAR)), Normal(1.0)),
        {"layers.0.kernel", "layers.0.bias", "layers.2.kernel", "layers.2.bias"},
    ),
    "Lift of one layer": (Model(Lift(LINEAR), Normal(1.0)), set()),
    "Lift, one layer fixed": (
        Model(Lift(nnx.Sequential(DEEP, nnx.tanh, LINEAR)), Normal(1.0), {"layers.0.*": "fixed", "*": gaussian()}),
        set(),
    ),
}


@pytest.mark.parametrize("name", MARKED)
def test_the_weights_of_networks_with_hidden_units_are_marked(name: str) -> None:
    model, expected = MARKED[name]
    structure = check_problem(model, X, Y)[0].structure
    assert structure.exchangeable == expected
    if expected:
        assert structure.given(()).exchangeable == expected
        assert structure.given(sorted(expected)[:1]).exchangeable == set()  # the fixed weights number the units


def test_the_error_is_that_of_a_mean_of_known_precision() -> None:
    """Chains that differ by noise of a known size: the error is a fraction of it, as the number of chains has it."""
    levels = np.array([-1.0, 1.0, -1.0, 1.0])[:, None, None]
    agree, differ = network(), network(b2=0.2 * levels)
    assert agree.error < MAX_NATS / 3
    assert differ.between_chains > 5 * agree.between_chains
    assert differ.error == pytest.approx(differ.between_chains / 2)  # of four chains


def test_predictions_that_are_still_moving_are_an_error_and_weights_that_only_shrink_are_not() -> None:
    along = np.linspace(-0.3, 0.3, SHAPE[1])[None, :, None]
    assert network(b2=along).error > MAX_NATS
    lp = RNG.normal(-50.0, 1.0, size=SHAPE) + np.linspace(0, 20, SHAPE[1])
    stats = {"lp": lp, "energy_variance": np.full(SHAPE, 2e-4), "diverging": np.zeros(SHAPE, bool)}
    result = {
        name: mclmc.status_of(MCLMC(), stats, 20, each)
        for name, each in {"moving": network(b2=along), "settled": network(), "no network": None}.items()
    }
    assert result["no network"].codes == (Code.NOT_SETTLED, Code.LOW_TOTAL_ESS)
    assert result["moving"].codes == (Code.NOT_SETTLED,)
    assert result["settled"].codes == ()
    assert "the log predictive density of a row is off by about" in str(result["moving"])


def test_chains_of_a_network_that_predict_differently_are_named_however_settled_each_seems() -> None:
    """Chains near modes of equal density, which no statistic of the log density shows."""
    stats = {
        "lp": RNG.normal(-50.0, 1.0, size=SHAPE),
        "energy_variance": np.full(SHAPE, 2e-4),
        "energy": RNG.normal(size=SHAPE),
        "diverging": np.zeros(SHAPE, bool),
        "tree_depth": np.full(SHAPE, 3),
    }
    differ = network(b2=0.2 * np.array([-1.0, 1.0, -1.0, 1.0])[:, None, None])
    for result in (mclmc.status_of(MCLMC(), stats, 20, differ), nuts.status_of(NUTS(), stats, differ)):
        assert result.codes == (Code.CHAINS_DIFFER,)
        assert result.warnings[0].numbers["error"] == pytest.approx(differ.between_chains / 2)
    assert mclmc.status_of(MCLMC(), stats, 20, network()).codes == ()


def test_what_is_to_come_goes_with_the_log_of_the_steps() -> None:
    """A log predictive density that rises by the log of the number of steps: as much as another doubling brings."""
    warmup = 500
    steps = warmup + np.arange(SHAPE[1])
    slow = replace(network(), warmup=warmup)
    rising = 0.1 * np.log(steps)[None, :, None] + RNG.normal(0.0, 1e-3, size=(*SHAPE, 60))
    slow.__dict__["_log_probs"] = rising
    assert slow.error == pytest.approx(0.1 * np.log(2), rel=0.05)


def test_the_disagreement_of_nuts_on_a_network_is_judged_by_its_size() -> None:
    stats = {
        "lp": RNG.normal(-50.0, 1.0, size=SHAPE) + np.array([0.0, 0.0, 3.0, 3.0])[:, None],
        "energy": RNG.normal(size=SHAPE),
        "diverging": np.zeros(SHAPE, bool),
        "tree_depth": np.full(SHAPE, 3),
    }
    levels = 0.3 * np.array([-1.0, -1.0, 1.0, 1.0])[:, None, None]
    assert nuts.status_of(NUTS(), stats, network()).codes == ()
    assert Code.HIGH_RHAT in nuts.status_of(NUTS(), stats, network(b2=levels)).codes
    assert Code.HIGH_RHAT in nuts.status_of(NUTS(), stats, mixing(absolute, w=slopes(1, 1, 1, 1))).codes


def test_cut_trajectories_are_reported_unless_weights_mix_or_predictions_are_right() -> None:
    stats = {
        "lp": RNG.normal(-50.0, 1.0, size=SHAPE),
        "energy": RNG.normal(size=SHAPE),
        "diverging": np.zeros(SHAPE, bool),
        "tree_depth": np.full(SHAPE, 10),
    }
    slow = slopes(1, 1, 1, 1) + 0.02 * np.cumsum(RNG.normal(size=(*SHAPE, 1)), axis=1)
    assert nuts.status_of(NUTS(), stats, mixing(absolute, w=slopes(1, 1, 1, 1))).codes == ()
    assert Code.TREE_DEPTH in nuts.status_of(NUTS(), stats, mixing(absolute, w=slow)).codes
    levels = 0.3 * np.array([-1.0, -1.0, 1.0, 1.0])[:, None, None]
    assert nuts.status_of(NUTS(), stats, network()).codes == ()
    assert Code.TREE_DEPTH in nuts.status_of(NUTS(), stats, network(b2=levels)).codes


@pytest.mark.parametrize(("count", "of_network"), [(0, ()), (8, ()), (9, (Code.DIVERGENCES,))])
def test_one_divergence_is_too_many_for_weights_with_a_meaning_and_one_in_a_hundred_for_a_network(
    count: int, of_network: tuple[Code, ...]
) -> None:
    stats = {
        "lp": RNG.normal(-50.0, 1.0, size=SHAPE),
        "energy": RNG.normal(size=SHAPE),
        "diverging": (np.arange(np.prod(SHAPE)) < count).reshape(SHAPE),
        "tree_depth": np.full(SHAPE, 3),
    }
    assert nuts.status_of(NUTS(), stats, network()).codes == of_network
    of_slopes = nuts.status_of(NUTS(target_accept_prob=0.9), stats, mixing(absolute, w=slopes(1, 1, 1, 1)))
    assert of_slopes.codes == ((Code.DIVERGENCES,) if count else ())
    assert not count or "Raise target_accept_prob from 0.9 to 0.95 or more" in str(of_slopes)


@pytest.mark.slow
@pytest.mark.parametrize("observation", [Normal(dist.HalfNormal(1.0)), Normal("network")])
def test_nuts_trusts_its_draws_of_a_network_on_a_curve(observation: Any) -> None:
    """Trajectories are cut short and a few diverge: the predictions are those of long runs of MCLMC."""
    x = np.random.default_rng(0).uniform(-3, 3, 60)[:, None]
    y = np.sin(1.5 * x[:, 0]) + 0.2 * np.random.default_rng(1).normal(size=60)
    model = Model(MLP((6,)), observation, gaussian(1.0))
    truth = fit(model, MCLMC(num_warmup=40_000, thinning=80), x, y, key=0, progress=False)
    assert truth.status.level == "ok", truth.status
    for key in range(2):
        result = fit(model, NUTS(num_warmup=500, num_samples=500), x, y, key=key, progress=False)
        assert result.status.level == "ok", (key, result.status)
        assert np.abs(result.predict(x).log_prob(y) - truth.predict(x).log_prob(y)).mean() < MAX_NATS


def test_log_predictive_densities_are_those_of_the_mixture_of_draws() -> None:
    w = slopes(1, 1, -1, 1)
    w[1] += 0.1
    result = mixing(absolute, w=w)
    log_probs = norm.logpdf(Y, np.abs(np.einsum("nd,ctd->ctn", X, w)), 0.1)
    each = np.log(np.exp(log_probs).mean(axis=1))
    expected = np.abs(each - np.log(np.exp(log_probs).mean(axis=(0, 1)))).mean()
    assert result.between_chains == pytest.approx(expected, rel=1e-3)


def test_rows_without_y_or_weight_say_nothing_of_predictions() -> None:
    """They have no log predictive density, and would dilute the error of the others."""
    w = slopes(1, 1, 1, 1)
    w[0] += [0.2, 0.0]
    draws = {"w": w.astype(np.float32)}
    labelled = np.arange(60) % 3 == 0
    density, data = check_problem(absolute, X[labelled], Y[labelled])
    expected = Mixing(density, draws, data).between_chains
    density, missing = check_problem(absolute, X, np.where(labelled, Y, np.nan))
    assert Mixing(density, draws, missing).between_chains == pytest.approx(expected, rel=1e-5)
    density, unweighted = check_problem(absolute, X, Y, weights=labelled.astype(float))
    assert Mixing(density, draws, unweighted).between_chains == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", [NUTS(num_warmup=300, num_samples=500), MCLMC(num_warmup=2000, num_chains=6)])
def test_the_status_of_a_fit_names_slopes_whose_chains_are_in_different_modes(method: Any) -> None:
    for key in range(3):
        result = fit(absolute, method, X, Y, key=key, progress=False)
        signs = np.sign(result.draws["w"][:, :, 0].mean(axis=1))
        assert (Code.WEIGHTS_DISAGREE in result.status.codes) == (np.ptp(signs) > 0), (key, str(result.status))


def test_the_buffer_of_draws_is_bounded_in_bytes() -> None:
    assert chains.buffer_rows(4, 100) == chains.BLOCK_DRAWS
    assert chains.buffer_rows(10, 97_503) * 10 * 97_503 * 4 <= chains.BLOCK_BYTES
    assert chains.buffer_rows(10, 10**9) == 1
