"""Threads: fits and predictions in several threads at once are those of one thread, to the bit."""

import asyncio
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import Array
from joblib import Parallel, delayed
from numpyro import primitives

from flatprior.inference import MAP, FailedFitWarning, Fit, compare, fit
from flatprior.inference.blocks import COMPILE_EVENTS, stopwatch
from flatprior.inference.objective import likelihood_curve
from flatprior.inference.reasons import Code, Reason
from flatprior.inference.status import Status, no_failure_warnings, warn_if_failed
from flatprior.inference.threads import STACK, ThreadLocalList, separate_handlers
from flatprior.models import MLP, Bernoulli, Model, Normal, gaussian

from .tables import NUM_ROWS, POINT, CommonFit, FindProblem

THREADS = 8
SHORT = MAP(**POINT)
X = np.random.default_rng(0).normal(size=(NUM_ROWS, 2))
Y = X @ [1.0, -0.5]


@pytest.fixture
def one(common_fit: CommonFit) -> Fit:
    return common_fit("Normal, known scale", "MAP")


def in_threads(call: Callable[[Any], Any], arguments: Sequence[Any]) -> list[Any]:
    """The results of calls that begin at the same time, in as many threads as there are arguments."""
    together = threading.Barrier(len(arguments))

    def run(argument: Any) -> Any:
        together.wait()
        return call(argument)

    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(run, arguments))


def predicted(fitted: Fit, num_rows: int) -> tuple[np.ndarray, ...]:
    """Predictions, from code that no other test has compiled: their number of rows is their own."""
    x, y = np.resize(X, (num_rows, 2)), np.resize(Y, num_rows)
    predictive = fitted.predict(x)
    return predictive.mean, predictive.variance, predictive.log_prob(y)


def assert_equal(one: Any, other: Any) -> None:
    """Equal to the bit."""
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_eight_threads_predict_from_one_fit(one: Fit) -> None:
    sizes = [101, 102, 103, 104] * 2
    assert_equal(in_threads(lambda size: predicted(one, size), sizes), [predicted(one, size) for size in sizes])


def test_threads_fit_different_models_while_others_predict(one: Fit) -> None:
    def do(i: int) -> Any:
        if i % 2:
            return predicted(one, 110 + i)
        model = Model(MLP((), "tanh"), (Normal(0.3), Normal(0.5))[i // 2], gaussian(1.0))
        return dict(fit(model, SHORT, X, Y, key=i, progress=False).draws)

    assert_equal(in_threads(do, range(4)), [do(i) for i in range(4)])


@pytest.mark.slow
def test_four_threads_fit_different_models() -> None:
    def fitted(width: int) -> dict[str, np.ndarray]:
        model = Model(MLP((width,), "tanh"), Bernoulli(), gaussian(1.0))
        return dict(fit(model, MAP(), X, Y > 0, key=width, progress=False).draws)

    widths = [4, 5, 6, 7]
    assert_equal(in_threads(fitted, widths), [fitted(width) for width in widths])


def test_threads_that_fit_one_model_share_its_program(one: Fit) -> None:
    x, y = X[:-1], Y[:-1]  # a shape of its own, which nothing has compiled
    traced = []

    def counted(x: Array, y: Array | None = None) -> None:
        traced.append(threading.get_ident())
        one.model(x, y)

    fits = in_threads(lambda key: fit(counted, SHORT, x, y, key=key % 2, progress=True), range(4))  # bars as well
    assert_equal(fits[0].draws, fits[2].draws)
    assert_equal(fits[1].draws, fits[3].draws)
    count = len(traced)
    in_threads(lambda key: fit(counted, SHORT, x, y, key=key, progress=False), range(4))
    assert len(traced) - count <= 4 * 2  # a function is traced at each fit, to see whether it has changed


def test_asyncio_and_joblib(one: Fit) -> None:
    async def gathered() -> list[Any]:
        return await asyncio.gather(*(asyncio.to_thread(predicted, one, size) for size in (121, 122, 121, 122)))

    serial = [predicted(one, size) for size in (121, 122, 121, 122)]
    assert_equal(asyncio.run(gathered()), serial)
    parallel = Parallel(4, backend="threading")(delayed(predicted)(one, size) for size in (123, 122, 123, 122))
    assert_equal(parallel, [predicted(one, size) for size in (123, 122, 123, 122)])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["NUTS", "Laplace"])
def test_methods_in_threads(method: str, common_fit: CommonFit, problem: FindProblem) -> None:
    whole = common_fit("Normal, learned scale", method)
    model, x, y = problem("Normal, learned scale")
    fits = in_threads(lambda _: fit(model, whole.method, x, y, key=3, progress=False), range(2))
    for each in fits:
        assert_equal(dict(each.draws), dict(whole.draws))


def test_each_thread_has_its_own_stack_of_handlers() -> None:
    for module in (primitives, numpyro.handlers):
        assert isinstance(getattr(module, STACK), ThreadLocalList)  # else NumPyro has changed: see `threads`
    inside = threading.Event(), threading.Event()

    def draw(i: int) -> dict[str, Any]:
        with numpyro.handlers.trace() as sites, numpyro.handlers.seed(rng_seed=i):
            inside[i].set()
            assert inside[1 - i].wait(10)  # both threads are inside of their handlers
            numpyro.sample("w", dist.Normal())
            time.sleep(0.01)
            return {name: float(site["value"]) for name, site in sites.items()}

    first, second = in_threads(draw, range(2))
    assert set(first) == set(second) == {"w"}
    assert first != second
    assert len(getattr(primitives, STACK)) == 0


def test_a_thread_local_list_is_a_list() -> None:
    stack = ThreadLocalList("ab")
    stack.append("c")
    assert (stack[-1], stack[-2:], stack.index("b"), "c" in stack) == ("c", ["b", "c"], 1, True)
    assert list(reversed(stack)) == list("cba")
    assert [stack.pop(), len(stack), *in_threads(lambda _: len(stack), [0])] == ["c", 2, 0]
    stack[0], whole = "z", list("zb")
    del stack[1]
    assert list(stack) == whole[:1]


def test_a_numpyro_without_the_stack_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    separate_handlers()  # again: nothing happens
    monkeypatch.setattr(primitives, STACK, None)
    with pytest.raises(ImportError, match=r"_PYRO_STACK to be a list.*got None"):
        separate_handlers()


def test_the_precision_is_that_of_a_thread(one: Fit) -> None:
    def dtype(i: int) -> Any:
        with jax.enable_x64(bool(i % 2)):
            time.sleep(0.01)
            return jnp.zeros(1).dtype.name

    assert in_threads(dtype, range(4)) == ["float32", "float64"] * 2


def test_compiling_in_another_thread_is_not_counted() -> None:
    with stopwatch() as seconds:
        started = time.perf_counter()
        jax.monitoring.record_event_duration_secs(f"{COMPILE_EVENTS}test", 0.0)
        in_threads(lambda _: jax.monitoring.record_event_duration_secs(f"{COMPILE_EVENTS}test", 1e3), [0])
    assert seconds.compile <= time.perf_counter() - started


def test_the_filters_of_warnings_are_left_alone() -> None:
    failed = Status(failures=(Reason.of(Code.NO_CURVATURE),))
    inside, outside = threading.Event(), threading.Event()

    def first() -> None:
        with no_failure_warnings():
            inside.set()
            assert outside.wait(10)
            warn_if_failed(failed)

    def second() -> None:
        assert inside.wait(10)
        with pytest.warns(FailedFitWarning):  # the other thread has asked for silence, this one has not
            warn_if_failed(failed)
        outside.set()

    before = warnings.filters[:]
    in_threads(lambda call: call(), [first, second])
    assert warnings.filters == before


def test_validation_is_left_on(one: Fit) -> None:
    def curve(i: int) -> np.ndarray:
        return likelihood_curve(one.model, X, Y, "b1[0]", np.linspace(-1, 1, 3 + i % 2), at=one).log_likelihood

    assert_equal(in_threads(curve, range(4)), [curve(i) for i in range(4)])
    assert dist.Distribution._validate_args


def test_comparisons_in_threads(one: Fit) -> None:
    tables = in_threads(lambda _: compare({"MAP": one}, X, Y).to_dataframe(), range(4))
    assert all(table.equals(tables[0]) for table in tables)


@pytest.mark.slow
def test_a_service_of_many_requests(one: Fit) -> None:
    sizes = [5 + i % 20 for i in range(160)]
    serial = {size: predicted(one, size) for size in set(sizes)}
    with ThreadPoolExecutor(THREADS) as pool:
        for size, result in zip(sizes, pool.map(lambda size: predicted(one, size), sizes), strict=True):
            assert_equal(result, serial[size])
