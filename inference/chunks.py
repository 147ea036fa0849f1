"""Functions of draws and rows, in bounded memory."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .density import Density
from .files import ArrayFiles
from .kept import wide, wide_bytes, widened
from .rows import Data, Rows, Weights, abstract_rows, signature
from .status import warn_of_precision
from .stored import Stored, in_parts, is_stored

WORKING_BYTES = 2**28
"""The device memory that a prediction may use in addition to x, the draws and its result: about 256 MiB."""
PROBE_ROWS = 64
"""The number of rows of which the memory is computed."""
IN_MEMORY = ArrayFiles(None, ())
DRAWS_BYTES = 2**28
"""The size of all draws above which they stay in memory or on disk, and some of them at a time are on the device."""
COPIES = 4
"""The number of arrays of (draw, row) that a summary has in memory at a time."""

PerDraw = Callable[[Density, Weights, Data], Any]
Summary = Callable[[Any, Rows, Any], Any]


def over_rows(
    per_draw: PerDraw,
    summary: Summary,
    density: Density,
    draws: Weights,
    data: Data,
    extra: Any = None,
    dtype: Any = None,
    files: ArrayFiles = IN_MEMORY,
) -> Any:
    """Evaluate a function at every draw and row, and summarise it over draws, one chunk of rows at a time.

    Only this function bounds the memory of predictions. Rows are cut so that (draws x rows of a chunk) results fit in
    `WORKING_BYTES`, and within a chunk as many draws are evaluated together as their intermediate values allow. Draws
    that stay where they are are read once for each chunk of rows, `PART_BYTES` of them at a time.

    Args:
        per_draw: (density, weights, data) -> a pytree with one entry per row, at one draw.
        summary: (that pytree with a leading axis of draws, y, extra) -> a pytree of arrays with rows first.
        density: the density of which the draws are.
        draws: site -> (draw, *shape), as `mixture_of` returns them, or (1, *shape) where all draws are equal: values
            that depend only on such sites are then computed once for all draws that are evaluated together.
        data: n rows of x, and of y where the function needs it.
        extra: passed to the summary.
        dtype: the type of the result; by default that of the summary.
        files: where the result is written to.

    Returns:
        The summary, with n rows, as NumPy arrays.
    """
    num_rows = data.num_rows
    chunk, together = sizes(per_draw, density, draws, data)
    whole: list[np.ndarray] = []
    evaluate = _evaluate_parts if is_stored(draws) else _evaluate
    for start, part in data.parts(chunk):
        result = evaluate(per_draw, summary, density, together, draws, part, extra)
        leaves, tree = jax.tree.flatten(result)
        for number, leaf in enumerate(leaves):
            if start == 0:
                whole.append(files.empty(number, (num_rows, *leaf.shape[1:]), dtype or leaf.dtype))
            with np.errstate(over="ignore"):  # a log density may be infinite in the type of the result
                whole[number][start : start + chunk] = np.asarray(leaf)[: num_rows - start]
    return jax.tree.unflatten(tree, files.complete(whole))


@dataclass(frozen=True)
class InDouble:
    """A function of draws and rows, evaluated in float64 at the same numbers, which are widened a chunk at a time."""

    per_draw: PerDraw

    def __call__(self, density: Density, weights: Weights, data: Data) -> Any:
        return self.per_draw(density, *jax.tree.map(self._widened, (weights, data)))

    def _widened(self, leaf: Array) -> Array:
        return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def over_rows_in_double(
    per_draw: PerDraw,
    summary: Summary,
    density: Density,
    draws: Weights,
    data: Data,
    extra: Any = None,
    files: ArrayFiles = IN_MEMORY,
) -> Any:
    """Evaluate `over_rows` in float64, and return the result in the default precision.

    Warns:
        PrecisionWarning: where that is not possible, as for a network that fixes the type of its state.
    """
    dtype, where = jax.dtypes.canonicalize_dtype(float), (density, draws, data, extra)
    if dtype == np.float64:
        return over_rows(per_draw, summary, *where, files=files)
    try:
        with jax.enable_x64(True):
            return over_rows(InDouble(per_draw), summary, *where, dtype=dtype, files=files)
    except TypeError as error:
        values = over_rows(per_draw, summary, *where, files=files)
        warn_of_precision(error)
        return values


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _evaluate(
    per_draw: PerDraw, summary: Summary, density: Density, together: int, draws: Weights, data: Data, extra: Any
) -> Any:
    several, one = apart(draws)
    values = jax.lax.map(lambda weights: per_draw(density, weights | one, data), several, batch_size=together)
    return summary(values, data.y, extra)


def _evaluate_parts(
    per_draw: PerDraw, summary: Summary, density: Density, together: int, draws: Weights, data: Data, extra: Any
) -> Any:
    """Evaluate draws that stay where they are, a part at a time."""
    # A part is read when the last one has been evaluated: the disk would otherwise be ahead, and fill the memory.
    values = [
        jax.device_get(_evaluate(per_draw, _as_they_are, density, together, some, data, None))
        for _, some in in_parts(draws)
    ]
    whole = jax.tree.map(lambda *leaves: np.concatenate(leaves), *values)
    return _summarise(summary, whole, data.y, extra)


def _as_they_are(values: Any, _: Rows, __: Any) -> Any:
    return values


@partial(jax.jit, static_argnums=0)
def _summarise(summary: Summary, values: Any, y: Rows, extra: Any) -> Any:
    return summary(values, y, extra)


@dataclass(frozen=True)
class Flattened:
    """The draws of all chains of a site, one after the other: rows of a `Stored`, from (chain, draw, *shape)."""

    values: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        chains, draws, *rest = self.values.shape
        return chains * draws, *rest

    def __getitem__(self, rows: Any) -> np.ndarray:
        numbers = np.arange(self.shape[0])[rows]
        return np.asarray(self.values[np.divmod(numbers, self.values.shape[1])])


def mixture_of(draws: Mapping[str, np.ndarray]) -> Weights:
    """Return the draws of all chains, one after the other, on the device; one draw for a site that is equal in all.

    Draws of more than `DRAWS_BYTES` stay where they are, in memory or on disk, and are read when they are evaluated.
    Those that are kept in a narrow type are widened.
    """
    count = math.prod(next(iter(draws.values())).shape[:2])
    if sum(map(wide_bytes, draws.values())) > DRAWS_BYTES:
        there: dict[str, Any] = {site: Stored(Flattened(value), wide(value.dtype)) for site, value in draws.items()}
        return there
    flat = {site: widened(value).reshape(count, *value.shape[2:]) for site, value in draws.items()}
    varying = [site for site, value in flat.items() if (value[:2] != value[0]).any() or (value != value[0]).any()]
    return {s: jax.device_put(v if s in varying or not varying else v[:1]) for s, v in flat.items()}


def chosen_draws(draws: Weights, numbers: Any) -> tuple[Weights, Any]:
    """Return draws and their numbers; of draws that stay where they are only the chosen ones, on the device."""
    if not is_stored(draws):
        return draws, numbers
    return {site: jax.device_put(value[np.asarray(numbers)]) for site, value in draws.items()}, np.arange(len(numbers))


def count_draws(draws: Weights) -> int:
    """Return the number of draws; a site that is equal in all draws has only one."""
    return max(len(value) for value in draws.values())


def apart(draws: Weights) -> tuple[Weights, Weights]:
    """Return the sites with several draws, (draw, *shape), and the values of those that are equal in all draws."""
    count = count_draws(draws)
    several = {site: value for site, value in draws.items() if len(value) == count}
    return several, {site: value[0] for site, value in draws.items() if site not in several}


def sizes(
    per_draw: PerDraw, density: Density, draws: Weights, data: Data, num_results: int | None = None
) -> tuple[int, int]:
    """Return the number of rows per chunk, and the number of draws that are evaluated together.

    The results of all draws at the rows of a chunk fit in the working memory, and so do all intermediate values of one
    draw there: those of a wide network, or of a sequence, are many times its result.

    Args:
        per_draw: the function that is evaluated.
        density: the density of which the draws are.
        draws: the draws.
        data: n rows.
        num_results: the number of results of a row that are in memory at a time; by default that of the draws.
    """
    num_rows, num_draws = data.num_rows, num_results or count_draws(draws)
    probe = min(num_rows, PROBE_ROWS)
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), draws)

    def bytes_of(count: int) -> tuple[int, int]:
        few = data.with_rows(abstract_rows(data.rows, count))
        return _num_bytes(per_draw, density, *signature((one, few)))

    result, work = (size / probe for size in bytes_of(probe))
    if 2 * probe <= num_rows and num_rows * work > WORKING_BYTES:  # what does not grow with the rows is not theirs
        work = (bytes_of(2 * probe)[1] - probe * work) / probe
    together = num_draws * max(result, 4) * COPIES, max(work, 4)
    chunk = max(1, min(num_rows, int(WORKING_BYTES / max(together))))
    chunk = -(-num_rows // -(-num_rows // chunk))  # chunks of equal size
    return chunk, max(1, min(num_draws, int(WORKING_BYTES / (chunk * max(work, 4)))))


@lru_cache(maxsize=256)
def _num_bytes(per_draw: PerDraw, density: Density, tree: Any, leaves: Any) -> tuple[int, int]:
    """Return the bytes of a function's result at one draw and some rows, and those of its intermediate values."""
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in leaves]
    jaxpr, out = jax.make_jaxpr(partial(per_draw, density), return_shape=True)(*jax.tree.unflatten(tree, shapes))
    values = [v.aval for equation in jaxpr.eqns for v in equation.outvars if isinstance(v.aval, jax.core.ShapedArray)]
    return (
        sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(out)),
        sum(aval.size * aval.dtype.itemsize for aval in values),
    )
