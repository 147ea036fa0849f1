"""The steps of variational inference: the evidence lower bound of a guide, maximised by batches.

A guide is a distribution q of the displacement v of the d unconstrained coordinates from a starting point. The bound is

    ELBO = E_q[log p(y, u)] - E_q[log q(v)] <= log p(y),   u = start + v,

and its gradient is estimated by draws of q. For Gaussian guides the gradient of ``log q`` with respect to the
parameters of q at fixed v, whose mean is 0, is left out ("sticking the landing", Roeder, Wu & Duvenaud 2017): where the
guide can be the posterior, the estimate then has no noise there.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from jax.flatten_util import ravel_pytree
from numpyro.distributions import constraints
from numpyro.infer import ELBO, SVI, init_to_value
from numpyro.infer.autoguide import (
    AutoContinuous,
    AutoDiagonalNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
)

from ..density import Density
from ..fingerprint import ByValue
from ..rows import Data, Weights
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
ORDER_KEY = 3
"""The number that the key of the order of rows is folded with."""


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
    """

    def __init__(
        self,
        density: Density,
        shapes: Any,
        guide: ByValue,
        batch_size: int | None,
        num_particles: int,
        optimizer: ByValue,
    ) -> None:
        super().__init__(num_particles=num_particles)
        self.density, self.batch_size = density, batch_size
        tree, leaves = shapes
        example, self.unravel = ravel_pytree(tree.unflatten([jnp.zeros(shape, dtype) for shape, dtype in leaves]))
        self.dim, self.dtype = example.size, example.dtype
        self.guide = _guide_of(guide.value, self._site, self.dim)
        self.is_gaussian = isinstance(self.guide, tuple(GUIDES.values()))
        self.svi = SVI(self._site, self.guide, optimizer.value or annealed_adam(), self)
        self._compiled_start = jax.jit(self._start)
        self._compiled_block = jax.jit(self._block)
        self._compiled_draws = jax.jit(self._draws, static_argnums=3)

    def start(self, key: Array, num_steps: int) -> State:
        """Return the state before the first step."""
        return State(self._compiled_start(key, num_steps))

    def advance(self, state: State, begin: int, end: int, *, centre: Array, key: Array, data: Data) -> State:
        """Return the state after the steps begin, ..., end - 1."""
        svi, losses = self._compiled_block(state.svi, begin, end, centre, key, data)
        return State(svi, (*state.losses, np.asarray(losses)[: end - begin]))

    def draws(self, state: State, keys: Array, centre: Array, data: Data, *, weighed: bool) -> tuple[Weights, Any]:
        """Return draws of the guide, one per key, as weights of the user's model, and their log weights in nats.

        A log weight is ``log p(y, u) - log q(u)``, whose mean is the bound; NaN unless they are `weighed`, which takes
        the density of all rows at every draw.
        """
        params = self.svi.get_params(state.svi)
        draws, log_weights = self._compiled_draws(params, keys, (centre, data), weighed)
        return jax.device_get(draws), np.asarray(log_weights, float)

    def loss(self, rng_key: Array, param_map: Any, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Array:
        """Return minus the bound in nats per row, estimated by draws and a batch of rows; see `numpyro.infer.ELBO`."""
        centre, batch, num_rows = args
        keys = jax.random.split(rng_key, self.num_particles)

        def one(key: Array) -> Array:
            v, log_q = self._drawn(param_map, key)
            return log_q + self.density.batch_potential(self.unravel(centre + v), batch, num_rows)

        values = jax.vmap(one)(keys) if self.num_particles > 1 else one(keys[0])
        return values.mean() / num_rows

    def _site(self, *_: Any) -> None:
        """Sample the displacement from the starting point: all that a guide is told of the model."""
        zero = jnp.zeros(self.dim, self.dtype)
        numpyro.sample("v", dist.ImproperUniform(constraints.real_vector, (), zero.shape))

    def _drawn(self, params: Any, key: Array) -> tuple[Array, Array]:
        """Return a draw of the guide, (d,), and its log density in nats."""
        q = self.guide.get_posterior(params)
        if not self.is_gaussian:  # a flow, which may have no inverse
            v, intermediates = q.sample_with_intermediates(key)
            return v, q.log_prob(v, intermediates)
        v = q.rsample(key)
        fixed = self.guide.get_posterior(jax.lax.stop_gradient(params))
        return v, fixed.log_prob(v).sum()  # independent coordinates have a density each

    def _start(self, key: Array, num_steps: Array) -> Any:
        svi = self.svi.init(key)
        return svi._replace(optim_state=with_num_steps(svi.optim_state, num_steps))

    def _block(self, svi: Any, begin: Array, end: Array, centre: Array, key: Array, data: Data) -> tuple[Any, Array]:
        num_rows = data.num_rows
        size = self.batch_size or num_rows

        def order_of(i: Array) -> Array:
            key_of_epoch = jax.random.fold_in(jax.random.fold_in(key, ORDER_KEY), i // (num_rows // size))
            return jax.random.permutation(key_of_epoch, num_rows)

        def step(i: Array, carry: tuple[Any, Array, Array]) -> tuple[Any, Array, Array]:
            svi, order, losses = carry
            batch = data
            if self.batch_size is not None:
                place = i % (num_rows // size)
                order = jax.lax.cond(place == 0, lambda: order_of(i), lambda: order)
                rows = jax.lax.dynamic_slice_in_dim(order, place * size, size)
                batch = jax.lax.optimization_barrier(data.take(rows))
            svi, loss = self.svi.update(svi, centre, batch, num_rows)
            return svi, order, jax.lax.dynamic_update_index_in_dim(losses, loss, i - begin, axis=0)

        order = order_of(begin) if self.batch_size is not None else jnp.zeros(0, int)
        svi, _, losses = jax.lax.fori_loop(
            begin, end, step, (svi, order, jnp.full(MAX_BLOCK_STEPS, jnp.nan, self.dtype))
        )
        return svi, losses

    def _draws(self, params: Any, keys: Array, where: tuple[Array, Data], weighed: bool) -> tuple[Weights, Array]:
        centre, data = where

        def one(key: Array) -> tuple[Weights, Array]:
            v, log_q = self._drawn(params, key)
            u = self.unravel(centre + v)
            log_weight = -self.density.potential(u, data) - log_q if weighed else jnp.full((), jnp.nan)
            return self.density.draws(u, data), log_weight

        return jax.lax.map(one, keys)


def _guide_of(guide: Any, model: Callable[..., None], dim: int) -> AutoContinuous:
    """Return the guide of a model of one site; raise ValueError where it has no density of a vector."""
    initial = init_to_value(values={"v": jnp.zeros(dim)})
    settings = {"init_loc_fn": initial, "init_scale": INIT_SCALE}
    made = GUIDES[guide](model, **settings) if isinstance(guide, str) else guide(model)
    if not isinstance(made, AutoContinuous):
        raise ValueError(
            f"Variational: expected guide to return an AutoContinuous guide of NumPyro, such as AutoBNAFNormal, which "
            f"is a distribution of all unconstrained weights; got {made!r}."
        )
    with numpyro.handlers.seed(rng_seed=0), numpyro.handlers.block():
        made()  # the guide reads the model once, outside of any compiled function
    return made
