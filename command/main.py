"""The command line: its commands and their arguments."""

import argparse
import contextlib
import os
import textwrap
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import jax

from ..inference.internals import sort_fields_of_distributions
from ..tables.dialect import SEPARATORS
from ..tables.target import LIKELIHOODS, RULES
from .cache import keep_compiled
from .network import METHODS, SCALES
from .runs import run_compare, run_explain, run_fit, run_predict

type Commands = "argparse._SubParsersAction[argparse.ArgumentParser]"

DEFAULT = ("mle", "map", "mclmc")
"""The methods that `compare` runs by default."""
BAD_INPUT, INTERRUPTED = 2, 130
"""Exit codes."""
CODES = (
    "Exit codes: 0 if all is well, 1 if a fit has failed, 2 if the arguments or the data are wrong. Progress goes to "
    "stderr, tables to stdout."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: the arguments after ``flatprior``; by default those of the command line.
    """
    parser = _parser()
    chosen = parser.parse_args(arguments)
    with contextlib.suppress(RuntimeError):  # once JAX has started, this process has programs of its own
        jax.config.update("jax_num_cpu_devices", os.cpu_count())  # so that chains use every core
        sort_fields_of_distributions()  # so that the next process finds the programs of this one
    if chosen.cache:
        keep_compiled()
    try:
        return chosen.run(chosen)
    except (ValueError, TypeError, OSError) as error:
        parser.exit(BAD_INPUT, f"flatprior: {error}\n")
    except KeyboardInterrupt:
        parser.exit(INTERRUPTED, "flatprior: interrupted\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flatprior",
        description="Neural networks as NumPyro models: maximum likelihood, MAP and the posterior.",
        epilog=CODES,
    )
    parser.add_argument("--version", action="version", version=f"flatprior {version('flatprior')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_compare(commands)
    _add_fit(commands)
    _add_predict(commands)
    _add_explain(commands)
    return parser


def _add_compare(commands: Commands) -> None:
    parser = _command(
        commands,
        "compare",
        "fit one network by several methods and compare them on test rows",
        "Fit one network to a table by maximum likelihood, MAP and MCLMC, or by other methods; print how well each "
        "predicts the test rows; write a figure, and the fits as NetCDF files that ArviZ reads.",
        [_data(), _reading(), _model(), _fits(), _output()],
    )
    parser.add_argument(
        "--methods", type=_methods, default=DEFAULT, help=f"any of {','.join(METHODS)} ({','.join(DEFAULT)})"
    )
    parser.add_argument("--held-out", type=float, default=0.25, help="the share of rows that are test rows (0.25)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("flatprior-compare"),
        metavar="DIR",
        help="the folder for the files (flatprior-compare)",
    )
    parser.set_defaults(run=run_compare)


def _add_fit(commands: Commands) -> None:
    parser = _command(
        commands,
        "fit",
        "fit one network by one method and save it",
        "Fit one network to all rows of a table by one method, and save it, with what was done to the columns, for "
        "`flatprior predict`. The file is NetCDF, which ArviZ reads.",
        [_data(), _reading(), _model(), _fits(), _output()],
    )
    parser.add_argument("--method", choices=METHODS, default="mclmc", help="the method (mclmc)")
    parser.add_argument("--held-out", type=float, default=0.0, help="the share of rows that are test rows (0)")
    parser.add_argument("--save", type=Path, metavar="MODEL.nc", help="the file of the model; by default none")
    parser.set_defaults(run=run_fit)


def _add_predict(commands: Commands) -> None:
    parser = _command(
        commands,
        "predict",
        "predict new rows by a model that `fit` saved",
        "Predict the rows of a table: mean, standard deviation and interval, or the probability of each class, in the "
        "units of the target, with the line of each row. Columns are found by name. If the target is among them, the "
        "predictions are scored.",
        [_reading(), _output()],
    )
    parser.add_argument("model", type=Path, metavar="MODEL.nc", help="the model")
    parser.add_argument("data", type=Path, metavar="NEW.csv", help="the new rows")
    parser.add_argument("--out", type=Path, metavar="PRED.csv", help="the file of the predictions; by default stdout")
    parser.add_argument("--interval", type=float, default=0.9, help="the probability of the interval (0.9)")
    parser.set_defaults(run=run_predict)


def _add_explain(commands: Commands) -> None:
    parser = _command(
        commands,
        "explain",
        "name the cost function of the network of a table",
        "Print the loss and the penalty that a network of this table minimises, term by term, in the terms of deep "
        "learning, each checked against an independent implementation. Nothing is fitted.",
        [_data(), _reading(), _model(), _output()],
    )
    parser.set_defaults(run=run_explain)


def _command(
    commands: Commands,
    name: str,
    summary: str,
    description: str,
    parents: list[argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary,
        description=textwrap.fill(description, 100),
        epilog=_epilog() if name != "predict" else CODES,
        parents=parents,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _epilog() -> str:
    rules = [textwrap.fill(f"{what}: {likelihood}", 96, subsequent_indent="    ") for what, likelihood in RULES]
    head = "Without --likelihood, the target decides, by the first of these that holds:"
    return "\n".join([head, *[f"  {rule}" for rule in rules], "", textwrap.fill(CODES, 100)])


def _data() -> argparse.ArgumentParser:
    """Return the arguments of a table with a target."""
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("data")
    group.add_argument(
        "data", nargs="?", type=Path, metavar="DATA.csv", help="the table; by default scikit-learn's diabetes"
    )
    group.add_argument("--target", metavar="COLUMN", help="the column to predict; all others are features")
    group.add_argument(
        "--likelihood", choices=LIKELIHOODS, metavar="NAME", help=f"one of {', '.join(LIKELIHOODS)}; see below"
    )
    group.add_argument(
        "--order", type=_list, default=(), metavar="A,B,C", help="the classes of --likelihood ordinal, lowest first"
    )
    group.add_argument(
        "--weights", metavar="COLUMN", help="the column that says how many equal rows each row counts as"
    )
    group.add_argument(
        "--keep",
        type=_list,
        default=(),
        metavar="A,B",
        help="columns that are used even if they look like identifiers",
    )
    group.add_argument(
        "--drop",
        type=_list,
        default=(),
        metavar="A,B",
        help="columns that are not used, such as those that new rows will not have",
    )
    return parser


def _reading() -> argparse.ArgumentParser:
    """Return the arguments of reading a file."""
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("reading", "recognised unless they are given")
    group.add_argument("--separator", type=_separator, metavar="S", help=f"one of {', '.join(SEPARATORS.values())}")
    group.add_argument("--decimal", choices=(".", ","), metavar="D", help="the decimal separator, . or ,")
    group.add_argument("--encoding", metavar="NAME", help="utf-8, latin-1, ...")
    group.add_argument(
        "--header", dest="has_header", action=argparse.BooleanOptionalAction, help="whether the first line is names"
    )
    group.add_argument("--rows", type=int, metavar="N", help="read the first N rows only")
    return parser


def _model() -> argparse.ArgumentParser:
    """Return the arguments of a model."""
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("model")
    group.add_argument("--widths", type=_widths, default=(8,), help="hidden units per layer (8); '' is a linear model")
    group.add_argument(
        "--scale",
        choices=SCALES,
        default="learned",
        help="the scale, or concentration, of y: one number that is learned, or an output of the network (learned)",
    )
    return parser


def _fits() -> argparse.ArgumentParser:
    """Return the arguments of fits."""
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("fits")
    group.add_argument(
        "--draws",
        type=int,
        help="draws per chain of mclmc (200) and nuts (500, after as many warm-up steps), and of laplace (500)",
    )
    group.add_argument("--seed", type=int, default=0, help="the seed of the split and of the fits (0)")
    return parser


def _output() -> argparse.ArgumentParser:
    """Return the arguments of what is written and kept."""
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("output")
    group.add_argument("--report", type=Path, metavar="PAGE.html", help="write all of it as one HTML page")
    group.add_argument("--json", action="store_true", help="print JSON instead of tables")
    group.add_argument(
        "--no-cache", dest="cache", action="store_false", help="do not keep compiled code in the user's cache folder"
    )
    return parser


def _widths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(width) for width in text.split(",") if width.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected integers such as 16,16; got {text!r}") from None


def _methods(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in METHODS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"expected some of {','.join(METHODS)}; got {text!r}")
    return names


def _list(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _separator(text: str) -> str:
    named = {name: separator for separator, name in SEPARATORS.items()}
    return named.get(text, {"\\t": "\t"}.get(text, text))
