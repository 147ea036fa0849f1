"""The microcanonical Langevin dynamics of `MCLMC`, and their adaptation.

A chain has a position u in d unconstrained coordinates, and a momentum of length 1. A step is one of BlackJAX's
isokinetic integrator (velocity Verlet), followed by a partial refreshment of the momentum. In the warm-up the step size
is adapted to a target of the energy error, large at first and small at the end, and the momentum's length to the spread
of u.
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
from ..devices import Sharding, Spread
from ..processes import jit, readable
from ..rows import Data, Weights, vector_of
from ..sums import two_part_sum
from .chains import buffer_rows, draw_rows

if TYPE_CHECKING:
    from .mclmc import MCLMC

FIRST_STEP_SIZE = 1e-3
"""The first step size, divided by sqrt(d): stable for most networks. It grows by at most a factor of 1.02 per step."""
FIRST_GAIN, GAIN = 0.02, 0.002
"""The gain of the step size's adaptation: it falls as (1 + i / 50)^-0.6 with the step i, down to the second value.
With the heavy-tailed energy errors of networks, the step size jumps at a large gain; this one forgets in 80 steps."""
MAX_RATIO = 100.0
"""The ratio of a squared energy error to its target above which a step is rejected, as if it were not finite, provided
that the error also exceeds JUMP_NATS. In the adaptation such errors count with this ratio."""
JUMP_NATS = 10.0
"""The energy error in nats up to which a step is never rejected: in few dimensions the target is far below harmful
errors."""
GAIN_POWER, GAIN_STEPS, SETTLING_STEPS = 0.6, 50, 500
"""The power of the gain, and the steps over which it falls: 50 at the start, and 500 after cooling has ended, where the
gain falls further, by (1 + k / 500)^-0.6 after k steps (Robbins & Monro 1951)."""
RECENT_SHARE = 1 / 3
"""The most recent share of the warm-up, from which the posterior's spread is estimated."""
MIN_MOMENTUM_STEPS = 10
"""The smallest number of steps that the momentum lasts, however narrow the posterior appears."""
WINDOWS = (0.1, 0.25, 0.5)
"""The shares of the warm-up after which the scales are set, with preconditioning."""
VARIANCE_FLOOR = 1e-6
"""The constant that is added to the variances that set the scales, relative to their mean."""
CAUTION, RECOVERY = 0.5, 1.1
"""The factor of a chain's step size after a rejected step, and the factor of its recovery with each accepted step."""
MANY_ROWS = 2**14
"""The number of rows from which log densities are summed in two parts."""
ADJUSTED_VARIANCE = 0.03
"""The variance of the energy error, in nats^2, at which 93% of Metropolis steps are accepted: 2 Phi(-sd / 2)."""


class Schedule(NamedTuple):
    """The settings that vary with the step: values, not constants of the program, so that changes compile nothing."""

    num_warmup: Any
    cooling_begins: Any
    """The step at which the target begins to fall from that of the exploration to that of the draws."""
    cooling_ends: Any
    """The step from which the target is that of the draws."""
    log_warmup_target: Any
    """The log of the target of the energy variance per dimension while chains explore."""
    log_target: Any
    """The log of the target of the draws."""
    windows: tuple[int, ...]
    """The steps after which the scales are set, with preconditioning."""
    momentum_length: Any
    """The momentum length in units of the posterior's spread."""

    @classmethod
    def of(cls, settings: "MCLMC", dim: int) -> "Schedule":
        """Return the schedule of a run in a number of dimensions."""
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
        """Return the target of the energy variance per dimension at a step."""
        done = jnp.clip((i - self.cooling_begins) / (self.cooling_ends - self.cooling_begins), 0.0, 1.0)
        return jnp.exp(self.log_warmup_target + done * (self.log_target - self.log_warmup_target))


class Chain(NamedTuple):
    """The state of one chain, in a vector of d unconstrained coordinates."""

    state: Any
    """BlackJAX's state: position, momentum, log density and its gradient."""
    remainder: Array
    """What the log density lacks in the precision of the fit; see `sums.two_part_sum`."""
    key: Array
    log_step: Array
    """The log of the step size, without the factor `caution`."""
    caution: Array
    """The factor of the step size, below 1 after a rejected step."""
    mean: Array
    variance: Array
    """The recent moments of the coordinates, (d,)."""
    scale: Array
    """The squared scales of the coordinates, (d,): BlackJAX's inverse mass matrix."""
    began_cold: Array
    """Whether the chain began cold in spite of a descent; part of the state, so that a resumed run has it as well."""


class _Tally(NamedTuple):
    """Totals since the last draw."""

    squares: Array
    """The sum of the squared energy errors of steps that were not rejected."""
    rejected: Array
    accepted: Array
    """The sum of the Metropolis probabilities."""
    error: Array
    """The energy error of the last step."""


class Langevin:
    """The compiled functions of the dynamics on one density; see `chains.Sampler`.

    BlackJAX provides the two halves of a step: an integrator with one gradient per step (velocity Verlet), and the
    noise of the momentum. Its own kernel uses two gradients per step (McLachlan), with the same quality per gradient,
    and two noises.

    Args:
        density: the density that is sampled.
        shapes: the structure, shapes and types of one chain's unconstrained weights.
        num_chains: the number of chains.
        precondition: see `MCLMC`.
        adjusted: see `MCLMC`.
        spread: how the rows are spread over devices.
    """

    draws_in_warmup = False

    def __init__(
        self,
        density: Density,
        shapes: Any,
        num_chains: int,
        precondition: bool,
        adjusted: bool,
        spread: Spread | None = None,
    ) -> None:
        self.density, self.num_chains, self.precondition, self.adjusted = density, num_chains, precondition, adjusted
        vector, self.unravel = vector_of(shapes)
        self.dim, self.dtype, self.is_spread = vector.size, vector.dtype, spread is not None
        self.sharding = Sharding.of(num_chains, spread)
        self._compiled_block = self.sharding.jit(self._block)
        self._compiled_start = self.sharding.jit_start(self._start)
        self._compiled_length = jit(jax.vmap(_momentum_length, in_axes=(None, 0)))

    def start(self, settings: "MCLMC", u: Weights, began_cold: Array, key: Array, data: Data) -> Chain:
        return self._compiled_start(u, began_cold, key, data)

    def advance(self, settings: "MCLMC", state: Chain, begin: int, end: int, data: Data) -> tuple[Chain, Any, int]:
        schedule, num_warmup = Schedule.of(settings, self.dim), settings.num_warmup
        if begin < num_warmup:
            return *self._compiled_block(state, begin, 1, end - begin, schedule, data), 1
        first = num_warmup + (begin - num_warmup) * settings.thinning
        return *self._compiled_block(state, first, end - begin, settings.thinning, schedule, data), end - begin

    def began_cold(self, state: Chain) -> np.ndarray:
        return np.asarray(readable(state.began_cold))

    def describe(self, stats: Mapping[str, np.ndarray]) -> str:
        return (
            f"log density {stats['lp'][:, -1].mean():.4g}, energy variance {stats['energy_variance'].mean():.2g}, "
            f"{int(stats['diverging'].sum())} diverging"
        )

    def momentum_length(self, settings: "MCLMC", state: Chain) -> np.ndarray:
        """Return the length over which each chain forgets its momentum, (chain,)."""
        return np.asarray(self._compiled_length(Schedule.of(settings, self.dim), state))

    def _log_density(self, u: Array, data: Data) -> tuple[Array, Array]:
        """Return the log density, and what it lacks in the precision of the fit.

        Energy errors are differences of it: of many rows it is so large that in float32 they would be rounding.
        """
        if data.num_rows < MANY_ROWS or self.is_spread:
            return -self.density.potential(self.unravel(u), data), jnp.zeros((), self.dtype)
        rows = self.density.log_likelihood(self.unravel(u), data)
        prior = -self.density.prior_potential(self.unravel(u), data)
        total, remainder = two_part_sum(jax.lax.stop_gradient(rows))
        return rows.sum() + prior, total - jax.lax.stop_gradient(rows.sum()) + remainder

    def _start(self, u: Weights, cold: Array, key: Array, data: Data) -> Chain:
        # Imported here, since BlackJAX starts JAX, after which the number of devices cannot be set.
        from blackjax.util import generate_unit_vector

        from ..internals import IntegratorState

        zero, ones = jnp.zeros((), self.dtype), jnp.ones(self.dim, self.dtype)
        log_step = zero + math.log(FIRST_STEP_SIZE * math.sqrt(self.dim))

        def one(u: Weights, cold: Array, key: Array) -> Chain:
            position, _ = ravel_pytree(u)
            (value, rest), gradient = jax.value_and_grad(self._log_density, has_aux=True)(position, data)
            key_momentum, key = jax.random.split(key)
            state = IntegratorState(position, generate_unit_vector(key_momentum, position), value, gradient)
            return Chain(state, rest, key, log_step, zero + 1, position, jnp.zeros_like(position), ones, cold)

        return jax.vmap(one)(u, cold, jax.random.split(key, self.num_chains))

    def _step(self, schedule: Schedule, data: Data, chain: Chain, i: Array) -> tuple[Chain, _Tally]:
        """Take one step of the dynamics and, in the warm-up, of the adaptation."""
        from ..internals import partially_refresh_momentum

        key_noise, key_metropolis = jax.random.split(jax.random.fold_in(chain.key, i))
        warming_up, target = i < schedule.num_warmup, schedule.energy_variance(i).astype(self.dtype)
        old, step_size = chain.state, _step_size(chain)
        new, rest, kinetic_change = self._integrate(old, step_size, chain.scale, data)
        error = kinetic_change - (new.logdensity - old.logdensity) - (rest - chain.remainder)
        largest = jnp.maximum(jnp.sqrt(MAX_RATIO * self.dim * target), JUMP_NATS)
        valid = jnp.isfinite(new.logdensity_grad).all() & (jnp.abs(error) < largest)  # false where it is NaN
        probability = jnp.where(valid, jnp.exp(jnp.minimum(-error, 0.0)), 0.0)
        moved = valid
        if self.adjusted:  # a generalised Hamiltonian scheme (Horowitz 1991): rejection turns the momentum
            metropolis = jax.random.uniform(key_metropolis, dtype=self.dtype) < probability
            moved = jnp.where(i < schedule.cooling_ends, valid, metropolis)
        state, rest = jax.tree.map(lambda new, old: jnp.where(moved, new, old), (new, rest), (old, chain.remainder))
        momentum = jnp.where(moved, state.momentum, -old.momentum)
        length = _momentum_length(schedule, chain)
        # For the positions, one refreshment between two steps equals two half refreshments at their ends.
        state = state._replace(momentum=partially_refresh_momentum(momentum, key_noise, step_size, length))
        square = jnp.where(valid, error**2, 0.0)
        chain = chain._replace(state=state, remainder=rest, caution=self._caution(chain, valid, warming_up))
        ratio = jnp.where(valid, square / (self.dim * target), MAX_RATIO)
        chain = self._adapt(schedule, chain, i, ratio)
        return chain, _Tally(square, (~valid).astype(int), probability, jnp.where(valid, error, 0.0))

    def _integrate(self, old: Any, step_size: Array, scale: Array, data: Data) -> tuple[Any, Array, Array]:
        """Return the state after a step of `isokinetic_velocity_verlet`, its remainder, and the kinetic change."""
        from .. import internals

        def move(position: Array, velocity: Array, step_size: Array, coefficient: float, _: Any) -> tuple[Any, ...]:
            position = position + step_size * coefficient * velocity
            (value, rest), gradient = jax.value_and_grad(self._log_density, has_aux=True)(position, data)
            return position, value, gradient, rest

        integrate = internals.generalized_two_stage_integrator(
            internals.esh_dynamics_momentum_update_one_step(scale),
            move,
            internals.velocity_verlet_coefficients,
            lambda *state: (internals.IntegratorState(*state[:4]), state[5], state[6]),
        )
        return integrate(old, step_size)  # type: ignore[no-any-return]

    def _caution(self, chain: Chain, valid: Array, warming_up: Array) -> Array:
        caution = jnp.where(valid, jnp.minimum(1.0, RECOVERY * chain.caution), CAUTION * chain.caution)
        # Metropolis' rule holds for steps whose size does not depend on what happened before.
        return jnp.where(warming_up, caution, 1.0).astype(self.dtype) if self.adjusted else caution

    def _adapt(self, schedule: Schedule, chain: Chain, i: Array, ratio: Array) -> Chain:
        """Update the moments, and move the step size towards that at which the mean ratio to the target is 1.

        Chains without adjustment continue to adapt, ever less, while they draw: regions where the density of a network
        is stiff are visited too rarely for the warm-up to find them all.
        """
        gain = jnp.maximum(GAIN, FIRST_GAIN * (1.0 + i / GAIN_STEPS) ** -GAIN_POWER)
        gain *= (1.0 + jnp.maximum(0.0, i - schedule.cooling_ends) / SETTLING_STEPS) ** -GAIN_POWER
        log_step = (chain.log_step + gain * (1.0 - jnp.minimum(ratio, MAX_RATIO))).astype(self.dtype)
        rate = jnp.minimum(1.0, 1.0 / (RECENT_SHARE * (i + 1.0))).astype(self.dtype)
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
            return self.density.draws(self.unravel(chain.state.position), data), stats

        def draw(r: Array, chains: Chain) -> tuple[Chain, Any]:
            first = begin + r * steps
            chains, tally = jax.lax.fori_loop(first, first + steps, one, (chains, none))
            return chains, jax.vmap(collect)(chains, tally)

        length = buffer_rows(self.num_chains, self.density.structure.num_weights)
        return draw_rows(draw, chains, num_rows, length=length, axis=1)


def _step_size(chain: Chain) -> Array:
    return chain.caution * jnp.exp(chain.log_step)


def _momentum_length(schedule: Schedule, chain: Chain) -> Array:
    spread = jnp.sqrt((chain.variance / chain.scale).sum())
    return jnp.maximum(schedule.momentum_length * spread, MIN_MOMENTUM_STEPS * jnp.exp(chain.log_step))


def _rescale(schedule: Schedule, chain: Chain, i: Array) -> Chain:
    """Set the scales at the end of a window; the mean length of a step in the coordinates does not change."""
    now = jnp.isin(i, jnp.array(schedule.windows))
    scale = chain.variance + VARIANCE_FLOOR * chain.variance.mean()
    scale = jnp.where(now & (scale > 0), scale, chain.scale)
    shift = 0.5 * (jnp.log(chain.scale).mean() - jnp.log(scale).mean())
    return chain._replace(scale=scale, log_step=chain.log_step + shift)
