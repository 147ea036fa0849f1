"""Data sets, models written by hand, and float64."""

import gc
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import Array

from flatprior.inference import Fit, fit
from flatprior.models import MLP, censored, fan_in

from .compile_seconds import CompileSeconds
from .tables import MODELS, NUM_ROWS, CommonFit, FindProblem, method_of

MAPS = 45_000
"""Regions of memory after which a file of tests leaves no compiled code to the next; one file makes up to 10,000."""
NEW_OBJECTS = 50_000
"""Objects after which the garbage collector looks for cycles among them."""
LONGEST = ("notebooks", "contract", "docstrings", "package", "explain", "mode", "command", "compression", "laplace")
LONGEST_OF_SLOW = ("site", "observations", "truth", "coverage", "devices", "processes", "sequences", "closed_forms")
"""The files of tests that take longest, by default and with slow tests."""
COMPILED = Path(__file__).parents[1] / "build" / "compiled"
"""Where a run leaves compiled programs to the next one, which reads all that have not changed since."""


class Problem(NamedTuple):
    """A model and rows that it can be fitted to."""

    model: Callable[..., Any]
    x: Any
    y: np.ndarray


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--compile-seconds", action="store_true", help="print the seconds that JAX compiles, by file")


def pytest_configure(config: pytest.Config) -> None:
    """The processes of a run, kernels of notebooks among them, share what they compile: a third of it is the same."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # the first process names the folder, the others inherit it
        from flatprior.command.cache import prune  # with all that the command imports, which workers need not

        COMPILED.mkdir(parents=True, exist_ok=True)
        prune(COMPILED)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(COMPILED)
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # to read a program takes a tenth of the time
        jax.config.update("jax_compilation_cache_dir", str(COMPILED))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"  # programs need not know the lines that they come from
    jax.config.update("jax_traceback_in_locations_limit", 0)
    if config.option.markexpr == "not slow":  # a third less time; with the slow tests all is compiled as users have it
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

    if config.option.compile_seconds:
        config.pluginmanager.register(CompileSeconds())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that no process ends with one of them alone."""
    place = {f"test_{name}.py": number for number, name in enumerate(LONGEST + LONGEST_OF_SLOW)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


def pytest_collection_finish() -> None:
    """What has been imported and collected stays to the end: the garbage collector need not go through it again.

    Tracing makes many small objects, and few cycles of them: looking for those after every 700 objects takes a tenth of
    the time of a run.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS)


@pytest.fixture(scope="module", autouse=True)
def compiled_code_is_dropped() -> Iterator[None]:
    """A process may map 65,530 regions of memory on Linux; XLA takes ten a program, and dies when there are no more.

    Until then the files of tests share what is compiled.
    """
    yield
    maps = Path("/proc/self/maps")
    if not maps.exists() or maps.read_bytes().count(b"\n") > MAPS:
        gc.collect()
        jax.clear_caches()


@pytest.fixture
def x64() -> Iterator[None]:
    """Float64, for identities that hold to rounding. What is traced outside of it stays in float32."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def data_sets() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Kind of y -> (x, y). The signal is weak enough that no kind of class is separable."""
    rng = np.random.default_rng(20)
    x = rng.normal(size=(NUM_ROWS, 2))
    signal = x @ [1.0, -0.5] + 0.3
    gumbel = rng.gumbel(size=(NUM_ROWS, 3))
    tokens = np.random.default_rng(22).integers(0, 3, size=(NUM_ROWS, 4))
    pairs = np.stack([signal, -signal], axis=1) + np.random.default_rng(23).normal(size=(NUM_ROWS, 2)) @ [
        [1, 0.5],
        [0, 1],
    ]
    times = np.exp(signal) * np.random.default_rng(24).weibull(1.5, NUM_ROWS)
    return {
        "binary": (x, (signal + rng.logistic(size=NUM_ROWS) > 0).astype(int)),
        "classes": (x, np.argmax(np.outer(signal, [-0.5, 0.0, 0.5]) + gumbel, axis=1)),
        "real": (x, signal + 0.4 * rng.normal(size=NUM_ROWS)),
        "counts": (x, rng.poisson(np.exp(signal))),
        "positive": (x, np.exp(signal + 0.4 * rng.normal(size=NUM_ROWS))),
        "shares": (x, rng.beta(4 / (1 + np.exp(-signal)), 4 / (1 + np.exp(signal)))),
        "vectors": (x, pairs),
        "bounds": (x, censored(np.minimum(times, 2.0), times < 2.0)),
        "tokens": (tokens[:, :-1], np.where(np.arange(3 * NUM_ROWS).reshape(-1, 3) % 10 == 9, -1, tokens[:, 1:])),
    }


def hierarchical(x: tuple[Array, Array], y: Array | None = None) -> None:
    """Groups with a level each, the spread of the levels learned; x is (group, z)."""
    group, z = x
    spread = numpyro.sample("spread", dist.HalfNormal(1.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    with numpyro.plate("group", 4):
        # Not centred: the joint density of a centred level grows without bound as the spread goes to 0.
        offset = numpyro.sample("offset", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", z.shape[0]):
        numpyro.sample("y", dist.Laplace(spread * offset[group] + slope * z, 0.5), obs=y)


def mixture_density(x: Array, y: Array | None = None) -> None:
    """A network whose outputs are the weights, places and scales of ten logistic components."""
    eta = MLP((3,), "tanh")(x, 30, prior=fan_in(1.0))
    logits, loc, scale = jnp.split(eta, 3, axis=-1)
    components = dist.Logistic(loc, jax.nn.softplus(scale) + 0.05)
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("target", dist.MixtureSameFamily(dist.Categorical(logits=logits), components), obs=y)


def dictionary(x: dict[str, Array], y: Array | None = None) -> None:
    """Counts, from a dictionary of arrays of different kinds."""
    level = numpyro.sample("level", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
    slope = numpyro.sample("slope", dist.Normal(jnp.zeros(2), 0.5).to_event(1))
    with numpyro.plate("row", x["z"].shape[0]):
        numpyro.sample("count", dist.Poisson(jnp.exp(level[x["group"]] + x["z"] @ slope)), obs=y)


@pytest.fixture(scope="session")
def by_hand(data_sets: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, Problem]:
    """Models that are not a `Model`: name -> (model, x, y)."""
    rng = np.random.default_rng(21)
    x, y = data_sets["real"]
    group = rng.integers(0, 3, NUM_ROWS)
    counts = rng.poisson(np.exp(0.5 * group + x @ [0.3, -0.3]))
    return {
        "hierarchical": Problem(hierarchical, (rng.integers(0, 4, NUM_ROWS), x[:, 0]), y),
        "mixture_density": Problem(mixture_density, x, y),
        "dictionary": Problem(dictionary, {"group": group, "z": x}, counts),
    }


@pytest.fixture(scope="session")
def problem(data_sets: dict[str, Any], by_hand: dict[str, Any]) -> FindProblem:
    def find(name: str) -> tuple[Any, Any, Any]:
        return (MODELS[name][0], *data_sets[MODELS[name][1]]) if name in MODELS else by_hand[name]

    return find


@pytest.fixture(scope="session")
def common_fit(problem: FindProblem) -> CommonFit:
    """Made once in a process, for all files of tests."""

    @cache
    def find(name: str, method: str) -> Fit:
        model, x, y = problem(name)
        with jax.enable_x64(False):  # whichever test asks first
            return fit(model, method_of(method, name), x, y, key=3, progress=False)

    return find
