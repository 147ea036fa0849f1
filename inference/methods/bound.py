"""The steps of variational inference: the evidence lower bound of a guide, maximised by batches.

A guide is a distribution q of the displacement v of the d unconstrained coordinates from a starting point. The bound is

    ELBO = E_q[log p(y, u)] - E_q[log q(u)] <= log p(y),   u = centre + scale v,

and its gradient is estimated by draws of q. For Gaussian guides the gradient of ``log q`` with respect to the
parameters of q at fixed v, whose mean is 0, is left out ("sticking the landing", Roeder, Wu & Duvenaud 2017): where the
guide can be the posterior, the estimate then has no noise there. Steps with independent Gaussians share normal numbers:
`noise.Shared`. The bound of a fit is that of other draws, all of them independent.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import constraints
from numpyro.infer import ELBO, SVI, init_to_value
from numpyro.infer.autoguide import (
    AutoContinuous,
    AutoDiagonalNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
)

from ..density import Density
from ..devices import Sharding, Spread
from ..fingerprint import ByValue
from ..processes import readable
from ..rows import Data, Weights, vector_of
from ..stored import in_parts
from .batches import Batches, Resident, batch_of
from .noise import SHARING, Shared
from .optimizer import annealed_adam, with_num_steps
from .steps import MAX_BLOCK_STEPS

GUIDES: dict[str, type[AutoContinuous]] = {
    "mean_field": AutoDiagonalNormal,
    "low_rank": AutoLowRankMultivariateNormal,
    "full_rank": AutoMultivariateNormal,
}
"""The guides by name."""
INIT_SCALE = 0.01
"""The standard deviations of the guide at the start: less than those of most posteriors, so that the first steps do not
leave the starting point."""


class Origin(NamedTuple):
    """The point from which a guide measures displacements, and their units, (d,): posteriors may be in raw units."""

    centre: Array
    scale: Array

    def at(self, v: Array) -> Array:
        """Return the point at a displacement."""
        return self.centre + self.scale * v


class State(NamedTuple):
    """The state of the optimiser."""

    svi: Any
    """NumPyro's state."""
    losses: tuple[np.ndarray, ...] = ()
    """Estimates of minus the bound by the steps of each block, in nats per row."""


class Bound(ELBO):  # type: ignore[misc]
    """The compiled functions of the bound of one guide on one density; it is its own loss for NumPyro's `SVI`.

    Args:
        density: the density of which the guide is an approximation.
        shapes: the structure, shapes and types of the unconstrained weights.
        guide: a name of `GUIDES`, or a function of a NumPyro model that returns an `AutoContinuous` guide.
        batch_size: rows per step; None is all.
        num_particles: the number of draws by which the bound is estimated in each step.
        optimizer: an optax optimiser; None is the default.
        num_rows: the number of all rows.
        spread: how the rows are spread over devices.
    """

    def __init__(
        self,
        density: Density,
        shapes: Any,
        guide: ByValue,
        batch_size: int | None,
        num_particles: int,
        optimizer: ByValue,
        num_rows: int,
        spread: Spread | None = None,
    ) -> None:
        super().__init__(num_particles=num_particles)
        self.density, self.batch_size, self.num_rows = density, batch_size, num_rows
        vector, self.unravel = vector_of(shapes)
        self.dim, self.dtype = vector.size, vector.dtype
        self.guide = _guide_of(guide.value, self._site, self.dim)
        self.is_gaussian = isinstance(self.guide, tuple(GUIDES.values()))
        self.is_factored = type(self.guide) is AutoDiagonalNormal  # a class of a user's may be another distribution
        self.svi = SVI(self._site, self.guide, optimizer.value or annealed_adam(), self)
        self.sharding = Sharding.of(1, spread)
        jit = jax.jit if spread is None else partial(jax.jit, out_shardings=self.sharding.all)
        self._compiled_start = jit(self._start)
        self._compiled_block = jit(self._block)
        self._compiled_draws = jit(self._draws)
        self._compiled_log_likelihoods = jit(self._log_likelihoods)

    def start(self, key: Array, num_steps: int) -> State:
        """Return the state before the first step."""
        return State(self._compiled_start(key, num_steps))

    def advance(self, state: State, begin: int, end: int, *, origin: Origin, batches: Batches | Resident) -> State:
        """Return the state after the steps begin, ..., end - 1."""
        svi, parts = state.svi, []
        for order, first, last, data in batches.parts(begin, end):
            svi, losses = self._compiled_block(svi, order, first, last, begin, origin, data)
            begin += last - first
            parts.append((losses, last - first))
        taken = [np.asarray(readable(losses))[:count] for losses, count in parts]
        return State(svi, (*state.losses, np.concatenate(taken)))

    def draws(self, state: State, keys: Array, origin: Origin, data: Data, *, weighed: bool) -> tuple[Weights, Any]:
        """Return draws of the guide, one per key, as weights of the user's model, and their log weights in nats.

        A log weight is ``log p(y, u) - log q(u)``, whose mean is the bound; NaN unless they are `weighed`, which takes
        the density of all rows at every draw.
        """
        params = self.svi.get_params(state.svi)
        draws, log_weights = readable(self._compiled_draws(params, keys, origin, data.few()))
        if not weighed:
            return jax.device_get(draws), np.full(len(keys), np.nan)
        log_weights = np.asarray(log_weights, float)
        for _, rows in in_parts(data.rows, "weighing the draws"):
            part = self.sharding.place(data.with_rows(rows).on_device())
            log_weights += np.asarray(readable(self._compiled_log_likelihoods(params, keys, origin, part)), float)
        return jax.device_get(draws), log_weights

    def loss(self, rng_key: Array, param_map: Any, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Array:
        """Return minus the bound in nats per row, estimated by draws and a batch of rows; see `numpyro.infer.ELBO`."""
        origin, batch, noise = args
        draw = self._drawn if noise is None else self._placed
        noise = jax.random.split(rng_key, self.num_particles) if noise is None else noise

        def one(noise: Array) -> Array:
            u, log_q = draw(param_map, noise, origin)
            return log_q + self.density.batch_potential(u, batch, self.num_rows)

        values = jax.vmap(one)(noise) if self.num_particles > 1 else one(noise[0])
        return values.mean() / self.num_rows

    def _site(self, *_: Any) -> None:
        """Sample the displacement from the starting point: all that a guide is told of the model."""
        zero = jnp.zeros(self.dim, self.dtype)
        numpyro.sample("v", dist.ImproperUniform(constraints.real_vector, (), zero.shape))

    def _drawn(self, params: Any, key: Array, origin: Origin) -> tuple[Weights, Array]:
        """Return a draw of the guide, and its log density over u in nats."""
        q, volume = self.guide.get_posterior(params), jnp.log(origin.scale).sum()
        if not self.is_gaussian:  # a flow, which may have no inverse
            v, intermediates = q.sample_with_intermediates(key)
            return self.unravel(origin.at(v)), q.log_prob(v, intermediates) - volume
        v = q.rsample(key)
        fixed = self.guide.get_posterior(jax.lax.stop_gradient(params))
        log_q = fixed.log_prob(v).sum()  # independent coordinates have a density each
        return self._by_site(origin.at(v)), log_q - volume

    def _placed(self, params: Any, noise: Array, origin: Origin) -> tuple[Weights, Array]:
        """Return the draw of independent Gaussians by the noise, (d,), and its log density over u in nats."""
        q = self.guide.get_posterior(params)
        v = q.loc + q.scale * noise
        loc, scale = jax.lax.stop_gradient((q.loc, q.scale))
        z, log_scale = (v - loc) / scale, jnp.log(scale * origin.scale)
        log_q = -_dot(z, z) / 2 - _dot(log_scale, jnp.ones_like(z)) - self.dim / 2 * math.log(2 * math.pi)
        return self._by_site(origin.at(v)), log_q

    def _by_site(self, u: Array) -> Weights:
        """Return the weights of a vector, without fusion of what is on either side, in the gradient as well.

        XLA would compute the vector anew for each of the sites, and join their gradients, in other shapes, in a loop
        that is slower than copies.
        """
        leaves, tree = jax.tree.flatten(jax.eval_shape(self.unravel, u))
        parts = jnp.split(u, np.cumsum([leaf.size for leaf in leaves])[:-1])
        pairs = zip(jax.lax.optimization_barrier(parts), leaves, strict=True)
        return jax.tree.unflatten(tree, [part.reshape(leaf.shape).astype(leaf.dtype) for part, leaf in pairs])

    def _start(self, key: Array, num_steps: Array) -> Any:
        svi = self.svi.init(key)
        return svi._replace(optim_state=with_num_steps(svi.optim_state, num_steps))

    def _block(
        self, svi: Any, order: Array, first: Array, last: Array, before: Array, origin: Origin, data: Data
    ) -> tuple[Any, Array]:
        """Take the steps of a part of batches, of which the first follows `before` steps of the run."""

        def step(noise: Array | None, i: Array, carry: tuple[Any, Array]) -> tuple[Any, Array]:
            svi, losses = carry
            batch = batch_of(data, order, first + i - before, self.batch_size)
            new, loss = self.svi.update(svi, origin, batch, noise)
            if noise is not None:
                new = new._replace(rng_key=svi.rng_key)  # this saves a split per step
            return new, jax.lax.dynamic_update_index_in_dim(losses, loss, i - before, axis=0)

        def steps(j: Array, carry: tuple[Any, Array]) -> tuple[Any, Array]:
            shared = Shared.of(jax.random.fold_in(svi.rng_key, j), self.num_particles, self.dim, self.dtype)
            begin, end = jnp.maximum(before, j * SHARING), jnp.minimum(after, (j + 1) * SHARING)
            return jax.lax.fori_loop(begin, end, lambda i, carry: step(shared.of_step(i, self.dim), i, carry), carry)

        start, after = (svi, jnp.full(MAX_BLOCK_STEPS, jnp.nan, self.dtype)), before + last - first
        if self.is_factored:
            return jax.lax.fori_loop(before // SHARING, -(-after // SHARING), steps, start)
        return jax.lax.fori_loop(before, after, partial(step, None), start)

    def _draws(self, params: Any, keys: Array, origin: Origin, row: Data) -> tuple[Weights, Array]:
        """Return draws, and what their log weights have without the rows."""

        def one(key: Array) -> tuple[Weights, Array]:
            u, log_q = self._drawn(params, key, origin)
            return self.density.draws(u, row), -self.density.prior_potential(u, row) - log_q

        return jax.lax.map(one, keys)

    def _log_likelihoods(self, params: Any, keys: Array, origin: Origin, data: Data) -> Array:
        """Return the log likelihood of some rows at each draw in nats."""

        def one(key: Array) -> Array:
            return self.density.log_likelihood(self._drawn(params, key, origin)[0], data).sum()

        return jax.lax.map(one, keys)


def _dot(a: Array, b: Array) -> Array:
    """Return the sum of products: on a CPU XLA adds several at a time, those of a sum one after the other."""
    return jnp.vdot(a, b, precision=jax.lax.Precision.HIGHEST)


def _guide_of(guide: Any, model: Callable[..., None], dim: int) -> AutoContinuous:
    """Return the guide of a model of one site; raise ValueError where it has no density of a vector."""
    initial = init_to_value(values={"v": jnp.zeros(dim)})
    settings = {"init_loc_fn": initial, "init_scale": INIT_SCALE}
    made = GUIDES[guide](model, **settings) if isinstance(guide, str) else guide(model)
    if guide == "mean_field":  # the logarithm of a scale: softplus takes a fifth of the time of a step
        made.scale_constraint = constraints.positive
    if not isinstance(made, AutoContinuous):
        raise ValueError(
            f"Variational: expected guide to return an AutoContinuous guide of NumPyro, such as AutoBNAFNormal, which "
            f"is a distribution of all unconstrained weights; got {made!r}."
        )
    with numpyro.handlers.seed(rng_seed=0), numpyro.handlers.block():
        made()  # the guide reads the model once, outside of any compiled function
    return made
