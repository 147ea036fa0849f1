"""Indices that a model takes from its rows: one that is out of range is named, where JAX would clamp it in silence."""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from flax import nnx
from jax import Array

from flatprior.inference import MAP, Fit, compare, fit
from flatprior.inference.arrays import as_rows
from flatprior.inference.checks import check_problem
from flatprior.inference.information import code_length
from flatprior.inference.lookups import ROWS_TOGETHER, check_indices
from flatprior.inference.rows import Data
from flatprior.models import Bernoulli, Lift, Model, gaussian

NUM_GROUPS = 4
GROUPS = np.arange(12) % NUM_GROUPS
Y = np.random.default_rng(0).normal(size=12)
BY_COLUMN = np.stack([np.linspace(-1.0, 1.0, 12), GROUPS], axis=1)

LookUp = Callable[[Array, Any], Array]


class Groups:
    """Levels of groups around 0, from their array and x by a function."""

    def __init__(self, look_up: LookUp) -> None:
        self.look_up = look_up

    def __call__(self, x: Any, y: Array | None = None) -> None:
        spread = numpyro.sample("spread", dist.HalfNormal(1.0))
        with numpyro.plate("group", NUM_GROUPS):
            level = numpyro.sample("level", dist.Normal(0.0, 1.0))
        with numpyro.plate("row", jax.tree.leaves(x)[0].shape[0]):
            numpyro.sample("y", dist.Normal(self.look_up(spread * level, x), 1.0), obs=y)


def by_loop(level: Array, x: Array) -> Array:
    """A sum of levels that is carried from row to row."""
    return jax.lax.scan(lambda total, group: (total + level[group], level[group]), 0.0, x)[1]


CHECKED: dict[str, tuple[LookUp, Any, str]] = {
    "brackets": (lambda level, x: level[x], GROUPS, "x, row 3"),
    "brackets and uint8": (lambda level, x: level[x], GROUPS.astype(np.uint8), "x, row 3"),
    "take": (lambda level, x: jnp.take(level, x), GROUPS, "x, row 3"),
    "a row at a time": (lambda level, x: jax.vmap(lambda group: level[group])(x), GROUPS, "x, row 3"),
    "a loop": (by_loop, GROUPS, "x, row 3"),
    "a checkpoint": (lambda level, x: jax.checkpoint(lambda level: level[x])(level), GROUPS, "x, row 3"),
    "compiled": (lambda level, x: jax.jit(lambda level, x: level[x])(level, x), GROUPS, "x, row 3"),
    "a column": (lambda level, x: level[x[:, 1].astype(int)] * x[:, 0], BY_COLUMN, "x, row 3, column 1"),
    "a dictionary": (lambda level, x: level[x["g"]], {"g": GROUPS, "z": BY_COLUMN}, r"x\['g'\], row 3"),
    "a table of numbers": (lambda level, x: level[jnp.arange(NUM_GROUPS)[x]], GROUPS, "x, row 3"),
}
"""How values are looked up by groups that must be in range, with x and the place of the first group of 3."""

WISHES: dict[str, LookUp] = {
    "clip": lambda level, x: level.at[x].get(mode="clip"),
    "fill": lambda level, x: level.at[x].get(mode="fill", fill_value=0.0),
    "an index that is clipped": lambda level, x: level[jnp.clip(x, 0, NUM_GROUPS - 1)],
    "an index that is replaced": lambda level, x: level[jnp.where((x >= 0) & (x < NUM_GROUPS), x, 0)],
    "one-hot": lambda level, x: jax.nn.one_hot(x, NUM_GROUPS) @ level,
    "a mask": lambda level, x: level[(x > 2).astype(int)],
    "modulo": lambda level, x: level[x % NUM_GROUPS],
    "order": lambda level, x: jnp.sort(x)[jnp.argsort(x)] * level[0],
}
"""Models that take any integer."""


def rows(x: Any, y: Any = None) -> Data:
    return Data(as_rows("x", x), None if y is None else as_rows("y", y))


def moved(x: Any, by: int) -> Any:
    """X with other numbers of the groups."""
    if isinstance(x, dict):
        return x | {"g": x["g"] + by}
    return x + by * np.array([0, 1]) if x.ndim == 2 else x + np.array(by, x.dtype)


@pytest.mark.parametrize("name", CHECKED)
def test_a_group_out_of_range_is_named(name: str) -> None:
    look_up, x, place = CHECKED[name]
    density, _ = check_problem(Groups(look_up), x, Y)
    for y in (Y, None):  # a score, and a prediction
        check_indices(density, rows(x, y))
        with pytest.raises(ValueError, match=rf"^{place}: expected an index from 0 to 3, .*; got 4\."):
            check_indices(density, rows(moved(x, 1), y))
    with pytest.raises(ValueError, match=rf"^{place}: expected .*; got 4\."):
        check_problem(Groups(look_up), moved(x, 1), Y)


def test_indices_count_from_the_end_down_to_the_first() -> None:
    density, _ = check_problem(Groups(CHECKED["brackets"][0]), GROUPS - NUM_GROUPS, Y)
    with pytest.raises(ValueError, match=r"x, row 0: expected an index from 0 to 3, .* 'level', 'spread'; got -5\."):
        check_indices(density, rows(GROUPS - NUM_GROUPS - 1))


@pytest.mark.parametrize("name", WISHES)
def test_models_that_take_any_integer_are_not_disturbed(name: str) -> None:
    density, _ = check_problem(Groups(WISHES[name]), GROUPS + 2, Y)
    check_indices(density, rows(GROUPS - 9))


def test_a_row_is_counted_from_the_first_of_all_rows() -> None:
    many = np.zeros(ROWS_TOGETHER + 5, int)
    many[-2] = 7
    density, _ = check_problem(Groups(CHECKED["brackets"][0]), GROUPS, Y)
    with pytest.raises(ValueError, match=rf"x, row {ROWS_TOGETHER + 3}: .*; got 7\."):
        check_indices(density, rows(many))


@pytest.fixture(scope="module")
def result() -> Fit:
    return fit(Groups(CHECKED["brackets"][0]), MAP(num_steps=20, polish=False), GROUPS, Y, key=0, progress=False)


ASKED: dict[str, Callable[[Fit, Any], Any]] = {
    "predict": lambda result, x: result.predict(x),
    "log_likelihood": lambda result, x: result.log_likelihood(x, Y),
    "compare": lambda result, x: compare({"a": result}, x, Y),
    "code_length": lambda result, x: code_length(result, x, Y),
    "to_datatree": lambda result, x: result.to_datatree(x, Y),
}


@pytest.mark.parametrize("name", ASKED)
def test_an_unseen_group_has_no_prediction(name: str, result: Fit) -> None:
    ASKED[name](result, GROUPS)
    with pytest.raises(ValueError, match=r"x, row 3: expected an index from 0 to 3, .*; got 4\."):
        ASKED[name](result, GROUPS + 1)


class Embedded(nnx.Module):
    """The sum of the embeddings of tokens."""

    def __init__(self, num_tokens: int) -> None:
        self.table = nnx.Embed(num_tokens, 1, rngs=nnx.Rngs(0))

    def __call__(self, x: Array) -> Array:
        return self.table(x).sum(axis=1)


class EmbeddedRow(eqx.Module):
    """The same of one row, in Equinox."""

    table: eqx.nn.Embedding

    def __call__(self, x: Array) -> Array:
        return jax.vmap(self.table)(x).sum(axis=0)


MODULES: dict[str, Callable[[], Any]] = {
    "Flax": lambda: Lift(Embedded(3)),
    "Equinox": lambda: Lift(EmbeddedRow(eqx.nn.Embedding(3, 1, key=jax.random.key(0)))),
}


@pytest.mark.parametrize("name", MODULES)
def test_tokens_beyond_the_vocabulary_of_a_module_are_named(name: str) -> None:
    model, tokens = Model(MODULES[name](), Bernoulli(), gaussian(1.0)), np.array([[0, 2], [1, 1], [2, 0]])
    check_problem(model, tokens, [0, 1, 1])
    with pytest.raises(ValueError, match=r"x, row 1, column 1: expected an index from 0 to 2, .*; got 3\."):
        check_problem(model, np.array([[0, 2], [1, 3], [2, 0]]), [0, 1, 1])


class LookedUp(dist.Distribution):
    """Classes whose log probabilities are looked up by y; its support does not say how many there are."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = dist.constraints.nonnegative_integer
    pytree_data_fields = ("log_probs",)

    def __init__(self, log_probs: Array) -> None:
        self.log_probs = log_probs
        super().__init__(batch_shape=log_probs.shape[:1])

    def log_prob(self, value: Array) -> Array:
        return self.log_probs[jnp.arange(len(value)), value]

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        return jax.random.categorical(key, self.log_probs, shape=sample_shape + self.batch_shape)


def hand_written_classes(x: Array, y: Array | None = None) -> None:
    slope = numpyro.sample("slope", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
    numpyro.sample("y", LookedUp(jax.nn.log_softmax(x[:, None] * slope)), obs=y)


def test_an_index_from_y_is_named() -> None:
    x, y = np.linspace(-1.0, 1.0, 4), np.array([0, 1, 2, 0])
    check_problem(hand_written_classes, x, y)
    with pytest.raises(ValueError, match=r"^y, row 2: expected an index from 0 to 2, into axis 1 .*; got 3\."):
        check_problem(hand_written_classes, x, np.array([0, 1, 3, 0]))
