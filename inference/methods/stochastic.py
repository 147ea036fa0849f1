"""The stochastic-gradient Langevin dynamics of `SGMCMC`, and the calibration of their scales and step.

A chain has a position u in d unconstrained coordinates and a momentum p, which is standard normal in units of the
scales s of the coordinates. A step is one of the splitting of Leimkuhler & Matthews (2013), whose cycle of drift,
noise, drift and kick needs one gradient, that of a batch of rows::

    u <- u + h s p / 2;   p <- c p + sqrt(1 - c^2) xi;   u <- u + h s p / 2;   p <- p - h s grad U_batch(u)

with ``c = exp(-friction h)``. With all rows as the batch, the variances of a Gaussian are exact for every stable step.
BlackJAX's `sghmc` is an explicit Euler step, whose variances are too large by ``h / friction`` in units of the squared
frequency, and which is unstable from there. The batches of an epoch are a random partition of the rows, which is gone
through forwards and then backwards (Paulin, Whalley, Chada & Leimkuhler 2024): what one batch pushes too far, the
others take back, so that their noise acts over the time of an epoch, and not as a temperature.
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
from ..devices import Sharding
from ..processes import readable
from ..rows import Data, Weights
from .chains import buffer_rows, draw_rows

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
    centre: Array
    """The position at the last calibration, (d,), from which the temperature is measured."""
    step_size: Array
    began_cold: Array
    """Whether the chain began cold in spite of a descent; part of the state, so that a resumed run has it as well."""


class _Tally(NamedTuple):
    """Totals since the last draw, of estimates by batches."""

    lp: Array
    kinetic: Array
    configurational: Array
    unstable: Array
    """The number of steps that were not taken."""


class Stochastic:
    """The compiled functions of the dynamics on one density; see `chains.Sampler`.

    Args:
        density: the density that is sampled.
        shapes: the structure, shapes and types of one chain's unconstrained weights.
        num_chains: the number of chains.
        batch_size: the number of rows of a batch.
    """

    draws_in_warmup = False

    def __init__(self, density: Density, shapes: Any, num_chains: int, batch_size: int) -> None:
        self.density, self.num_chains, self.batch_size = density, num_chains, batch_size
        tree, leaves = shapes
        example, self.unravel = ravel_pytree(tree.unflatten([jnp.zeros(shape, dtype) for shape, dtype in leaves]))
        self.dim, self.dtype = example.size, example.dtype
        self.sharding = Sharding.of(num_chains)
        self._compiled_block = self.sharding.jit(self._block)
        self._compiled_start = self.sharding.jit_start(self._start)
        self._compiled_calibration = self.sharding.jit_start(jax.vmap(self._calibrated, in_axes=(0, None, None, None)))

    def start(self, settings: "SGMCMC", u: Weights, began_cold: Array, key: Array, data: Data) -> Walker:
        return self._compiled_start(u, began_cold, key)

    def advance(self, settings: "SGMCMC", state: Walker, begin: int, end: int, data: Data) -> tuple[Walker, Any, int]:
        num_warmup = settings.num_warmup
        if begin >= num_warmup:
            first = num_warmup + (begin - num_warmup) * settings.thinning
            run = self._compiled_block(state, first, end - begin, settings.thinning, settings.friction, data)
            return *run, end - begin
        drawn: Any = None
        calibrated = [int(share * num_warmup) for share in CALIBRATIONS]
        stops = sorted({begin, end, *(i for i in calibrated if begin < i < end)})
        for first, last in pairwise(stops):
            if first in calibrated:
                state = self._compiled_calibration(state, first, settings.epoch_time, data)
            state, drawn = self._compiled_block(state, first, 1, last - first, settings.friction, data)
        return state, drawn, 1

    def began_cold(self, state: Walker) -> np.ndarray:
        return np.asarray(readable(state.began_cold))

    def describe(self, stats: Mapping[str, np.ndarray]) -> str:
        return f"log density {stats['lp'][:, -1].mean():.4g}, temperature {stats['temperature'].mean():.2f}"

    def _potential(self, u: Array, batch: Data, num_rows: int) -> Array:
        return self.density.batch_potential(self.unravel(u), batch, num_rows)

    def _start(self, u: Weights, cold: Array, key: Array) -> Walker:
        def one(u: Weights, cold: Array, key: Array) -> Walker:
            position, _ = ravel_pytree(u)
            key_momentum, key = jax.random.split(key)
            momentum = jax.random.normal(key_momentum, position.shape, self.dtype)
            return Walker(position, momentum, key, jnp.ones_like(position), position, jnp.zeros((), self.dtype), cold)

        return jax.vmap(one)(u, cold, jax.random.split(key, self.num_chains))

    def _calibrated(self, walker: Walker, i: Array, epoch_time: Array, data: Data) -> Walker:
        """Return the chain with scales and a step size that suit its place.

        The variance of the gradients of rows is that of the score, whose sum over rows is the precision that the data
        give, as far as it is diagonal (the empirical Fisher information); the curvature of the prior is added to it.
        In these units the noise of a batch's gradient has at most the variance of the number of batches, in every
        coordinate, so that one step size suits all.
        """
        num_rows, key = data.num_rows, jax.random.fold_in(jax.random.fold_in(walker.key, i), CALIBRATION_KEY)
        key_noise, key_rows, key_vector = jax.random.split(key, 3)
        size = max(1, min(self.batch_size, num_rows // BATCHES_OF_ROWS))
        gradient = jax.grad(self._potential)

        def moments(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            first, total, squares = carry
            rows = jax.random.randint(jax.random.fold_in(key_noise, i), (size,), 0, num_rows)
            here = gradient(walker.position, data.take(rows), num_rows)
            first = jnp.where(i == 0, here, first)
            return first, total + (here - first), squares + (here - first) ** 2

        zero, count = jnp.zeros_like(walker.position), CALIBRATION_BATCHES
        _, total, squares = jax.lax.fori_loop(0, count, moments, (zero, zero, zero))
        fisher = jnp.maximum(squares - total**2 / count, 0.0) / (count - 1) * (size / num_rows)
        prior = jax.grad(lambda u: self.density.prior_potential(self.unravel(u), data))
        curvature = jax.jvp(prior, (walker.position,), (jnp.ones_like(zero),))[1]  # of independent priors, its diagonal
        precision = fisher + jnp.where(jnp.isfinite(curvature), jnp.maximum(curvature, 0.0), 0.0)
        precision = self._averaged(precision)
        precision += FLOOR * precision.mean() + jnp.finfo(self.dtype).tiny
        scale = precision**-0.5
        some = data.take(
            jax.random.randint(key_rows, (min(num_rows, CURVATURE_BATCHES * self.batch_size),), 0, num_rows)
        )

        def product(_: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            vector, _ = carry
            at = lambda u: gradient(u, some, num_rows)  # noqa: E731
            image = scale * jax.jvp(at, (walker.position,), (scale * vector,))[1]
            norm = jnp.linalg.norm(image)
            return jnp.where(norm > 0, image / norm, vector), norm

        vector = jax.random.normal(key_vector, zero.shape, self.dtype)
        first = vector / jnp.linalg.norm(vector), jnp.zeros((), self.dtype)
        _, largest = jax.lax.fori_loop(0, POWER_ITERATIONS, product, first)
        num_batches = max(1, num_rows // self.batch_size)
        step = jnp.minimum(epoch_time / num_batches, jnp.sqrt(MAX_SQUARED_STEP / jnp.maximum(largest, 1.0)))
        fits = jnp.isfinite(step) & jnp.isfinite(scale).all()
        new = walker._replace(scale=scale, step_size=step.astype(self.dtype), centre=walker.position)
        return jax.tree.map(lambda new, old: jnp.where(fits, new, old), new, walker)

    def _averaged(self, precision: Array) -> Array:
        """Return precisions, (d,), in which those of a site whose units can be exchanged are their mean."""
        exchangeable = self.density.structure.exchangeable
        by_site = {
            site: jnp.full_like(each, each.mean()) if site in exchangeable else each
            for site, each in self.unravel(precision).items()
        }
        return ravel_pytree(by_site)[0]

    def _step(self, friction: Array, data: Data, walker: Walker, i: Array, rows: Array | None) -> tuple[Walker, _Tally]:
        """Take one step with the gradient of a batch of rows; None is all of them."""
        # The barrier keeps XLA from transposing all of x before the loop instead of a batch inside it.
        batch = data if rows is None else jax.lax.optimization_barrier(data.take(rows))
        drift = walker.step_size * walker.scale / 2
        keep = jnp.exp(-friction * walker.step_size).astype(self.dtype)
        noise = jax.random.normal(jax.random.fold_in(walker.key, i), walker.position.shape, self.dtype)
        half = walker.position + drift * walker.momentum
        momentum = keep * walker.momentum + jnp.sqrt(1 - keep**2) * noise
        position = half + drift * momentum
        value, gradient = jax.value_and_grad(self._potential)(position, batch, data.num_rows)
        kick = 2 * drift * gradient
        kinetic = ((momentum - kick / 2) ** 2).mean()
        valid = jnp.isfinite(value) & (kinetic < MAX_KINETIC)  # false where the gradient is not finite
        new = walker._replace(position=position, momentum=momentum - kick)
        stay = walker._replace(momentum=noise, step_size=walker.step_size / 2)
        zero = jnp.zeros((), self.dtype)
        tally = _Tally(-value, kinetic, ((position - walker.centre) * gradient).mean(), zero)
        none = _Tally(zero, zero, zero, zero + 1)
        return jax.tree.map(lambda one, other: jnp.where(valid, one, other), (new, tally), (stay, none))

    def _order(self, walkers: Walker, i: Array, num_rows: int) -> Array:
        """Return the rows in the order of the two epochs of a step, (chain, row)."""

        def one(key: Array) -> Array:
            key = jax.random.fold_in(jax.random.fold_in(key, ORDER_KEY), i // (2 * (num_rows // self.batch_size)))
            return jax.random.permutation(key, num_rows)

        return jax.vmap(one)(walkers.key)

    def _block(
        self, walkers: Walker, begin: Array, num_draws: Array, steps: Array, friction: Array, data: Data
    ) -> tuple[Walker, Any]:
        num_rows, num_batches = data.num_rows, data.num_rows // self.batch_size
        whole = num_rows == self.batch_size
        advance = jax.vmap(partial(self._step, friction, data), in_axes=(0, None, None if whole else 0))
        zero = jnp.zeros(walkers.step_size.shape, self.dtype)

        def one(i: Array, carry: tuple[Walker, Array, _Tally]) -> tuple[Walker, Array, _Tally]:
            walkers, order, tally = carry
            rows = None
            if not whole:
                place = i % (2 * num_batches)
                order = jax.lax.cond(place == 0, lambda: self._order(walkers, i, num_rows), lambda: order)
                at = jnp.minimum(place, 2 * num_batches - 1 - place) * self.batch_size
                rows = jax.lax.dynamic_slice_in_dim(order, at, self.batch_size, axis=1)
            walkers, this = advance(walkers, i, rows)
            return walkers, order, jax.tree.map(jnp.add, tally, this)

        def collect(walker: Walker, tally: _Tally) -> Any:
            taken = steps - tally.unstable
            stats = {
                "lp": tally.lp / taken,
                "step_size": walker.step_size,
                "n_steps": steps,
                "temperature": tally.configurational / taken,
                "kinetic_temperature": tally.kinetic / taken,
                "diverging": tally.unstable > 0,
            }
            return self.density.draws(self.unravel(walker.position), data), stats

        def draw(r: Array, state: tuple[Walker, Array]) -> tuple[tuple[Walker, Array], Any]:
            first = begin + r * steps
            none = _Tally(zero, zero, zero, zero)
            walkers, order, tally = jax.lax.fori_loop(first, first + steps, one, (*state, none))
            return (walkers, order), jax.vmap(collect)(walkers, tally)

        order = jnp.zeros((len(zero), 0), int) if whole else self._order(walkers, begin, num_rows)
        length = buffer_rows(self.num_chains, self.density.structure.num_weights)
        (walkers, _), drawn = draw_rows(draw, (walkers, order), num_draws, length=length, axis=1)
        return walkers, drawn
