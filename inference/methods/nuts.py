"""NUTS: draws from the posterior by Markov chains."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.infer.hmc_util import build_adaptation_schedule

from ..checks import check_positive_integer
from ..density import Density
from ..devices import Sharding, Spread, together
from ..internals import hmc
from ..method import Kind, Outcome
from ..programs import program
from ..reasons import Code, Reason
from ..rows import Data, Weights
from ..status import Status
from ..store import Store
from .chains import buffer_rows, draw_rows, sample, stuck_chains
from .mixing import MAX_NATS, Mixing
from .point import MAP

MAX_RHAT = 1.05
"""The R-hat of the log density above which the status warns that the chains disagree."""
MIN_ESS = 100
"""The effective draws of the log density per chain below which the status warns (Vehtari et al. 2021)."""
MIN_DRAWS = 4
"""The number of draws per chain below which R-hat and the effective sample size are not assessed."""
MIN_BFMI, MIN_ENERGIES = 0.3, 100
"""The E-BFMI below which the status warns (Betancourt 2016), and the number of draws needed to assess it."""
MAX_CUT_SHORT = 0.5
"""The share of trajectories cut short by the tree depth above which the status warns, even if the log density mixes:
chains may hardly move in directions in which the log density hardly changes."""
TARGET, NETWORK_TARGET = 0.8, 0.9
"""The acceptance rate to which step sizes are adapted: that of NumPyro and Stan, and that for networks."""
MAX_DIVERGING = 0.01
"""The share of transitions of a network that may diverge. A divergence shows a part of the posterior that the draws may
miss (Betancourt 2017, section 6.2), and weights with a meaning may be wrong there: so one is too many. In a network a
part of this share can change the log predictive density of a row by about as many nats: on a curve 3% changed it by
0.001."""
LONGEST_WARMUP = 10**9
"""The number of warm-up steps that NumPyro's kernel is compiled for; see `_Clock`."""
MAX_BYTES_ONE_BY_ONE = 2**20
"""The bytes of x and y up to which the chains of a CPU advance one by one: about the cache of a core. Four chains of a
logistic model took 0.4 times as long as together with 500 rows, and 1.7 times as long with 20,000 rows of 20 columns;
those of a network with 16 units and 500 rows took 0.65 times as long."""

WARM_START = MAP(num_steps=500, polish=False)
"""A run long enough to leave the starting point; the warm-up does the rest."""


@dataclass(frozen=True, kw_only=True)
class NUTS:
    """Draws from the posterior by NumPyro's No-U-Turn sampler (Hoffman & Gelman 2014), from warm starts.

    Chains run in parallel, distributed over all devices. The chains of a network that start far from any mode never
    reach one, so each begins at the end point of a short `MAP` run from its own starting point. Weights whose prior has
    a learned scale, and other sites with ``infer["noncentred"]``, move in units of that scale; draws are in their own.

    The status asks whether chains agree on the log density and on weights that have a meaning, such as slopes and
    scales, by R-hat. The weights of hidden units (sites that state ``infer["exchangeable"]``) are not asked: a network
    is judged by the size of the error of its predictions, as in `MCLMC`. Posteriors of networks often need longer
    trajectories than `max_tree_depth` allows: `MCLMC` draws from them in less time.

    Args:
        num_warmup: the number of adaptation steps per chain, which are discarded.
        num_samples: the number of draws per chain.
        num_chains: the number of chains.
        start: the `MAP` run that finds the starting points; its `num_restarts` is set to `num_chains`. None is a cold
            start.
        improper_ok: allow a model whose prior is flat, even in part. Its posterior may not exist, which chains do not
            show.
        init_strategy: the starting points of chains without `start`; see `MAP`.
        target_accept_prob: the acceptance rate to which the step size is adapted. None is 0.9 for a network, the
            posterior of which has narrow parts, and 0.8 for other models, as in NumPyro and Stan.
        step_size, inverse_mass_matrix, adapt_step_size, adapt_mass_matrix, dense_mass: as in `numpyro.infer.NUTS`.
        max_tree_depth, find_heuristic_step_size, regularize_mass_matrix, forward_mode_differentiation: the same.

    Raises:
        ValueError: when a setting is out of range.
    """

    name: ClassVar[str] = "NUTS"
    kind: ClassVar[Kind] = "chain"
    draws_chains: ClassVar[bool] = True
    leaves_out: ClassVar[str] = ""
    spreads_rows: ClassVar[bool] = True
    growing: ClassVar[tuple[str, ...]] = ("num_samples",)
    min_draws: ClassVar[int] = MIN_DRAWS
    streams: ClassVar[bool] = False

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
    target_accept_prob: float | None = None
    max_tree_depth: int | tuple[int, int] = 10
    find_heuristic_step_size: bool = False
    regularize_mass_matrix: bool = True
    forward_mode_differentiation: bool = False

    def __post_init__(self) -> None:
        for name, least in (("num_warmup", 0), ("num_samples", 1), ("num_chains", 1)):
            check_positive_integer("NUTS", name, getattr(self, name), least)
        if self.target_accept_prob is not None and not 0 < self.target_accept_prob < 1:
            raise ValueError(f"NUTS: expected 0 < target_accept_prob < 1; got {self.target_accept_prob!r}.")
        depths = self.max_tree_depth if isinstance(self.max_tree_depth, tuple) else (self.max_tree_depth,) * 2
        if len(depths) != 2 or not all(isinstance(d, int) and not isinstance(d, bool) and d > 0 for d in depths):
            raise ValueError(
                f"NUTS: expected a positive integer as max_tree_depth, or two, for the warm-up and the draws; got "
                f"{self.max_tree_depth!r}."
            )
        if isinstance(self.dense_mass, list):  # NumPyro's spelling
            object.__setattr__(self, "dense_mass", tuple(tuple(block) for block in self.dense_mass))

    @property
    def longest_tree(self) -> int:
        """The tree depth at which trajectories are cut short after the warm-up."""
        return self.max_tree_depth if isinstance(self.max_tree_depth, int) else self.max_tree_depth[1]

    def run(self, density: Density, data: Data, *, key: Array, progress: bool, store: Store | None = None) -> Outcome:
        """See `Method.run`.

        Raises:
            ValueError: when the prior is flat and `improper_ok` is not set.
        """
        settings = self._for(density)

        def sampler(_: Weights) -> _Sampler:
            shared = replace(settings, num_warmup=1, num_samples=1, start=None, init_strategy=None, improper_ok=True)
            return program(_Sampler, density.noncentred(), data, shared, Spread.of(data))

        sampled = sample(self, sampler, density, data, key=key, progress=progress, store=store)
        stats = {"max_tree_depth": np.asarray(self.longest_tree)}
        status = sampled.status + self.judged(density, sampled.draws, sampled.stats, together(data))
        return Outcome(sampled.draws, status, sample_stats=sampled.stats, stats=stats)

    def judged(
        self, density: Density, draws: Mapping[str, np.ndarray], stats: Mapping[str, np.ndarray], data: Data
    ) -> Status:
        """Return the status by the draws of all chains, in addition to that of `chains.sample`."""
        return status_of(self._for(density), stats, Mixing(density, draws, data, self.num_warmup))

    def _for(self, density: Density) -> "NUTS":
        """Return the settings with the acceptance rate that suits a density."""
        target = NETWORK_TARGET if density.structure.exchangeable else TARGET
        return replace(self, target_accept_prob=self.target_accept_prob or target)


class _Clock(NamedTuple):
    """The steps at which the windows of a warm-up end.

    NumPyro compiles the windows of the adaptation (Stan's) into its kernel, so that each `num_warmup` would compile
    anew. But the kernel takes the time from its state. So it is compiled for one long warm-up, and each step gets the
    time of the equivalent step there: the end of the same window, the last step, or neither.
    """

    ends: Array
    """The last steps of all windows but the final one, where the mass matrix may be set, padded by -1."""
    num_warmup: Array

    @classmethod
    def of(cls, num_warmup: int) -> "_Clock":
        """Return the clock of a warm-up with a number of steps."""
        ends = np.full(len(_long_windows()), -1)
        windows = [window.end for window in build_adaptation_schedule(num_warmup)][:-1]
        ends[: len(windows)] = windows
        return cls(*jax.device_put((ends, np.asarray(num_warmup))))

    def long_time(self, step: Array) -> Array:
        """Return the step of the long warm-up that is equivalent to a step."""
        long_ends = jnp.asarray(_long_windows())
        is_end = self.ends == step
        time = jnp.where(is_end.any(), long_ends[is_end.argmax()], 0)
        time = jnp.where(step == self.num_warmup - 1, LONGEST_WARMUP - 1, time)
        return jnp.where(step >= self.num_warmup, LONGEST_WARMUP, time)


def _long_windows() -> np.ndarray:
    return np.array([window.end for window in build_adaptation_schedule(LONGEST_WARMUP)])


class _Sampler:
    """The compiled functions of NumPyro's kernel over one density; see `chains.Sampler`."""

    draws_in_warmup = True

    def __init__(self, density: Density, settings: NUTS, spread: Spread | None = None) -> None:
        self.density, self.settings = density, settings
        self.sharding = Sharding.of(settings.num_chains, spread)
        self._compiled_block = self.sharding.jit(self._block)
        self._compiled_start = self.sharding.jit_start(self._start)
        self._potential = jax.jit(density.potential)  # the kernel calls it in several places; the model is traced once

    def start(self, settings: NUTS, u: Weights, began_cold: Array, key: Array, data: Data) -> Any:
        return self._compiled_start(u, key, settings.inverse_mass_matrix, data)

    def advance(self, settings: NUTS, state: Any, begin: int, end: int, data: Data) -> tuple[Any, Any, int]:
        clock = _Clock.of(settings.num_warmup)
        state, drawn = self._compiled_block(state, begin, end - begin, clock, data)
        return state, drawn, end - begin

    def began_cold(self, state: Any) -> None:
        return None

    def describe(self, stats: Mapping[str, np.ndarray]) -> str:
        return (
            f"log density {stats['lp'][:, -1].mean():.4g}, {int(stats['diverging'].sum())} diverging, "
            f"{stats['n_steps'].mean():.0f} leapfrog steps"
        )

    def _kernel(self, data: Data) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Return NumPyro's functions (init, sample); init must be called before sample, in the same trace."""
        init, step = hmc(potential_fn_gen=lambda data: lambda z: self._potential(z, data), algo="NUTS")
        settings, dense = self.settings, self.settings.dense_mass
        sites = tuple(sorted(self.density.structure.latents))
        init = partial(
            init,
            num_warmup=LONGEST_WARMUP,
            step_size=settings.step_size,
            adapt_step_size=settings.adapt_step_size,
            adapt_mass_matrix=settings.adapt_mass_matrix,
            dense_mass=([sites] if dense else []) if isinstance(dense, bool) else list(dense),
            target_accept_prob=settings.target_accept_prob,
            max_tree_depth=settings.max_tree_depth,
            find_heuristic_step_size=settings.find_heuristic_step_size,
            regularize_mass_matrix=settings.regularize_mass_matrix,
            forward_mode_differentiation=settings.forward_mode_differentiation,
            model_args=(data,),
        )
        return init, partial(step, model_args=(data,))

    def _start(self, u: Weights, key: Array, inverse_mass_matrix: Any, data: Data) -> Any:
        init, _ = self._kernel(data)
        keys = jax.random.split(key, self.settings.num_chains)
        return jax.vmap(lambda z, key: init(z, inverse_mass_matrix=inverse_mass_matrix, rng_key=key))(u, keys)

    def _block(self, state: Any, begin: Array, num_steps: Array, clock: _Clock, data: Data) -> tuple[Any, Any]:
        init, step = self._kernel(data)
        jax.eval_shape(
            lambda z, key: init(z, rng_key=key), jax.tree.map(lambda leaf: leaf[0], state.z), state.rng_key[0]
        )

        def draw(i: Array, state: Any) -> tuple[Any, Any]:
            time = clock.long_time(begin + i)
            state = step(state._replace(i=jnp.full_like(state.i, time)))
            stats = {
                "diverging": state.diverging,
                "n_steps": state.num_steps,
                "tree_depth": jnp.ceil(jnp.log2(state.num_steps + 1)).astype(int),
                "acceptance_rate": state.accept_prob,
                "energy": state.energy,
                "lp": -state.potential_energy,
                "step_size": state.adapt_state.step_size,
            }
            return state, (self.density.draws(state.z, data), stats)

        length = buffer_rows(self.settings.num_chains, self.density.structure.num_weights)
        if _one_by_one(data):
            return jax.lax.map(lambda chain: draw_rows(draw, chain, num_steps, length=length, axis=0), state)
        return draw_rows(jax.vmap(draw, in_axes=(None, 0)), state, num_steps, length=length, axis=1)


def _one_by_one(data: Data) -> bool:
    """Return whether the chains of a device advance one after the other, instead of step by step together.

    Together, all chains take as many leapfrog steps as the longest trajectory, and a loop that ends at a different step
    in each chain takes XLA twice as long to compile. On a CPU only the reading of large data is worth that.
    """
    size = sum(leaf.nbytes for leaf in jax.tree.leaves((data.x, data.y)))
    return jax.default_backend() == "cpu" and size <= MAX_BYTES_ONE_BY_ONE


def status_of(settings: NUTS, stats: Mapping[str, np.ndarray], mixing: Mixing | None = None) -> Status:
    """Return the status by the statistics of the draws, in addition to that of `chains.sample`.

    Args:
        settings: the settings of the run.
        stats: the statistics by name, (chain, draw).
        mixing: the draws themselves; without them the statistics alone are judged.
    """
    from ..internals import array_stats  # half a second that only chains need

    lp, diverging, warnings = stats["lp"], int(stats["diverging"].sum()), []
    num_draws = lp.shape[1]
    if diverging > (MAX_DIVERGING * lp.size if mixing is not None and mixing.is_network else 0):
        target = settings.target_accept_prob or TARGET
        numbers = {"target": target, "higher": round(1 - (1 - target) / 2, 4)}
        warnings.append(Reason.of(Code.DIVERGENCES, count=diverging, total=lp.size, **numbers))
    if stuck_chains(lp).any():
        return Status(warnings=tuple(warnings))
    warnings += _cut_short(settings, stats, mixing)
    if num_draws >= MIN_DRAWS:
        warnings += _disagreement(lp, mixing)
    if num_draws >= MIN_ENERGIES:
        bfmi = array_stats.bfmi(stats["energy"])
        if bfmi.min() < MIN_BFMI:
            warnings.append(Reason.of(Code.LOW_BFMI, chain=bfmi.argmin(), bfmi=bfmi.min(), limit=MIN_BFMI))
    return Status(warnings=tuple(warnings))


def _cut_short(settings: NUTS, stats: Mapping[str, np.ndarray], mixing: Mixing | None) -> list[Reason]:
    """Return the reason for trajectories that are cut short, unless the draws show that no harm was done.

    Such draws are still those of the posterior, only less independent (Stan Development Team 2024, on
    ``max_treedepth``): it suffices that each weight has as many draws as it should or, in a network, whose weights say
    nothing of the directions in which it is widest, that its predictions are right.
    """
    depth = settings.longest_tree
    cut_short = float((stats["tree_depth"] >= depth).mean())
    if cut_short <= MAX_CUT_SHORT:
        return []
    if mixing is not None and mixing.is_network and mixing.error <= MAX_NATS:
        return []
    if mixing is not None and not mixing.is_network and mixing.smallest_ess() >= MIN_ESS * len(stats["lp"]):
        return []
    return [Reason.of(Code.TREE_DEPTH, percent=cut_short, depth=depth)]


def _disagreement(lp: np.ndarray, mixing: Mixing | None) -> list[Reason]:
    """Return the reasons for chains that disagree and for few effective draws.

    The log density of a network moves along directions in which no prediction does, and chains with equal log
    densities may predict differently. So a network is judged by the size of the error of its predictions.
    """
    from ..internals import array_stats  # half a second that only chains need

    rhat, ess, warnings = float(array_stats.rhat(lp)), float(array_stats.ess(lp)), []
    if not (mixing is not None and mixing.is_network and mixing.error <= MAX_NATS):
        if len(lp) > 1 and not rhat <= MAX_RHAT:
            warnings.append(Reason.of(Code.HIGH_RHAT, rhat=rhat, limit=MAX_RHAT))
        if not ess >= MIN_ESS * len(lp):
            warnings.append(Reason.of(Code.LOW_ESS, ess=ess, limit=MIN_ESS * len(lp)))
        if not warnings and mixing is not None and mixing.is_network:
            warnings.append(mixing.imprecision)
    return warnings + list(mixing.disagreement(MAX_RHAT) if mixing is not None else ())
