"""Handwritten digits by a small convolutional network: five methods over random splits, and learned prior scales.

    python benchmarks/digits.py [--splits 5] [--rows 300] [--scale 1.0] [--methods MLE MAP ensemble last-layer MCLMC]
                                [--json FILE]
    python benchmarks/digits.py --methods MAP MCLMC MCLMC-one-scale MCLMC-scales

The data are scikit-learn's 1,797 digits of 8 x 8 pixels. Split s uses `--rows` random rows for training, chosen by seed
s, and all others for testing; pixels have mean 0 and standard deviation 1 over the training rows. The network is the
`CNN` of `flatprior.models.architectures`, with 8 and 12 channels: 1,446 weights, each with a Normal(0, scale) prior.
The number of the split is also the key of the fits and of the initial values.

- MLE and MAP: 2,000 steps of Adam on all rows.
- ensemble: ten such MAP fits from different starting points.
- last-layer: the convolutions at their MAP values, the 490 weights of the head by NUTS given these (`Conditional`).
- MCLMC: all weights, by ten chains.
- MCLMC-one-scale, MCLMC-scales: the same, with a prior whose scale is learned, in place of `--scale`: one scale for all
  weights, or one for each layer, with a HalfNormal(1) prior.

"elpd" is the log predictive density in nats per row, "calibration error" that of `calibration` (ten bins of equal
count), "confidence" the mean probability of the most probable class. Each is the mean over splits, followed by the
standard error over splits. "elpd - MAP's" is paired: the difference from the elpd of MAP in the same split. Splits
share rows, so their standard errors are for another split of these digits, not for other digits. "seconds" are those of
one fit without compilation, and "compilation" is the compilation time of the first fit.

A split takes some five minutes on one idle core with all seven methods, two with the first five.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = {
    "elpd": ("elpd", "{:.3f}"),
    "elpd_diff": ("elpd - MAP's", "{:+.3f}"),
    "accuracy": ("accuracy", "{:.3f}"),
    "calibration_error": ("calibration error", "{:.3f}"),
    "confidence": ("confidence", "{:.3f}"),
    "run": ("seconds", "{:.1f}"),
}
"""Score -> (heading, format)."""
METHODS = ("MLE", "MAP", "ensemble", "last-layer", "MCLMC")
LEARNED = ("MCLMC-one-scale", "MCLMC-scales")


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
        case "MCLMC" | "MCLMC-one-scale" | "MCLMC-scales":
            return MCLMC(num_warmup=5000, num_samples=100)
    raise SystemExit(f"Expected methods out of {', '.join((*METHODS, *LEARNED))}; got {name}.")


def prior_of(name: str, scale: float) -> Any:
    import numpyro.distributions as dist

    from flatprior.models import gaussian

    learned = gaussian(dist.HalfNormal(1.0))
    if name == "MCLMC-scales":
        return {"convolutions.0.*": learned, "convolutions.1.*": learned, "head.*": learned}
    return learned if name in LEARNED else gaussian(scale)


def measure(names: list[str], split: int, num_rows: int, scale: float) -> dict[str, dict[str, Any]]:
    """Return the scores of each method on one split."""
    from flax import nnx
    from sklearn.datasets import load_digits

    from flatprior.inference import fit
    from flatprior.inference.criticism import calibration
    from flatprior.models import Categorical, Lift, Model
    from flatprior.models.architectures import CNN

    digits = load_digits()
    order = np.random.default_rng(split).permutation(len(digits.target))
    train, test = order[:num_rows], order[num_rows:]
    x = (digits.images - digits.images[train].mean()) / digits.images[train].std()
    network = Lift(CNN((8, 8), (8, 12), num_classes=10, rngs=nnx.Rngs(split)))
    scores = {}
    for name in names:
        model = Model(network, Categorical(10), prior_of(name, scale))
        fitted = fit(model, method_of(name), x[train], digits.target[train], key=split, progress=False)
        result = calibration(fitted, x[test], digits.target[test])
        scores[name] = {
            "elpd": -float(result.scores.loc["log_loss", "value"]),
            "accuracy": float(result.scores.loc["accuracy", "value"]),
            "calibration_error": float(result.scores.loc["calibration_error", "value"]),
            "confidence": float(result.rows["forecast"].mean()),
            "compile": fitted.seconds.compile,
            "run": fitted.seconds.run,
            "status": str(fitted.status),
            "prior_scales": {
                site: [float(draws.mean()), float(draws.std())]
                for site, draws in fitted.draws.items()
                if site.startswith("prior_scale")
            },
        }
        print(f"split {split}, {name}: {scores[name]}", flush=True)
    return scores


def table(results: list[dict[str, dict[str, Any]]]) -> str:
    """Return a Markdown table with one row per method: means over splits with their standard errors."""
    headings = ["", *(heading for heading, _ in COLUMNS.values()), "compilation", "status of the splits"]
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for name in results[0]:
        scores = [result[name] for result in results]
        if "MAP" in results[0]:
            for score, result in zip(scores, results, strict=True):
                score["elpd_diff"] = score["elpd"] - result["MAP"]["elpd"]
        cells = [_mean([score.get(column, np.nan) for score in scores], form) for column, (_, form) in COLUMNS.items()]
        levels = [score["status"].split(":")[0] for score in scores]
        counts = ", ".join(f"{levels.count(level)} {level}" for level in dict.fromkeys(levels))
        lines.append(f"| {' | '.join([name, *cells, f'{scores[0]["compile"]:.0f}', counts])} |")
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
    print(f"\n{arguments.splits} splits, {arguments.rows} training rows, Normal(0, {arguments.scale:g}) prior\n")
    print(table(results))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
