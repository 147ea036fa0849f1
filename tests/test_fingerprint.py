"""Equal fingerprints only where two things are provably the same; and the same where they are built twice."""

from dataclasses import dataclass
from functools import partial
from time import process_time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from numpyro.infer import init_to_uniform, init_to_value

from flatprior.inference import MAP, MLE, Ensemble
from flatprior.inference.digests import digest_of_rows
from flatprior.inference.fingerprint import (
    ByValue,
    digest,
    fingerprint,
    same_log_density,
    without_addresses,
)


def by_hand(rate):
    """A user's own optimiser."""

    def init(params):
        return optax.EmptyState()

    def update(updates, state, params=None):
        return jax.tree.map(lambda leaf: -rate * leaf, updates), state

    return optax.GradientTransformation(init, update)


class Counter:
    """An object of which nothing is known."""


@dataclass
class Schedule:
    rate: float
    values: tuple = ()

    def __call__(self, step):
        return self.rate


OPTIMIZERS = {
    "adam": lambda a: optax.adam(a),
    "betas": lambda a: optax.adam(1e-3, b1=a),
    "sgd": lambda a: optax.sgd(1e-2, momentum=a),
    "cosine": lambda a: optax.adam(optax.cosine_decay_schedule(a, 100)),
    "warm-up": lambda a: optax.adam(optax.warmup_cosine_decay_schedule(0.0, a, 10, 100)),
    "piecewise": lambda a: optax.adam(optax.piecewise_constant_schedule(1e-2, {10: a})),
    "chain": lambda a: optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(), optax.scale(-a)),
    "multi_transform": lambda a: optax.multi_transform({"w": optax.adam(a), "b": optax.sgd(a)}, {"w1": "w", "b1": "b"}),
    "inject_hyperparams": lambda a: optax.inject_hyperparams(optax.adam)(a),
    "masked": lambda a: optax.masked(optax.adam(a), {"w1": True, "b1": False}),
    "by hand": by_hand,
    "array": lambda a: optax.adam(jnp.array(a)),
    "NumPy array": lambda a: optax.scale_by_schedule(partial(np.interp, xp=np.arange(2.0), fp=np.array([a, 0.0]))),
    "schedule as a value": lambda a: optax.adam(Schedule(a)),
    "default argument": lambda a: optax.adam(lambda step, rate=a: rate),
    "method": lambda a: optax.adam(Schedule(a).__call__),
    "nested function": lambda a: optax.adam(lambda step: (lambda: a)()),
    "L-BFGS": lambda a: optax.lbfgs(a, linesearch=None),
}


@pytest.mark.parametrize("build", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_an_optimizer_built_twice_is_one_value_and_with_another_number_it_is_not(build):
    assert fingerprint(build(1e-3)) == fingerprint(build(1e-3))
    assert hash(fingerprint(build(1e-3))) == hash(fingerprint(build(1e-3)))
    assert fingerprint(build(1e-3)) != fingerprint(build(2e-3))


def test_no_two_of_these_optimizers_are_equal():
    assert len({ByValue(build(1e-3)) for build in OPTIMIZERS.values()}) == len(OPTIMIZERS)


@pytest.mark.parametrize("method", [MLE, MAP], ids=["MLE", "MAP"])
def test_settings_with_an_equal_optimizer_are_equal(method):
    one, same, other = (method(optimizer=optax.adam(rate)) for rate in (1e-3, 1e-3, 2e-3))
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert method() == method() != one
    assert one != method(optimizer=one.optimizer, num_steps=7)
    assert Ensemble(base=one) == Ensemble(base=same) != Ensemble(base=other)
    assert MLE() != MAP()
    assert MAP(**vars(one)).optimizer is one.optimizer


def test_a_strategy_of_initialisation_counts():
    settings = [MAP(init_strategy=init_to_value(values={"w1": np.full(2, value)})) for value in (0.0, 0.0, 1.0)]
    assert settings[0] == settings[1] != settings[2]
    assert MAP(init_strategy=init_to_uniform) == MAP(init_strategy=init_to_uniform)


CHANGES = {
    "bool and int": (True, 1),
    "int and float": (1, 1.0),
    "zeros of two signs": (0.0, -0.0),
    "float of NumPy": (1.0, np.float64(1.0)),
    "tuple and list": ((1,), [1]),
    "order of a dict": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "type of an array": (np.zeros(2, "f4"), np.zeros(2, "f8")),
    "shape of an array": (np.zeros((2, 1)), np.zeros(2)),
    "array of JAX": (np.zeros(2, "f4"), jnp.zeros(2, "f4")),
    "keys": (jax.random.key(0), jax.random.key(1)),
    "distribution": (dist.Normal(0.0, 1.0), dist.Normal(0.0, 2.0)),
    "its family": (dist.HalfNormal(1.0), dist.HalfCauchy(1.0)),
    "its mask": (dist.Normal(0, 1).mask(False), dist.Normal(0, 1)),
    "its transform": (
        dist.TransformedDistribution(dist.Normal(0, 1), dist.transforms.AffineTransform(0.0, 2.0)),
        dist.TransformedDistribution(dist.Normal(0, 1), dist.transforms.AffineTransform(0.0, 3.0)),
    ),
    "unknown objects": (Counter(), Counter()),
    "arrays of objects": (np.array([None]), np.array([None])),
    "sharing": ([[1]] * 2, [[1], [1]]),
}


@pytest.mark.parametrize(("one", "other"), CHANGES.values(), ids=CHANGES)
def test_what_is_not_provably_the_same_differs(one, other):
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) == fingerprint(one)
    assert fingerprint(lambda: one) != fingerprint(lambda: other)


EQUAL = {
    "NaN": lambda: float("nan"),
    "array": lambda: np.arange(3.0),
    "array of JAX": lambda: jnp.arange(3.0),
    "key": lambda: jax.random.key(3),
    "prior": lambda: dist.Gamma(2.0, jnp.ones(3)).to_event(1),
    "truncated": lambda: dist.TruncatedNormal(0.0, 1.0, low=0.0),
    "partial": lambda: partial(np.interp, xp=np.arange(3)),
    "dataclass": lambda: Schedule(1.0, (2,)),
}


@pytest.mark.parametrize("build", EQUAL.values(), ids=EQUAL)
def test_what_is_built_twice_is_the_same(build):
    assert fingerprint(build()) == fingerprint(build())


def test_a_distribution_that_has_computed_more_of_itself_is_the_same():
    used, fresh = (dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)) for _ in range(2))
    assert used.precision_matrix.shape == (2, 2)
    assert fingerprint(used) == fingerprint(fresh)


def defined(**names):
    """A function of a module in which these names are defined; it reads the global RATE by way of a helper."""
    source = "def helper():\n    return RATE\n\ndef update(grad):\n    return [helper() * g for g in grad]\n"
    exec(compile(source, "cell", "exec"), names)
    return names["update"]


def test_globals_that_a_function_reads_count():
    assert fingerprint(defined(RATE=0.1)) == fingerprint(defined(RATE=0.1))
    assert fingerprint(defined(RATE=0.1)) != fingerprint(defined(RATE=0.2))
    update = defined(RATE=0.1)
    then = fingerprint(update)
    assert fingerprint(update) == then
    update.__globals__["RATE"] = 0.2
    assert fingerprint(update) != then
    update.__globals__["helper"] = defined(RATE=0.1).__globals__["helper"]
    assert fingerprint(update) != then


def test_a_value_of_a_module_counts(monkeypatch):
    def scaled(step):
        return np.pi * step

    then = fingerprint(scaled)
    assert fingerprint(scaled) == then
    monkeypatch.setattr(np, "pi", 3.0)
    assert fingerprint(scaled) != then


def test_a_changed_closure_is_another_value():
    rates = [0.1]

    def schedule(step):
        return rates[0]

    settings = MAP(optimizer=optax.adam(schedule))
    before = fingerprint(schedule), fingerprint(settings)
    rates[0] = 0.2
    assert fingerprint(schedule) != before[0]
    assert fingerprint(settings) != before[1]


def test_cycles_end():
    def recursive(rate):
        def update(step):
            return rate if step == 0 else update(step - 1)

        return update

    assert fingerprint(recursive(1.0)) == fingerprint(recursive(1.0)) != fingerprint(recursive(2.0))
    ring = []
    ring.append(ring)
    assert fingerprint(ring) == fingerprint(ring)


def test_digests_log_densities_and_addresses():
    x = np.arange(4.0)
    assert digest([("x", x)]) == digest([("x", x.copy())])
    assert len({digest([("x", x)]), digest([("y", x)]), digest([("x", x.reshape(2, 2))]), digest([("x", x)], "a")}) == 4
    assert same_log_density(1000.0, 1000.5)
    assert same_log_density(np.nan, np.nan)
    assert not same_log_density(1000.0, 1002.0)
    assert without_addresses("<function f at 0x7f01ab>, 0x12") == "<function f>, 0x12"


ROWS = np.random.default_rng(5).normal(size=(3_001, 3)).astype(np.float32)
CHANGED: dict[str, Any] = {
    **{
        f"row {i} by a bit": np.where((np.arange(3_001) == i)[:, None], np.nextafter(ROWS, np.float32(9)), ROWS)
        for i in (1233, 1234, 1235)  # of which one or two are among those that are read in full
    },
    "the order": ROWS[::-1],
    "two rows exchanged": np.concatenate([ROWS[-1:], ROWS[1:-1], ROWS[:1]]),
    "fewer rows": ROWS[:-1],
    "another shape": ROWS.reshape(3_001, 3, 1),
    "one more leaf": (ROWS, ROWS),
}
SAME: dict[str, Any] = {
    "float64": ROWS.astype(float),
    "columns first": np.asfortranarray(ROWS),
    "on the device": jnp.asarray(ROWS),
    "in a dictionary": {"x": ROWS},
}


def test_rows_have_a_digest_of_their_own_whatever_their_type(monkeypatch: pytest.MonkeyPatch) -> None:
    result = digest_of_rows(ROWS)
    assert {name for name, rows in CHANGED.items() if digest_of_rows(rows) == result} == set()
    assert {name for name, rows in SAME.items() if digest_of_rows(rows) != result} == set()
    labels = np.arange(9) % 3
    assert digest_of_rows(labels) == digest_of_rows(labels.astype(np.uint8)) == digest_of_rows(labels.astype(float))
    monkeypatch.setattr("flatprior.inference.digests.SUMMED_AT_A_TIME", 7)  # a few rows at a time
    assert digest_of_rows(ROWS) == result


@pytest.mark.slow
def test_a_digest_of_rows_takes_the_time_of_a_sum() -> None:
    """Reading them from a file takes ten times as long."""
    rows = np.random.default_rng(0).normal(size=(1_000_000, 100)).astype(np.float32)
    started = process_time()
    np.isfinite(rows.sum())
    summed = process_time()
    digest_of_rows(rows)
    assert process_time() - summed < 6 * (summed - started) + 0.1
