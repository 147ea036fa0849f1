"""What a step of `SGMCMC` and of `Variational` costs, in steps of `MAP` with the same batches.

    python benchmarks/steps.py [--rounds 5] [--batch-size 128] [--widths 75 270 960] [--chains 1] [--steps N]
        [--methods SGMCMC Variational]

A network of two layers, ten classes, 4,096 rows of 40 numbers. The cost of a step is the difference of two fits that
differ in their number of steps alone, divided by that number, so that what comes before and after the steps is left
out. The methods take turns, and of each fit the least of all rounds counts: processor time on a CPU, of which other
programs take no part, and wall time on another device.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

ROWS, FEATURES, CLASSES = 4096, 40, 10
WORK = 1.6e8
"""The number of weights times steps times chains in the longer fit of a pair."""


def methods(batch_size: int, chains: int) -> dict[str, Callable[[int], Any]]:
    """Return name -> a function that returns the method with so many steps."""
    from flatprior.inference import MAP, SGMCMC, Variational

    point = MAP(num_steps=10, batch_size=batch_size, polish=False)

    def descent(steps: int) -> Any:
        return MAP(num_steps=steps, batch_size=batch_size, polish=False, num_restarts=chains)

    def chain(steps: int) -> Any:
        return SGMCMC(
            num_chains=chains, num_warmup=10, num_samples=10, thinning=steps // 10, batch_size=batch_size, start=point
        )

    def guide(steps: int) -> Any:
        return Variational(num_steps=steps, num_samples=2, batch_size=batch_size, start=point)

    return {"MAP": descent, "SGMCMC": chain, **({"Variational": guide} if chains == 1 else {})}


def main() -> None:
    import jax

    from flatprior.inference import fit
    from flatprior.models import MLP, Categorical, Model, fan_in

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--widths", type=int, nargs="+", default=[75, 270, 960])
    parser.add_argument("--chains", type=int, default=1)
    parser.add_argument("--steps", type=int, help="of the longer fit of a pair; by default fewer for large networks")
    parser.add_argument("--methods", nargs="+", choices=("SGMCMC", "Variational"), help="beside MAP; by default all")
    arguments = parser.parse_args()
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(ROWS, FEATURES)).astype(np.float32), rng.integers(0, CLASSES, ROWS)
    made = methods(arguments.batch_size, arguments.chains)
    made = {name: made[name] for name in made if name in ("MAP", *(arguments.methods or made))}
    device = jax.devices()[0].device_kind
    print(f"{device}, batches of {arguments.batch_size}, {arguments.chains} chain(s), milliseconds per step\n")
    print(f"| weights | {' | '.join(made)} |\n|{'---|' * (len(made) + 1)}")
    for width in arguments.widths:
        model = Model(MLP((width, width), "relu"), Categorical(CLASSES), fan_in())
        weights = (FEATURES + 1) * width + (width + 1) * width + (width + 1) * CLASSES
        steps = arguments.steps or min(8000, max(100, int(WORK / weights / arguments.chains))) // 100 * 100

        def seconds(name: str, steps: int, model: Model = model) -> float:
            began = clock()
            fit(model, made[name](steps), x, y, key=0, progress=False)
            return clock() - began

        for name in made:
            seconds(name, steps)
        taken: dict[tuple[str, int], float] = {}
        for _ in range(arguments.rounds):
            for name in made:
                for count in (steps, steps // 10):
                    taken[name, count] = min(taken.get((name, count), np.inf), seconds(name, count))
        between = steps - steps // 10
        least = {name: (taken[name, steps] - taken[name, steps // 10]) / between for name in made}
        cells = [f"{1e3 * least[name]:.3f} ({least[name] / least['MAP']:.2f})" for name in made]
        print(f"| {weights:,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
