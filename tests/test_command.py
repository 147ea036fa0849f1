"""The command, as a person at a terminal meets it."""

import re
import subprocess
import sys
from pathlib import Path

import arviz
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import scipy.special

from flatprior.command import main
from flatprior.command.data import (
    CLASSES,
    COUNTS,
    LIKELIHOODS,
    POSITIVE,
    STANDARDISED,
    Table,
    example,
    read_csv,
)
from flatprior.command.main import METHODS, method, network
from flatprior.inference import methods
from flatprior.inference.checks import check_problem

RNG = np.random.default_rng(0)
ROWS = 60


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table with numbers, text, a constant, and targets of every kind."""
    z = RNG.normal(size=ROWS)
    frame = pd.DataFrame(
        {
            "z": z,
            "colour": RNG.choice(["red", "green"], ROWS),
            "same": 1.0,
            "number": z + RNG.normal(size=ROWS),
            "answer": np.where(z + RNG.normal(size=ROWS) > 0, "yes", "no"),
            "animal": RNG.choice(["cat", "dog", "other"], ROWS),
            "count": RNG.poisson(np.exp(z / 2)),
            "times": RNG.integers(0, 3, ROWS),
        }
    )
    frame.to_csv(tmp_path / "table.csv", index=False)
    return tmp_path / "table.csv"


@pytest.mark.parametrize(
    ("target", "likelihood", "classes"),
    [
        ("number", "normal", ()),
        ("answer", "bernoulli", ("no", "yes")),
        ("animal", "categorical", ("cat", "dog", "other")),
    ],
)
def test_the_likelihood_is_inferred_and_printed(table: Path, target: str, likelihood: str, classes: tuple) -> None:
    read = read_csv(table, target)
    assert (read.likelihood, read.classes) == (likelihood, classes)
    assert read.remarks[0].startswith(f"Likelihood: {likelihood} (inferred from the target {target!r}")
    assert {"colour_red", "colour_green", "z"} <= set(read.features)
    assert "same" not in read.features


def test_both_parts_are_standardised_by_the_rows_to_fit(table: Path) -> None:
    train, test = read_csv(table, "number").split(0.25, seed=0)
    np.testing.assert_allclose(train.x.mean(), 0, atol=1e-12)
    np.testing.assert_allclose(train.x.std(ddof=0), 1)
    np.testing.assert_allclose([train.y.mean(), train.y.std()], [0, 1], atol=1e-12)
    assert len(train.y) + len(test.y) == ROWS
    assert not set(train.x.index) & set(test.x.index)


def test_it_fits_prints_and_writes(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    main(["compare", str(table), "--target", "answer", "--widths", "4", "--draws", "20", "--out", str(out)])
    printed = capsys.readouterr().out
    assert "Likelihood: bernoulli (inferred" in printed
    assert all(name in printed for name in ("MLE", "MAP", "posterior", "elpd", "accuracy", "chain"))
    assert matplotlib.image.imread(out / "compare.png").shape[:2] == (660, 1500)
    assert sorted(path.name for path in out.iterdir()) == ["MAP.nc", "MLE.nc", "compare.png", "posterior.nc"]
    tree = arviz.from_netcdf(out / "posterior.nc")
    assert tree["posterior"]["w1"].dims == ("chain", "draw", "feature", "hidden1")
    assert {"z", "number", "colour_red", "animal_dog"} <= set(tree["posterior"]["feature"].to_numpy())
    assert tree["log_likelihood"]["y"].shape == (10, 20, 15)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_likelihood_has_an_observation(likelihood: str, table: Path) -> None:
    frame = pd.read_csv(table)
    targets = {
        **dict.fromkeys(CLASSES, frame["animal"]),
        "bernoulli": frame["answer"],
        **dict.fromkeys(COUNTS, frame["count"]),
        **dict.fromkeys(POSITIVE, np.exp(frame["number"])),
        **dict.fromkeys(STANDARDISED, frame["number"]),
        "beta": scipy.special.expit(frame["number"]),
    }
    frame["target"] = targets[likelihood]
    frame.loc[7, "target"] = None
    frame.to_csv(table, index=False)
    read = read_csv(table, "target", likelihood, "times")
    assert "missing in 1 rows" in " ".join(read.remarks)
    assert not {"target", "times"} & set(read.features)
    train, _ = read.split(0.25, seed=0)
    _, data = check_problem(network(read, ()), train.x, train.y, train.weights)
    assert data.num_rows == np.count_nonzero(train.weights * ~np.isnan(train.y))


def test_rows_have_weights(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = ["--methods", "map", "--widths", "", "--out", str(tmp_path / "out")]
    main(["compare", str(table), "--target", "count", "--likelihood", "poisson", "--weights", "times", *out])
    printed = capsys.readouterr().out
    assert "Rows count by their weights in the column 'times'." in printed
    assert "total weight of" in printed
    assert "a row of weight w counts as w equal rows." in printed


def test_the_command_offers_every_method() -> None:
    made = {type(method(name)).__name__ for name in METHODS}
    others = {"Method", "PriorPath", "prior_path", "Conditional"}  # Conditional needs the names of sites
    assert made == set(methods.__all__) - others


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "{table}"], "DATA.csv and --target COLUMN go together"),
        (["compare", "{table}", "--target", "shape"], "no column 'shape'; its columns are"),
        (["compare", "{table}.gone", "--target", "z"], "No such file"),
        (["compare", "{table}", "--target", "same"], "one value only"),
        (["compare", "{table}", "--target", "animal", "--likelihood", "bernoulli"], "has 3 values, not 2"),
        (["compare", "{table}", "--target", "animal", "--likelihood", "normal"], "is not numeric; got"),
        (["compare", "{table}", "--target", "z", "--likelihood", "categorical"], "60 values in 60 rows"),
        (["compare", "{table}", "--target", "z", "--held-out", "1"], "expected --held-out|Expected --held-out"),
        (["compare", "{table}", "--target", "z", "--likelihood", "gamma"], "expected positive numbers in 'z'; got -"),
        (["compare", "{table}", "--target", "z", "--weights", "w"], "no column 'w'"),
        (["compare", "--weights", "w"], "--weights COLUMN needs DATA.csv"),
        (["compare", "--widths", "a"], "expected integers such as 16,16"),
        (["compare", "--methods", "mle,vi"], "expected some of mle,map,mclmc"),
    ],
)
def test_bad_arguments_are_answered_in_a_sentence(
    arguments: list[str], message: str, table: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([argument.format(table=table) for argument in arguments])
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_missing_values_are_named(table: Path) -> None:
    frame = pd.read_csv(table)
    frame.loc[[3, 5], "z"] = np.nan
    frame.to_csv(table, index=False)
    with pytest.raises(ValueError, match=r"missing in 2 rows, in the columns \['z'\]"):
        read_csv(table, "answer")


def test_the_example_is_a_regression() -> None:
    table: Table = example()
    assert (table.likelihood, table.features.shape) == ("normal", (442, 10))


def test_it_is_a_command() -> None:
    for start in (["-m", "flatprior.command"], ["-c", "from flatprior.command import main; main()"]):
        done = subprocess.run([sys.executable, *start, "compare", "--help"], capture_output=True, text=True, check=True)
        assert "--target COLUMN" in done.stdout
