"""NUTS: Markov chains whose draws follow the posterior."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from arviz_stats.base import array_stats  # type: ignore[attr-defined]
from jax import Array
from numpyro.infer.hmc import hmc
from numpyro.infer.util import constrain_fn, potential_energy

from .. import status as says
from ..density import NumPyroModel, Rows, Structure, Weights, signature
from ..devices import PROGRAMS_KEPT, Spread
from ..status import Status
from ..store import Store
from .chains import Drawn, check_proper, draw_rows, frozen_chains, run_chains, warm_start
from .method import Kind, Outcome
from .point import MAP

MAX_RHAT = 1.05
"""R-hat of the log density above which the chains are said to disagree."""
MIN_ESS = 100
"""Effective draws of the log density a chain below which estimates are called rough (Vehtari et al. 2021)."""
FEWEST = 4
"""Draws a chain below which neither is known."""
MIN_BFMI, FEWEST_ENERGIES = 0.3, 100
"""Share of the energy's variance that the momentum draws must supply (Betancourt 2016), and draws that tell it."""
MAX_TREE_CAPS = 0.5
"""Share of draws at the tree cap above which it is said, though the log density mixes: trajectories that are cut short
cost time, and where most are, chains may hardly move in directions that the log density does not show."""


WARM_START = MAP(num_steps=500, polish=False)
"""Long enough to leave the starting point; the warm-up does the rest."""


@dataclass(frozen=True, kw_only=True)
class NUTS:
    """The posterior by NumPyro's No-U-Turn sampler (Hoffman & Gelman 2014), from warm starts.

    Chains run side by side, spread over all devices. A network's chains that start far from any mode find none, so each
    begins where a short `MAP` run from its own starting point has arrived.

    Args:
        num_warmup: adaptation steps of each chain, thrown away.
        num_samples: draws kept of each chain.
        num_chains: number of chains.
        start: the `MAP` run that finds the starting points; its `num_restarts` is set to `num_chains`. None is a cold
            start.
        improper_ok: sample a model whose prior is flat. Its posterior may not exist, and chains do not tell.
        init_strategy: where chains begin that have no `start`; see `MAP`.
        step_size, inverse_mass_matrix, adapt_step_size, adapt_mass_matrix, dense_mass, target_accept_prob,
            max_tree_depth, find_heuristic_step_size, regularize_mass_matrix, forward_mode_differentiation: as in
            `numpyro.infer.NUTS`.

    Raises:
        ValueError: when a setting is out of its range.
    """

    kind: ClassVar[Kind] = "chain"

    num_warmup: int = 1000
    num_samples: int = 1000
    num_chains: int = 4
    start: MAP | None = WARM_START
    improper_ok: bool = False
    init_strategy: Callable[..., Any] | None = None
    step_size: float = 1.0
    inverse_mass_matrix: Any = field(default=None, compare=False)
    adapt_step_size: bool = True
    adapt_mass_matrix: bool = True
    dense_mass: bool | tuple[tuple[str, ...], ...] = False
    target_accept_prob: float = 0.8
    max_tree_depth: int | tuple[int, int] = 10
    find_heuristic_step_size: bool = False
    regularize_mass_matrix: bool = True
    forward_mode_differentiation: bool = False

    def __post_init__(self) -> None:
        for name, least in (("num_warmup", 0), ("num_samples", 1), ("num_chains", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"NUTS: expected an integer of at least {least} as {name}; got {value!r}.")
        if not 0 < self.target_accept_prob < 1:
            raise ValueError(f"NUTS: expected 0 < target_accept_prob < 1; got {self.target_accept_prob!r}.")
        depths = self.max_tree_depth if isinstance(self.max_tree_depth, tuple) else (self.max_tree_depth,) * 2
        if len(depths) != 2 or not all(isinstance(d, int) and not isinstance(d, bool) and d > 0 for d in depths):
            raise ValueError(
                f"NUTS: expected a positive integer as max_tree_depth, or two, of the warm-up and the draws; got "
                f"{self.max_tree_depth!r}."
            )
        if isinstance(self.dense_mass, list):  # NumPyro's spelling
            object.__setattr__(self, "dense_mass", tuple(tuple(block) for block in self.dense_mass))

    @property
    def longest_tree(self) -> int:
        """The depth at which trajectories are cut short after the warm-up."""
        return self.max_tree_depth if isinstance(self.max_tree_depth, int) else self.max_tree_depth[1]

    def run(
        self,
        model: NumPyroModel,
        structure: Structure,
        x: Rows,
        y: Rows,
        *,
        key: Array,
        progress: bool,
        store: Store | None = None,
    ) -> Outcome:
        """See `Method.run`.

        Raises:
            ValueError: when the prior is flat and `improper_ok` is not set.
        """
        check_proper("NUTS", structure, self.improper_ok)
        key_start, key_chains = jax.random.split(key)
        params, began_cold = warm_start(
            self.start,
            self.init_strategy,
            self.num_chains,
            model,
            structure,
            x,
            y,
            key=key_start,
            progress=progress,
            store=store,
        )
        program = _program(self, model, structure, x, y)
        state = program.start(params, key_chains, self.inverse_mass_matrix, x, y)
        x, y = jax.device_put((x, y), program.spread.all)

        def advance(state: Any, begin: int, end: int) -> tuple[Any, Any, int]:
            return *program.block(state, end - begin, x, y), end - begin

        _, (draws, sample_stats) = run_chains(
            advance,
            state,
            num_warmup=self.num_warmup,
            num_samples=self.num_samples,
            label="NUTS",
            describe=_describe,
            buffered_warmup=True,
            progress=progress,
            store=store,
        )
        status = _status(self, sample_stats)
        if began_cold.any():
            cold = says.COLD_START.format(chains=says.listed(began_cold))
            status = replace(status, warnings=(cold, *status.warnings))
        return Outcome(draws, status, sample_stats=sample_stats)


class _Program:
    """NumPyro's kernel over one model, under one set of settings: what is compiled once."""

    def __init__(self, settings: NUTS, model: NumPyroModel, structure: Structure) -> None:
        self.settings, self.model, self.sites = settings, model, tuple(structure.latents)
        self.spread = Spread.of(settings.num_chains)
        self.block = self.spread.jit(self._block)
        self.start = self.spread.jit_start(self._start)
        self.potential = jax.jit(self._potential)  # the kernel calls it in several places; the model is traced once

    def _potential(self, z: Weights, x: Rows, y: Rows) -> Array:
        return potential_energy(self.model, (x, y), {}, z)

    def _kernel(self, x: Rows, y: Rows) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """NumPyro's functions (init, sample); init must be called before sample, in the same trace."""
        init, sample = hmc(potential_fn_gen=lambda x, y: lambda z: self.potential(z, x, y), algo="NUTS")
        dense = self.settings.dense_mass
        init = partial(
            init,
            num_warmup=self.settings.num_warmup,
            step_size=self.settings.step_size,
            adapt_step_size=self.settings.adapt_step_size,
            adapt_mass_matrix=self.settings.adapt_mass_matrix,
            dense_mass=([tuple(sorted(self.sites))] if dense else []) if isinstance(dense, bool) else list(dense),
            target_accept_prob=self.settings.target_accept_prob,
            max_tree_depth=self.settings.max_tree_depth,
            find_heuristic_step_size=self.settings.find_heuristic_step_size,
            regularize_mass_matrix=self.settings.regularize_mass_matrix,
            forward_mode_differentiation=self.settings.forward_mode_differentiation,
            model_args=(x, y),
        )
        return init, partial(sample, model_args=(x, y))

    def _start(self, params: Weights, key: Array, inverse_mass_matrix: Any, x: Rows, y: Rows) -> Any:
        init, _ = self._kernel(x, y)
        keys = jax.random.split(key, self.settings.num_chains)
        return jax.vmap(lambda z, key: init(z, inverse_mass_matrix=inverse_mass_matrix, rng_key=key))(params, keys)

    def _block(self, state: Any, num_steps: Array, x: Rows, y: Rows) -> tuple[Any, Any]:
        init, sample = self._kernel(x, y)
        jax.eval_shape(
            lambda z, key: init(z, rng_key=key), jax.tree.map(lambda leaf: leaf[0], state.z), state.rng_key[0]
        )

        def collect(state: Any) -> Any:
            stats = {
                "diverging": state.diverging,
                "n_steps": state.num_steps,
                "tree_depth": jnp.ceil(jnp.log2(state.num_steps + 1)).astype(int),
                "acceptance_rate": state.accept_prob,
                "energy": state.energy,
                "lp": -state.potential_energy,
                "step_size": state.adapt_state.step_size,
            }
            return constrain_fn(self.model, (x, y), {}, state.z), stats

        def draw(_: Array, state: Any) -> tuple[Any, Any]:
            state = jax.vmap(sample)(state)
            return state, jax.vmap(collect)(state)

        return draw_rows(draw, state, num_steps)


@lru_cache(maxsize=PROGRAMS_KEPT)
def _cached_program(settings: NUTS, model: NumPyroModel, structure: Structure, signature: Any) -> _Program:
    return _Program(settings, model, structure)


def _program(settings: NUTS, model: NumPyroModel, structure: Structure, x: Rows, y: Rows) -> _Program:
    """The program for these settings, this model and these shapes: made once."""
    return _cached_program(settings, model, structure, signature((x, y)))


def _describe(drawn: Drawn) -> str:
    _, stats = drawn
    return (
        f"log density {stats['lp'][:, -1].mean():.4g}, {int(stats['diverging'].sum())} diverging, "
        f"{stats['n_steps'].mean():.0f} leapfrog steps"
    )


def _status(settings: NUTS, stats: dict[str, np.ndarray]) -> Status:
    """What the draws' statistics say of the chains."""
    failures, warnings = [], []
    lp, diverging = stats["lp"], int(stats["diverging"].sum())
    num_draws = lp.shape[1]
    if num_draws < settings.num_samples:
        warnings.append(says.INTERRUPTED.format(done=num_draws, total=settings.num_samples, unit="draws of each chain"))
    frozen = frozen_chains(lp)
    if frozen.any():
        failures.append(says.FROZEN.format(chains=says.listed(frozen)))
    if num_draws < FEWEST:
        warnings.append(says.TOO_FEW.format(draws=num_draws, least=FEWEST))
    if diverging:
        warnings.append(says.DIVERGENCES.format(count=diverging, total=lp.size))
    capped = float((stats["tree_depth"] >= settings.longest_tree).mean())
    if capped > MAX_TREE_CAPS and not frozen.any():
        warnings.append(says.TREE_CAP.format(percent=capped, depth=settings.longest_tree))
    if num_draws >= FEWEST and not frozen.any():
        rhat, ess = float(array_stats.rhat(lp)), float(array_stats.ess(lp))
        if lp.shape[0] > 1 and not rhat <= MAX_RHAT:
            warnings.append(says.NOT_MIXED.format(rhat=rhat, limit=MAX_RHAT))
        if not ess >= MIN_ESS * lp.shape[0]:
            warnings.append(says.LOW_ESS.format(ess=ess, limit=MIN_ESS * lp.shape[0]))
    if num_draws >= FEWEST_ENERGIES and not frozen.any():
        bfmi = array_stats.bfmi(stats["energy"])
        if bfmi.min() < MIN_BFMI:
            warnings.append(says.LOW_BFMI.format(chain=bfmi.argmin(), bfmi=bfmi.min(), limit=MIN_BFMI))
    return Status(tuple(failures), tuple(warnings))
