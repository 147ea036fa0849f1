"""Every way a fit can fail: a sick case in which it is said, and a healthy one that is ok."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from jax import Array
from numpyro.infer import init_to_uniform

from flatprior.inference import (
    MAP,
    MCLMC,
    MLE,
    NUTS,
    Conditional,
    FailedFitWarning,
    Fit,
    Laplace,
    Status,
    compare,
    diagnose,
    fit,
)
from flatprior.inference.blocks import run_in_blocks
from flatprior.inference.methods import chains, descent, nuts, prior_path
from flatprior.inference.reasons import Code
from flatprior.models import MLP, Bernoulli, Model, Normal, gaussian

KEYS = range(3)
RNG = np.random.default_rng(4)
X = RNG.normal(size=(40, 2))
REAL = X @ [1.0, -1.0] + 1.0 + 0.5 * RNG.normal(size=40)
OVERLAPPING = (X @ [1.0, -1.0] + RNG.logistic(size=40) > 0).astype(int)
SEPARABLE = (X @ [1.0, -1.0] > 0).astype(int)
LINE, LOGISTIC = Model(MLP(), Normal(0.5), gaussian(1.0)), Model(MLP(), Bernoulli(), gaussian(1.0))

ROUND, HEAVY, HILLS, RIDGE, CLIFF = range(5)


def heavy(w: Array) -> Array:
    """A t distribution of one degree of freedom: the energy wanders far, the momentum moves it little."""
    return -(len(w) + 1) / 2 * jnp.log1p(w @ w)


def hills(w: Array) -> Array:
    """Narrow modes along the first axis, too far apart to be crossed."""
    places = jnp.arange(-9.0, 10.0, 3.0)
    return jax.nn.logsumexp(-(((w[0] - places) / 0.05) ** 2) / 2) - w[1:] @ w[1:] / 2


def ridge(w: Array) -> Array:
    """A thousand times as wide along the diagonal as across it."""
    along = w.mean()
    return -((w - along) ** 2).sum() / 2 - (along / 1000.0) ** 2 / 2


def cliff(w: Array) -> Array:
    """Every trajectory that crosses the edge falls 100,000 nats, however small its steps are."""
    return -w @ w / 2 - jnp.where(w[0] > 1.0, 1e5, 0.0)


def landscape(x: dict[str, Array], y: Array | None = None) -> None:
    """A density whose shape is in x, so that one program serves all. From the edge on it is no number."""
    shapes = (lambda w: -w @ w / 2, heavy, hills, ridge, cliff)
    w = numpyro.sample("w", dist.ImproperUniform(dist.constraints.real_vector, (), (4,)))
    numpyro.factor("shape", jax.lax.switch(x["shape"][0], shapes, w))
    numpyro.factor("edge", jnp.where(w[0] > x["edge"][0], jnp.nan, 0.0))
    with numpyro.plate("row", len(x["edge"])):
        numpyro.sample("y", dist.Normal(w.sum(), 1e4), obs=y)


def trapped(x: Array, y: Array | None = None) -> None:
    """The first chain begins where the first weight is x, of which the data rule out 50, in a mode of the prior."""
    modes = dist.MixtureSameFamily(dist.Categorical(jnp.array([0.5, 0.5])), dist.Normal(jnp.array([0.0, 50.0]), 1.0))
    start = jnp.zeros((1, 40)).at[0, 0].set(x[0, 0])
    w = numpyro.sample("w", modes.expand([1, 40]).to_event(2), infer={"start": start})
    with numpyro.plate("row", len(x)):
        numpyro.sample("y", dist.Normal(10.0 * (jnp.tanh(w[0, 0] - 25.0) + 1.0), 1.0), obs=y)


SAMPLER = NUTS(
    num_warmup=300,
    num_samples=1000,
    start=None,
    improper_ok=True,  # the factors make the posterior proper
    max_tree_depth=5,
    init_strategy=init_to_uniform(radius=10.0),
)
MICRO = MCLMC(num_warmup=1500, num_samples=100, thinning=20, start=None)


def by(method: Any, model: Any = LINE, y: np.ndarray = REAL) -> Callable[[int], Fit]:
    return lambda key: fit(model, method, X, y, key=key, progress=False)


def sampled(shape: int = ROUND, edge: float = 1e9, **changed: Any) -> Callable[[int], Fit]:
    x = {"shape": np.full(40, shape), "edge": np.full(40, edge)}
    return lambda key: fit(landscape, replace(SAMPLER, **changed), x, REAL, key=key, progress=False)


def diagnosed(shape: int = ROUND) -> Callable[[int], Status]:
    """What `diagnose` finds, as a status."""
    x = {"shape": np.full(40, shape), "edge": np.full(40, 1e9)}
    return lambda key: Status((), diagnose(sampled(shape)(key), x, REAL).findings)


def micro(first: float) -> Callable[[int], Fit]:
    return lambda key: fit(trapped, MICRO, np.full((40, 1), first), 0 * REAL, key=key, progress=False)


def interrupted(module: Any, at: int, run: Callable[[int], Fit]) -> Callable[[int], Fit]:
    """With Ctrl-C pressed in the first block that begins at this step or later; the warm-up has 300 of its own."""

    def blocks(block: Callable[..., Any], *args: Any, **options: Any) -> Any:
        def pressed(state: Any, start: int, stop: int) -> Any:
            if start >= at:
                raise KeyboardInterrupt
            return block(state, start, stop)

        return run_in_blocks(pressed, *args, **options)

    def press(key: int) -> Fit:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "run_in_blocks", blocks)
            return run(key)

    return press


class Way(NamedTuple):
    """One way to fail."""

    sick: Callable[[int], Fit | Status]
    healthy: Callable[[int], Fit | Status]
    level: str
    sentence: str


SHORT = MAP(num_steps=40)
WAYS: dict[str, Way] = {
    "a loss that is not finite": Way(
        by(MAP(optimizer=optax.sgd(1e9), num_steps=40)), by(SHORT), "failed", "A smaller learning rate is the usual"
    ),
    "a descent that ends too early": Way(
        by(MAP(num_steps=40, polish=False)), by(SHORT), "check", "further steps, of L-BFGS, lower the loss by"
    ),
    "no maximum": Way(
        by(MLE(num_steps=300), LOGISTIC, SEPARABLE),
        by(MLE(num_steps=300), LOGISTIC, OVERLAPPING),
        "failed",
        "There is no maximum: all 40 rows are classified correctly",
    ),
    "an interrupted descent": Way(interrupted(descent, 1, by(SHORT)), by(SHORT), "check", "Interrupted after 1 of 40"),
    "interrupted chains": Way(interrupted(chains, 300, sampled()), sampled(), "check", "of 1000 draws of each chain"),
    "divergences": Way(sampled(CLIFF), sampled(), "check", "transitions diverged: the draws may miss part"),
    "trajectories cut short": Way(
        sampled(RIDGE, max_tree_depth=3), sampled(), "check", "were cut short by max_tree_depth=3"
    ),
    "frozen chains": Way(sampled(edge=-1e9), sampled(), "failed", "Chains 0, 1, 2, 3 did not move"),
    "lost chains": Way(micro(50.0), micro(0.0), "check", "are lost: their log density is"),
    "a low E-BFMI": Way(sampled(HEAVY), sampled(), "check", "moves in small steps (E-BFMI"),
    "R-hat of predictions": Way(diagnosed(HILLS), diagnosed(), "check", "The chains disagree on predictions: R-hat"),
    "ESS of predictions": Way(diagnosed(RIDGE), diagnosed(), "check", "Estimates of predictions are imprecise"),
}


LONG = (
    "interrupted chains",
    "trajectories cut short",
    "lost chains",
    "a low E-BFMI",
    "R-hat of predictions",
    "ESS of predictions",
)
NAMES = [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in WAYS]


def status_of(result: Fit | Status) -> Status:
    return result if isinstance(result, Status) else result.status


@pytest.mark.parametrize("name", NAMES)
def test_each_way_to_fail_is_reported_where_it_is_there(name: str) -> None:
    way = WAYS[name]
    for key in KEYS:
        status = status_of(way.sick(key))
        assert status.level == way.level, (key, str(status))
        assert way.sentence in str(status), (key, str(status))


@pytest.mark.parametrize("name", NAMES)
def test_each_way_to_fail_is_not_reported_where_it_is_not_there(name: str) -> None:
    for key in KEYS:
        status = status_of(WAYS[name].healthy(key))
        assert status.level == "ok", (key, str(status))


def test_a_sampler_that_failed_shows_it_wherever_it_is_used() -> None:
    x = {"shape": np.full(40, ROUND), "edge": np.full(40, -1e9)}
    result, healthy = sampled(edge=-1e9)(0), sampled()(0)
    assert not result.status
    assert repr(result).endswith(str(result.status))
    table = compare({"sick": result, "healthy": healthy}, x, REAL)
    assert table.to_dataframe()["status"].to_dict() == {"sick": "failed", "healthy": "ok"}
    assert "did not move" in str(table)
    attrs = result.to_datatree().attrs
    assert (attrs["status"], attrs["status_reasons"]) == ("failed", list(map(str, result.status.reasons)))
    with pytest.warns(FailedFitWarning, match="This fit has failed; .* did not move") as record:
        result.predict(x)
    assert record[0].filename == __file__
    healthy.predict(x)  # nothing is to be said of it


def test_very_few_draws_are_not_judged_and_it_is_reported() -> None:
    draws = np.random.default_rng(0).normal(size=(4, 1000))
    stats = {"lp": draws, "energy": -draws, "diverging": np.zeros(draws.shape, bool)}
    stats["tree_depth"] = np.full(draws.shape, 2)
    few = {name: value[:, :3] for name, value in stats.items()}
    assert str(nuts.status_of(NUTS(), stats)) == "ok"
    settings, none = NUTS(num_samples=3), np.zeros(4, bool)
    status = chains.status_of(settings, few, none) + nuts.status_of(settings, few)
    assert status.level == "check"
    assert "Each chain has 3 draws, fewer than 4" in str(status)


def with_flat_priors(family: Callable[[Array], dist.Distribution]) -> Callable[..., None]:
    """Regression on groups and a covariate with flat priors written by hand."""
    improper = dist.ImproperUniform(dist.constraints.real_vector, (), (3,))

    def model(x: Array, y: Array | None = None) -> None:
        level = numpyro.sample("level", improper)
        slope = numpyro.sample("slope", dist.ImproperUniform(dist.constraints.real, (), ()))
        with numpyro.plate("row", len(x)):
            numpyro.sample("y", family(x[:, :3] @ level + slope * x[:, 3]), obs=y)

    return model


GROUP = np.arange(60) % 3
GROUPS = np.c_[np.eye(3)[GROUP], np.random.default_rng(6).normal(size=60)]
COUNTS, LABELS = (
    with_flat_priors(lambda eta: dist.Poisson(jnp.exp(eta))),
    with_flat_priors(lambda eta: dist.Bernoulli(logits=eta)),
)
POISSON = np.random.default_rng(7).poisson(3.0, 60)
SAMPLERS: dict[str, Any] = {
    "NUTS": NUTS(num_warmup=30, num_samples=20, num_chains=2, start=None, max_tree_depth=4),
    "MCLMC": MCLMC(num_warmup=100, num_samples=15, thinning=3, num_chains=3, start=None),
    "Laplace": Laplace(num_samples=12),
}
IMPROPER = {
    "a group of zeros": (COUNTS, np.where(GROUP == 2, 0, POISSON), POISSON),
    "separable": (LABELS, (GROUPS[:, 3] > 0).astype(int), POISSON % 2),
}


@pytest.mark.parametrize("method", [*(pytest.param(m, marks=pytest.mark.slow) for m in ("NUTS", "MCLMC")), "Laplace"])
@pytest.mark.parametrize("name", ["a group of zeros", pytest.param("separable", marks=pytest.mark.slow)])
def test_a_posterior_that_is_not_proper_is_refused_or_has_failed(name: str, method: str) -> None:
    model, sick, healthy = IMPROPER[name]
    with pytest.raises(ValueError, match=f"{method}: the prior is flat at the sites"):
        fit(model, SAMPLERS[method], GROUPS, sick, key=0, progress=False)
    allowed = replace(SAMPLERS[method], improper_ok=True)
    status = fit(model, allowed, GROUPS, sick, key=0, progress=False).status
    assert status.failures[0].code == Code.IMPROPER_POSTERIOR, status
    assert "There is no maximum" in str(status)
    assert Code.IMPROPER_POSTERIOR not in fit(model, allowed, GROUPS, healthy, key=0, progress=False).status.codes


def test_whatever_needs_a_posterior_refuses_a_flat_prior() -> None:
    given = Conditional(base=MAP(num_steps=40), sites=("level",), method=SAMPLERS["Laplace"])
    with pytest.raises(ValueError, match="Laplace: the prior is flat at the sites"):
        fit(COUNTS, given, GROUPS, POISSON, key=0, progress=False)
    with pytest.raises(ValueError, match="prior_path: expected a model with a prior"):
        prior_path(COUNTS, GROUPS, POISSON, key=0, progress=False)
    allowed = replace(SAMPLERS["Laplace"], improper_ok=True)
    assert np.isnan(fit(COUNTS, allowed, GROUPS, POISSON, key=0, progress=False).log_evidence)
