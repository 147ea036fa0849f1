"""The steps of an optimiser: NumPyro's SVI with a delta guide, compiled in blocks."""

from collections.abc import Callable
from functools import partial
from threading import RLock
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import biject_to
from numpyro.handlers import mask, replay, seed, trace
from numpyro.infer import ELBO, SVI
from numpyro.infer.svi import SVIState
from numpyro.infer.util import log_density, transform_fn

from ..density import Density
from ..devices import Sharding, Spread
from ..fingerprint import ByValue
from ..processes import readable
from ..rows import Data, Weights
from ..sites import is_latent, undrawn
from ..start import START_KEY, starting_weights
from .batches import Batches, Resident, batch_of
from .optimizer import annealed_adam, with_num_steps

MAX_BLOCK_STEPS = 4096
"""The largest number of steps per block: the length of the buffer of losses, so that programs serve any `num_steps`."""


class State(NamedTuple):
    """The state of an optimiser."""

    svi: Any
    """NumPyro's state, (restart, ...)."""
    losses: tuple[np.ndarray, ...] = ()
    """The losses of the blocks so far, divided by the number of rows, each (restart, steps of the block)."""

    @property
    def last_losses(self) -> np.ndarray:
        """The losses before the last step, (restart,); NaN before the first."""
        return self.losses[-1][:, -1] if self.losses else np.full(1, np.nan)


class Objective(ELBO):  # type: ignore[misc]
    """The loss of NumPyro's `Trace_ELBO`, minus log density of the model plus that of the guide, summed in their order.

    `Trace_ELBO` takes the sites in the order of a set, which differs between processes: the rounding of its sum would,
    and the text of its program, by which JAX finds what it has compiled before.
    """

    def loss(
        self, rng_key: Array, param_map: Weights, model: Callable[..., Any], guide: Callable[..., Any], *args: Any
    ) -> Array:
        """Return the loss; see `numpyro.infer.ELBO`."""
        model_key, guide_key = jax.random.split(rng_key)
        of_guide, draws = log_density(seed(guide, guide_key), args, {}, param_map)
        of_model, _ = log_density(replay(seed(model, model_key), draws), args, {}, param_map)
        return of_guide - of_model


class Steps:
    """The compiled functions of the optimiser of one density, under one set of settings.

    Args:
        density: the density that is maximised.
        batch_size: rows per step; None is all.
        num_restarts: the number of starting points.
        optimizer: an optax optimiser; None is the default.
        init_strategy: see `MAP`.
        num_rows: the number of all rows, where blocks of steps get some of them; None where they get all.
        spread: how the rows are spread over devices.
    """

    def __init__(
        self,
        density: Density,
        batch_size: int | None,
        num_restarts: int,
        optimizer: ByValue,
        init_strategy: ByValue,
        num_rows: int | None,
        spread: Spread | None = None,
    ) -> None:
        self.density, self.batch_size, self.num_restarts = density, batch_size, num_restarts
        self.num_rows = num_rows
        self.init_strategy = init_strategy.value
        self._priors: dict[str, dist.Distribution] = {}
        """The priors of the latent sites, from the trace of the starting point."""
        self.svi = SVI(
            density.per_row,
            mask(
                self._guide, False
            ),  # its log density at its own point is 0; evaluating it would cost a log per weight
            optimizer.value or annealed_adam(),
            Objective(),
        )
        self._tracing = RLock()
        """NumPyro's SVI and its guide change while they are traced: one thread traces them at a time."""
        self.sharding, self.spread = Sharding.of(num_restarts, spread), spread
        self._compiled_start = self.sharding.jit_start(self._start)
        self._compiled_block = self.sharding.jit(self._block)

    def start(
        self,
        key: Array,
        data: Data,
        num_steps: int = 1,
        start: Weights | None = None,
        prior_power: Array | None = None,
    ) -> State:
        """Return the state before the first step.

        Args:
            key: the key of starting points and batches.
            data: n rows.
            num_steps: the total number of steps, over which the default optimiser anneals.
            start: unconstrained site -> value, (restart, *shape); by default each restart has a random point.
            prior_power: the factor of the log prior, (restart,); None is 1.
        """
        svi = self._compiled_start(
            key, data.few(), num_steps, None if start is None else _as_params(start), prior_power
        )
        return State(svi)

    def advance(
        self, state: State, begin: int, end: int, *, batches: Batches | Resident, prior_power: Array | None
    ) -> State:
        """Return the state after the steps begin, ..., end - 1."""
        svi, parts = state.svi, []
        for order, first, last, data in batches.parts(begin, end):
            svi, losses = self._compiled_block((svi, prior_power), order, first, last, data)
            parts.append((losses, last - first))
        taken = [np.asarray(readable(losses))[:, :count] for losses, count in parts]
        return State(svi, (*state.losses, np.concatenate(taken, axis=1)))

    def weights(self, state: State) -> Weights:
        """Return the weights of all restarts by site, in unconstrained coordinates, (restart, *shape) in NumPy."""
        params = jax.device_get(readable(self.svi.optim.get_params(state.svi.optim_state)))
        return {site: params[_param(site)] for site in self.density.structure.latents}

    def is_finite(self, state: State) -> np.ndarray:
        """Return whether the weights of each restart and its last loss are finite, (restart,)."""
        leaves = [leaf.reshape(self.num_restarts, -1) for leaf in self.weights(state).values()]
        weights = np.logical_and.reduce([np.isfinite(leaf).all(axis=1) for leaf in leaves])
        return weights & (np.isfinite(state.last_losses) if state.losses else True)

    def steps_per_epoch(self, num_rows: int) -> int:
        """Return the number of batches per epoch."""
        return 1 if self.batch_size is None else num_rows // self.batch_size

    def _guide(self, *_: Any) -> None:
        """Sample each site at a parameter, as NumPyro's `AutoDelta` does.

        That one seeks a point first at which the density and its gradient are finite, in a loop that takes longer to
        trace than a step of the optimiser, and `SVI.init` traces the model once more; `starting_weights` needs neither.
        """
        for name, prior in self._priors.items():
            value = numpyro.param(_param(name), constraint=prior.support, event_dim=prior.event_dim)
            numpyro.sample(name, dist.Delta(value, event_dim=prior.event_dim))

    def _start(self, *args: Any) -> Any:
        with self._tracing:
            return self._first_state(*args)

    def _first_state(
        self, key: Array, data: Data, num_steps: Array, start: Weights | None, prior_power: Array | None
    ) -> Any:
        keys = jax.random.split(jax.random.fold_in(key, START_KEY), self.num_restarts)
        sites = trace(seed(undrawn(self.density.per_row), 0)).get_trace(data)
        self._priors = {name: site["fn"] for name, site in sites.items() if is_latent(site)}
        transforms = {_param(name): biject_to(prior.support) for name, prior in self._priors.items()}
        self.svi.constrain_fn = partial(transform_fn, transforms)

        def one(key: Array, first: Array | bool, start: Weights | None) -> Any:
            weights = starting_weights(self.density, data, key, self.init_strategy, first=first)
            params = transform_fn(transforms, _as_params(weights), invert=True) if start is None else start
            state = with_num_steps(self.svi.optim.init(params), num_steps)
            # Strongly typed, as a state from disk is: both are then arguments of one program.
            state = jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), state)
            return SVIState(state, None, key)

        if len(keys) == 1:
            return _lift(one(keys[0], True, _first(start)))
        return jax.vmap(one)(keys, jnp.arange(len(keys)) == 0, start)

    def _block(self, each: Any, order: Array, begin: Array, end: Array, data: Data) -> tuple[Any, Array]:
        """Take steps of all restarts, from their SVI states and powers of the prior."""
        with self._tracing:
            return self._several_steps(each, order, begin, end, data)

    def _several_steps(self, each: Any, order: Array, begin: Array, end: Array, data: Data) -> tuple[Any, Array]:
        svi, prior_power = each
        if self.num_restarts == 1 and prior_power is None:  # without vmap, XLA's code is faster
            svi, losses = self._steps(partial(self._update, None), _first(svi), order, begin, end, data, ())
            return _lift(svi), losses[None]
        powers = None if prior_power is None else 0
        update = jax.vmap(self._update, in_axes=(powers, 0, None, None))
        count = jax.tree.leaves(svi)[0].shape[:1]  # the restarts of this device
        return self._steps(partial(update, prior_power), svi, order, begin, end, data, count)

    def _update(self, prior_power: Array | None, svi: Any, data: Data, num_rows: int) -> tuple[Any, Array]:
        new, loss = self.svi.update(svi, data, num_rows, prior_power)
        return new._replace(rng_key=svi.rng_key), loss  # no site is random: this saves a split per step

    def _steps(
        self,
        update: Callable[..., Any],
        svi: Any,
        order: Array,
        begin: Array,
        end: Array,
        data: Data,
        restarts: tuple[int, ...],
    ) -> tuple[Any, Array]:
        num_rows = self.num_rows or data.num_rows

        def step(i: Array, carry: tuple[Any, Array]) -> tuple[Any, Array]:
            svi, losses = carry
            batch = batch_of(data, order, i, self.batch_size)
            svi, loss = update(svi, batch, num_rows)
            return svi, jax.lax.dynamic_update_index_in_dim(losses, loss, i - begin, axis=-1)

        losses = jnp.full((*restarts, MAX_BLOCK_STEPS), jnp.nan, float)
        return jax.lax.fori_loop(begin, end, step, (svi, losses))


def _first(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], tree)


def _lift(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[None], tree)


def _param(site: str) -> str:
    """Return the name of a site's parameter in AutoDelta."""
    return f"{site}_auto_loc"


def _as_params(weights: Weights) -> Weights:
    return {_param(site): value for site, value in weights.items()}
