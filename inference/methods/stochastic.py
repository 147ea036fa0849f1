"""The stochastic-gradient Langevin dynamics of `SGMCMC`.

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

Where all rows are the batch, xi is standard normal. By batches it is binomial, with the same moments up to the third,
which costs a sixth: `noise.binomial`. The covariances of linear dynamics depend on the second moments of xi alone, so
that for a Gaussian they are exactly those of normal noise. The excess kurtosis of a position is that of xi, -1/4, times
the sum of fourth powers over the squared sum of squares of the coefficients with which it adds up past noise: -.11 h
for one weight, which is -.007 for 4 batches at the default `epoch_time`, and nearer to 0 the more batches there are.

What the noise of batches does all the same is seen in the momentum, whose variance before and after a kick is 1 on
average where there is none: for a Gaussian and all rows exactly so, at every step size. It is settled within a few
units of time, when the position may still be on its way for long. In a chain that has settled it equals the mean of
``(u_i - c_i) dU_batch/du_i`` over coordinates, c any fixed point, the configurational temperature (Wenzel et al. 2020,
appendix D.2): of one that moves away from c still that is smaller, which says nothing about the noise.
"""

from collections.abc import Mapping
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
from .calibration import BATCHES_OF_ROWS, CALIBRATION_BATCHES, CURVATURE_BATCHES, Calibration
from .noise import binomial

if TYPE_CHECKING:
    from .sgmcmc import SGMCMC

CALIBRATIONS = (0.0, 0.1, 0.3, 0.5)
"""The shares of the warm-up at which scales and step size are set."""
MAX_KINETIC, FEW_WEIGHTS = 10.0, 100
"""The mean squared momentum of many weights from which a step is unstable, as where the density is not finite: the
chain stays where it is, with a new momentum and half the step. A step too long for the curvature of a place would throw
it far out, where some chains stay. Of so few weights the limit is twice as large: a mean square of few varies more."""
MAX_KINETIC_BEFORE = 1e4
"""The same before the last calibration, while chains may still come from far away."""
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


class _Moving(NamedTuple):
    """What steps change of a chain, or of chains: position and momentum by site."""

    position: Weights
    momentum: Weights
    step_size: Array


class _Tally(NamedTuple):
    """Totals since the last draw, of estimates by batches."""

    log_likelihood: Array
    """Of all rows. What the prior adds hardly changes between draws, and takes a pass over all weights."""
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
        self.max_kinetic = MAX_KINETIC * (1 + (FEW_WEIGHTS / self.dim) ** 0.5)
        self.calibration = Calibration(density, self.unravel, batch_size, num_rows)
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
        """Return the moments of gradients with those of one more batch."""
        batch = batch_of(data, order, 0, order.size)
        walkers, moments = carried
        return walkers, jax.vmap(lambda u, found: self.calibration.moments(u, found, batch))(walkers.position, moments)

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

        Args:
            carried: the chains, and the moments of `CALIBRATION_BATCHES` gradients.
            order: the rows of a few batches, whose curvature bounds the step size.
            size: the rows of the batches of these gradients.
            epoch_time: see `SGMCMC`.
            i: the step.
            data: the rows.
        """
        some = batch_of(data, order, 0, order.size)

        def one(walker: Walker, moments: tuple[Array, ...]) -> Walker:
            key = jax.random.fold_in(jax.random.fold_in(walker.key, i), CALIBRATION_KEY)
            scale, step = self.calibration.found(walker.position, moments, size, epoch_time, some, key)
            fits = jnp.isfinite(step) & jnp.isfinite(scale).all()
            new = walker._replace(scale=scale, step_size=step.astype(self.dtype))
            return jax.tree.map(lambda new, old: jnp.where(fits, new, old), new, walker)

        return jax.vmap(one)(*carried)

    def _steps(
        self,
        carried: tuple[Walker, _Tally],
        order: Array,
        first: Array,
        last: Array,
        before: Array,
        friction: Array,
        limit: Array,
        data: Data,
    ) -> tuple[Walker, _Tally]:
        """Take the steps of a part of batches, of which the first follows `before` steps of the run."""
        walkers, tally = carried
        alone = len(walkers.position) == 1  # without vmap, XLA's code is faster
        if alone:
            walkers, tally = jax.tree.map(lambda leaf: leaf[0], (walkers, tally))
        each = (lambda function, _=0: function) if alone else jax.vmap
        by_site, vector = each(self.unravel), each(lambda tree: ravel_pytree(tree)[0])
        move, kept = each(self._moved, (0, 0, 0, None, None, None)), each(self._kept, (0, None, 0, 0, 0))
        key, scale = walkers.key, by_site(walkers.scale)

        def one(i: Array, carry: tuple[_Moving, _Tally]) -> tuple[_Moving, _Tally]:
            moving, tally = carry
            step = before + i - first
            new, this = move(key, scale, moving, friction, step, batch_of(data, order, i, self.batch_size))
            valid = jnp.isfinite(this.log_likelihood) & (this.temperature < limit)  # of no NaN in the gradient
            taken = new, jax.tree.map(jnp.add, tally, this)
            # A choice between arrays in every step would take time for what hardly ever happens.
            return jax.lax.cond(valid.all(), lambda: taken, lambda: kept(key, step, valid, taken, carry))

        moving = _Moving(by_site(walkers.position), by_site(walkers.momentum), walkers.step_size)
        moving, tally = jax.lax.fori_loop(first, last, one, (moving, tally))
        walkers = walkers._replace(
            position=vector(moving.position), momentum=vector(moving.momentum), step_size=moving.step_size
        )
        return jax.tree.map(lambda leaf: leaf[None], (walkers, tally)) if alone else (walkers, tally)

    def _moved(
        self, key: Array, scale: Weights, moving: _Moving, friction: Array, i: Array, batch: Data
    ) -> tuple[_Moving, _Tally]:
        """Take one step with the gradient of a batch of rows, whether it is stable or not."""
        step = moving.step_size
        keep = jnp.exp(-friction * step).astype(self.dtype)
        spread = jnp.sqrt(1 - keep**2)
        noise = self.unravel(self._noise(jax.random.fold_in(key, i)))
        # The barriers keep XLA from computing a momentum anew for each of its uses.
        momentum = jax.lax.optimization_barrier(
            jax.tree.map(lambda p, xi: keep * p + spread * xi, moving.momentum, noise)
        )
        position = jax.tree.map(
            lambda u, s, p, q: u + step / 2 * s * (p + q), moving.position, scale, moving.momentum, momentum
        )
        gradient = jax.grad(self.density.batch_potential)(position, batch, self.num_rows)
        after = jax.lax.optimization_barrier(
            jax.tree.map(lambda p, s, slope: p - step * s * slope, momentum, scale, gradient)
        )
        squares = jax.tree.reduce(jnp.add, jax.tree.map(lambda p, q: jnp.sum(p**2 + q**2), momentum, after))
        log_likelihood = self.density.batch_log_likelihood(position, batch, self.num_rows)
        return _Moving(position, after, step), _Tally(log_likelihood, squares / (2 * self.dim), jnp.zeros_like(step))

    def _noise(self, key: Array) -> Array:
        """Return the noise of a step: normal where all rows are the batch, so that draws of a Gaussian are normal."""
        if self.batch_size is None:
            return jax.random.normal(key, (self.dim,), self.dtype)
        return binomial(key, self.dim, self.dtype)

    def _kept(self, key: Array, i: Array, valid: Array, taken: Any, before: tuple[_Moving, _Tally]) -> Any:
        """Return the chain after a step, or where it was before one that is unstable."""
        moving, tally = before
        momentum = self.unravel(jax.random.normal(jax.random.fold_in(key, i), (self.dim,), self.dtype))
        stay = moving._replace(momentum=momentum, step_size=moving.step_size / 2)
        kept = stay, tally._replace(unstable=tally.unstable + 1)
        return jax.tree.map(lambda new, old: jnp.where(valid, new, old), taken, kept)

    def _collected(self, carried: tuple[Walker, _Tally], steps: Array, row: Data) -> Any:
        """Return the draws of all chains and their statistics, since the draw before."""

        def one(walker: Walker, tally: _Tally) -> Any:
            taken = steps - tally.unstable
            u = self.unravel(walker.position)
            stats = {
                "lp": tally.log_likelihood / taken - self.density.prior_potential(u, row),
                "step_size": walker.step_size,
                "n_steps": steps,
                "temperature": tally.temperature / taken,
                "diverging": tally.unstable > 0,
            }
            return self.density.draws(u, row), stats

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
        calibrated = [int(share * num_warmup) for share in CALIBRATIONS]
        if begin >= num_warmup:
            marks = [num_warmup + (i - num_warmup) * settings.thinning for i in range(begin, end + 1)]
        else:
            marks = sorted({begin, end, *(i for i in calibrated if begin < i < end)})
        rows = []
        for first, last in pairwise(marks):
            if begin < num_warmup and first in calibrated:
                state = self._calibrated(settings, state, first, data)
            limit = self.compiled.max_kinetic if first >= calibrated[-1] else MAX_KINETIC_BEFORE
            state, tally = self._taken(settings, state, first, last, limit)
            if begin >= num_warmup or last == end:
                rows.append(self.compiled.collected((state, tally), last - first, row))
        drawn = jax.tree.map(lambda *leaves: np.stack(list(map(np.asarray, leaves)), axis=1), *readable(rows))
        return state, drawn, len(rows)

    def began_cold(self, state: Walker) -> np.ndarray:
        return np.asarray(readable(state.began_cold))

    def describe(self, stats: Mapping[str, np.ndarray]) -> str:
        return f"log density {stats['lp'][:, -1].mean():.4g}, temperature {stats['temperature'].mean():.2f}"

    def _taken(
        self, settings: "SGMCMC", state: Walker, begin: int, end: int, limit: float = MAX_KINETIC_BEFORE
    ) -> tuple[Walker, _Tally]:
        """Return the chains after the steps begin, ..., end - 1, and what these add up to."""
        carried = state, self.compiled.no_tally()
        for order, first, last, data in self.batches.parts(begin, end):
            carried = self.compiled.steps(carried, order, first, last, begin, settings.friction, limit, data)
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
