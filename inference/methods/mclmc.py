"""MCLMC: microcanonical Langevin chains, many of them, each from a mode of its own."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from arviz_stats.base import array_stats  # type: ignore[attr-defined]
from jax import Array
from jax.flatten_util import ravel_pytree
from numpyro.infer.util import constrain_fn, potential_energy

from .. import status as says
from ..density import NumPyroModel, Rows, Structure, Weights, signature
from ..devices import PROGRAMS_KEPT, Spread
from ..status import Status
from ..store import Store
from .chains import Drawn, check_proper, draw_rows, frozen_chains, run_chains, warm_start
from .method import Kind, Outcome
from .point import MAP

START = 1e-3
"""The first step size, times sqrt(d): below what is stable for most networks. It grows by 1.02 a step at most."""
FIRST_GAIN, GAIN = 0.02, 0.002
"""Of the step size's adaptation: it falls as (1 + i / 50)^-0.6 with the step i, but not below the second. Energy errors
of networks have heavy tails, and a large gain lets the step size jump with them; this one forgets in 80 steps."""
MAX_RATIO = 100.0
"""Squared energy errors above this many times the target, and above JUMP_NATS^2, are rejected like those that are not
finite; in the adaptation they count as this many times the target."""
JUMP_NATS = 10.0
"""Energy errors below this are never rejected: in few dimensions the target is far below what an error can do."""
POWER, EARLY, SETTLING = 0.6, 50, 500
"""The gain's power and its first 50 steps; and from when the target is that of the draws, k steps ago, the gain falls
further, by (1 + k / 500)^-0.6 (Robbins & Monro 1951)."""
RECENT = 1 / 3
"""Share of the warm-up so far from which the posterior's spread is estimated."""
SHORTEST = 10
"""Steps that the momentum lasts at least, however narrow the posterior seems."""
WINDOWS = (0.1, 0.25, 0.5)
"""Shares of the warm-up after which the scales are set, where they are preconditioned."""
FLOOR = 1e-6
"""Of the variances by which scales are set, relative to their mean."""
CAUTION, RECOVERY = 0.5, 1.1
"""A rejected step halves the step size of its chain for a while; each step that is not rejected gives 10% back."""
ADJUSTED_VARIANCE = 0.03
"""Variance of the energy error in nats^2 at which a Metropolis step is accepted 93 times in 100: 2 Phi(-sd / 2)."""
MAX_HEAT = 4.0
"""Measured energy variance, relative to its target, above which the draws are called hot."""
MAX_REJECTED = 0.005
"""Share of rejected steps above which it is said."""
MIN_ACCEPTANCE = 0.6
"""Acceptance rate of the Metropolis step below which it is said."""
LOST = 6.0
"""Robust standard deviations by which a chain's log density must fall short of the chains' median to be called lost."""
MAX_RHAT = 1.1
"""Median over chains of the R-hat between the halves of a chain above which chains are said not to have settled."""
FEWEST = 8
"""Draws a chain below which it is not known whether its halves agree."""
MIN_ESS = 400
"""Effective draws of the log density, summed over chains, below which estimates are rough (Vehtari et al. 2021)."""
WARM_START = MAP(num_steps=500, polish=False)
"""Long enough to leave the starting point: longer descents ended in no better places after the warm-up."""


@dataclass(frozen=True, kw_only=True)
class MCLMC:
    """The posterior by microcanonical Langevin dynamics (Robnik & Seljak 2024): many chains, for networks.

    With weights w in d unconstrained coordinates, a momentum u of length 1 and the log density ``log p``::

        dw = u dt,   du = (I - u u^T) (grad log p(w) / (d - 1) dt + sqrt(2 / (d L)) dB)

    The dynamics hold their energy exactly; a step of finite size does not, and its energy errors measure the bias of
    the draws. So the step size is adapted to a target: `energy_variance`, the mean square of a step's energy error in
    nats^2, divided by d. It goes as the sixth power of the step size. Each chain begins where a short `MAP` run on the
    same density has arrived, explores with large steps, and is cooled to small ones before its first draw: hot
    exploration finds better modes, and the draws are not hot.

    Chains of a network stay in the neighbourhood of a mode each, and different chains are in different modes. The
    draws are the mixture of them with equal weights, whatever their masses: many chains matter more than long ones.
    Whether a chain has settled is judged within it. The status does not ask whether chains agree on the weights; see
    that their predictions do.

    Args:
        num_warmup: steps of each chain before its first draw, thrown away. A step costs one gradient.
        num_samples: draws kept of each chain.
        thinning: steps from draw to draw.
        num_chains: number of chains, spread over all devices.
        start: the `MAP` run that finds the starting points; its `num_restarts` is set to `num_chains`. None is a cold
            start.
        warmup_energy_variance: the target while the chains explore. Larger steps find better modes, up to 1 or 3; at 10
            chains have too much to make up for.
        energy_variance: the target of the draws. By default standard deviations are off by 1% to 4% with few weights,
            at 0.02 by 3% to 8% (`benchmarks/truth.py`). Directions that the data determine best suffer most: of a
            Gaussian with 100 correlated weights the worst standard deviation was too large by 7%, and by 44% at 0.02.
        cooling: share of the warm-up, at its end, that goes from the one target to the other: the first half of it
            geometrically, the second half at the target of the draws.
        momentum_length: L, the distance over which the momentum is forgotten, in units of the posterior's spread
            ``sqrt(sum_i Var[w_i])``, estimated in the warm-up within each chain. To Gaussian posteriors 1 and 3 are the
            same; a network's posterior is wider than what a chain has seen of it, and 3 finds better modes.
        precondition: scale each coordinate by its standard deviation, estimated in the warm-up. For posteriors with
            few modes and unequal scales, with a `start`: chains that begin cold settle too late to learn them.
        adjusted: accept or reject each step by Metropolis' rule, so that the draws have no bias from the step size. The
            draws' target is then an energy variance of 0.03 nats^2 in all, whatever `energy_variance` says: smaller
            steps where there are more than 150 weights, larger ones where there are fewer.
        improper_ok: sample a model whose prior is flat. Its posterior may not exist, and chains do not tell.
        init_strategy: where chains begin that have no `start`; see `MAP`.

    Raises:
        ValueError: when a setting is out of its range.
    """

    kind: ClassVar[Kind] = "chain"

    num_warmup: int = 20_000
    num_samples: int = 200
    thinning: int = 40
    num_chains: int = 10
    start: MAP | None = WARM_START
    warmup_energy_variance: float = 1.0
    energy_variance: float = 2e-4
    cooling: float = 0.2
    momentum_length: float = 3.0
    precondition: bool = False
    adjusted: bool = False
    improper_ok: bool = False
    init_strategy: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        for name in ("num_warmup", "num_samples", "thinning", "num_chains"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"MCLMC: expected a positive integer as {name}; got {value!r}.")
        for name in ("warmup_energy_variance", "energy_variance", "momentum_length"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
                raise ValueError(f"MCLMC: expected a positive number as {name}; got {value!r}.")
        if not 0 < self.cooling <= 1:
            raise ValueError(f"MCLMC: expected 0 < cooling <= 1; got {self.cooling!r}.")

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
            ValueError: when the prior is flat and `improper_ok` is not set, or the model has one weight only.
        """
        check_proper("MCLMC", structure, self.improper_ok)
        if structure.num_weights < 2:
            raise ValueError(
                "MCLMC: expected a model of at least 2 weights, since a momentum of length 1 must have directions to "
                "turn to; got 1. Use NUTS."
            )
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
        program = _program(self, model, structure, x, y, params)
        chains = program.start(params, began_cold, key_chains, x, y)
        x, y = jax.device_put((x, y), program.spread.all)

        def advance(chains: Any, begin: int, end: int) -> tuple[Any, Any, int]:
            if begin < self.num_warmup:
                return *program.block(chains, begin, 1, end - begin, x, y), 1
            first = self.num_warmup + (begin - self.num_warmup) * self.thinning
            return *program.block(chains, first, end - begin, self.thinning, x, y), end - begin

        chains, (draws, sample_stats) = run_chains(
            advance,
            chains,
            num_warmup=self.num_warmup,
            num_samples=self.num_samples,
            label="MCLMC",
            describe=_describe,
            progress=progress,
            store=store,
        )
        began_cold = np.asarray(chains.began_cold)  # of the first run, where this one went on with it
        warnings = [says.COLD_START.format(chains=says.listed(began_cold))] if began_cold.any() else []
        status = _status(self, sample_stats, program.dim, warnings)
        length = np.asarray(program.momentum_length(chains))
        return Outcome(draws, status, sample_stats=sample_stats, stats={"momentum_length": length})


class _Chain(NamedTuple):
    """One chain, in unconstrained coordinates laid out in one vector of length d."""

    state: Any
    """BlackJAX's: position, momentum, log density and its gradient."""
    key: Array
    log_step: Array
    """Log of the step size, before caution."""
    caution: Array
    """What the step size is multiplied by, below 1 after a rejected step."""
    mean: Array
    variance: Array
    """Recent moments of the coordinates, (d,)."""
    scale: Array
    """Squared scales of the coordinates, (d,): BlackJAX's inverse mass matrix."""
    began_cold: Array
    """Whether it began where no descent had brought it, though one was asked for: kept for a run that is resumed."""


class _Tally(NamedTuple):
    """What happened since the last draw."""

    squares: Array
    """Sum of the squared energy errors of steps that were not rejected."""
    rejected: Array
    accepted: Array
    """Sum of the Metropolis probabilities."""
    error: Array
    """Energy error of the last step."""


class _Program:
    """The dynamics on one model, under one set of settings: what is compiled once.

    BlackJAX has the two halves of a step: its integrator with one gradient a step (velocity Verlet), and the noise of
    the momentum. Its own kernel takes two gradients (McLachlan), which is as good a gradient, and two noises a step.
    """

    def __init__(self, settings: MCLMC, model: NumPyroModel, structure: Structure, start: Any) -> None:
        self.settings, self.model = settings, model
        tree, leaves = start
        example, self.unravel = ravel_pytree(tree.unflatten([jnp.zeros(shape[1:], dtype) for shape, dtype in leaves]))
        self.dim, self.dtype = example.size, example.dtype
        warmup = settings.num_warmup
        self.cooling_begins, self.cooling_ends = (1 - settings.cooling) * warmup, (1 - settings.cooling / 2) * warmup
        self.target = ADJUSTED_VARIANCE / self.dim if settings.adjusted else settings.energy_variance
        self.spread = Spread.of(settings.num_chains)
        self.block = self.spread.jit(self._block)
        self.start = self.spread.jit_start(self._start)
        self.momentum_length = jax.jit(jax.vmap(self._momentum_length))

    def _log_density(self, u: Array, x: Rows, y: Rows) -> Array:
        return -potential_energy(self.model, (x, y), {}, self.unravel(u))

    def _start(self, params: Weights, cold: Array, key: Array, x: Rows, y: Rows) -> _Chain:
        # Imported here, since BlackJAX starts JAX, after which the number of devices cannot be set.
        from blackjax.mcmc.integrators import IntegratorState
        from blackjax.util import generate_unit_vector

        zero, ones = jnp.zeros((), self.dtype), jnp.ones(self.dim, self.dtype)
        log_step = zero + math.log(START * math.sqrt(self.dim))

        def one(params: Weights, cold: Array, key: Array) -> _Chain:
            u, _ = ravel_pytree(params)
            value, gradient = jax.value_and_grad(self._log_density)(u, x, y)
            key_momentum, key = jax.random.split(key)
            state = IntegratorState(u, generate_unit_vector(key_momentum, u), value, gradient)
            return _Chain(state, key, log_step, zero + 1, u, jnp.zeros_like(u), ones, cold)

        return jax.vmap(one)(params, cold, jax.random.split(key, self.settings.num_chains))

    def _energy_variance(self, i: Array) -> Array:
        """The target at step i."""
        done = jnp.clip((i - self.cooling_begins) / (self.cooling_ends - self.cooling_begins), 0.0, 1.0)
        hot, cool = math.log(self.settings.warmup_energy_variance), math.log(self.target)
        return jnp.exp(hot + done * (cool - hot)).astype(self.dtype)

    def _momentum_length(self, chain: _Chain) -> Array:
        spread = jnp.sqrt((chain.variance / chain.scale).sum())
        return jnp.maximum(self.settings.momentum_length * spread, SHORTEST * jnp.exp(chain.log_step))

    def _step(self, chain: _Chain, i: Array, x: Rows, y: Rows) -> tuple[_Chain, _Tally]:
        """One step of the dynamics and, in the warm-up, of the adaptation."""
        from blackjax.mcmc.integrators import isokinetic_velocity_verlet, partially_refresh_momentum

        key_noise, key_metropolis = jax.random.split(jax.random.fold_in(chain.key, i))
        warming_up, target = i < self.settings.num_warmup, self._energy_variance(i)
        old, step_size = chain.state, _step_size(chain)
        integrate = isokinetic_velocity_verlet(partial(self._log_density, x=x, y=y), chain.scale)
        new, kinetic_change = integrate(old, step_size)
        error = kinetic_change - new.logdensity + old.logdensity
        largest = jnp.maximum(jnp.sqrt(MAX_RATIO * self.dim * target), JUMP_NATS)
        sound = jnp.isfinite(new.logdensity_grad).all() & (jnp.abs(error) < largest)  # false where it is NaN
        probability = jnp.where(sound, jnp.exp(jnp.minimum(-error, 0.0)), 0.0)
        moved = sound
        if self.settings.adjusted:  # a generalised Hamiltonian scheme (Horowitz 1991): rejection turns the momentum
            metropolis = jax.random.uniform(key_metropolis, dtype=self.dtype) < probability
            moved = jnp.where(i < self.cooling_ends, sound, metropolis)
        state = jax.tree.map(lambda new, old: jnp.where(moved, new, old), new, old)
        momentum = jnp.where(moved, state.momentum, -old.momentum)
        length = self._momentum_length(chain)
        # One refreshment between two steps is what two halves at their ends are, for the positions.
        state = state._replace(momentum=partially_refresh_momentum(momentum, key_noise, step_size, length))
        square = jnp.where(sound, error**2, 0.0)
        chain = chain._replace(state=state, caution=self._caution(chain, sound, warming_up))
        ratio = jnp.where(sound, square / (self.dim * target), MAX_RATIO)
        chain = self._adapt(chain, i, warming_up, ratio)
        return chain, _Tally(square, (~sound).astype(int), probability, jnp.where(sound, error, 0.0))

    def _caution(self, chain: _Chain, sound: Array, warming_up: Array) -> Array:
        caution = jnp.where(sound, jnp.minimum(1.0, RECOVERY * chain.caution), CAUTION * chain.caution)
        # Metropolis' rule holds for steps whose size does not depend on what happened before.
        return jnp.where(warming_up, caution, 1.0).astype(self.dtype) if self.settings.adjusted else caution

    def _adapt(self, chain: _Chain, i: Array, warming_up: Array, ratio: Array) -> _Chain:
        """Running moments, and a step towards the step size at which the mean ratio to the target is 1.

        Chains that are not adjusted go on adapting while they draw, ever less: the places where a network's density is
        stiff are met too seldom for the warm-up to know them all.
        """
        gain = jnp.maximum(GAIN, FIRST_GAIN * (1.0 + i / EARLY) ** -POWER)
        gain *= (1.0 + jnp.maximum(0.0, i - self.cooling_ends) / SETTLING) ** -POWER
        log_step = (chain.log_step + gain * (1.0 - jnp.minimum(ratio, MAX_RATIO))).astype(self.dtype)
        rate = jnp.minimum(1.0, 1.0 / (RECENT * (i + 1.0))).astype(self.dtype)
        off = chain.state.position - chain.mean
        mean, variance = chain.mean + rate * off, (1 - rate) * (chain.variance + rate * off**2)
        adapted = chain._replace(log_step=log_step, mean=mean, variance=variance)
        if self.settings.precondition:
            adapted = self._rescale(adapted, i)
        frozen = chain if self.settings.adjusted else chain._replace(log_step=log_step)
        return jax.tree.map(lambda new, old: jnp.where(warming_up, new, old), adapted, frozen)

    def _rescale(self, chain: _Chain, i: Array) -> _Chain:
        """At the end of a window, set the scales; the step keeps its mean length in the coordinates."""
        now = jnp.isin(i, jnp.array([int(share * self.settings.num_warmup) for share in WINDOWS]))
        scale = chain.variance + FLOOR * chain.variance.mean()
        scale = jnp.where(now & (scale > 0), scale, chain.scale)
        shift = 0.5 * (jnp.log(chain.scale).mean() - jnp.log(scale).mean())
        return chain._replace(scale=scale, log_step=chain.log_step + shift)

    def _block(
        self, chains: _Chain, begin: Array, num_rows: Array, steps: Array, x: Rows, y: Rows
    ) -> tuple[_Chain, Any]:
        advance = jax.vmap(self._step, in_axes=(0, None, None, None))
        zero = jnp.zeros(chains.log_step.shape, self.dtype)
        none = _Tally(zero, zero.astype(int), zero, zero)

        def one(i: Array, carry: tuple[_Chain, _Tally]) -> tuple[_Chain, _Tally]:
            chains, tally = carry
            chains, this = advance(chains, i, x, y)
            return chains, jax.tree.map(jnp.add, tally, this)._replace(error=this.error)

        def collect(chain: _Chain, tally: _Tally) -> Any:
            stats = {
                "lp": chain.state.logdensity,
                "energy_error": tally.error,
                "energy_variance": tally.squares / (self.dim * jnp.maximum(1, steps - tally.rejected)),
                "step_size": _step_size(chain),
                "n_steps": steps,
                "diverging": tally.rejected > 0,
            }
            if self.settings.adjusted:
                stats["acceptance_rate"] = tally.accepted / steps
            return constrain_fn(self.model, (x, y), {}, self.unravel(chain.state.position)), stats

        def draw(r: Array, chains: _Chain) -> tuple[_Chain, Any]:
            first = begin + r * steps
            chains, tally = jax.lax.fori_loop(first, first + steps, one, (chains, none))
            return chains, jax.vmap(collect)(chains, tally)

        return draw_rows(draw, chains, num_rows)


def _step_size(chain: _Chain) -> Array:
    return chain.caution * jnp.exp(chain.log_step)


@lru_cache(maxsize=PROGRAMS_KEPT)
def _cached_program(settings: MCLMC, model: NumPyroModel, structure: Structure, rows: Any, start: Any) -> _Program:
    return _Program(settings, model, structure, start)


def _program(settings: MCLMC, model: NumPyroModel, structure: Structure, x: Rows, y: Rows, params: Weights) -> _Program:
    """The program for these settings, this model and these shapes: made once."""
    return _cached_program(settings, model, structure, signature((x, y)), signature(params))


def _describe(drawn: Drawn) -> str:
    _, stats = drawn
    return (
        f"log density {stats['lp'][:, -1].mean():.4g}, energy variance {stats['energy_variance'].mean():.2g}, "
        f"{int(stats['diverging'].sum())} diverging"
    )


def _status(settings: MCLMC, stats: dict[str, np.ndarray], dim: int, warnings: list[str]) -> Status:
    """What the draws' statistics say of the chains."""
    failures, lp = [], stats["lp"].astype(float)
    num_draws = lp.shape[1]
    if num_draws < settings.num_samples:
        warnings.append(says.INTERRUPTED.format(done=num_draws, total=settings.num_samples, unit="draws of each chain"))
    frozen = frozen_chains(lp)
    if frozen.any():
        failures.append(says.FROZEN.format(chains=says.listed(frozen)))
    moving = np.flatnonzero(~frozen)
    warnings += _lost(lp, moving, dim)
    if moving.size:
        warnings += _rough_steps(settings, {name: value[moving] for name, value in stats.items()})
    if num_draws < FEWEST:
        warnings.append(says.TOO_FEW.format(draws=num_draws, least=FEWEST))
    elif moving.size:
        warnings += _unsettled(lp[moving])
    return Status(tuple(failures), tuple(warnings))


def _lost(lp: np.ndarray, moving: np.ndarray, dim: int) -> list[str]:
    """Chains whose log density is far below the others'.

    The log density of draws from a mode with d directions has standard deviation sqrt(d / 2); modes differ too, which
    their median absolute deviation measures.
    """
    if moving.size < 3:
        return []
    means = lp[moving].mean(axis=1)
    middle = np.median(means)
    spread = max(math.sqrt(dim / 2), 1.4826 * float(np.median(np.abs(means - middle))))
    lost = means < middle - LOST * spread
    if not lost.any():
        return []
    chains = np.zeros(len(lp), bool)
    chains[moving[lost]] = True
    return [
        says.LOST_CHAINS.format(chains=says.listed(chains), short=middle - means[lost].max(), times=LOST, spread=spread)
    ]


def _rough_steps(settings: MCLMC, stats: dict[str, np.ndarray]) -> list[str]:
    """What the energy errors say."""
    warnings = []
    heat = float(stats["energy_variance"].mean())
    if settings.adjusted:
        rate = float(stats["acceptance_rate"].mean())
        if rate < MIN_ACCEPTANCE:
            warnings.append(says.LOW_ACCEPTANCE.format(rate=rate, limit=MIN_ACCEPTANCE))
    elif heat > MAX_HEAT * settings.energy_variance:
        warnings.append(says.HOT.format(heat=heat, target=settings.energy_variance))
    share = 1 - (1 - float(stats["diverging"].mean())) ** (1 / settings.thinning)  # of steps, were they independent
    if share > MAX_REJECTED:
        warnings.append(says.REJECTED.format(share=share))
    return warnings


def _unsettled(lp: np.ndarray) -> list[str]:
    """Whether the halves of each chain agree, and how many effective draws there are; chains may differ."""
    warnings = []
    half = lp.shape[1] // 2
    rhat = float(np.median([array_stats.rhat(np.stack([chain[:half], chain[-half:]])) for chain in lp]))
    if not rhat <= MAX_RHAT:
        rise = float(lp[:, -half:].mean() - lp[:, :half].mean())
        warnings.append(says.UNSETTLED.format(rhat=rhat, limit=MAX_RHAT, rise=rise))
    ess = sum(float(array_stats.ess(chain[None])) for chain in lp)
    if not ess >= MIN_ESS:
        warnings.append(says.FEW_EFFECTIVE.format(ess=ess, limit=MIN_ESS))
    return warnings
