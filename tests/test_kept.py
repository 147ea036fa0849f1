"""Draws in a narrow type: those of the fit, rounded, and evaluated in the precision of the fit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from flatprior.inference import (
    MAP,
    MCLMC,
    NUTS,
    SGMCMC,
    Conditional,
    Ensemble,
    Fit,
    Laplace,
    Prior,
    Variational,
    chunks,
    diagnose,
    fit,
)
from flatprior.inference.kept import MAX_SHARE, as_draws_dtype, coarseness, narrowed
from flatprior.inference.reasons import Code
from flatprior.models import MLP, Model, Normal, gaussian

from .tables import some_by_default

NETWORK = Model(MLP((3,)), Normal(dist.HalfNormal(1.0)), gaussian(1.0))
SHORT = MAP(num_steps=20, polish=False)
CHAINS: dict[str, Any] = {"num_warmup": 20, "num_samples": 6, "num_chains": 2, "start": None}
METHODS: dict[str, Any] = {
    "SGMCMC": SGMCMC(**CHAINS, thinning=2, batch_size=10),
    "MCLMC": MCLMC(**CHAINS),
    "NUTS": NUTS(**CHAINS, max_tree_depth=3),
    "Variational": Variational(num_steps=20, num_samples=6, start=SHORT),
    "Laplace": Laplace(SHORT, num_samples=6),
    "Ensemble": Ensemble(SHORT, num_members=3),
    "Prior": Prior(num_samples=6),
    "Conditional": Conditional(base=SHORT, sites=("w2",), method=NUTS(**CHAINS)),
}
Rows = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def rows() -> Rows:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 2))
    return x, x[:, 0] + 0.3 * rng.normal(size=30)


def run(rows: Rows, method: Any = METHODS["SGMCMC"], model: Any = NETWORK, **given: Any) -> Fit:
    return fit(model, method, *rows, key=0, progress=False, **given)


@pytest.fixture(scope="module")
def half(rows: Rows) -> Fit:
    return run(rows, draws_dtype="float16")


def with_draws(fitted: Fit, change: Callable[[np.ndarray], np.ndarray]) -> Fit:
    draws = {site: change(value) for site, value in fitted.draws.items()}
    return replace(fitted, outcome=replace(fitted.outcome, draws=draws))


@pytest.mark.parametrize("name", some_by_default(METHODS, "SGMCMC", "Prior"))
def test_draws_are_those_of_the_fit_rounded_to_the_type(rows: Rows, name: str) -> None:
    whole, half = run(rows, METHODS[name]), run(rows, METHODS[name], draws_dtype="float16")
    wide = {"scale", "w1", "b1", "b2"} if name == "Conditional" else {"scale"}
    for site, values in half.draws.items():
        kept = np.float32 if site in wide else np.float16
        assert values.dtype == kept, site
        np.testing.assert_array_equal(values, whole.draws[site].astype(kept), err_msg=site)
    assert set(half.status.codes) - {Code.COARSE_DRAWS} == set(whole.status.codes)


def test_a_point_keeps_its_precision(rows: Rows) -> None:
    draws = run(rows, SHORT, draws_dtype="float16").draws
    assert {value.dtype for value in draws.values()} == {np.dtype(np.float32)}


def product(x: Any, y: Any = None) -> None:
    """A model in which weights meet each other before they meet x, which has float32."""
    factors = [numpyro.sample(name, dist.Normal().expand([2]).to_event(1)) for name in ("a", "b")]
    numpyro.sample("y", dist.Normal(x @ (factors[0] * factors[1]), 1.0), obs=y)


@pytest.mark.parametrize("limit", [None, 50])
def test_they_are_evaluated_in_the_precision_of_the_fit(
    rows: Rows, limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether they are on the device or stay where they are, results are those of the same numbers in float32."""
    if limit is not None:
        monkeypatch.setattr(chunks, "DRAWS_BYTES", limit)
    half = run(rows, METHODS["Prior"], product, draws_dtype="float16")
    same = with_draws(half, lambda value: value.astype(np.float32))
    for of in (
        lambda one: one.predict(rows[0]).mean,
        lambda one: one.log_likelihood(*rows),
        lambda one: one.predict(rows[0]).sample(1),
    ):
        found, expected = of(half), of(same)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)


def test_float32_in_double_precision(rows: Rows) -> None:
    with jax.enable_x64(True):
        whole, half = (run(rows, METHODS["Prior"], draws_dtype=dtype) for dtype in (None, jnp.float32))
        assert whole.draws["w1"].dtype == np.float64
        np.testing.assert_array_equal(half.draws["w1"], whole.draws["w1"].astype(np.float32))
        np.testing.assert_allclose(half.predict(rows[0]).mean, whole.predict(rows[0]).mean, atol=1e-6)


def test_files_are_half_as_large_and_runs_continue_to_the_same_bits(rows: Rows, half: Fit, tmp_path: Path) -> None:
    method = METHODS["SGMCMC"]
    run(rows, replace(method, num_samples=3), draws_dtype="float16", resume=tmp_path)
    again = run(rows, method, draws_dtype="float16", resume=tmp_path)
    for site, values in again.draws.items():
        assert isinstance(values.base, np.memmap)
        np.testing.assert_array_equal(values, half.draws[site], err_msg=site)
    size = half.draws["w1"].size
    assert sum(file.stat().st_size == 2 * size for file in tmp_path.glob("*.bin")) == 1
    with pytest.raises(ValueError, match=r"with another draws_dtype: expected float16; got None"):
        run(rows, method, resume=tmp_path)


def test_outcomes_on_disk_are_read_in_the_type(rows: Rows, tmp_path: Path) -> None:
    one, two = (run(rows, METHODS["Variational"], draws_dtype="float16", resume=tmp_path) for _ in range(2))
    assert two.draws["w1"].dtype == np.float16
    np.testing.assert_array_equal(two.draws["w1"], one.draws["w1"])
    assert two.status == one.status


def test_a_saved_fit_has_the_type_and_predicts_the_same(rows: Rows, half: Fit, tmp_path: Path) -> None:
    loaded = Fit.load(half.save(tmp_path / "fit.nc"), NETWORK)
    assert {site: value.dtype for site, value in loaded.draws.items()} == {s: v.dtype for s, v in half.draws.items()}
    np.testing.assert_array_equal(loaded.predict(rows[0]).mean, half.predict(rows[0]).mean)


def test_arviz_and_diagnoses_see_float32(rows: Rows, half: Fit) -> None:
    assert half.to_datatree()["posterior"]["w1"].dtype == np.float32
    same = with_draws(half, lambda value: value.astype(np.float32))
    assert diagnose(half, *rows).table.equals(diagnose(same, *rows).table)


def test_joined_fits_have_the_type(rows: Rows, half: Fit) -> None:
    other = fit(NETWORK, METHODS["SGMCMC"], *rows, key=1, progress=False, draws_dtype="float16")
    joined = Fit.join([half, other], *rows)
    assert joined.draws["w1"].dtype == np.float16
    assert joined.draws["w1"].shape[0] == 4


def test_a_type_that_is_not_narrower_is_that_of_the_fit() -> None:
    assert as_draws_dtype("float32") is as_draws_dtype(None) is None
    assert as_draws_dtype(np.float16) == "float16"
    with jax.enable_x64(True):
        assert as_draws_dtype("float32") == "float32"


@pytest.mark.parametrize("given", ["float64", "bfloat16", "int8", np.int32, "half a float", 16])
def test_other_types_are_refused(rows: Rows, given: Any) -> None:
    with pytest.raises(ValueError, match=r"draws_dtype: expected 'float16', 'float32' or None, the precision of"):
        run(rows, draws_dtype=given)


@pytest.mark.parametrize("values", [np.asarray, jnp.asarray])
def test_numbers_beyond_the_type_are_its_largest(values: Callable[..., Any]) -> None:
    given = np.array([1e6, -1e6, 1.0, np.inf, np.nan, 0.1], np.float32)
    expected = np.array([65504.0, -65504.0, 1.0, np.inf, np.nan, 0.1], np.float16)
    np.testing.assert_array_equal(np.asarray(narrowed(values(given), "float16")), expected)
    assert narrowed(values(given), "float32").dtype == np.float32


def line(centre: float, spread: float) -> Callable[..., None]:
    """A model of a location, around which its prior is centred, and of rows with this spread around it."""

    def model(x: Any, y: Any = None) -> None:
        w = numpyro.sample("w", dist.Normal(centre, 1.0))
        numpyro.sample("y", dist.Normal(w + 0 * x, spread), obs=y)

    return model


TOO_COARSE = ((1.0, 1.0, False), (1.0, 1e-4, True), (1000.0, 100.0, False), (1000.0, 1.0, True), (1e6, 20.0, True))


@pytest.mark.parametrize(("centre", "spread", "is_coarse"), some_by_default(TOO_COARSE, *TOO_COARSE[2:]))
def test_the_status_says_where_the_type_is_too_coarse(centre: float, spread: float, is_coarse: bool) -> None:
    """The posterior has a tenth of the spread; neighbours of 1 are 1/1024 apart in float16, those of 1000 1/2."""
    rows = np.zeros(100), centre + spread * np.random.default_rng(0).normal(size=100)
    model = line(centre, spread)
    whole = fit(model, Laplace(num_samples=200), *rows, key=0, progress=False)
    half = fit(model, Laplace(num_samples=200), *rows, key=0, progress=False, draws_dtype="float16")
    assert whole.status.level == "ok", whole.status
    assert half.status.codes == ((Code.COARSE_DRAWS,) if is_coarse else ())


def test_the_share_is_that_of_rounding() -> None:
    """Against the error itself, of numbers between 1 and 2, of which neighbours are 1/1024 apart."""
    rng = np.random.default_rng(0)
    for sd in (8e-4, 1e-3, 2e-3):
        exact = (1.5003 + sd * rng.normal(size=(4, 5000, 1))).clip(1.01, 1.99)
        kept = exact.astype(np.float16)
        share = (kept - exact).std() / kept.astype(float).std()
        (reason,) = coarseness({"w": kept[:, :100]}, "float16") or (None,)
        assert (reason is not None) == (share > MAX_SHARE)
        if reason is not None:
            assert reason.numbers["share"] == pytest.approx(share, rel=0.15)


def test_rounding_of_one_weight_is_enough() -> None:
    draws = np.random.default_rng(0).normal(size=(2, 50, 5))
    draws[..., 3] += 8000  # where neighbours are 4 apart
    assert not coarseness({"w": draws[..., :3].astype(np.float16)}, "float16")
    assert coarseness({"w": draws.astype(np.float16)}, "float16")[0].numbers["site"] == "w"


def test_a_type_in_which_nothing_is_left_is_too_coarse() -> None:
    same, tiny = np.full((2, 10, 3), 7.0, np.float16), np.full((2, 10), 1e-9).astype(np.float16)
    for draws in (same, tiny, np.full((2, 10), 65504, np.float16)):
        (reason,) = coarseness({"w": draws}, "float16")
        assert "off by 100% of their standard deviation" in str(reason)
    assert not coarseness({"w": same.astype(np.float32), "none": np.zeros((2, 10, 0), np.float16)}, "float16")
