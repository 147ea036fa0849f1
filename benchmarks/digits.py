"""Written digits by a small convolutional network, fitted in five ways, over random splits.

    python benchmarks/digits.py [--splits 5] [--rows 300] [--scale 1.0] [--methods MLE MAP ensemble last-layer MCLMC]
                                [--json FILE]

The data are scikit-learn's 1,797 digits of 8 x 8 pixels. Split s takes `--rows` of them to fit, at random by seed s,
and the others are held out; pixels have mean 0 and standard deviation 1 over the rows of the fit. The network is the
`CNN` of `flatprior.models.architectures`, with 8 and 12 channels: 1,446 weights, each with a Normal(0, scale) prior.
Key and initial values are those of the split's number.

- MLE and MAP: 2,000 steps of Adam on all rows.
- ensemble: ten such MAP fits, of other starting points.
- last-layer: the convolutions where MAP put them, the 490 weights of the head by NUTS given them (`Conditional`).
- MCLMC: all weights, by ten chains.

"log density" is that of the predictive distribution in nats per row, "ECE" the calibration error of `calibration` (ten
bins of equal count), "confidence" the mean probability of the most probable class. Each is the mean over splits, and
behind it the standard error over splits. The paired difference is the log density minus that of MAP in the same split.
Splits share rows, so that their standard errors are those of another split of these digits, not of other digits.
"seconds" are of one fit, compiling left out, and "compiling" that of the first.

The whole of it takes about a quarter of an hour on two idle cores.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = {
    "log_density": ("log density", "{:.3f}"),
    "difference": ("minus MAP's", "{:+.3f}"),
    "accuracy": ("accuracy", "{:.3f}"),
    "ece": ("ECE", "{:.3f}"),
    "confidence": ("confidence", "{:.3f}"),
    "run": ("seconds", "{:.1f}"),
}
"""Score -> (heading, format)."""
METHODS = ("MLE", "MAP", "ensemble", "last-layer", "MCLMC")


def method_of(name: str) -> Any:
    from flatprior.inference import MAP, MCLMC, MLE, NUTS, Conditional, Ensemble

    match name:
        case "MLE":
            return MLE()
        case "MAP":
            return MAP()
        case "ensemble":
            return Ensemble(base=MAP(), num_members=10)
        case "last-layer":
            return Conditional(base=MAP(), sites=("head.*",), method=NUTS(num_warmup=300, num_samples=300))
        case "MCLMC":
            return MCLMC(num_warmup=5000, num_samples=100)
    raise SystemExit(f"There is no method {name}; there are {', '.join(METHODS)}.")


def measure(names: list[str], split: int, num_rows: int, scale: float) -> dict[str, dict[str, Any]]:
    """The scores of each method on one split."""
    from flax import nnx
    from sklearn.datasets import load_digits

    from flatprior.inference import fit
    from flatprior.inference.criticism import calibration
    from flatprior.models import Categorical, Lift, Model, gaussian
    from flatprior.models.architectures import CNN

    digits = load_digits()
    order = np.random.default_rng(split).permutation(len(digits.target))
    train, test = order[:num_rows], order[num_rows:]
    x = (digits.images - digits.images[train].mean()) / digits.images[train].std()
    network = Lift(CNN((8, 8), (8, 12), num_classes=10, rngs=nnx.Rngs(split)))
    model = Model(network, Categorical(10), gaussian(scale))
    scores = {}
    for name in names:
        found = fit(model, method_of(name), x[train], digits.target[train], key=split, progress=False)
        told = calibration(found, x[test], digits.target[test])
        scores[name] = {
            "log_density": -float(told.scores.loc["log_loss", "value"]),
            "accuracy": float(told.scores.loc["accuracy", "value"]),
            "ece": float(told.scores.loc["calibration_error", "value"]),
            "confidence": float(told.rows["forecast"].mean()),
            "compile": found.seconds.compile,
            "run": found.seconds.run,
            "status": str(found.status),
        }
        print(f"split {split}, {name}: {scores[name]}", flush=True)
    return scores


def table(results: list[dict[str, dict[str, Any]]]) -> str:
    """A row a method, in Markdown: means over splits with their standard errors."""
    headings = ["", *(heading for heading, _ in COLUMNS.values()), "compiling", "status of the splits"]
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for name in results[0]:
        of_it = [result[name] for result in results]
        if "MAP" in results[0]:
            for score, result in zip(of_it, results, strict=True):
                score["difference"] = score["log_density"] - result["MAP"]["log_density"]
        cells = [_mean([score.get(column, np.nan) for score in of_it], form) for column, (_, form) in COLUMNS.items()]
        levels = [score["status"].split(":")[0] for score in of_it]
        told = ", ".join(f"{levels.count(level)} {level}" for level in dict.fromkeys(levels))
        lines.append(f"| {' | '.join([name, *cells, f'{of_it[0]["compile"]:.0f}', told])} |")
    return "\n".join(lines)


def _mean(values: list[float], form: str) -> str:
    if len(values) < 2:
        return form.format(values[0])
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{form.format(np.mean(values))} ± {form.replace('+', '').format(error)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    import jax

    jax.config.update("jax_num_cpu_devices", os.cpu_count())
    results = [measure(arguments.methods, s, arguments.rows, arguments.scale) for s in range(arguments.splits)]
    print(f"\n{arguments.splits} splits, {arguments.rows} rows to fit, Normal(0, {arguments.scale:g}) prior\n")
    print(table(results))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
