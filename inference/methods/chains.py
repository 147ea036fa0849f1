"""Chains in blocks: what every method of Markov chains shares, from the first block to the last draw on disk."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..blocks import run_in_blocks
from ..density import NumPyroModel, Rows, Structure, Weights
from ..store import Store
from .descent import descend, starting_points
from .point import MAP

Drawn = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
"""Draws and statistics: site or name -> (chain, draw, ...)."""


BLOCK_DRAWS = 50
"""Most draws between two looks at the progress bar, and the length of the buffer on the device."""


def warm_start(
    start: MAP | None,
    init_strategy: Callable[..., Any] | None,
    num_chains: int,
    model: NumPyroModel,
    structure: Structure,
    x: Rows,
    y: Rows,
    *,
    key: Array,
    progress: bool,
    store: Store | None,
) -> tuple[Weights, np.ndarray]:
    """Where chains begin, and which of them at a random starting point, since the descent from it led nowhere better.

    Args:
        start: the settings of the descents; None is a cold start.
        init_strategy: where chains begin that have no `start`; see `MAP`.
        num_chains: number of chains.
        model: the model.
        structure: what it is made of.
        x: n rows.
        y: n rows.
        key: of the starting points.
        progress: show a progress bar.
        store: where the run is kept; one that goes on needs but the layout of its chains.

    Returns:
        Site -> value in unconstrained coordinates, (chain, *shape), and whether a chain begins cold though a descent
        was asked for, (chain,).

    Raises:
        ValueError: when `start` is something else.
        KeyboardInterrupt: when the descents were interrupted.
    """
    if start is not None and not isinstance(start, MAP):
        raise ValueError(f"Expected MAP(...) as start, the density that is sampled, or None; got {start!r}.")
    begin = replace(start or MAP(init_strategy=init_strategy), num_restarts=num_chains)
    if start is None or (store is not None and store.done):
        return starting_points(begin, model, structure, x, y, key=key), np.zeros(num_chains, bool)
    descent = descend(begin, model, structure, x, y, key=key, progress=progress)
    if descent.interrupted:
        raise KeyboardInterrupt
    began_cold = ~(descent.final < descent.losses[:, 0])  # true where either is NaN
    params = descent.unconstrained
    if began_cold.any():
        bad = np.flatnonzero(began_cold)
        cold = starting_points(begin, model, structure, x, y, key=key)
        params = jax.tree.map(lambda new, old: new.at[bad].set(old[bad]), params, cold)
    return params, began_cold


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


def check_proper(name: str, structure: Structure, improper_ok: bool) -> None:
    """Raise where the prior is flat, unless that is what was asked for."""
    if structure.is_flat and not improper_ok:
        raise ValueError(
            f"{name}: the model's prior is flat, so its posterior may not be proper, and chains would not tell. Sample "
            f"the model with its prior, or set improper_ok=True."
        )


def frozen_chains(lp: np.ndarray) -> np.ndarray:
    """Which chains never moved, (chain,), by the log density of their draws, (chain, draw): it is one, or no number."""
    return ~np.isfinite(lp).all(axis=1) | ((lp == lp[:, :1]).all(axis=1) & (lp.shape[1] > 1))


class _State(NamedTuple):
    chains: Any
    drawn: Any
    """What the last block gave, shaped (chain, buffer, ...)."""
    used: int
    """Rows of it that are filled."""


def run_chains(
    advance: Callable[[Any, int, int], tuple[Any, Any, int]],
    chains: Any,
    *,
    num_warmup: int,
    num_samples: int,
    label: str,
    describe: Callable[[Drawn], str],
    buffered_warmup: bool = False,
    progress: bool,
    store: Store | None = None,
) -> tuple[Any, Drawn]:
    """Advance chains through warm-up and draws, a block at a time, and keep the draws.

    With a store each block is on disk before the next begins; a run that is found there goes on where it ended.

    Args:
        advance: (state of the chains, begin, end) -> the state after the warm-up steps, or the draws, from begin to
            end, counted from the first warm-up step; (draws, statistics), shaped (chain, buffer, ...); and how many
            rows of them are filled. A block is either warm-up or draws.
        chains: the state before the first step.
        num_warmup: warm-up steps.
        num_samples: draws to keep.
        label: what the progress bar says.
        describe: (draws, statistics) of a block -> what the bar says of it.
        buffered_warmup: whether warm-up steps are drawn like draws, at most `BLOCK_DRAWS` in a block.
        progress: show a progress bar.
        store: where the run is kept.

    Returns:
        The last state, and draws and statistics shaped (chain, draw, ...): fewer than asked for where the run was
        interrupted.

    Raises:
        KeyboardInterrupt: when it was interrupted before the first draw.
    """
    done = 0
    if store is not None and store.done:
        chains, done = store.restore(chains), store.done
    kept: list[Drawn] = []
    total = num_warmup + num_samples
    most_warmup = BLOCK_DRAWS if buffered_warmup else None
    for first, last, most in ((0, num_warmup, most_warmup), (num_warmup, total, BLOCK_DRAWS)):
        begin = max(first, done)
        if begin >= last:
            continue

        def block(state: _State, start: int, stop: int, begin: int = begin) -> _State:
            return _State(*advance(state.chains, begin + start, begin + stop))

        def keep(state: _State, now: int, begin: int = begin) -> bool:
            rows = slice(state.used if begin < num_warmup else 0, state.used)  # none of the warm-up
            draws, stats = jax.tree.map(lambda leaf: np.asarray(leaf)[:, rows], state.drawn)
            if store is not None:
                store.append(draws, stats, state.chains, begin + now)
            elif begin >= num_warmup:
                kept.append((draws, stats))
            return True

        run = run_in_blocks(
            block,
            _State(chains, None, 0),
            last - begin,
            label=f"{label} warm-up" if begin < num_warmup else label,
            unit="step" if begin < num_warmup else "draw",
            progress=progress,
            describe=lambda state, _: describe(
                jax.tree.map(lambda leaf: np.asarray(leaf)[:, : state.used], state.drawn)
            ),
            keep_going=keep,
            max_block_steps=most,
        )
        chains, done = run.state.chains, begin + run.done
        if run.ended == "interrupted":
            break
    if done <= num_warmup:
        raise KeyboardInterrupt  # there are no draws to return
    if store is not None:
        return chains, store.read(num_samples)
    draws, stats = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *kept)
    return chains, (draws, stats)
