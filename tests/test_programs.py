"""What compiles: a program once for what it depends on, and nothing where other things change."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from numpyro.infer import init_to_uniform

from flatprior.inference import MAP, MCLMC, MLE, NUTS, Prior, fit
from flatprior.models import MLP, Bernoulli, Model, gaussian

X = np.random.default_rng(0).normal(size=(40, 2))
Y = (X[:, 0] + np.random.default_rng(1).logistic(size=40) > 0).astype(int)
MODEL = Model(MLP((3,), "tanh"), Bernoulli(), gaussian(1.0))


@contextmanager
def compiled() -> Iterator[list[str]]:
    """The compilations within it, by event; a program that comes from the cache on disk counts as well."""
    events: list[str] = []

    def note(event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield events
    finally:
        jax.monitoring.unregister_event_duration_listener(note)


def run(method: Any, key: int = 0) -> None:
    fit(MODEL, method, X, Y, key=key, progress=False)


START = MAP(num_steps=20, polish=False)
SAME: dict[str, tuple[Any, list[Any]]] = {
    "an optimiser built again": (
        lambda steps: MLE(optimizer=optax.adam(1e-3), num_steps=steps, polish=False),
        [60, 60, 60],
    ),
    "steps": (lambda steps: MAP(num_steps=steps, polish=False), [50, 51, 200]),
    "steps by batches": (lambda steps: MAP(num_steps=steps, batch_size=8, polish=False), [50, 51, 200]),
    "patience": (
        lambda patience: MAP(num_steps=50, validation_fraction=0.2, patience=patience, polish=False),
        [3, 4],
    ),
    "an initialisation built again": (
        lambda radius: MAP(num_steps=20, init_strategy=init_to_uniform(radius=radius), polish=False),
        [1.0, 1.0],
    ),
    "draws from the prior": (lambda draws: Prior(num_samples=draws), [3, 4, 300]),
    "draws of NUTS": (lambda draws: NUTS(num_warmup=20, num_samples=draws, num_chains=2, start=START), [4, 6, 5]),
    "warm-up of NUTS": (lambda steps: NUTS(num_warmup=steps, num_samples=4, num_chains=2, start=START), [10, 30, 160]),
    "draws of MCLMC": (lambda draws: MCLMC(num_warmup=60, num_samples=draws, num_chains=2, start=START), [8, 9, 12]),
    "warm-up of MCLMC": (
        lambda steps: MCLMC(num_warmup=steps, num_samples=8, thinning=steps // 10, num_chains=2, start=START),
        [60, 100, 80],
    ),
    "targets of MCLMC": (
        lambda target: MCLMC(
            num_warmup=60, num_samples=8, num_chains=2, start=START, energy_variance=target, momentum_length=1 / target
        ),
        [0.1, 0.2],
    ),
}


@pytest.mark.filterwarnings("ignore::flatprior.inference.FailedFitWarning")
@pytest.mark.parametrize("name", SAME)
def test_what_a_program_does_not_depend_on_compiles_nothing(name: str) -> None:
    make, values = SAME[name]
    run(make(values[0]))
    with compiled() as events:
        for key, value in enumerate(values[1:]):
            run(make(value), key=key + 1)
    assert not events


def test_a_dozen_fits_compile_each_program_once() -> None:
    """MLE with three optimisers, each built anew, NUTS and MCLMC with several numbers of draws."""
    optimizers = (lambda: optax.adam(1e-3), lambda: optax.sgd(0.1, momentum=0.9), lambda: optax.rmsprop(1e-3))
    counts = []
    for draws in (4, 5):
        with compiled() as events:
            for optimizer in optimizers:
                for steps in (30, 40):
                    method = MLE(optimizer=optimizer(), num_steps=steps, polish=False)
                    run(method, key=draws)
            for method in (
                NUTS(num_warmup=10 + draws, num_samples=draws, num_chains=2, start=None),
                MCLMC(num_warmup=50 + draws, num_samples=draws, num_chains=2, start=None),
            ):
                run(method, key=draws)
        counts.append(len(events))
    assert counts[0] > 0
    assert counts[1] == 0


def test_what_a_program_depends_on_is_in_its_key() -> None:
    """Another learning rate is another optimiser: it must not be given the program of the first."""
    weights = {}
    for rate in (1e-3, 1e-1):
        fitted = fit(MODEL, MLE(optimizer=optax.adam(rate), num_steps=5, polish=False), X, Y, key=0, progress=False)
        weights[rate] = fitted.draws["w1"]
    assert (weights[1e-3] != weights[1e-1]).any()


def test_a_first_fit_compiles_no_program_for_trifles() -> None:
    """A NumPy array that JAX makes its own, or a sum outside of a compiled function, is a program for each shape."""
    x = np.random.default_rng(2).normal(size=(41, 3))  # shapes of no other test
    with compiled() as events:
        fit(replace(MODEL, network=MLP((5,), "tanh")), MAP(num_steps=50), x, x[:, 0] > 0, key=0, progress=False)
    assert len(events) <= 9


CALLS: list[None] = []


def counted(x: Any, y: Any = None) -> Any:
    """The model, which notes its calls: each is a trace, in milliseconds or more."""
    CALLS.append(None)
    return MODEL(x, y)


def test_a_model_is_traced_for_what_is_new_alone() -> None:
    """A first fit traces it for its checks and its programs, another only to see whether the function has changed."""
    counts = []
    for key in (0, 1):
        CALLS.clear()
        result = fit(counted, START, X, Y, key=key, progress=False)
        counts.append(len(CALLS))
    assert 0 < counts[0] <= 15
    assert counts[1] == 1
    assert result.predict(X).mean.shape == (40,)
    CALLS.clear()
    assert result.predict(X).mean.shape == (40,)
    assert not CALLS


ANOTHER_PROCESS = """
import hashlib
import numpy as np
from flatprior.inference import MAP, fit
from flatprior.models import MLP, Model, Normal, gaussian
x = np.linspace(-1, 1, 20)[:, None]
model = Model(MLP((3, 3)), Normal("network"), gaussian(1.0))
found = fit(model, MAP(num_steps=50, polish=False), x, x[:, 0] ** 2, key=0)
print(hashlib.sha256(found.stats["loss"].tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_another_process_has_the_same_bits_and_compiles_nothing_again(tmp_path: Path) -> None:
    """Sets of Python are in another order in each process, by the seed of its hashes."""
    seen = []
    for hash_seed in ("0", "1"):
        settings = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        environment = {**os.environ, **settings, "PYTHONHASHSEED": hash_seed}
        run = subprocess.run(
            [sys.executable, "-c", ANOTHER_PROCESS], env=environment, capture_output=True, text=True, check=True
        )
        seen.append((run.stdout, sorted(path.name for path in tmp_path.glob("*-cache"))))
    assert seen[0] == seen[1]
    assert seen[0][1]
