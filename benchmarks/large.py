"""How far approximations of the posterior of a network are from long chains, and what they cost.

    python benchmarks/large.py [--data digits mnist1d airfoil] [--work 1.0] [--only NAME ...] [--figure FILE]

Every method fits the same network, prior and rows; the distances are those of `compare(..., reference=)` from `MCLMC`,
next to the distance of two halves of its chains, and of a second run of it under another key.

- digits: scikit-learn's 1,797 digits, 1,000 to fit; a network of 16 silu units (1,210 weights).
- mnist1d: the sequences of Greydanus & Kobak (2024), of the package mnist1d, 4,000 to fit and 1,000 to test; a network
  of two layers of 32 silu units (2,698 weights).
- airfoil: MILE's split of the UCI data (see `benchmarks/mile.py`), 1,052 rows; [16]*4 ReLU, two outputs.

`--work` multiplies the numbers of steps. Seconds are those of one run without compilation. At 1.0 the digits take some
three minutes on two idle cores, mnist1d about fifteen.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = (
    "elpd",
    "elpd_se",
    "accuracy",
    "rmse",
    "calibration_error",
    "agreement",
    "total_variation",
    "total_variation_se",
    "w2",
    "w2_mean",
    "w2_mean_se",
    "spread",
    "seconds_run",
    "status",
)


def digits() -> tuple[Any, ...]:
    from sklearn.datasets import load_digits

    from flatprior.models import MLP, Categorical, Model, fan_in

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x, y = (data.data / 16 - 0.3)[order], data.target[order]
    return Model(MLP((16,), "silu"), Categorical(10), fan_in()), x[:1000], y[:1000], x[1000:], y[1000:]


def mnist1d() -> tuple[Any, ...]:
    from mnist1d.data import get_dataset_args, make_dataset

    from flatprior.models import MLP, Categorical, Model, fan_in

    data = make_dataset(get_dataset_args())
    parts = (data[name] for name in ("x", "y", "x_test", "y_test"))
    return Model(MLP((32, 32), "silu"), Categorical(10), fan_in()), *parts


def airfoil() -> tuple[Any, ...]:
    from mile import DATA, network, split

    return network, *split(DATA)


PROBLEMS: dict[str, Callable[[], tuple[Any, ...]]] = {"digits": digits, "mnist1d": mnist1d, "airfoil": airfoil}


def methods(work: float) -> dict[str, Any]:
    """Return name -> method; "MCLMC" is the reference."""
    from flatprior.inference import MAP, MCLMC, SGMCMC, Ensemble, Laplace, Variational

    def count(steps: int) -> int:
        return max(10, int(steps * work))

    chains = MCLMC(num_warmup=count(10_000), num_samples=count(100), thinning=40)
    batches = MAP(num_steps=count(2000), batch_size=100, polish=False)
    return {
        "MCLMC": chains,
        "MCLMC, again": chains,
        "MAP": batches,
        "ensemble": Ensemble(base=batches, num_members=10),
        "Laplace": Laplace(base=batches, structure="low_rank", num_samples=200),
        "VI, mean field": Variational(num_steps=count(5000), batch_size=100, num_samples=200),
        "VI, low rank": Variational(guide="low_rank", num_steps=count(5000), batch_size=100, num_samples=200),
        "SGMCMC": SGMCMC(num_warmup=count(4000), num_samples=count(100), thinning=40),
        "SGMCMC, long": SGMCMC(num_warmup=count(16_000), num_samples=count(100), thinning=160),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=PROBLEMS, default=["digits"])
    parser.add_argument("--work", type=float, default=1.0)
    parser.add_argument("--only", nargs="+", default=None, help="the methods to fit beside the reference")
    parser.add_argument("--figure", type=Path, default=None)
    arguments = parser.parse_args()

    from flatprior.inference import compare, fit
    from flatprior.inference.plots import plot_distance

    for name in arguments.data:
        model, x, y, x_test, y_test = PROBLEMS[name]()
        fits = {}
        for key, (method_name, method) in enumerate(methods(arguments.work).items()):
            if method_name != "MCLMC" and arguments.only and method_name not in arguments.only:
                continue
            began = time.perf_counter()
            try:
                fits[method_name] = fit(model, method, x, y, key=key, progress=False)
            except ValueError as error:  # a method that does not take the model
                print(f"{method_name}: {error}")
                continue
            print(f"{name}, {method_name}: {time.perf_counter() - began:.0f} s in all", flush=True)
        table = compare(fits, x_test, y_test, reference=fits["MCLMC"])
        frame = table.to_dataframe()
        print(frame[[column for column in COLUMNS if column in frame]].round(4).to_string())
        print("two halves of the reference:", {score: round(value, 4) for score, value in table.floor.items()})
        print("temperature:", {n: round(float(f.stats["temperature"].mean()), 3) for n, f in fits.items() if "SG" in n})
        if arguments.figure is not None:
            plot_distance(table)[0].figure.savefig(arguments.figure.with_stem(f"{arguments.figure.stem}_{name}"))


if __name__ == "__main__":
    main()
