"""Fits on disk: what is read is what was written, and what is not the fit says so."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import arviz
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pandas as pd
import pytest
import xarray
from jax import Array

from flatprior.inference import MAP, MCLMC, MLE, NUTS, Ensemble, Fit, Laplace, diagnose, fit, flat
from flatprior.models import MLP, Bernoulli, Categorical, Model, Normal, fan_in, gaussian

from .tables import some_by_default

QUICK = MAP(num_steps=50, polish=False)
METHODS: dict[str, Any] = {
    "MLE": MLE(num_steps=50, polish=False),
    "MAP": MAP(num_steps=50, polish=False, optimizer=optax.sgd(1e-3)),
    "Ensemble": Ensemble(base=QUICK, num_members=3),
    "Laplace": Laplace(base=QUICK, num_samples=5),
    "NUTS": NUTS(num_warmup=10, num_samples=6, num_chains=2, start=None, max_tree_depth=3),
    "MCLMC": MCLMC(num_warmup=20, num_samples=6, thinning=2, num_chains=2, start=None),
}
CLASSES = Model(MLP((3,), "tanh"), Categorical(3), gaussian(1.0))


def scoped(x: Array, y: Array | None = None) -> None:
    """Sites whose names hold a slash, as those of numpyro.handlers.scope do."""
    w = numpyro.sample("net/w", dist.Normal(0.0, 1.0).expand((2,)).to_event(1))
    numpyro.sample("net/y", dist.Normal(x @ w, 1.0), obs=y)


@pytest.fixture(scope="module")
def problems(data_sets: Any, by_hand: Any) -> dict[str, tuple[Any, Any, Any]]:
    frame = pd.DataFrame(data_sets["real"][0], columns=["first", "second"])
    return {
        "classes": (CLASSES, *data_sets["classes"]),
        "a data frame": (Model(MLP(), Normal(dist.HalfNormal(1.0))), frame, data_sets["real"][1]),
        "a flat prior": (flat(Model(MLP(), Bernoulli())), *data_sets["binary"]),
        "names with a slash": (scoped, *data_sets["real"]),
        **{name: by_hand[name] for name in ("hierarchical", "dictionary")},
    }


@pytest.fixture(scope="module")
def fitted(problems: Any) -> Callable[[str, str], Fit]:
    @cache
    def find(name: str, method: str) -> Fit:
        return fit(problems[name][0], METHODS[method], *problems[name][1:], key=0, progress=False)

    return find


@pytest.fixture(scope="module")
def classes(fitted: Any) -> Fit:
    return fitted("classes", "NUTS")


def check_same(result: Fit, again: Fit, x: Any, y: Any) -> None:
    assert repr(again) == repr(result)
    assert again.status == result.status
    assert again.log_evidence == result.log_evidence or np.isnan(result.log_evidence or np.nan)
    assert again.seconds == result.seconds
    assert again.structure == result.structure
    assert again.layout == result.layout
    for these, those in ((result.draws, again.draws), (result.stats, again.stats)):
        assert list(these) == list(those)
        for name, values in these.items():
            np.testing.assert_array_equal(values, those[name], strict=True)
    np.testing.assert_array_equal(result.log_likelihood(x, y), again.log_likelihood(x, y))
    np.testing.assert_array_equal(result.predict(x).log_prob(y), again.predict(x).log_prob(y))


@pytest.mark.parametrize("method", some_by_default(METHODS, "MLE"))
def test_every_method_is_read_as_it_was_written(method: str, fitted: Any, problems: Any, tmp_path: Path) -> None:
    result, (model, x, y) = fitted("classes", method), problems["classes"]
    check_same(result, Fit.load(result.save(tmp_path / "fit.nc"), model), x, y)


@pytest.mark.parametrize(
    "name",
    some_by_default(
        ["a data frame", "a flat prior", "names with a slash", "hierarchical", "dictionary"],
        "names with a slash",
        "dictionary",
    ),
)
def test_every_kind_of_rows_is_read_as_it_was_written(name: str, fitted: Any, problems: Any, tmp_path: Path) -> None:
    result, (model, x, y) = fitted(name, "MLE"), problems[name]
    check_same(result, Fit.load(result.save(tmp_path / "fit.nc"), model), x, y)


@pytest.mark.slow
def test_what_was_read_can_be_written_again(classes: Fit, problems: Any, tmp_path: Path) -> None:
    model, x, y = problems["classes"]
    again = Fit.load(classes.save(tmp_path / "fit.nc"), model)
    check_same(classes, Fit.load(again.save(tmp_path / "fit.nc"), model), x, y)


def test_what_was_read_can_be_asked_like_the_fit(classes: Fit, problems: Any, tmp_path: Path) -> None:
    model, x, y = problems["classes"]
    again = Fit.load(classes.save(tmp_path / "fit.nc"), model)
    assert repr(again.method) == repr(classes.method)
    assert again.to_datatree().attrs == classes.to_datatree().attrs
    pd.testing.assert_frame_equal(diagnose(again, x, y).table, diagnose(classes, x, y).table)
    with pytest.raises(TypeError, match=r"cannot be run.*Construct it again: NUTS\(num_warmup=10"):
        fit(model, again.method, x, y, key=0)


def test_arviz_reads_the_file(classes: Fit, tmp_path: Path) -> None:
    tree = arviz.from_netcdf(classes.save(tmp_path / "fit.nc"))
    np.testing.assert_array_equal(tree["posterior"]["w1"], classes.draws["w1"])
    assert tree["posterior"]["w1"].dims == ("chain", "draw", "feature", "hidden1")
    assert tree.attrs["status"] == classes.status.level


# Files that are not the fit.


@pytest.fixture
def saved(classes: Fit, tmp_path: Path) -> Path:
    return classes.save(tmp_path / "fit.nc")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_short_is_reported(share: float, saved: Path) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"fit.nc: .*(damaged|another kind)"):
        Fit.load(saved, CLASSES)


def test_a_damaged_file_is_reported_or_harmless(saved: Path, classes: Fit, problems: Any) -> None:
    content, rng = saved.read_bytes(), np.random.default_rng(0)
    detected = 0
    for place in rng.integers(len(content), size=40):
        saved.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            again = Fit.load(saved, CLASSES)
        except ValueError:
            detected += 1
        else:  # in what the format leaves unused
            check_same(classes, again, *problems["classes"][1:])
    assert detected


def changed(saved: Path, change: Callable[[xarray.DataTree], None]) -> None:
    tree = xarray.open_datatree(saved, engine="netcdf4").load()
    tree.close()
    change(tree)
    tree.to_netcdf(saved, engine="netcdf4")


def other_draw(tree: xarray.DataTree) -> None:
    tree["posterior"]["b1"][0, 1, 0] += 1e-6


def later_version(tree: xarray.DataTree) -> None:
    tree.attrs["flatprior"] = tree.attrs["flatprior"].replace('"version": 1', '"version": 2')


def better_status(tree: xarray.DataTree) -> None:
    tree.attrs["flatprior"] = tree.attrs["flatprior"].replace("imprecise", "precise")


def no_fit(tree: xarray.DataTree) -> None:
    del tree.attrs["flatprior"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_draw, "damaged: its digest does not agree"),
        (better_status, "damaged: its digest does not agree"),
        (later_version, "expected version 1 of the format; got 2.*the release"),
        (no_fit, "saved by Fit.save; got a NetCDF file of another kind"),
    ],
)
def test_what_was_changed_in_a_file_is_reported(change: Any, message: str, saved: Path) -> None:
    changed(saved, change)
    with pytest.raises(ValueError, match=message):
        Fit.load(saved, CLASSES)


OTHERS: dict[str, tuple[Any, str]] = {
    "other sites": (Model(MLP((3, 3), "tanh"), Categorical(3), gaussian(1.0)), r"latent sites .*got .*w3"),
    "other shapes": (Model(MLP((4,), "tanh"), Categorical(3), gaussian(1.0)), r"latent sites .*got .*4"),
    "other observed site": (scoped, r"observed site 'y'.*got the sites \['net/w', 'net/y'\]"),
    "other activation": (replace(CLASSES, network=MLP((3,), "silu")), "has changed: .* site 'y' was"),
    "other scale of the prior": (replace(CLASSES, prior=gaussian(1.1)), r"has changed: .* site '[bw]1' was"),
    "other prior": (replace(CLASSES, prior=fan_in(1.0)), r"has changed: .* site '[bw]1' was"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_model_is_refused(other: str, saved: Path) -> None:
    model, message = OTHERS[other]
    with pytest.raises(ValueError, match=message):
        Fit.load(saved, model)


def test_another_scale_of_the_noise_is_refused(fitted: Any, problems: Any, data_sets: Any, tmp_path: Path) -> None:
    model = Model(MLP(), Normal(0.5), gaussian(2.0))
    path = fit(model, QUICK, *data_sets["real"], key=0, progress=False).save(tmp_path / "fit.nc")
    with pytest.raises(ValueError, match=r"has changed: .* site 'y' was"):
        Fit.load(path, replace(model, observation=Normal(0.6)))


def test_a_missing_file_and_one_of_another_kind_are_reported(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Expected a file; .*gone.nc does not exist"):
        Fit.load(tmp_path / "gone.nc", CLASSES)
    (tmp_path / "words.nc").write_text("not a fit")
    with pytest.raises(ValueError, match=r"words.nc: expected a fit, a NetCDF file"):
        Fit.load(tmp_path / "words.nc", CLASSES)


def test_a_file_is_replaced_whole_or_not_at_all(
    classes: Fit, saved: Path, problems: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(self: xarray.DataTree, path: Path, **_: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(xarray.DataTree, "to_netcdf", half)
    with pytest.raises(OSError, match="No space"):
        classes.save(saved)
    check_same(classes, Fit.load(saved, CLASSES), *problems["classes"][1:])


class Own:
    """A container of its own."""


jax.tree_util.register_pytree_node(Own, lambda own: ((own.z,), None), lambda _, leaves: _made(leaves[0]))


def _made(z: Any) -> Own:
    own = Own()
    own.z = z  # type: ignore[attr-defined]
    return own


def on_own(x: Any, y: Array | None = None) -> None:
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(w * jnp.asarray(x.z), 1.0), obs=y)


def test_rows_in_a_container_that_json_does_not_know_are_refused(tmp_path: Path) -> None:
    result = fit(on_own, QUICK, _made(np.arange(5.0)), np.arange(5.0), key=0, progress=False)
    with pytest.raises(TypeError, match="save: expected x to be an array, or dicts with names as keys"):
        result.save(tmp_path / "fit.nc")


def test_a_file_remembers_the_rows_of_the_fit(saved: Path, problems: Any) -> None:
    _, x, y = problems["classes"]
    assert Fit.load(saved, CLASSES).was_fitted_to(x, y) is True
    assert Fit.load(saved, CLASSES).was_fitted_to(x[1:], y[1:]) is False


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda fitted: pickle.loads(pickle.dumps(fitted))])
def test_a_copy_is_the_same_fit(copied: Callable[[Fit], Fit], classes: Fit, problems: Any) -> None:
    """As processes exchange fits."""
    _, x, y = problems["classes"]
    other = copied(classes)
    assert (str(other), other.density, other.was_fitted_to(x, y)) == (str(classes), classes.density, True)
    np.testing.assert_array_equal(other.predict(x).log_prob(y), classes.predict(x).log_prob(y))
