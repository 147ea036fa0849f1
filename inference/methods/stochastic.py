"""The stochastic-gradient Langevin dynamics of `SGMCMC`, and the calibration of their scales and step.

A chain has a position u in d unconstrained coordinates and a momentum p, which is standard normal in units of the
scales s of the coordinates. A step is one of the splitting of Leimkuhler & Matthews (2013), whose cycle of drift,
noise, drift and kick needs one gradient, that of a batch of rows::

    u <- u + h s p / 2;   p <- c p + sqrt(1 - c^2) xi;   u <- u + h s p / 2;   p <- p - h s grad U_batch(u)

with ``c = exp(-friction h)``. With all rows as the batch, the variances of a Gaussian are exact for every stable step.
BlackJAX's `sghmc` is an explicit Euler step, whose variances are too large by ``h / friction`` in units of the squared
frequency, and which is unstable from there. The batches of an epoch are a random partition of the rows, which is gone
through forwards and then backwards (Paulin, Whalley, Chada & Leimkuhler 2024): what one batch pushes too far, the
others take back, so that their noise acts over the time of an epoch, and not as a temperature. All chains have the
same batches, and noise xi of their own.

What the noise of batches does all the same is seen in the momentum, whose variance before and after a kick is 1 on
average where there is none: for a Gaussian and all rows exactly so, at every step size. It is settled within a few
units of time, when the position may still be on its way for long. In a chain that has settled it equals the mean of
``(u_i - c_i) dU_batch/du_i`` over coordinates, c any fixed point, the configurational temperature (Wenzel et al. 2020,
appendix D.2): of one that moves away from c still that is smaller, which says nothing about the noise.
"""

from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from ..density import Density
from ..devices import Sharding, Spread
from ..processes import readable
from ..rows import Data, Weights, vector_of
from .batches import Batches, Resident, batch_of

if TYPE_CHECKING:
    from .sgmcmc import SGMCMC

CALIBRATIONS = (0.0, 0.1, 0.3, 0.5)
"""The shares of the warm-up at which scales and step size are set."""
CALIBRATION_BATCHES = 32
"""The number of batches from which the noise of the gradient is measured, so that a scale is known to 12%."""
BATCHES_OF_ROWS = 8
"""The least number of such batches that all rows make: where there are fewer rows, these batches are smaller."""
POWER_ITERATIONS = 10
"""The steps of the power method that finds the largest curvature, each a product with the Hessian of a few batches."""
CURVATURE_BATCHES = 4
"""The number of batches whose rows this Hessian is that of."""
MAX_SQUARED_STEP = 0.25
"""The largest squared step size times the largest curvature: a sixteenth of the limit of stability."""
FLOOR = 1e-6
"""The least precision of a coordinate, in units of the mean."""
MAX_KINETIC = 1e4
"""The mean squared momentum from which a step is unstable, as where the density is not finite: the chain stays where it
is, with a new momentum and half the step."""
CALIBRATION_KEY, ORDER_KEY = 1, 2
"""The numbers that the keys of calibrations and of the order of rows are folded with."""


class Walker(NamedTuple):
    """The state of one chain, in a vector of d unconstrained coordinates."""

    position: Array
    momentum: Array
    """In units of the inverse scales, (d,): standard normal."""
    key: Array
    scale: Array
    """The scales of the coordinates, (d,)."""
    step_size: Array
    began_cold: Array
    """Whether the chain began cold in spite of a descent; part of the state, so that a resumed run has it as well."""


class _Tally(NamedTuple):
    """Totals since the last draw, of estimates by batches."""

    lp: Array
    temperature: Array
    unstable: Array
    """The number of steps that were not taken."""


class Stochastic:
    """The compiled functions of the dynamics on one density.

    Args:
        density: the density that is sampled.
        shapes: the structure, shapes and types of one chain's unconstrained weights.
        num_chains: the number of chains.
        batch_size: the number of rows of a batch; None is all of them.
        num_rows: the number of all rows.
        spread: how the rows are spread over devices.
    """

    def __init__(
        self,
        density: Density,
        shapes: Any,
        num_chains: int,
        batch_size: int | None,
        num_rows: int,
        spread: Spread | None = None,
    ) -> None:
        self.density, self.num_chains, self.batch_size, self.num_rows = density, num_chains, batch_size, num_rows
        vector, self.unravel = vector_of(shapes)
        self.dim, self.dtype = vector.size, vector.dtype
        self.sharding = Sharding.of(num_chains, spread)
        self.start = self.sharding.jit_start(self._start)
        self.steps = self.sharding.jit(self._steps)
        self.collected = self.sharding.jit(self._collected)
        self.moments = self.sharding.jit(self._moments)
        self.calibrated = self.sharding.jit(self._calibrated)

    def no_tally(self) -> _Tally:
        """Return the totals before the first step, (chain,)."""
        zero = jnp.zeros(self.num_chains, self.dtype)
        return _Tally(zero, zero, zero)

    def no_moments(self) -> tuple[Array, ...]:
        """Return the moments of no gradients, three of (chain, d)."""
        return tuple(jnp.zeros((self.num_chains, self.dim), self.dtype) for _ in range(3))

    def _potential(self, u: Array, batch: Data) -> Array:
        return self.density.batch_potential(self.unravel(u), batch, self.num_rows)

    def _start(self, u: Weights, cold: Array, key: Array) -> Walker:
        def one(u: Weights, cold: Array, key: Array) -> Walker:
            position, _ = ravel_pytree(u)
            key_momentum, key = jax.random.split(key)
            momentum = jax.random.normal(key_momentum, position.shape, self.dtype)
            return Walker(position, momentum, key, jnp.ones_like(position), jnp.zeros((), self.dtype), cold)

        return jax.vmap(one)(u, cold, jax.random.split(key, self.num_chains))

    def _moments(
        self, carried: tuple[Walker, tuple[Array, ...]], order: Array, data: Data
    ) -> tuple[Walker, tuple[Array, ...]]:
        """Return the moments of gradients with those of one more batch, around the first gradient."""
        batch = batch_of(data, order, 0, order.size)

        def one(walker: Walker, moments: tuple[Array, ...]) -> tuple[Array, ...]:
            first, total, squares = moments
            here = jax.grad(self._potential)(walker.position, batch)
            first = jnp.where((first == 0).all(), here, first)
            return first, total + (here - first), squares + (here - first) ** 2

        return carried[0], jax.vmap(one)(*carried)

    def _calibrated(
        self,
        carried: tuple[Walker, tuple[Array, ...]],
        order: Array,
        size: Array,
        epoch_time: Array,
        i: Array,
        data: Data,
    ) -> Walker:
        """Return the chains with scales and a step size that suit the place of each.

        The variance of the gradients of rows is that of the score, whose sum over rows is the precision that the data
        give, as far as it is diagonal (the empirical Fisher information); the curvature of the prior is added to it.
        In these units the noise of a batch's gradient has at most the variance of the number of batches, in every
        coordinate, so that one step size suits all.

        Args:
            carried: the chains, and the moments of `CALIBRATION_BATCHES` gradients.
            order: the rows of a few batches, whose curvature bounds the step size.
            size: the rows of the batches of these gradients.
            epoch_time: see `SGMCMC`.
            i: the step.
            data: the rows.
        """
        some = batch_of(data, order, 0, order.size)
        return jax.vmap(partial(self._calibrate, size, epoch_time, i, some))(*carried)

    def _calibrate(
        self, size: Array, epoch_time: Array, i: Array, some: Data, walker: Walker, moments: tuple[Array, ...]
    ) -> Walker:
        zero, count, (_, total, squares) = jnp.zeros_like(walker.position), CALIBRATION_BATCHES, moments
        fisher = jnp.maximum(squares - total**2 / count, 0.0) / (count - 1) * (size / self.num_rows)
        prior = jax.grad(lambda u: self.density.prior_potential(self.unravel(u), some))
        curvature = jax.jvp(prior, (walker.position,), (jnp.ones_like(zero),))[1]  # of independent priors, its diagonal
        precision = fisher + jnp.where(jnp.isfinite(curvature), jnp.maximum(curvature, 0.0), 0.0)
        precision = self._averaged(precision)
        precision += FLOOR * precision.mean() + jnp.finfo(self.dtype).tiny
        scale = precision**-0.5

        def product(_: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            vector, _ = carry
            at = lambda u: jax.grad(self._potential)(u, some)  # noqa: E731
            image = scale * jax.jvp(at, (walker.position,), (scale * vector,))[1]
            norm = jnp.linalg.norm(image)
            return jnp.where(norm > 0, image / norm, vector), norm

        key = jax.random.fold_in(jax.random.fold_in(walker.key, i), CALIBRATION_KEY)
        vector = jax.random.normal(key, zero.shape, self.dtype)
        first = vector / jnp.linalg.norm(vector), jnp.zeros((), self.dtype)
        _, largest = jax.lax.fori_loop(0, POWER_ITERATIONS, product, first)
        num_batches = max(1, self.num_rows // (self.batch_size or self.num_rows))
        step = jnp.minimum(epoch_time / num_batches, jnp.sqrt(MAX_SQUARED_STEP / jnp.maximum(largest, 1.0)))
        fits = jnp.isfinite(step) & jnp.isfinite(scale).all()
        new = walker._replace(scale=scale, step_size=step.astype(self.dtype))
        return jax.tree.map(lambda new, old: jnp.where(fits, new, old), new, walker)

    def _averaged(self, precision: Array) -> Array:
        """Return precisions, (d,), in which those of a site whose units can be exchanged are their mean."""
        exchangeable = self.density.structure.exchangeable
        by_site = {
            site: jnp.full_like(each, each.mean()) if site in exchangeable else each
            for site, each in self.unravel(precision).items()
        }
        return ravel_pytree(by_site)[0]

    def _steps(
        self,
        carried: tuple[Walker, _Tally],
        order: Array,
        first: Array,
        last: Array,
        before: Array,
        friction: Array,
        data: Data,
    ) -> tuple[Walker, _Tally]:
        """Take the steps of a part of batches, of which the first follows `before` steps of the run."""
        walkers, tally = carried
        advance = jax.vmap(partial(self._step, friction), in_axes=(0, None, None))

        def one(i: Array, carry: tuple[Walker, _Tally]) -> tuple[Walker, _Tally]:
            walkers, tally = carry
            batch = batch_of(data, order, i, self.batch_size)
            walkers, this = advance(walkers, before + i - first, batch)
            return walkers, jax.tree.map(jnp.add, tally, this)

        return jax.lax.fori_loop(first, last, one, (walkers, tally))

    def _step(self, friction: Array, walker: Walker, i: Array, batch: Data) -> tuple[Walker, _Tally]:
        """Take one step with the gradient of a batch of rows."""
        drift = walker.step_size * walker.scale / 2
        keep = jnp.exp(-friction * walker.step_size).astype(self.dtype)
        noise = jax.random.normal(jax.random.fold_in(walker.key, i), walker.position.shape, self.dtype)
        half = walker.position + drift * walker.momentum
        momentum = keep * walker.momentum + jnp.sqrt(1 - keep**2) * noise
        position = half + drift * momentum
        value, gradient = jax.value_and_grad(self._potential)(position, batch)
        after = momentum - 2 * drift * gradient
        temperature = (momentum**2 + after**2).mean() / 2
        valid = jnp.isfinite(value) & (temperature < MAX_KINETIC)  # false where the gradient is not finite
        new = walker._replace(position=position, momentum=after)
        stay = walker._replace(momentum=noise, step_size=walker.step_size / 2)
        zero = jnp.zeros((), self.dtype)
        tally, none = _Tally(-value, temperature, zero), _Tally(zero, zero, zero + 1)
        return jax.tree.map(lambda one, other: jnp.where(valid, one, other), (new, tally), (stay, none))

    def _collected(self, carried: tuple[Walker, _Tally], steps: Array, row: Data) -> Any:
        """Return the draws of all chains and their statistics, since the draw before."""

        def one(walker: Walker, tally: _Tally) -> Any:
            taken = steps - tally.unstable
            stats = {
                "lp": tally.lp / taken,
                "step_size": walker.step_size,
                "n_steps": steps,
                "temperature": tally.temperature / taken,
                "diverging": tally.unstable > 0,
            }
            return self.density.draws(self.unravel(walker.position), row), stats

        return jax.vmap(one)(*carried)


class Chains(NamedTuple):
    """The chains of one run, by batches of its rows; see `chains.Sampler`."""

    compiled: Stochastic
    batches: Batches | Resident
    key: Array
    """The key of the rows of calibrations."""

    @property
    def sharding(self) -> Sharding:
        return self.compiled.sharding

    @property
    def draws_in_warmup(self) -> bool:
        return False

    def start(self, settings: "SGMCMC", u: Weights, began_cold: Array, key: Array, data: Data) -> Walker:
        walkers: Walker = self.compiled.start(u, began_cold, key)
        return walkers

    def advance(self, settings: "SGMCMC", state: Walker, begin: int, end: int, data: Data) -> tuple[Walker, Any, int]:
        num_warmup, row = settings.num_warmup, data.few()
        if begin >= num_warmup:
            marks = [num_warmup + (i - num_warmup) * settings.thinning for i in range(begin, end + 1)]
        else:
            calibrated = [int(share * num_warmup) for share in CALIBRATIONS]
            marks = sorted({begin, end, *(i for i in calibrated if begin < i < end)})
        rows = []
        for first, last in pairwise(marks):
            if begin < num_warmup and first in calibrated:
                state = self._calibrated(settings, state, first, data)
            state, tally = self._taken(settings, state, first, last)
            if begin >= num_warmup or last == end:
                rows.append(self.compiled.collected((state, tally), last - first, row))
        drawn = jax.tree.map(lambda *leaves: np.stack(list(map(np.asarray, leaves)), axis=1), *readable(rows))
        return state, drawn, len(rows)

    def began_cold(self, state: Walker) -> np.ndarray:
        return np.asarray(readable(state.began_cold))

    def describe(self, stats: Mapping[str, np.ndarray]) -> str:
        return f"log density {stats['lp'][:, -1].mean():.4g}, temperature {stats['temperature'].mean():.2f}"

    def _taken(self, settings: "SGMCMC", state: Walker, begin: int, end: int) -> tuple[Walker, _Tally]:
        """Return the chains after the steps begin, ..., end - 1, and what these add up to."""
        carried = state, self.compiled.no_tally()
        for order, first, last, data in self.batches.parts(begin, end):
            carried = self.compiled.steps(carried, order, first, last, begin, settings.friction, data)
            begin += last - first
        return carried

    def _calibrated(self, settings: "SGMCMC", state: Walker, i: int, data: Data) -> Walker:
        """Return the chains with scales and a step size from batches of rows, drawn with replacement."""
        compiled, spread = self.compiled, self.sharding.spread
        shards = 1 if spread is None else spread.num_shards
        rng = np.random.default_rng([CALIBRATION_KEY, *np.asarray(jax.random.key_data(self.key)).tolist(), i])

        def some(size: int) -> tuple[Any, Data]:
            rows = rng.integers(0, data.num_rows // shards, (shards, -(-size // shards)), dtype=np.int32)
            if data.is_stored:
                taken = self.sharding.place(data.take(rows[0]).on_device())
                return np.arange(rows.size, dtype=np.int32), taken
            return rows[0] if spread is None else rows, data

        size = max(1, min(settings.batch_size, data.num_rows // BATCHES_OF_ROWS))
        carried = state, compiled.no_moments()
        for _ in range(CALIBRATION_BATCHES):
            carried = compiled.moments(carried, *some(size))
        order, rows = some(min(data.num_rows, CURVATURE_BATCHES * settings.batch_size))
        used = -(-size // shards) * shards
        walkers: Walker = compiled.calibrated(carried, order, used, settings.epoch_time, i, rows)
        return walkers
