"""Chains in blocks: what every method of Markov chains shares, from the starting points to the last draw on disk."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..blocks import run_in_blocks
from ..density import Density
from ..devices import Sharding
from ..reasons import Code, Reason, numbered
from ..rows import Data, Weights
from ..status import Status
from ..store import Store
from .descent import descend, starting_points
from .point import MAP

type Drawn = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
"""Draws and statistics: site or name -> (chain, draw, ...)."""

BLOCK_DRAWS = 50
"""Most draws between two looks at the progress bar, and the length of the buffer on the device."""


class ChainSettings(Protocol):
    """The settings that methods of chains share; described in `NUTS` and `MCLMC`."""

    @property
    def name(self) -> str: ...
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

    sharding: Sharding
    """How chains lie on devices."""
    draws_in_warmup: bool
    """Whether warm-up steps fill the buffer like draws, so that a block holds at most `BLOCK_DRAWS` of them."""

    def start(self, settings: Any, u: Weights, began_cold: Array, key: Array, data: Data) -> Any:
        """The state of the chains at unconstrained weights u, (chain, *shape)."""
        ...

    def advance(self, settings: Any, state: Any, begin: int, end: int, data: Data) -> tuple[Any, Any, int]:
        """The state after the steps begin, ..., end - 1, counted from the first warm-up step.

        A block is either warm-up steps or draws.

        Returns:
            The state; draws and statistics, (chain, buffer, ...); and how many rows of the buffer are filled.
        """
        ...

    def began_cold(self, state: Any) -> np.ndarray | None:
        """Which chains began cold, where the state knows; a run that is resumed has it from its first part."""
        ...

    def describe(self, stats: Mapping[str, np.ndarray]) -> str:
        """What the progress bar says of the statistics of a block."""
        ...


class Sampled(NamedTuple):
    """What a sampler drew."""

    sampler: Any
    """The sampler itself."""
    state: Any
    """The state of the chains after the last draw."""
    draws: dict[str, np.ndarray]
    """Site -> (chain, draw, *shape): fewer than asked for where the run was interrupted."""
    stats: dict[str, np.ndarray]
    """Statistic -> (chain, draw)."""
    status: Status
    """What every sampler reports: a cold start, an interrupt, chains that did not move, too few draws to tell more."""


def sample(
    settings: ChainSettings,
    sampler: Callable[[Weights], Sampler],
    density: Density,
    data: Data,
    *,
    min_draws: int,
    key: Array,
    progress: bool,
    store: Store | None,
) -> Sampled:
    """Run chains from their starting points to the last draw.

    Args:
        settings: of the method.
        sampler: its compiled steps, for starting points of these shapes.
        density: what is sampled.
        data: n rows.
        min_draws: draws per chain below which it is not known whether they mix.
        key: of starting points and chains.
        progress: show progress bars.
        store: where the run is saved as it goes.

    Raises:
        ValueError: when the prior is flat and `improper_ok` is not set, or `start` is no `MAP`.
        KeyboardInterrupt: when it was interrupted before the first draw.
    """
    density.structure.check_proper(settings.name, improper_ok=settings.improper_ok)
    key_start, key_chains = jax.random.split(key)
    u, began_cold = first_points(settings, density, data, key=key_start, progress=progress, store=store)
    steps = sampler(u)
    state = steps.start(settings, u, jnp.asarray(began_cold), key_chains, data)
    data = jax.device_put(data, steps.sharding.all)
    state, (draws, stats) = _run(settings, steps, state, data, progress=progress, store=store)
    known = steps.began_cold(state)
    began_cold = began_cold if known is None else known
    return Sampled(steps, state, draws, stats, status_of(settings, stats, began_cold, min_draws))


def first_points(
    settings: ChainSettings, density: Density, data: Data, *, key: Array, progress: bool, store: Store | None
) -> tuple[Weights, np.ndarray]:
    """Where chains begin, and which of them at a random point, since the descent from it led nowhere better.

    Returns:
        Site -> value in unconstrained coordinates, (chain, *shape), and whether a chain begins cold though a descent
        was asked for, (chain,). A run that is resumed needs but the layout of its chains.
    """
    start, num_chains = settings.start, settings.num_chains
    if start is not None and not isinstance(start, MAP):
        raise ValueError(f"Expected MAP(...) as start, the density that is sampled, or None; got {start!r}.")
    first = replace(start or MAP(init_strategy=settings.init_strategy), num_restarts=num_chains)
    if start is None or (store is not None and store.done):
        return starting_points(first, density, data, key=key), np.zeros(num_chains, bool)
    descent = descend(first, density, data, key=key, progress=progress)
    if descent.status.is_interrupted:
        raise KeyboardInterrupt
    began_cold = ~(descent.final < descent.losses[:, 0])  # true where either is NaN
    u = descent.weights
    if began_cold.any():
        cold = starting_points(first, density, data, key=key)
        u = jax.tree.map(lambda new, old: np.where(began_cold.reshape(-1, *(1,) * (new.ndim - 1)), old, new), u, cold)
    return u, began_cold


class _Block(NamedTuple):
    chains: Any
    drawn: Any
    """What the block gave, shaped (chain, buffer, ...)."""
    used: int
    """Rows of it that are filled."""

    def filled(self) -> Drawn:
        """Draws and statistics of the filled rows, copied out of the buffer."""
        return self._filled(self.drawn)

    def stats(self) -> dict[str, np.ndarray]:
        """The statistics alone."""
        return self._filled(self.drawn[1])

    def _filled(self, drawn: Any) -> Any:
        return jax.tree.map(lambda leaf: np.asarray(leaf)[:, : self.used].copy(), drawn)


@dataclass
class _Recorder:
    """Keeps the draws of each block, in memory or in a store."""

    store: Store | None
    parts: list[Drawn]

    def add(self, block: _Block, done: int, *, is_warmup: bool) -> None:
        """Keep the draws of a block that ended after `done` steps; of the warm-up none."""
        if self.store is None and is_warmup:
            return
        draws, stats = block.filled()
        if self.store is None:
            self.parts.append((draws, stats))
            return
        if is_warmup:
            draws, stats = jax.tree.map(lambda leaf: leaf[:, :0], (draws, stats))
        self.store.append(draws, stats, block.chains, done)

    def drawn(self, num_samples: int) -> Drawn:
        """All draws and statistics, (chain, draw, ...)."""
        if self.store is not None:
            return self.store.read(num_samples)
        return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *self.parts)


def _run(
    settings: ChainSettings, sampler: Sampler, chains: Any, data: Data, *, progress: bool, store: Store | None
) -> tuple[Any, Drawn]:
    """Advance chains through warm-up and draws, a block at a time.

    With a store each block is on disk before the next begins; a run that is found there goes on where it ended.
    """
    done, recorder = 0, _Recorder(store, [])
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
            max_block_steps=BLOCK_DRAWS if not is_warmup or sampler.draws_in_warmup else None,
        )
        chains, done = run.state.chains, begin + run.done
        if run.ended == "interrupted":
            break
    if done <= num_warmup:
        raise KeyboardInterrupt  # there are no draws to return
    return chains, recorder.drawn(settings.num_samples)


def draw_rows(draw: Callable[[Array, Any], tuple[Any, Any]], state: Any, num_rows: Array) -> tuple[Any, Any]:
    """Take `num_rows` draws, at most `BLOCK_DRAWS`, under a trace.

    Args:
        draw: (number of the draw, state) -> (next state, draws and statistics, chains first).
        state: before the first draw.
        num_rows: how many.

    Returns:
        The state after them, and what they gave, (chain, BLOCK_DRAWS, ...), of which the first `num_rows` are filled.
    """

    def one(i: Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        state, row = draw(i, carry[0])
        return state, jax.tree.map(lambda rows, row: rows.at[:, i].set(row), carry[1], row)

    empty = jax.tree.map(
        lambda leaf: jnp.zeros((leaf.shape[0], BLOCK_DRAWS, *leaf.shape[1:]), leaf.dtype),
        jax.eval_shape(draw, 0, state)[1],
    )
    return jax.lax.fori_loop(0, num_rows, one, (state, empty))


def stuck_chains(lp: np.ndarray) -> np.ndarray:
    """Which chains never moved, (chain,): the log density of their draws, (chain, draw), is constant or not finite."""
    return ~np.isfinite(lp).all(axis=1) | ((lp == lp[:, :1]).all(axis=1) & (lp.shape[1] > 1))


def status_of(
    settings: ChainSettings, stats: Mapping[str, np.ndarray], began_cold: np.ndarray, min_draws: int
) -> Status:
    """What the statistics of the draws show of any sampler."""
    stuck, num_draws = stuck_chains(stats["lp"]), stats["lp"].shape[1]
    failures, warnings = [], []
    if stuck.any():
        failures.append(Reason.of(Code.STUCK_CHAINS, chains=numbered(stuck)))
    if began_cold.any():
        warnings.append(Reason.of(Code.COLD_START, chains=numbered(began_cold)))
    if num_draws < settings.num_samples:
        of_all = {"done": num_draws, "total": settings.num_samples, "unit": "draws of each chain"}
        warnings.append(Reason.of(Code.INTERRUPTED, **of_all))
    if num_draws < min_draws:
        warnings.append(Reason.of(Code.FEW_DRAWS, draws=num_draws, least=min_draws))
    return Status(tuple(failures), tuple(warnings))
