"""What each command does, from its arguments to its exit code."""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..tables.encoder import listed
from ..tables.reading import read_csv
from .data import Rows, Table, example, table_of
from .network import METHODS, in_words, method, network
from .stored import About, load, save
from .transcript import Transcript

if TYPE_CHECKING:
    from ..inference import Fit
    from ..inference.predictive import Predictive
    from ..inference.units import Standardized
    from ..tables.encoder import Encoder

OK, FAILED = 0, 1
"""The exit codes of a run whose fits can be used, and of one with a fit that failed."""
CHANGE = "To choose another likelihood, add --likelihood."


def run_compare(chosen: argparse.Namespace) -> int:
    """Fit one network by several methods, and compare them on test rows."""
    from ..inference import compare
    from ..inference.files import atomic_write
    from .figure import draw

    _check_folders(chosen.report, made=chosen.out)
    table = _table(chosen)
    encoder, train, test = table.split(chosen.held_out, chosen.seed)
    if len(test.y) == 0:
        raise ValueError("compare: expected --held-out above 0, as fits are compared on test rows; got 0.")
    transcript, model = _begin(chosen, table, encoder, train, test)
    chosen.out.mkdir(parents=True, exist_ok=True)
    fits = {METHODS[name]: _fitted(chosen, model, name, train) for name in chosen.methods}
    comparison = compare(fits, test.x, test.y, weights=test.weights)
    transcript.add("Scores on test rows", comparison)
    statuses = {name: fitted.outcome.status for name, fitted in fits.items()}
    transcript.record(
        scores=comparison.to_dataframe().rename_axis("fit"),
        statuses={name: str(each) for name, each in statuses.items()},
    )
    written = [draw(fits, comparison, train, test, table, chosen.out / "compare.png")]
    transcript.picture("Figure", written[0], "What the fits predict, their scores and their calibration")
    for name, fitted in fits.items():
        tree = fitted.to_datatree(test.x, test.y)
        written.append(atomic_write(chosen.out / f"{name}.nc", partial(tree.to_netcdf, engine="netcdf4")))
    transcript.finish(chosen.report, written)
    return OK if all(statuses.values()) else FAILED


def run_fit(chosen: argparse.Namespace) -> int:
    """Fit one network by one method, and save it."""
    from ..inference import compare

    _check_folders(chosen.report, chosen.save)
    table = _table(chosen)
    encoder, train, test = table.split(chosen.held_out, chosen.seed)
    transcript, model = _begin(chosen, table, encoder, train, test)
    name = METHODS[chosen.method]
    fitted = _fitted(chosen, model, chosen.method, train)
    transcript.add("Fit", f"{name}: {fitted}")
    transcript.record(method=name, status=str(fitted.outcome.status))
    if len(test.y):
        scores = compare({name: fitted}, test.x, test.y, weights=test.weights)
        transcript.add("Scores on test rows", scores)
        transcript.record(scores=scores.to_dataframe().rename_axis("fit"))
    about = About.of(table.sheet, table.target, encoder, chosen.scale, fitted)
    written = [] if chosen.save is None else [save(chosen.save, fitted, about)]
    transcript.finish(chosen.report, written)
    return OK if fitted.status else FAILED


def run_predict(chosen: argparse.Namespace) -> int:
    """Predict new rows by a saved model."""
    from ..inference import compare
    from ..inference.files import atomic_write
    from ..inference.status import no_failure_warnings

    if not 0 < chosen.interval < 1:
        raise ValueError(f"Expected --interval to be a probability between 0 and 1; got {chosen.interval}.")
    _check_folders(chosen.report, chosen.out)
    fitted, about = load(chosen.model)
    sheet, target = read_csv(chosen.data, **_reading(chosen), like=about.formats), about.target
    try:
        x = about.features(sheet)
    except ValueError as error:
        used = listed([column.name for column in about.encoder.columns if column.features])
        raise ValueError(f"{sheet.title}: {error} The model of {about.title} uses {used}.") from None
    transcript = Transcript(f"{target.name} of {chosen.data.name}", is_json=chosen.json)
    has_target = target.name in sheet.frame and bool(sheet.frame[target.name].notna().any())
    surprises = about.encoder.surprises(sheet.frame.drop(columns=target.name, errors="ignore"))
    words = [f"{sheet.title}: {len(x)} rows; {fitted.method.name} fitted to {about.title}", *sheet.words, *surprises]
    transcript.add("Data", *words)
    with no_failure_warnings():
        predictions = predicted(fitted.predict(x), target.classes, chosen.interval, x.index)
    if not fitted.status:
        transcript.add("Status", f"The fit has failed. {fitted.status}")
    transcript.record(
        data=words, status=str(fitted.outcome.status), predictions=predictions if chosen.out is None else None
    )
    if has_target:
        scores = compare({fitted.method.name: fitted}, x, target.values(sheet.frame[target.name]))
        transcript.add("Scores of these rows", scores)
        transcript.record(scores=scores.to_dataframe().rename_axis("fit"))
    written = []
    if chosen.out is not None:
        written.append(atomic_write(chosen.out, lambda file: predictions.to_csv(file)))
    elif not chosen.json:
        print(predictions.to_csv(), end="")
    transcript.finish(chosen.report, written)
    return OK if fitted.status else FAILED


def run_explain(chosen: argparse.Namespace) -> int:
    """Name the cost function of the network of a table."""
    from ..inference import explain

    table = _table(chosen)
    encoder, train, _ = table.split(0.0, seed=0)
    transcript, model = _begin(chosen, table, encoder, train, train._replace(y=train.y[:0]))
    explanation = explain(model, train.x, train.y, weights=train.weights)
    transcript.add("Cost function", explanation)
    terms = [{"site": term.site, "name": term.name, "nats": term.nats} for term in explanation.terms]
    transcript.record(terms=terms, loss=explanation.loss, penalty=explanation.penalty)
    transcript.finish(chosen.report, [])
    return OK


def predicted(predictive: "Predictive", classes: tuple[str, ...], interval: float, lines: pd.Index) -> pd.DataFrame:
    """Return the predictions of rows: mean, sd and an interval, or the probability of each class and the largest."""
    if classes:
        probs = predictive.class_probs
        columns = {"most probable": np.array(classes, object)[probs.argmax(axis=1)]}
        return pd.DataFrame(columns | {f"P({name})": probs[:, k] for k, name in enumerate(classes)}, lines)
    low, high = predictive.interval(interval)
    ends = [f"{100 * (1 - interval) / 2:.4g}%", f"{100 * (1 + interval) / 2:.4g}%"]
    return pd.DataFrame({"mean": predictive.mean, "sd": predictive.std, ends[0]: low, ends[1]: high}, lines)


def _check_folders(*files: Path | None, made: Path | None = None) -> None:
    """Raise ValueError, before anything is fitted, where a file that is to be written has no folder.

    Args:
        files: the files.
        made: a folder that will be made, with those that it is in.
    """
    for file in files:
        folder = None if file is None else file.absolute().parent
        if folder is None or folder.is_dir() or (made is not None and made.absolute().is_relative_to(folder)):
            continue
        raise ValueError(f"{file} cannot be written: there is no folder {folder}.")


def _table(chosen: argparse.Namespace) -> Table:
    """Return the table of the arguments, or the example where they name none."""
    for name in ("target", "weights"):
        if chosen.data is None and getattr(chosen, name) is not None:
            raise ValueError(f"--{name} COLUMN needs DATA.csv: the default table is scikit-learn's diabetes.")
    sheet = example() if chosen.data is None else read_csv(chosen.data, **_reading(chosen))
    if chosen.data is not None and chosen.target is None:
        columns = listed(sheet.frame.columns)
        raise ValueError(f"{sheet.title}: choose the column to predict, by --target COLUMN. The columns are {columns}.")
    target = chosen.target or "target"
    options = {"order": chosen.order, "weights": chosen.weights, "keep": chosen.keep, "drop": chosen.drop}
    return table_of(sheet, target, chosen.likelihood, **options)


def _reading(chosen: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `tables.read_csv`."""
    names = ("separator", "encoding", "decimal", "has_header", "rows")
    return {name: getattr(chosen, name) for name in names}


def _begin(
    chosen: argparse.Namespace, table: Table, encoder: "Encoder", train: Rows, test: Rows
) -> tuple[Transcript, "Standardized"]:
    """Return the transcript with what is known of data and model, and the model."""
    from ..inference import standardize

    target, columns = table.target, table.described(encoder)
    model = standardize(network(target, chosen.widths, chosen.scale), *train.labelled)
    rows = f"{len(train.y)} training rows" + (f", {len(test.y)} test rows" if len(test.y) else "")
    head = f"{table.sheet.title}: {rows}, features: {len(encoder.features)}"
    change = [CHANGE] if chosen.likelihood is None else []
    transcript = Transcript(f"{target.name} of {table.sheet.title}", is_json=chosen.json)
    transcript.add("Data", head, *table.words, *change, *encoder.surprises(table.features))
    transcript.add("Columns", columns)
    words = in_words(model.model, chosen.scale)
    transcript.add("Model", words)
    transcript.record(data=[head, *table.words], likelihood=target.likelihood, classes=target.classes, model=words)
    transcript.record(columns=encoder.description)
    return transcript, model


def _fitted(chosen: argparse.Namespace, model: "Standardized", name: str, train: Rows) -> "Fit":
    """Return the fit by a method; its seconds go to stderr."""
    from ..inference import fit

    settings = method(name, chosen.draws)
    fitted = fit(model, settings, train.x, train.y, weights=train.weights, key=chosen.seed)
    print(f"{METHODS[name]}: {fitted.seconds}", file=sys.stderr)
    return fitted
