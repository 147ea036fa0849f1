"""The microcanonical Langevin dynamics of `MCLMC`, and their adaptation.

A chain has a position u in d unconstrained coordinates, and a momentum of length 1. A step is one of BlackJAX's
isokinetic integrator (velocity Verlet), after which the momentum is partially refreshed. In the warm-up the step size
follows a target of the energy error, hot at first and cool at the end; the momentum's length follows the spread of u.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from ..density import Density
from ..devices import Sharding
from ..rows import Data, Weights
from .chains import draw_rows

if TYPE_CHECKING:
    from .mclmc import MCLMC

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


class Schedule(NamedTuple):
    """What changes with the step: values and no constants of the program, so that others compile nothing."""

    num_warmup: Any
    cooling_begins: Any
    """The step at which the target begins to fall from the hot one to the cool one."""
    cooling_ends: Any
    """The step from which it is the cool one, that of the draws."""
    hot: Any
    """Log of the target of the energy variance per dimension while chains explore."""
    cool: Any
    """The same of the draws."""
    windows: tuple[int, ...]
    """The steps after which the scales are set, where they are preconditioned."""
    momentum_length: Any
    """In units of the posterior's spread."""

    @classmethod
    def of(cls, settings: "MCLMC", dim: int) -> "Schedule":
        """The schedule of a run in so many dimensions."""
        warmup = settings.num_warmup
        target = ADJUSTED_VARIANCE / dim if settings.adjusted else settings.energy_variance
        return cls(
            warmup,
            (1 - settings.cooling) * warmup,
            (1 - settings.cooling / 2) * warmup,
            math.log(settings.warmup_energy_variance),
            math.log(target),
            tuple(int(share * warmup) for share in WINDOWS),
            settings.momentum_length,
        )

    def energy_variance(self, i: Array) -> Array:
        """The target at step i."""
        done = jnp.clip((i - self.cooling_begins) / (self.cooling_ends - self.cooling_begins), 0.0, 1.0)
        return jnp.exp(self.hot + done * (self.cool - self.hot))


class Chain(NamedTuple):
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
    """Whether it began where no descent had brought it, though one was asked for: a run that is resumed still knows."""


class _Tally(NamedTuple):
    """What happened since the last draw."""

    squares: Array
    """Sum of the squared energy errors of steps that were not rejected."""
    rejected: Array
    accepted: Array
    """Sum of the Metropolis probabilities."""
    error: Array
    """Energy error of the last step."""


class Langevin:
    """The dynamics on one density: what is compiled once; see `chains.Sampler`.

    BlackJAX has the two halves of a step: its integrator with one gradient per step (velocity Verlet), and the noise of
    the momentum. Its own kernel takes two gradients (McLachlan), which is as good a gradient, and two noises per step.

    Args:
        density: what is sampled.
        shapes: the structure, shapes and types of one chain's unconstrained weights.
        num_chains: how many chains there are.
        precondition: see `MCLMC`.
        adjusted: see `MCLMC`.
    """

    draws_in_warmup = False

    def __init__(self, density: Density, shapes: Any, num_chains: int, precondition: bool, adjusted: bool) -> None:
        self.density, self.num_chains, self.precondition, self.adjusted = density, num_chains, precondition, adjusted
        tree, leaves = shapes
        example, self.unravel = ravel_pytree(tree.unflatten([jnp.zeros(shape, dtype) for shape, dtype in leaves]))
        self.dim, self.dtype = example.size, example.dtype
        self.sharding = Sharding.of(num_chains)
        self._compiled_block = self.sharding.jit(self._block)
        self._compiled_start = self.sharding.jit_start(self._start)
        self._compiled_length = jax.jit(jax.vmap(_momentum_length, in_axes=(None, 0)))

    def start(self, settings: "MCLMC", u: Weights, began_cold: Array, key: Array, data: Data) -> Chain:
        return self._compiled_start(u, began_cold, key, data)

    def advance(self, settings: "MCLMC", state: Chain, begin: int, end: int, data: Data) -> tuple[Chain, Any, int]:
        schedule, num_warmup = Schedule.of(settings, self.dim), settings.num_warmup
        if begin < num_warmup:
            return *self._compiled_block(state, begin, 1, end - begin, schedule, data), 1
        first = num_warmup + (begin - num_warmup) * settings.thinning
        return *self._compiled_block(state, first, end - begin, settings.thinning, schedule, data), end - begin

    def began_cold(self, state: Chain) -> np.ndarray:
        return np.asarray(state.began_cold)

    def describe(self, stats: Mapping[str, np.ndarray]) -> str:
        return (
            f"log density {stats['lp'][:, -1].mean():.4g}, energy variance {stats['energy_variance'].mean():.2g}, "
            f"{int(stats['diverging'].sum())} diverging"
        )

    def momentum_length(self, settings: "MCLMC", state: Chain) -> np.ndarray:
        """The length over which each chain forgets its momentum, (chain,)."""
        return np.asarray(self._compiled_length(Schedule.of(settings, self.dim), state))

    def _log_density(self, u: Array, data: Data) -> Array:
        return -self.density.potential(self.unravel(u), data)

    def _start(self, u: Weights, cold: Array, key: Array, data: Data) -> Chain:
        # Imported here, since BlackJAX starts JAX, after which the number of devices cannot be set.
        from blackjax.mcmc.integrators import IntegratorState
        from blackjax.util import generate_unit_vector

        zero, ones = jnp.zeros((), self.dtype), jnp.ones(self.dim, self.dtype)
        log_step = zero + math.log(START * math.sqrt(self.dim))

        def one(u: Weights, cold: Array, key: Array) -> Chain:
            position, _ = ravel_pytree(u)
            value, gradient = jax.value_and_grad(self._log_density)(position, data)
            key_momentum, key = jax.random.split(key)
            state = IntegratorState(position, generate_unit_vector(key_momentum, position), value, gradient)
            return Chain(state, key, log_step, zero + 1, position, jnp.zeros_like(position), ones, cold)

        return jax.vmap(one)(u, cold, jax.random.split(key, self.num_chains))

    def _step(self, schedule: Schedule, data: Data, chain: Chain, i: Array) -> tuple[Chain, _Tally]:
        """One step of the dynamics and, in the warm-up, of the adaptation."""
        from blackjax.mcmc.integrators import isokinetic_velocity_verlet, partially_refresh_momentum

        key_noise, key_metropolis = jax.random.split(jax.random.fold_in(chain.key, i))
        warming_up, target = i < schedule.num_warmup, schedule.energy_variance(i).astype(self.dtype)
        old, step_size = chain.state, _step_size(chain)
        integrate = isokinetic_velocity_verlet(partial(self._log_density, data=data), chain.scale)
        new, kinetic_change = integrate(old, step_size)
        error = kinetic_change - new.logdensity + old.logdensity
        largest = jnp.maximum(jnp.sqrt(MAX_RATIO * self.dim * target), JUMP_NATS)
        sound = jnp.isfinite(new.logdensity_grad).all() & (jnp.abs(error) < largest)  # false where it is NaN
        probability = jnp.where(sound, jnp.exp(jnp.minimum(-error, 0.0)), 0.0)
        moved = sound
        if self.adjusted:  # a generalised Hamiltonian scheme (Horowitz 1991): rejection turns the momentum
            metropolis = jax.random.uniform(key_metropolis, dtype=self.dtype) < probability
            moved = jnp.where(i < schedule.cooling_ends, sound, metropolis)
        state = jax.tree.map(lambda new, old: jnp.where(moved, new, old), new, old)
        momentum = jnp.where(moved, state.momentum, -old.momentum)
        length = _momentum_length(schedule, chain)
        # One refreshment between two steps is what two halves at their ends are, for the positions.
        state = state._replace(momentum=partially_refresh_momentum(momentum, key_noise, step_size, length))
        square = jnp.where(sound, error**2, 0.0)
        chain = chain._replace(state=state, caution=self._caution(chain, sound, warming_up))
        ratio = jnp.where(sound, square / (self.dim * target), MAX_RATIO)
        chain = self._adapt(schedule, chain, i, ratio)
        return chain, _Tally(square, (~sound).astype(int), probability, jnp.where(sound, error, 0.0))

    def _caution(self, chain: Chain, sound: Array, warming_up: Array) -> Array:
        caution = jnp.where(sound, jnp.minimum(1.0, RECOVERY * chain.caution), CAUTION * chain.caution)
        # Metropolis' rule holds for steps whose size does not depend on what happened before.
        return jnp.where(warming_up, caution, 1.0).astype(self.dtype) if self.adjusted else caution

    def _adapt(self, schedule: Schedule, chain: Chain, i: Array, ratio: Array) -> Chain:
        """Running moments, and a step towards the step size at which the mean ratio to the target is 1.

        Chains that are not adjusted go on adapting while they draw, ever less: the places where a network's density is
        stiff are met too seldom for the warm-up to know them all.
        """
        gain = jnp.maximum(GAIN, FIRST_GAIN * (1.0 + i / EARLY) ** -POWER)
        gain *= (1.0 + jnp.maximum(0.0, i - schedule.cooling_ends) / SETTLING) ** -POWER
        log_step = (chain.log_step + gain * (1.0 - jnp.minimum(ratio, MAX_RATIO))).astype(self.dtype)
        rate = jnp.minimum(1.0, 1.0 / (RECENT * (i + 1.0))).astype(self.dtype)
        off = chain.state.position - chain.mean
        mean, variance = chain.mean + rate * off, (1 - rate) * (chain.variance + rate * off**2)
        adapted = chain._replace(log_step=log_step, mean=mean, variance=variance)
        if self.precondition:
            adapted = _rescale(schedule, adapted, i)
        frozen = chain if self.adjusted else chain._replace(log_step=log_step)
        return jax.tree.map(lambda new, old: jnp.where(i < schedule.num_warmup, new, old), adapted, frozen)

    def _block(
        self, chains: Chain, begin: Array, num_rows: Array, steps: Array, schedule: Schedule, data: Data
    ) -> tuple[Chain, Any]:
        advance = jax.vmap(partial(self._step, schedule, data), in_axes=(0, None))
        zero = jnp.zeros(chains.log_step.shape, self.dtype)
        none = _Tally(zero, zero.astype(int), zero, zero)

        def one(i: Array, carry: tuple[Chain, _Tally]) -> tuple[Chain, _Tally]:
            chains, tally = carry
            chains, this = advance(chains, i)
            return chains, jax.tree.map(jnp.add, tally, this)._replace(error=this.error)

        def collect(chain: Chain, tally: _Tally) -> Any:
            stats = {
                "lp": chain.state.logdensity,
                "energy_error": tally.error,
                "energy_variance": tally.squares / (self.dim * jnp.maximum(1, steps - tally.rejected)),
                "step_size": _step_size(chain),
                "n_steps": steps,
                "diverging": tally.rejected > 0,
            }
            if self.adjusted:
                stats["acceptance_rate"] = tally.accepted / steps
            return self.density.constrain(self.unravel(chain.state.position), data), stats

        def draw(r: Array, chains: Chain) -> tuple[Chain, Any]:
            first = begin + r * steps
            chains, tally = jax.lax.fori_loop(first, first + steps, one, (chains, none))
            return chains, jax.vmap(collect)(chains, tally)

        return draw_rows(draw, chains, num_rows)


def _step_size(chain: Chain) -> Array:
    return chain.caution * jnp.exp(chain.log_step)


def _momentum_length(schedule: Schedule, chain: Chain) -> Array:
    spread = jnp.sqrt((chain.variance / chain.scale).sum())
    return jnp.maximum(schedule.momentum_length * spread, SHORTEST * jnp.exp(chain.log_step))


def _rescale(schedule: Schedule, chain: Chain, i: Array) -> Chain:
    """At the end of a window, set the scales; the step keeps its mean length in the coordinates."""
    now = jnp.isin(i, jnp.array(schedule.windows))
    scale = chain.variance + FLOOR * chain.variance.mean()
    scale = jnp.where(now & (scale > 0), scale, chain.scale)
    shift = 0.5 * (jnp.log(chain.scale).mean() - jnp.log(scale).mean())
    return chain._replace(scale=scale, log_step=chain.log_step + shift)
