"""Fits that ran apart, as one: all their draws, judged together, and never those of different posteriors."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flatprior.inference import MAP, MCLMC, NUTS, SGMCMC, Ensemble, Fit, Laplace, Prior, fit
from flatprior.inference.density import Density
from flatprior.inference.reasons import Code, Reason
from flatprior.inference.status import Status
from flatprior.models import MLP, Bernoulli, Model, gaussian

LOGISTIC = Model(MLP(), Bernoulli(), gaussian(1.0))
CHAINS = NUTS(num_warmup=20, num_samples=60, num_chains=2, start=None)
MEMBERS = Ensemble(MAP(num_steps=20, polish=False), num_members=2)
Rows = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def rows() -> Rows:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 2))
    return x, (x[:, 0] + rng.logistic(size=30) > 0).astype(int)


def run(rows: Rows, method: Any, key: int, model: Model = LOGISTIC, **given: Any) -> Fit:
    return fit(model, method, *rows, key=key, progress=False, **given)


@pytest.fixture(scope="module")
def apart(rows: Rows) -> list[Fit]:
    return [run(rows, CHAINS, key) for key in range(2)]


def changed(one: Fit, draws: Callable[[np.ndarray], np.ndarray], key: str, status: Status | None = None) -> Fit:
    """A fit with other draws, as if it had another key."""
    moved = {site: draws(value) for site, value in one.draws.items()}
    stats = {name: values[:, : moved["w1"].shape[1]] for name, values in one.outcome.sample_stats.items()}
    outcome = replace(one.outcome, draws=moved, sample_stats=stats, status=one.status if status is None else status)
    return replace(one, outcome=outcome, keys=(key,))


def test_chains_are_those_of_all(rows: Rows, apart: list[Fit]) -> None:
    whole = Fit.join(apart, *rows)
    for named, part in ((whole.draws, "draws"), (whole.outcome.sample_stats, "sample_stats")):
        for name, values in named.items():
            np.testing.assert_array_equal(values, np.concatenate([getattr(each.outcome, part)[name] for each in apart]))
    assert whole.method == replace(CHAINS, num_chains=4)
    assert whole.keys == (*apart[0].keys, *apart[1].keys)
    assert whole.was_fitted_to(*rows)
    assert whole.seconds.run == sum(each.seconds.run for each in apart)


def test_chains_of_one_fit_that_agree_may_disagree_with_those_of_another(rows: Rows, apart: list[Fit]) -> None:
    """And reasons that its own draws have given are forgotten: 60 draws are too few to judge 2 chains, as 4."""
    few = Status(warnings=(Reason.of(Code.LOW_ESS, ess=1.0, limit=2),))
    away = changed(apart[0], lambda value: value + 3.0, "away", few)
    codes = Fit.join([apart[0], away], *rows).status.codes
    assert Code.WEIGHTS_DISAGREE in codes
    together = Fit.join([apart[0], changed(apart[0], lambda value: value, "same", few)], *rows).status
    assert Code.WEIGHTS_DISAGREE not in together.codes
    assert few.warnings[0] not in together.warnings


def test_what_draws_do_not_show_is_kept(rows: Rows, apart: list[Fit]) -> None:
    cold = Status(warnings=(Reason.of(Code.COLD_START, chains="1"),))
    other = changed(apart[1], lambda value: value, "cold", cold)
    assert "In fit 1: Chains 1 began at their random" in str(Fit.join([apart[0], other], *rows).status)


def test_fits_from_files_are_joined_as_others(rows: Rows, apart: list[Fit], tmp_path: Path) -> None:
    files = [each.save(tmp_path / f"{i}.nc") for i, each in enumerate(apart)]
    loaded = [Fit.load(file, Model(MLP(), Bernoulli(), gaussian(1.0))) for file in files]
    joined, expected = Fit.join(loaded, *rows), Fit.join(apart, *rows)
    assert joined.status == expected.status
    assert joined.keys == expected.keys
    assert repr(joined.method) == repr(expected.method)
    np.testing.assert_array_equal(joined.predict(rows[0]).probs, expected.predict(rows[0]).probs)
    again = Fit.load(joined.save(tmp_path / "all.nc"), LOGISTIC)
    with pytest.raises(ValueError, match=r"fits 0 and 1 have the key threefry2x32 \[0, 0\]: their draws are the same"):
        Fit.join([again, loaded[0]], *rows)


SHORT: dict[str, Any] = {"num_warmup": 60, "num_samples": 6, "num_chains": 2, "start": None, "thinning": 2}


@pytest.mark.slow
@pytest.mark.parametrize("method", [MCLMC(**SHORT), SGMCMC(batch_size=10, **SHORT)], ids=["MCLMC", "SGMCMC"])
def test_other_chains_are_judged_as_they_are_alone(method: Any, rows: Rows, tmp_path: Path) -> None:
    """Six draws are too few for MCLMC, though not for NUTS; from files as well."""
    apart = [run(rows, method, key) for key in range(2)]
    joined = Fit.join(apart, *rows)
    assert len(joined.draws["w1"]) == 4
    assert joined.status.codes.count(Code.FEW_DRAWS) == 1
    loaded = [Fit.load(each.save(tmp_path / f"{i}.nc"), LOGISTIC) for i, each in enumerate(apart)]
    assert Fit.join(loaded, *rows).status == joined.status


@pytest.mark.slow
def test_members_of_ensembles_are_those_of_all(rows: Rows) -> None:
    """The mixture of all is the mean of the mixtures, with their weights."""
    apart = [run(rows, replace(MEMBERS, num_members=count), key=count) for count in (2, 3)]
    whole = Fit.join(apart, *rows)
    assert whole.draws["w1"].shape[:2] == (1, 5)
    assert whole.stats["loss"].shape == (5, 20)
    probs = [each.predict(rows[0]).probs for each in apart]
    np.testing.assert_allclose(whole.predict(rows[0]).probs, (2 * probs[0] + 3 * probs[1]) / 5, rtol=1e-5)
    parts = [f"In fit {i}: {reason}" for i, each in enumerate(apart) for reason in each.status.reasons]
    assert list(map(str, whole.status.reasons)) == parts
    assert parts


REFUSED: dict[str, tuple[Callable[[Rows, Fit], Fit], str]] = {
    "the same key": (lambda rows, one: one, "expected fits under different keys; fits 0 and 1 have the key"),
    "a point": (lambda rows, _: run(rows, MEMBERS.base, 1), "got MAP. A point is one set of weights"),
    "a Gaussian": (lambda rows, _: run(rows, Laplace(MEMBERS.base, num_samples=3), 1), "got Laplace. Its draws are"),
    "the prior": (lambda rows, _: run(rows, Prior(num_samples=3), 1), "fit once with a larger num_samples"),
    "fewer draws": (
        lambda rows, one: changed(one, lambda value: value[:, :50], "short"),
        r"chains of one length; got \[60, 50\] draws. Continue the shorter ones",
    ),
    "other settings": (
        lambda _, one: replace(one, method=replace(CHAINS, num_warmup=30), keys=("b",)),
        "expected fits by one method, apart from num_chains; the method differs",
    ),
    "another start": (
        lambda _, one: replace(one, method=replace(CHAINS, init_strategy=lambda site: None), keys=("b",)),
        "the method differs|the init_strategy differs",
    ),
    "another method": (
        lambda _, one: replace(one, method=MCLMC(num_samples=60, num_chains=2), keys=("b",)),
        "the method differs",
    ),
    "another model": (
        lambda _, one: replace(one, density=Density(Model(MLP(), Bernoulli(), gaussian(2.0)), one.structure)),
        "expected fits of one model",
    ),
    "other rows": (lambda _, one: replace(one, rows="other", keys=("b",)), "expected the rows and weights that all"),
    "other weights": (lambda _, one: replace(one, weights="other", keys=("b",)), "expected the rows and weights"),
    "no key": (lambda _, one: replace(one, keys=()), "expected fits that know their keys"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in ("a Gaussian", "the prior"))) for n in REFUSED]
)
def test_draws_of_different_posteriors_are_not_joined(name: str, rows: Rows, apart: list[Fit]) -> None:
    other, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"join: .*{message}"):
        Fit.join([apart[0], other(rows, apart[0])], *rows)


def test_one_fit_or_none_is_nothing_to_join(rows: Rows, apart: list[Fit]) -> None:
    with pytest.raises(ValueError, match="join: expected two or more fits; got 1"):
        Fit.join(apart[:1], *rows)
    with pytest.raises(TypeError, match="join: expected a fit"):
        Fit.join([apart[0], "fit.nc"], *rows)
    with pytest.raises(ValueError, match="expected the rows and weights that all of the fits have seen"):
        Fit.join(apart, rows[0] + 1, rows[1])
    with pytest.raises(ValueError, match="expected the rows and weights that all of the fits have seen"):
        Fit.join(apart, *rows, weights=np.full(30, 2.0))
