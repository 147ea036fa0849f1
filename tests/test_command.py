"""The command, as a person at a terminal meets it."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path

import arviz
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import scipy.special

from flatprior.command import cache, main
from flatprior.command.data import Table, example, table_of
from flatprior.command.network import METHODS, SCALES, in_words, method, network
from flatprior.command.stored import About, load
from flatprior.inference import methods, standardize
from flatprior.inference.checks import check_problem
from flatprior.tables import read_csv
from flatprior.tables.target import CLASSES, COUNTS, LIKELIHOODS, NUMBERS, POSITIVE

RNG = np.random.default_rng(0)
ROWS = 60


def written(folder: Path) -> Path:
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
    frame.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return written(tmp_path)


def run(*arguments: object) -> int:
    """Without the user's cache folder."""
    return main([*map(str, arguments), "--no-cache"])


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A table and a model of it on disk."""
    folder = tmp_path_factory.mktemp("model")
    path, model = written(folder), folder / "model.nc"
    assert run("fit", path, "--target=number", "--widths", "", "--method", "map", "--save", model, "--json") == 0
    return path, model


def test_both_parts_are_encoded_by_the_rows_to_fit(path: Path) -> None:
    table = table_of(read_csv(path), "answer")
    encoder, train, test = table.split(0.25, seed=0)
    assert "same" not in encoder.features
    assert {"colour=red", "animal=cat", "z"} <= set(encoder.features)
    assert len(train.y) + len(test.y) == ROWS
    assert not set(train.x.index) & set(test.x.index)
    assert encoder == encoder.fit(table.features.loc[train.x.index])


def test_columns_are_dropped(path: Path) -> None:
    table = table_of(read_csv(path), "answer", weights="times", drop=("z", "colour"))
    assert not {"z", "colour", "times", "answer"} & set(table.features)
    assert "Not used, as --drop says: 'z', 'colour'." in table.words
    others = tuple(table.features)
    with pytest.raises(ValueError, match="no columns besides the target 'answer'"):
        table_of(read_csv(path), "answer", weights="times", drop=("z", "colour", *others))


def test_it_fits_prints_and_writes(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "new" / "out"
    page = out / "page.html"  # as `make demo` has it
    code = run("compare", path, "--target=answer", "--widths=4", "--draws=20", "--out", out, "--report", page)
    printed = capsys.readouterr()
    assert code == (": failed: " in printed.out)  # with few rows the classes may be separable: there is no MLE then
    assert "Likelihood: bernoulli (the target 'answer' has two values); 0 = no, 1 = yes." in printed.out
    assert re.search(r"colour +text +an indicator of 'red' \(otherwise 'green'\) +1\n", printed.out)
    assert all(name in printed.out for name in ("MLE", "MAP", "posterior", "elpd", "accuracy", "chain"))
    assert "to compile" in printed.err
    assert "to compile" not in printed.out
    assert matplotlib.image.imread(out / "compare.png").shape[:2] == (900, 1800)
    files = ["MAP.nc", "MLE.nc", "compare.png", "page.html", "posterior.nc"]
    assert sorted(file.name for file in out.iterdir()) == files
    tree = arviz.from_netcdf(out / "posterior.nc")
    assert tree["posterior"]["w1"].dims == ("chain", "draw", "feature", "hidden1")
    assert {"z", "number", "colour=red", "animal=dog"} <= set(tree["posterior"]["feature"].to_numpy())
    assert tree["log_likelihood"]["y"].shape == (10, 20, 15)
    text = page.read_text()
    HTMLParser().feed(text)
    assert "<h1>answer of table.csv</h1>" in text
    assert base64.b64encode((out / "compare.png").read_bytes()).decode() in text
    assert not re.search(r'(?:src|href)="(?!data:)', text)


def test_a_saved_model_predicts_new_rows(
    fitted: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (path, model), out = fitted, tmp_path / "predictions.csv"
    frame = pd.read_csv(path)
    new = frame.assign(colour="blue", more=1).drop(columns=["number", "same"])[::-1]
    new.to_csv(tmp_path / "new.csv", index=False, sep=";", decimal=",")
    assert run("predict", model, tmp_path / "new.csv", "--out", out, "--interval=0.5") == 0
    printed = capsys.readouterr().out
    assert "60 rows have a value that no row of the fit had ('blue')" in printed
    assert "'more'" in printed
    predicted = pd.read_csv(out, index_col="line")
    assert list(predicted) == ["mean", "sd", "25%", "75%"]
    restored, about = load(model)
    expected = restored.predict(about.encoder.transform(new))
    np.testing.assert_allclose(predicted["mean"], expected.mean, rtol=1e-5)
    np.testing.assert_allclose(predicted["75%"], expected.quantile(0.75), rtol=1e-5)
    assert np.corrcoef(predicted["mean"], frame["number"][::-1])[0, 1] > 0.5

    new.drop(columns="z").to_csv(tmp_path / "less.csv", index=False)
    with pytest.raises(SystemExit):
        run("predict", model, tmp_path / "less.csv")
    message = r"less.csv: There is no column 'z'. The columns are .* The model of table.csv uses \[.*'z'"
    assert re.search(message, capsys.readouterr().err)

    assert run("predict", model, path) == 0
    printed = capsys.readouterr().out
    assert "Scores of these rows" not in printed
    assert "RMSE" in printed
    assert "line,mean,sd,5%,95%" in printed

    assert run("predict", model, path, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert len(said["predictions"]) == ROWS
    assert said["predictions"][0].keys() == {"line", "mean", "sd", "5%", "95%"}


@pytest.mark.slow
def test_predictions_of_classes_are_probabilities(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model = tmp_path / "model.nc"
    run("fit", path, "--target=animal", "--widths", "", "--method=map", "--save", model, "--held-out=0.25")
    assert "accuracy" in capsys.readouterr().out
    run("predict", model, path, "--out", tmp_path / "p.csv")
    predicted = pd.read_csv(tmp_path / "p.csv", index_col="line")
    probs = predicted[["P(cat)", "P(dog)", "P(other)"]]
    np.testing.assert_allclose(probs.sum(axis=1), 1, rtol=1e-6)
    assert (probs.idxmax(axis=1) == "P(" + predicted["most probable"] + ")").all()


def test_a_model_on_disk_is_that_of_the_fit_and_damage_is_detected(fitted: tuple[Path, Path], tmp_path: Path) -> None:
    from netCDF4 import Dataset

    restored, about = load(fitted[1])
    assert About.from_json(about.to_json()) == about
    assert about.target.likelihood == "normal"
    damaged = tmp_path / "damaged.nc"
    shutil.copy(fitted[1], damaged)
    with Dataset(damaged, "a") as dataset:
        dataset.setncattr("flatprior_table", about.to_json().replace("cat", "cow"))
    with pytest.raises(ValueError, match="the file is damaged"):
        load(damaged)
    restored.save(tmp_path / "fit.nc")
    with pytest.raises(ValueError, match="expected a model that `flatprior fit --save` wrote; got another file"):
        load(tmp_path / "fit.nc")
    with arviz.from_netcdf(fitted[1]) as tree:
        assert tree["posterior"]["w1"].shape[:2] == (1, 1)


def test_explain_names_the_cost_function(path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("explain", path, "--target=count", "--widths", "") == 0
    assert re.search(r"y +Poisson\(rate\)", capsys.readouterr().out)


def test_a_failed_fit_has_an_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Separable classes have no maximum of the likelihood."""
    x = np.linspace(-1, 1, 50)
    pd.DataFrame({"x": x, "y": x > 0}).to_csv(tmp_path / "t.csv", index=False)
    assert run("fit", tmp_path / "t.csv", "--target=y", "--widths", "", "--method=mle") == 1
    assert "failed: There is no maximum" in capsys.readouterr().out


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_likelihood_has_an_observation(likelihood: str, path: Path) -> None:
    frame = pd.read_csv(path)
    targets = {
        **dict.fromkeys(CLASSES, frame["animal"]),
        "bernoulli": frame["answer"],
        **dict.fromkeys(COUNTS, frame["count"]),
        **dict.fromkeys(POSITIVE, np.exp(frame["number"])),
        **dict.fromkeys(NUMBERS, frame["number"]),
        "beta": scipy.special.expit(frame["number"]),
    }
    frame["target"] = targets[likelihood]
    frame.loc[7, "target"] = None
    frame.to_csv(path, index=False)
    order = ("dog", "cat", "other") if likelihood == "ordinal" else ()
    table = table_of(read_csv(path), "target", likelihood, order=order, weights="times")
    assert "missing in 1 row, which is left out" in " ".join(table.words)
    encoder, train, _ = table.split(0.25, seed=0)
    assert not {"target", "times"} & {column.name for column in encoder.columns}
    for scale in SCALES:
        model = network(table.target, (), scale)
        assert in_words(model, scale).startswith("Model: linear; ")
        standardized = standardize(model, *train.labelled)
        _, data = check_problem(standardized, train.x, train.y, train.weights)
        assert data.num_rows == np.count_nonzero(train.weights * ~np.isnan(train.y))


@pytest.mark.slow
def test_rows_have_weights(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = ["--methods", "map", "--widths", "", "--out", tmp_path / "out"]
    run("compare", path, "--target", "count", "--likelihood", "poisson", "--weights", "times", *out)
    printed = capsys.readouterr().out
    assert "Rows count by their weights in the column 'times'." in printed
    assert "total weight of" in printed
    assert "a row of weight w counts as w equal rows." in printed


def test_the_command_offers_every_method() -> None:
    made = {type(method(name)).__name__ for name in METHODS}
    others = {"Method", "PriorPath", "prior_path", "Conditional"}  # Conditional needs the names of sites
    assert made <= set(methods.__all__) - others


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "{path}"], r"choose the column to predict, by --target COLUMN. The columns are \["),
        (["compare", "--target", "z"], "--target COLUMN needs DATA.csv"),
        (["compare", "{path}", "--target", "z", "--drop", "colours"], r"Did you mean 'colour'\?"),
        (["fit", "{path}", "--target", "z", "--save", "{path}.d/m.nc"], "cannot be written: there is no folder"),
        (
            ["compare", "{path}", "--target", "z", "--report", "{path}.d/page.html"],
            "cannot be written: there is no folder",
        ),
        (["compare", "{path}", "--target", "shape"], "no column 'shape'.* The columns are"),
        (["compare", "{path}", "--target", "Answer"], r"no column 'Answer'. Did you mean 'answer'\?"),
        (["compare", "{path}", "--target", "z", "--keep", "colours"], r"Did you mean 'colour'\?"),
        (["compare", "{path}.gone", "--target", "z"], "No such file"),
        (["compare", "{path}", "--target", "same"], "one value only"),
        (["compare", "{path}", "--target", "animal", "--likelihood", "bernoulli"], "has 3 values, not 2"),
        (["compare", "{path}", "--target", "animal", "--likelihood", "normal"], "is not numeric; got .* in line 2"),
        (["compare", "{path}", "--target", "z", "--likelihood", "categorical"], "60 values in 60 rows"),
        (["compare", "{path}", "--target", "z", "--held-out", "1"], "Expected --held-out"),
        (["compare", "{path}", "--target", "z", "--held-out", "0"], "expected --held-out above 0"),
        (["compare", "{path}", "--target", "z", "--likelihood", "gamma"], "positive numbers in 'z'; got -.* in line"),
        (["compare", "{path}", "--target", "z", "--weights", "w"], "no column 'w'"),
        (["compare", "{path}", "--target", "z", "--weights", "number"], "'number' has the weights of rows: expected"),
        (["compare", "{path}", "--target", "z", "--separator", "::"], "Expected one character as separator"),
        (["compare", "--weights", "w"], "--weights COLUMN needs DATA.csv"),
        (["compare", "--widths", "a"], "expected integers such as 16,16"),
        (["compare", "--methods", "mle,vi"], "expected some of mle,map,mclmc"),
        (["predict", "{path}.nc", "{path}"], "Expected a model that `flatprior fit --save` wrote"),
        (["predict", "{path}", "{path}"], "got another file"),
    ],
)
def test_bad_arguments_are_answered_in_a_sentence(
    arguments: list[str], message: str, path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(*[argument.format(path=path) for argument in arguments])
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_how_a_file_was_read_may_be_why_a_column_is_missing(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("1;2\n3;4\n5;6\n")
    with pytest.raises(ValueError, match=r"t.csv: There is no column 'y'.* Separator: semicolon; no header"):
        table_of(read_csv(tmp_path / "t.csv"), "y")


def test_units_of_the_target_are_said(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("x,y\n" + "".join(f'{i % 7},"$1,{100 + i}.50"\n' for i in range(30)))
    words = table_of(read_csv(tmp_path / "t.csv"), "y").words
    assert "The target is read as numbers: in $; ',' separates thousands." in words


def test_the_example_is_a_regression() -> None:
    table: Table = table_of(example(), "target")
    assert (table.target.likelihood, table.features.shape) == ("normal", (442, 10))


def test_compiled_code_is_kept_in_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "flatprior" / "compiled"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_folder().is_relative_to(Path.home())


def test_the_cache_is_bounded(tmp_path: Path) -> None:
    for age in range(10):
        file = tmp_path / str(age)
        file.write_bytes(bytes(100))
        os.utime(file, (1e9 - age, 1e9 - age))
    cache.prune(tmp_path, 1000)
    assert len(list(tmp_path.iterdir())) == 10
    cache.prune(tmp_path, 900)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["0", "1", "2", "3"]


@pytest.mark.slow
def test_a_second_process_finds_compiled_code(path: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment["XDG_CACHE_HOME"] = str(tmp_path / "kept")
    arguments = ["fit", str(path), "--target", "number", "--method", "map", "--held-out", "0.25"]

    def files(*more: str) -> set[str]:
        command = [sys.executable, "-m", "flatprior.command", *arguments, *more]
        subprocess.run(command, check=True, capture_output=True, env=environment)
        return {file.name for file in (tmp_path / "kept").rglob("*-cache")}

    assert not files("--no-cache")
    first = files()
    assert first
    new = files() - first
    assert len(new) < 0.1 * len(first)  # some programs depend on how fast the machine is
    assert not [name for name in new if "derivatives" in name or "evaluate" in name]


def test_it_is_a_command(capsys: pytest.CaptureFixture) -> None:
    for start in (["-m", "flatprior.command"], ["-c", "from flatprior.command import main; main()"]):
        done = subprocess.run([sys.executable, *start, "compare", "--help"], capture_output=True, text=True, check=True)
        assert "--target COLUMN" in done.stdout
        assert "two values of any kind: bernoulli" in done.stdout
        assert "Exit codes: 0" in done.stdout
    with pytest.raises(SystemExit):
        run("--version")
    assert capsys.readouterr().out == f"flatprior {version('flatprior')}\n"
