"""The command line: its arguments and its one command, ``compare``."""

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import jax

from .data import LIKELIHOODS, Table, example, read_csv

if TYPE_CHECKING:
    from ..inference.methods import Method
    from ..models.heads import Observation
    from ..models.model import Model

METHODS = {
    "mle": "MLE",
    "map": "MAP",
    "mclmc": "posterior",
    "nuts": "NUTS",
    "ensemble": "ensemble",
    "laplace": "Laplace",
    "prior": "prior",
}
"""Name of a method on the command line -> its name in the table."""
DEFAULT = ("mle", "map", "mclmc")
"""The methods that run by default."""
DRAWS = 500
"""The default number of draws of NUTS and Laplace."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: the arguments after ``flatprior``; by default those of the command line.
    """
    parser = _parser()
    chosen = parser.parse_args(arguments)
    with contextlib.suppress(RuntimeError):  # once JAX has started, its number of devices is fixed
        jax.config.update("jax_num_cpu_devices", os.cpu_count())  # so that chains use every core
    try:
        run_compare(chosen)
    except (ValueError, TypeError, OSError) as error:
        parser.exit(2, f"flatprior: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "flatprior: interrupted\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flatprior", description="Neural networks as NumPyro models: maximum likelihood, MAP and the posterior."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    compare = commands.add_parser(
        "compare",
        help="fit one network by several methods and compare them on test rows",
        description="Fit one network to a table by maximum likelihood, MAP and MCLMC, or by other methods; print how "
        "well each predicts the test rows; write a figure, and the fits as NetCDF files that ArviZ reads.",
    )
    compare.add_argument(
        "data", nargs="?", type=Path, metavar="DATA.csv", help="the table; by default scikit-learn's diabetes"
    )
    compare.add_argument("--target", metavar="COLUMN", help="the column to predict; all others are features")
    compare.add_argument(
        "--likelihood",
        choices=LIKELIHOODS,
        help="the likelihood; by default bernoulli, categorical or normal, inferred from the target",
    )
    compare.add_argument(
        "--weights", metavar="COLUMN", help="the column that says how many equal rows each row counts as"
    )
    compare.add_argument(
        "--widths", type=_widths, default=(16, 16), help="hidden units per layer (16,16); '' is a linear model"
    )
    compare.add_argument(
        "--methods", type=_methods, default=DEFAULT, help=f"any of {','.join(METHODS)} ({','.join(DEFAULT)})"
    )
    compare.add_argument(
        "--draws",
        type=int,
        help="draws per chain of mclmc (200) and nuts (500, after as many warm-up steps), and of laplace (500)",
    )
    compare.add_argument("--held-out", type=float, default=0.25, help="the fraction of rows that are test rows (0.25)")
    compare.add_argument("--seed", type=int, default=0, help="the seed of the split and of the fits (0)")
    compare.add_argument(
        "--out", type=Path, default=Path("flatprior-compare"), metavar="DIR", help="the folder for the files"
    )
    return parser


def run_compare(chosen: argparse.Namespace) -> None:
    """Fit, print the table and write the files."""
    from ..inference import compare, fit  # here, so that `--help` does not wait for the import
    from ..inference.files import atomic_write
    from .figure import draw

    if (chosen.data is None) != (chosen.target is None):
        raise ValueError("DATA.csv and --target COLUMN go together.")
    if chosen.data is None and chosen.weights is not None:
        raise ValueError("--weights COLUMN needs DATA.csv: the default table has no such column.")
    table = (
        example(chosen.likelihood)
        if chosen.data is None
        else read_csv(chosen.data, chosen.target, chosen.likelihood, chosen.weights)
    )
    train, test = table.split(chosen.held_out, chosen.seed)
    model = network(table, chosen.widths)
    print(f"{table.title}: {len(train.y)} training rows, {len(test.y)} test rows, {train.x.shape[1]} features")
    for remark in table.remarks:
        print(remark)
    print(f"Model: {model}\n", flush=True)
    fits = {}
    for name in chosen.methods:
        settings = method(name, chosen.draws)
        fits[METHODS[name]] = fit(model, settings, train.x, train.y, weights=train.weights, key=chosen.seed)
        print(f"{METHODS[name]}: {fits[METHODS[name]].seconds}", file=sys.stderr)
    comparison = compare(fits, test.x, test.y, weights=test.weights)
    print(comparison)
    chosen.out.mkdir(parents=True, exist_ok=True)
    written = [draw(fits, comparison, test, table.title, chosen.out / "compare.png")]
    for name, fitted in fits.items():
        tree = fitted.to_datatree(test.x, test.y)
        written.append(atomic_write(chosen.out / f"{name}.nc", partial(tree.to_netcdf, engine="netcdf4")))
    print("\nWritten:", *written)


def network(table: Table, widths: tuple[int, ...]) -> "Model":
    """Return the model of a table, with fan-in priors and the observation that suits its target."""
    from ..models import MLP, Model, fan_in

    return Model(MLP(widths), observation(table), fan_in(1.0))


def observation(table: Table) -> "Observation":
    """Return the observation of a likelihood, with a scale or concentration that is an output of the network."""
    from .. import models

    match table.likelihood:
        case "bernoulli":
            return models.Bernoulli()
        case "categorical":
            return models.Categorical(len(table.classes))
        case "ordinal":
            return models.Ordinal(len(table.classes))
        case "student-t":
            return models.StudentT(scale="network")
        case "poisson":
            return models.Poisson()
        case "negative-binomial":
            return models.NegativeBinomial("network")
        case "gamma":
            return models.Gamma("network")
        case "log-normal":
            return models.LogNormal("network")
        case "weibull":
            return models.Weibull("network")
        case "beta":
            return models.Beta("network")
    return models.Normal("network")


def method(name: str, draws: int | None = None) -> "Method":
    """Return a method with the settings of the command.

    The posterior is drawn by `MCLMC`, whose chains settle on networks for which those of NUTS need longer trajectories
    than its 255 steps per draw, which let it end in a minute.

    Args:
        name: a key of `METHODS`.
        draws: the number of draws; None is the default of the method.
    """
    from ..inference import MAP, MCLMC, MLE, NUTS, Ensemble, Laplace, Prior

    match name:
        case "mclmc":
            return MCLMC() if draws is None else MCLMC(num_samples=draws)
        case "nuts":
            return NUTS(num_warmup=draws or DRAWS, num_samples=draws or DRAWS, max_tree_depth=8)
        case "laplace":
            return Laplace(num_samples=draws or DRAWS)
        case "ensemble":
            return Ensemble()
        case "prior":
            return Prior()
    return MLE() if name == "mle" else MAP()


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
