"""Every method for large networks, on MNIST-1D and on characters, at equal work, beside a large plain ensemble.

    python benchmarks/methods.py [--data mlp cnn text] [--keys 3] [--only NAME ...] [--save FILE] [--work 1.0]

Work is counted in gradients of a batch, which all methods need, and which are the same on every machine. All but the
large ensemble have as many of them, with the steps of their starting points: one point, ten members, ten chains or one
guide share the same work.

- mlp: MNIST-1D (Greydanus & Kobak 2024), which the package mnist1d generates: 4,000 sequences of 40 numbers to fit,
  1,000 to test, ten classes; two layers of 100 silu units (15,210 weights).
- cnn: the same rows; three convolutions of 32 channels, kernel 5 and stride 2 (12,106 weights).
- text: the next character of the help texts that Python carries, by a causal transformer (one layer, width 88, 10^5
  weights) over 32 characters. Scores are in nats per character.

The prior of a weight is Normal with a standard deviation of `SCALE` over the root of its inputs: of 1, 2, 3 and 5 the
one by which MAP predicts a fifth of the rows to fit best, when it is fitted to the others. Differences of elpd are
those from the large ensemble, with standard errors that are paired by rows. Processor seconds include compilation.
"""

import argparse
import itertools
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from cells import Cells, Numbers, print_table

BATCH_OF = {"mlp": 100, "cnn": 100, "text": 20}
BUDGET = {"mlp": 30_000, "cnn": 15_000, "text": 3_000}
"""The gradients of a batch that each method has."""
SCALE = {"mlp": 2.0, "cnn": 3.0, "text": 2.0}
"""The standard deviation of the prior, times the root of the inputs of a weight."""
BEST = "ensemble of 30"
"""The large plain ensemble, of three times the work, from which differences are measured."""
Problem = tuple[Any, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def sequences() -> tuple[np.ndarray, ...]:
    """Return MNIST-1D: x and y to fit, x and y to test."""
    from mnist1d.data import get_dataset_args, make_dataset

    data = make_dataset(get_dataset_args())
    return tuple(np.asarray(data[name]) for name in ("x", "y", "x_test", "y_test"))


def mlp() -> Problem:
    from flatprior.models import MLP, Categorical, Model, fan_in

    return Model(MLP((100, 100), "silu"), Categorical(10), fan_in(SCALE["mlp"])), *sequences()


def cnn() -> Problem:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from flatprior.models import Categorical, Lift, Model, fan_in

    def patches(h: jax.Array) -> jax.Array:
        """Return five neighbours of every second place, (n, places, 5 channels)."""
        length = -(-h.shape[1] // 2)
        h = jnp.pad(h, ((0, 0), (2, 2), (0, 0)))
        return jnp.concatenate([h[:, i : i + 2 * length : 2][:, :length] for i in range(5)], axis=-1)

    class Convolutions(nnx.Module):
        def __init__(self, channels: int, *, rngs: nnx.Rngs) -> None:
            self.layers = nnx.List(nnx.Linear(5 * inputs, channels, rngs=rngs) for inputs in (1, channels, channels))
            self.head = nnx.Linear(5 * channels, 10, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            h = x[..., None]
            for layer in self.layers:
                h = jax.nn.silu(layer(patches(h)))
            return self.head(h.reshape(len(h), -1))

    return Model(Lift(Convolutions(32, rngs=nnx.Rngs(0))), Categorical(10), fan_in(SCALE["cnn"])), *sequences()


def text() -> Problem:
    import pydoc_data.topics

    from flax import nnx

    from flatprior.models import CategoricalSequence, Lift, Model, fan_in
    from flatprior.models.architectures import Transformer

    characters = "".join(pydoc_data.topics.topics.values())[:120_000]
    alphabet = sorted(set(characters))
    numbers = {character: i for i, character in enumerate(alphabet)}
    tokens = np.array([numbers[character] for character in characters])
    rows = tokens[: len(tokens) // 33 * 33].reshape(-1, 33)
    order = np.random.default_rng(0).permutation(len(rows))
    train, test = rows[order[:3000]], rows[order[3000:3500]]
    net = Transformer(len(alphabet), 88, 1, 4, context=32, rngs=nnx.Rngs(0))
    prior = {"*.scale": "fixed", "*norm*.bias": "fixed", "*": fan_in(SCALE["text"])}
    model = Model(Lift(net), CategoricalSequence(len(alphabet)), prior)
    return model, train[:, :-1], train[:, 1:], test[:, :-1], test[:, 1:]


PROBLEMS: dict[str, Callable[[], Problem]] = {"mlp": mlp, "cnn": cnn, "text": text}


def methods(budget: int, batch: int) -> dict[str, Any]:
    """Return name -> method, each with as many gradients of a batch as `budget`, but the large ensemble."""
    from flatprior.inference import MAP, SGMCMC, Ensemble, Variational

    def point(steps: int) -> MAP:
        return MAP(num_steps=max(10, steps), batch_size=batch, polish=False)

    def guide(family: str) -> Variational:
        return Variational(
            guide=family, num_steps=3 * budget // 4, batch_size=batch, num_samples=100, start=point(budget // 4)
        )

    tenth = budget // 10
    return {
        BEST: Ensemble(base=point(tenth), num_members=30),
        "ensemble of 10": Ensemble(base=point(tenth), num_members=10),
        "MAP": point(budget),
        "variational, mean field": guide("mean_field"),
        "SGMCMC, 10 chains": SGMCMC(
            num_warmup=tenth * 4 // 10,
            num_samples=10,
            thinning=max(1, tenth * 3 // 100),
            batch_size=batch,
            start=point(tenth * 3 // 10),
        ),
    }


def measured(model: Any, method: Any, rows: tuple[np.ndarray, ...], key: int) -> Numbers:
    """Return the scores of one fit, and the log density of each test row."""
    from flatprior.inference import compare, fit

    x, y, x_test, y_test = rows
    cpu = time.process_time()
    result = fit(model, method, x, y, key=key, progress=False)
    cpu = time.process_time() - cpu
    (scores,) = compare({"fit": result}, x_test, y_test).to_dataframe().to_dict("records")
    each = result.predict(x_test).log_prob(y_test).astype(float) / (1 if y_test.ndim == 1 else y_test.shape[1])
    numbers: Numbers = {"elpd": float(each.mean()), "cpu": cpu, "seconds_run": float(result.seconds.run)}
    numbers |= {name: float(scores[name]) for name in ("accuracy", "calibration_error") if name in scores}
    if "temperature" in result.stats:
        numbers["temperature"] = float(result.stats["temperature"].mean())
    return numbers | {"status": str(result.status)[:300], "log_probs": each.round(4).tolist()}


def differences(cells: Cells, table: str, row: str) -> str:
    """Return the elpd of a row of the table less that of the large ensemble, and its standard error, paired by rows."""
    found = [np.mean([one["log_probs"] for one in cells.row(table, name)], axis=0) for name in (row, BEST)]
    each = found[0] - found[1]
    return f"{each.mean():+.4f} ({each.std(ddof=1) / len(each) ** 0.5:.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--keys", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=None)
    parser.add_argument("--save", type=Path, default=None)
    parser.add_argument("--work", type=float, default=1.0)
    arguments = parser.parse_args()
    cells = Cells(arguments.save)
    for data in arguments.data:
        model, *rows = PROBLEMS[data]()
        named = methods(int(BUDGET[data] * arguments.work), BATCH_OF[data])
        chosen = [name for name in named if not arguments.only or name in arguments.only]
        for key, name in itertools.product(range(arguments.keys), chosen):
            run = partial(measured, model, named[name], tuple(rows), key)
            cells.get(data, name, key, run)
        digits = {"elpd": 4, "accuracy": 4, "calibration_error": 4, "temperature": 2, "cpu": 0, "seconds_run": 1}
        print_table(cells, data, chosen, digits)
        if BEST in chosen:
            print({name: differences(cells, data, name) for name in chosen})


if __name__ == "__main__":
    main()
