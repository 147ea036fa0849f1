"""Chains in blocks: the code that all methods of Markov chains share, from starting points to draws on disk."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from ..blocks import run_in_blocks
from ..density import Density
from ..devices import Sharding, together
from ..processes import readable
from ..reasons import Code, Reason, numbered
from ..rows import Data, Weights
from ..status import Status
from ..store import Store
from .descent import descend, starting_points
from .point import MAP, from_mode, improper
from .scales import prior_conflict_of_chains

type Drawn = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
"""Draws and statistics by name, (chain, draw, ...)."""

STUCK_AT_FINITE = (
    "Their log density is finite, and every step was rejected: it may jump, or have no finite value or slope, right "
    "beside the point, or curve too strongly for the step size. Standardise x and y, or increase num_warmup."
)
STUCK_AT_INFINITE = (
    "Their log density is not finite: look for values of x that the network cannot take (such as tokens outside its "
    "vocabulary), and for values of y or priors under which it is not."
)
"""The reasons why chains do not move."""
BLOCK_DRAWS, BLOCK_BYTES = 50, 2**26
"""The largest number of draws per block, and of bytes in the buffer on the device that holds them."""
HELD_BYTES = 2**28
"""The number of bytes of draws from which they are written to a store, however long that takes."""


class ChainSettings(Protocol):
    """The settings that methods of chains share; see `NUTS` and `MCLMC`."""

    @property
    def name(self) -> str: ...
    @property
    def min_draws(self) -> int:
        """The number of draws per chain below which mixing is not assessed."""
        ...

    @property
    def num_warmup(self) -> int: ...
    @property
    def num_samples(self) -> int: ...
    @property
    def num_chains(self) -> int: ...
    @property
    def start(self) -> MAP | None: ...
    @property
    def init_strategy(self) -> Callable[..., Any] | None: ...
    @property
    def improper_ok(self) -> bool: ...


class Sampler(Protocol):
    """The compiled steps of a method of chains, over one density."""

    @property
    def sharding(self) -> Sharding:
        """The distribution of chains over devices."""

    @property
    def draws_in_warmup(self) -> bool:
        """Whether warm-up steps fill the buffer like draws, so that a block has at most `buffer_rows` of them."""

    def start(self, settings: Any, u: Weights, began_cold: Array, key: Array, data: Data) -> Any:
        """Return the state of the chains at unconstrained weights u, (chain, *shape)."""

    def advance(self, settings: Any, state: Any, begin: int, end: int, data: Data) -> tuple[Any, Any, int]:
        """Advance the chains by the steps begin, ..., end - 1, counted from the first warm-up step.

        The steps are either all of the warm-up or all draws.

        Returns:
            The state; draws and statistics, (chain, buffer, ...); and the number of filled rows of the buffer.
        """

    def began_cold(self, state: Any) -> np.ndarray | None:
        """Return which chains began cold, if the state records it; a resumed run then has it from its first part."""

    def describe(self, stats: Mapping[str, np.ndarray]) -> str:
        """Return a description of the statistics of a block for the progress bar."""


class Sampled(NamedTuple):
    """The draws of a sampler, with statistics and status."""

    sampler: Any
    """The sampler."""
    state: Any
    """The state of the chains after the last draw."""
    draws: dict[str, np.ndarray]
    """The draws by site, (chain, draw, *shape): fewer than `num_samples` if the run was interrupted."""
    stats: dict[str, np.ndarray]
    """The statistics by name, (chain, draw)."""
    status: Status
    """The reasons that all samplers share: no proper posterior, a cold start, an interrupt, stuck chains, few draws."""


def sample(
    settings: ChainSettings,
    sampler: Callable[[Weights], Sampler],
    density: Density,
    data: Data,
    *,
    key: Array,
    progress: bool,
    store: Store | None,
) -> Sampled:
    """Run chains from their starting points to the last draw.

    Args:
        settings: the settings of the method.
        sampler: a function that returns the compiled steps, for starting points of these shapes.
        density: the density that is sampled; the chains run in its non-centred coordinates.
        data: n rows.
        key: the key of starting points and chains.
        progress: show progress bars.
        store: the store that the run is written to, if any.

    Raises:
        ValueError: when the prior is flat and `improper_ok` is not set, or `start` is not a `MAP`.
        KeyboardInterrupt: when the run was interrupted before the first draw.
    """
    density.structure.check_proper(settings.name, improper_ok=settings.improper_ok)
    key_start, key_chains = jax.random.split(key)
    sampled_density = density.noncentred()
    u, began_cold = first_points(settings, sampled_density, data, key=key_start, progress=progress, store=store)
    steps = sampler(u)
    state = steps.start(settings, u, jax.device_put(began_cold), key_chains, data)
    first = jax.tree.map(lambda leaf: np.asarray(leaf[0]), u)
    rows, data = together(data), steps.sharding.place(data)
    num_weights = density.structure.num_weights
    state, (draws, stats) = _run(settings, steps, state, data, num_weights=num_weights, progress=progress, store=store)
    known = steps.began_cold(state)
    began_cold = began_cold if known is None else known
    status = Status(improper(sampled_density, first, rows)) + status_of(settings, stats, began_cold)
    if status and not density.structure.is_flat:
        status += Status(warnings=prior_conflict_of_chains(density, draws, rows))
    return Sampled(steps, state, draws, stats, status)


def first_points(
    settings: ChainSettings, density: Density, data: Data, *, key: Array, progress: bool, store: Store | None
) -> tuple[Weights, np.ndarray]:
    """Return the starting points of chains, and which of them are cold: random, as the descent reached no better point.

    Returns:
        Site -> value in unconstrained coordinates, (chain, *shape), and whether a chain begins cold in spite of a
        descent, (chain,).
    """
    start, num_chains = settings.start, settings.num_chains
    if start is not None and not isinstance(start, MAP):
        raise ValueError(f"Expected MAP(...), which has the same density, or None as start; got {start!r}.")
    first = replace(start or MAP(init_strategy=settings.init_strategy), num_restarts=num_chains)
    if start is None:
        return starting_points(first, density, data, key=key), np.zeros(num_chains, bool)
    of_start = None if store is None else store.within("start")
    descent = descend(first, density, data, key=key, progress=progress, store=of_start)
    if descent.status.is_interrupted:
        raise KeyboardInterrupt
    began_cold = ~(descent.final < descent.losses[:, 0])  # true where either is NaN
    ends = [from_mode(first, density, descent.member(i), data).u for i in range(num_chains)]
    u = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *ends)
    if began_cold.any():
        cold = starting_points(first, density, data, key=key)
        u = jax.tree.map(lambda new, old: np.where(began_cold.reshape(-1, *(1,) * (new.ndim - 1)), old, new), u, cold)
    return u, began_cold


class _Block(NamedTuple):
    chains: Any
    drawn: Any
    """The draws and statistics of the block, shaped (chain, buffer, ...)."""
    used: int
    """The number of filled rows of the buffer."""

    def filled(self) -> Drawn:
        """Return draws and statistics of the filled rows, copied out of the buffer."""
        return jax.tree.map(lambda leaf: np.asarray(leaf)[:, : self.used].copy(), readable(self.drawn))

    def stats(self) -> dict[str, np.ndarray]:
        """Return the statistics of the filled rows."""
        return self._replace(drawn=({}, self.drawn[1])).filled()[1]


class _Held(NamedTuple):
    """What has been drawn and is not on disk yet."""

    first: int
    """The number of draws that are on disk."""
    parts: tuple[Drawn, ...] = ()
    chains: Any = None
    """The state of the chains after `done` steps, the last of which led to the last of these draws."""
    done: int = 0


class _Recorder:
    """The draws of all blocks, in memory or in a store, which is written as rarely as `Checkpoint` demands."""

    def __init__(self, store: Store | None) -> None:
        self.store, self.held = store, _Held(0 if store is None else store.num_draws)

    def add(self, block: _Block, done: int, *, is_warmup: bool) -> None:
        """Add the draws of a block that ended after `done` steps; those of the warm-up are discarded."""
        if self.store is None and is_warmup:
            return
        drawn = block._replace(used=0 if is_warmup else block.used).filled()
        if self.store is None:
            self.held = self.held._replace(parts=(*self.held.parts, drawn))
            return
        self.held = self.held._replace(parts=(*self.held.parts, drawn), chains=block.chains, done=done)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(self.held.parts))
        if self.store.is_due or size > HELD_BYTES:
            self.write()

    def write(self) -> None:
        """Write what is held. An interrupt on the way leaves it to be written again, in the same place."""
        if self.store is None or not self.held.parts:
            return
        draws, stats = _joined(self.held.parts)
        self.store.append(draws, stats, self.held.chains, self.held.done, first=self.held.first)
        self.held = _Held(self.store.num_draws)

    def drawn(self, num_samples: int) -> Drawn:
        """Return all draws and statistics, (chain, draw, ...)."""
        return _joined(self.held.parts) if self.store is None else self.store.read(num_samples)


def _joined(parts: tuple[Drawn, ...]) -> Drawn:
    return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *parts)


def _run(
    settings: ChainSettings,
    sampler: Sampler,
    chains: Any,
    data: Data,
    *,
    num_weights: int,
    progress: bool,
    store: Store | None,
) -> tuple[Any, Drawn]:
    """Advance chains through warm-up and draws, in blocks; a run in the store is continued."""
    done, recorder, rows = 0, _Recorder(store), buffer_rows(settings.num_chains, num_weights)
    if store is not None and store.done:
        chains, done = store.restore(chains), store.done
    num_warmup = settings.num_warmup
    for first, last in ((0, num_warmup), (num_warmup, num_warmup + settings.num_samples)):
        begin, is_warmup = max(first, done), last == num_warmup
        if begin >= last:
            continue

        def advance(block: _Block, start: int, stop: int, begin: int = begin) -> _Block:
            return _Block(*sampler.advance(settings, block.chains, begin + start, begin + stop, data))

        def record(block: _Block, now: int, begin: int = begin, is_warmup: bool = is_warmup) -> bool:
            recorder.add(block, begin + now, is_warmup=is_warmup)
            return True

        run = run_in_blocks(
            advance,
            _Block(chains, None, 0),
            last - begin,
            label=f"{settings.name} warm-up" if is_warmup else settings.name,
            unit="step" if is_warmup else "draw",
            progress=progress,
            describe=lambda block, _: sampler.describe(block.stats()),
            keep_going=record,
            max_block_steps=rows if not is_warmup or sampler.draws_in_warmup else None,
        )
        chains, done = run.state.chains, begin + run.done
        if run.ended == "interrupted":
            break
    recorder.write()
    if done <= num_warmup:
        raise KeyboardInterrupt  # there are no draws to return
    return chains, recorder.drawn(settings.num_samples)


def buffer_rows(num_chains: int, num_weights: int) -> int:
    """Return the number of draws that the buffer on the device holds: at most `BLOCK_DRAWS`, in `BLOCK_BYTES`."""
    bytes_per_draw = num_chains * num_weights * jnp.zeros(()).dtype.itemsize
    return max(1, min(BLOCK_DRAWS, BLOCK_BYTES // bytes_per_draw))


def draw_rows(
    draw: Callable[[Array, Any], tuple[Any, Any]], state: Any, num_rows: Array, *, length: int, axis: int
) -> tuple[Any, Any]:
    """Take `num_rows` draws under a trace.

    Args:
        draw: (number of the draw, state) -> (next state, draws and statistics).
        state: the state before the first draw, of one chain or of all.
        num_rows: the number of draws, at most `length`.
        length: the length of the buffer; see `buffer_rows`.
        axis: the axis of the draws in the buffer: 0 for a state of one chain, and 1 for states of all chains, whose
            draws and statistics have chains first.

    Returns:
        The last state, and the buffer of draws and statistics, whose first `num_rows` rows are filled.
    """
    draw = jax.jit(draw)  # traced once, for the shapes of its results and for the loop

    def one(i: Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        state, row = draw(i, carry[0])
        at = (slice(None),) * axis + (i,)
        return state, jax.tree.map(lambda rows, row: rows.at[at].set(row), carry[1], row)

    empty = jax.tree.map(
        lambda leaf: jnp.zeros((*leaf.shape[:axis], length, *leaf.shape[axis:]), leaf.dtype),
        jax.eval_shape(draw, jnp.zeros_like(num_rows), state)[1],
    )
    return jax.lax.fori_loop(0, num_rows, one, (state, empty))


def stuck_chains(lp: Float[np.ndarray, "chain draw"]) -> Bool[np.ndarray, " chain"]:
    """Return which chains never moved: their log density, (chain, draw), is constant or not finite."""
    return ~np.isfinite(lp).all(axis=1) | ((lp == lp[:, :1]).all(axis=1) & (lp.shape[1] > 1))


def status_of(settings: ChainSettings, stats: Mapping[str, np.ndarray], began_cold: np.ndarray) -> Status:
    """Return the reasons that all samplers share, from the statistics of the draws."""
    stuck, num_draws = stuck_chains(stats["lp"]), stats["lp"].shape[1]
    failures, warnings = [], []
    if stuck.any():
        why = STUCK_AT_FINITE if np.isfinite(stats["lp"][stuck]).all() else STUCK_AT_INFINITE
        failures.append(Reason.of(Code.STUCK_CHAINS, chains=numbered(stuck), why=why))
    if began_cold.any():
        warnings.append(Reason.of(Code.COLD_START, chains=numbered(began_cold)))
    if num_draws < settings.num_samples:
        of_all = {"done": num_draws, "total": settings.num_samples, "unit": "draws of each chain"}
        warnings.append(Reason.of(Code.INTERRUPTED, **of_all))
    if num_draws < settings.min_draws:
        warnings.append(Reason.of(Code.FEW_DRAWS, draws=num_draws, least=settings.min_draws))
    return Status(tuple(failures), tuple(warnings))
