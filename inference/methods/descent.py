"""The descent of point estimates: NumPyro's SVI with a delta guide, in compiled blocks of steps."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
from jax import Array
from jax.flatten_util import ravel_pytree
from numpyro.handlers import mask
from numpyro.infer import SVI, Trace_ELBO, init_to_uniform
from numpyro.infer.autoguide import AutoDelta

from .. import status as says
from ..blocks import Run, run_in_blocks
from ..density import (
    NumPyroModel,
    Rows,
    Structure,
    Weights,
    abstract_trace,
    count_rows,
    element,
    flat,
    is_latent,
    is_masked,
    observation,
    per_row,
    row_log_probs,
    signature,
    take_rows,
)
from ..devices import PROGRAMS_KEPT, Spread
from ..fingerprint import ByValue, fingerprint
from .method import Kind
from .newton import newton
from .start import starting_weights

LEARNING_RATE = 1e-2
"""Of the default Adam, annealed to 0 by a cosine; suits inputs and outputs of unit scale."""
SHUFFLED_ROWS = 2**20
"""Rows that are put in order at a time, a whole number of epochs: sorting many short epochs together is faster."""
ROWS_TOGETHER = 128
"""Rows that are evaluated together after a fit by batches, where the batches are no larger. As many as fit in a cache
take a third of the time of all rows of an image set at once, and all of them might not fit in memory."""
NUM_CHECKS = 100
"""How often the validation rows are scored during a run that may stop early."""
PRESSED = 200
"""Steps of L-BFGS by which a fit whose density seems to grow without bound is taken on."""
STARTS, BATCHES, VALIDATION = range(3)
"""What the key of a fit is folded with, for its three uses."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PointSettings:
    """The settings of `MAP` and `MLE`; described in `MAP`. Compared by value: see `fingerprint`."""

    kind: ClassVar[Kind] = "point"

    optimizer: optax.GradientTransformation | None = None
    num_steps: int = 2000
    batch_size: int | None = None
    num_restarts: int = 1
    validation_fraction: float = 0.0
    patience: int = 10
    polish: bool = True
    init_strategy: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        counts = {"num_steps": self.num_steps, "num_restarts": self.num_restarts, "patience": self.patience}
        if self.batch_size is not None:
            counts["batch_size"] = self.batch_size
        for name, value in counts.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{type(self).__name__}: expected a positive integer as {name}; got {value!r}.")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(
                f"{type(self).__name__}: expected 0 <= validation_fraction < 1; got {self.validation_fraction!r}."
            )
        if self.optimizer is not None:
            _check_optimizer(type(self).__name__, ByValue(self.optimizer))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and fingerprint(self) == fingerprint(other)

    def __hash__(self) -> int:
        return hash(fingerprint(self))


class Descent(NamedTuple):
    """Where the optimiser ended, from every starting point."""

    params: Weights
    """AutoDelta's parameters in unconstrained coordinates, shaped (restart, *shape)."""
    losses: np.ndarray
    """Negative log density in nats at each step, before it: (restart, step). Estimates where batches were used."""
    final: np.ndarray
    """The loss by which restarts are compared: (restart,)."""
    failures: tuple[str, ...]
    warnings: tuple[str, ...]
    interrupted: bool

    @property
    def best(self) -> int:
        """The restart with the smallest loss."""
        return int(np.argmin(np.where(np.isfinite(self.final), self.final, np.inf)))

    def member(self, restart: int) -> tuple[Weights, np.ndarray]:
        """The parameters of one restart, and its losses, (step,)."""
        return jax.tree.map(lambda leaf: leaf[restart], (self.params, self.losses))

    @property
    def unconstrained(self) -> Weights:
        """Site -> value in unconstrained coordinates, shaped (restart, *shape)."""
        return _by_site(self.params)


def starting_points(
    settings: PointSettings, model: NumPyroModel, structure: Structure, x: Rows, y: Rows, *, key: Array
) -> Weights:
    """Where `descend` would begin: site -> value in unconstrained coordinates, shaped (restart, *shape)."""
    program = program_of(settings, model, structure, x, y)
    return _by_site(program.params(program.start(key, x, y, None, None)))


def descend(
    settings: PointSettings,
    model: NumPyroModel,
    structure: Structure,
    x: Rows,
    y: Rows,
    validation: tuple[Rows, Rows] | None = None,
    *,
    key: Array,
    progress: bool,
    start: Weights | None = None,
    prior_power: Array | None = None,
) -> Descent:
    """Minimise the negative log density from every starting point, in blocks of steps; restarts spread over devices.

    Args:
        settings: how.
        model: the model.
        structure: what it is made of.
        x: n rows.
        y: n rows.
        validation: rows by which to stop early.
        key: of starting points and batches.
        progress: show a progress bar.
        start: where the restarts begin, as `Descent.params` has it; by default each at a random starting point.
        prior_power: how many times the log prior counts, for each restart, (restart,); by default once.
    """
    num_rows, total = count_rows(x), settings.num_steps
    if settings.batch_size is not None and settings.batch_size > num_rows:
        raise ValueError(f"Expected batch_size to be at most {num_rows}, the rows to fit; got {settings.batch_size}.")
    program = program_of(settings, model, structure, x, y)
    begun = program.start(key, x, y, start, prior_power)
    kept = (begun, 0)
    watch = _Watch(program, validation, settings.patience) if validation else None

    per_epoch = program.steps_per_epoch(num_rows)
    shuffled = program.epochs_at_once(num_rows) * per_epoch
    everywhere = jax.device_put((x, y), program.spread.all) if program.spread.mesh.size > 1 else (x, y)

    def block(state: _State, begin: int, end: int) -> _State:
        if settings.batch_size is not None and begin % shuffled == 0:
            state = state._replace(order=program.shuffle(key, begin // per_epoch, x))
        svi, losses = program.block((state.svi, state.losses, prior_power), state.order, begin, end, *everywhere)
        return state._replace(svi=svi, losses=losses)

    def keep_going(state: _State, done: int) -> bool:
        nonlocal kept
        if not program.finite(state, done).any():
            return False
        kept = (state, done)
        return watch is None or watch.improving(state, done)

    run: Run[_State] = run_in_blocks(
        block,
        begun,
        total,
        label="MLE" if isinstance(model, flat) else "MAP",
        unit="step" if settings.batch_size is None else "epoch",
        steps_per_unit=per_epoch,
        progress=progress,
        describe=lambda state, done: f"loss {np.nanmin(np.asarray(state.losses)[:, done - 1]) * num_rows:.4g}",
        keep_going=keep_going,
        align=shuffled,
        block_steps=-(-total // NUM_CHECKS) if watch else None,
    )
    losses = np.asarray(run.state.losses)[:, : run.done] * num_rows
    failures, warnings = [], []
    if run.ended == "interrupted":
        warnings.append(says.INTERRUPTED.format(done=run.done, total=total, unit="steps"))
    elif run.ended == "stopped" and kept[1] < run.done:
        bad = ~np.isfinite(losses).all(axis=0)
        step = int(np.argmax(bad)) if bad.any() else run.done  # the loss of the last step was taken before it
        value = losses[:, step].max() if bad.any() else np.nan
        sentence = says.NON_FINITE_LOSS if step else says.NON_FINITE_START
        failures.append(sentence.format(value=value, step=step, kept=kept[1]))
    state, done = kept
    if watch and watch.best and not failures:
        params, done = watch.best, watch.best_step
        warnings.append(says.EARLY_STOP.format(step=done, total=total))
        final = watch.best_loss
    else:
        params = program.params(state)
        last = losses[:, max(0, done - per_epoch) : max(1, done)]
        final = last.mean(axis=1) if last.size else np.full(len(losses), np.inf)  # interrupted before the first step
        final = np.where(program.finite(state, done), final, np.inf)
    if program.spread.mesh.size > 1:
        params = jax.device_put(jax.device_get(params))  # what follows runs on one device
    return Descent(params, losses, final, tuple(failures), tuple(warnings), run.ended == "interrupted")


class _State(NamedTuple):
    svi: Any
    losses: Array
    """(restart, step), divided by the number of rows."""
    order: Array
    """The rows in the order in which the epochs of the block use them; empty where all are used at once."""


class Program:
    """SVI of one model, under one set of settings, for one shape of data: what is compiled once."""

    def __init__(self, settings: PointSettings, model: NumPyroModel, structure: Structure) -> None:
        self.settings, self.model, self.latents, self.observed = settings, model, structure.latents, structure.observed
        self._known: dict[str, Any] = {}
        """What has been read from a trace of the model, which takes milliseconds: once."""
        objective = per_row(model)
        schedule = optax.cosine_decay_schedule(LEARNING_RATE, settings.num_steps)
        guide = AutoDelta(objective, init_loc_fn=init_to_uniform)
        self.svi = SVI(
            objective,
            mask(guide, False),  # its log density is 0 at its own point; evaluating that would cost a log a weight
            settings.optimizer or optax.adam(schedule),
            Trace_ELBO(),
        )
        self.spread = Spread.of(settings.num_restarts)
        self.start = self.spread.jit_start(self._start)
        self.shuffle = jax.jit(self._shuffle)
        self.block = self.spread.jit(self._block)
        self.loss = jax.jit(lambda *args: self._rows_and_loss(*args)[1])
        self.rows_and_loss = jax.jit(self._rows_and_loss)
        self.polish = jax.jit(self._polish)
        self.press_on = jax.jit(self._press_on)
        self.slope = jax.jit(jax.grad(self._loss))
        self.row_log_probs = jax.jit(self._row_log_probs)
        self.logits = jax.jit(self._all_logits)
        self.logit_slopes = jax.jit(self._logit_slopes, static_argnums=0)
        self.curvature = jax.jit(self._curvature)
        self.constrain = jax.jit(self._constrain)

    def steps_per_epoch(self, num_rows: int) -> int:
        """Batches in an epoch."""
        return 1 if self.settings.batch_size is None else num_rows // self.settings.batch_size

    def epochs_at_once(self, num_rows: int) -> int:
        """Epochs that are shuffled together."""
        epochs = -(-self.settings.num_steps // self.steps_per_epoch(num_rows))
        return max(1, min(epochs, SHUFFLED_ROWS // num_rows)) if self.settings.batch_size else epochs

    def params(self, state: _State) -> Weights:
        """The weights of every restart, in unconstrained coordinates."""
        return self.svi.optim.get_params(state.svi.optim_state)

    def finite(self, state: _State, done: int) -> np.ndarray:
        """Whether the weights of each restart and its last loss are finite, (restart,)."""
        leaves = [np.asarray(leaf).reshape(self.settings.num_restarts, -1) for leaf in self.params(state).values()]
        losses = np.asarray(state.losses)[:, max(0, done - 1)]
        return np.logical_and.reduce([np.isfinite(leaf).all(axis=1) for leaf in leaves]) & (
            np.isfinite(losses) | (done == 0)
        )

    def _constrain(self, params: Weights) -> Weights:
        weights = self.svi.constrain_fn(params)
        return {site: weights[param(site)] for site in self.latents}

    def _start(
        self, key: Array, x: Rows, y: Rows, start: Weights | None = None, prior_power: Array | None = None
    ) -> _State:
        keys = jax.random.split(jax.random.fold_in(key, STARTS), self.settings.num_restarts)
        any_power = None if prior_power is None else prior_power[0]  # the guide is made for a model that has one

        def one(key: Array, first: Array | bool, start: Weights | None) -> Any:
            weights = starting_weights(self.model, self.latents, key, x, y, self.settings.init_strategy, first=first)
            values = {param(site): value for site, value in weights.items()}
            state = self.svi.init(key, x, y, count_rows(x), any_power, init_params=values)
            if start is None:
                return state
            return state._replace(optim_state=self.svi.optim.init(start))

        first = jnp.arange(len(keys)) == 0
        svi = jax.vmap(one)(keys, first, start) if len(keys) > 1 else _lift(one(keys[0], True, _first(start)))
        losses = jnp.full((self.settings.num_restarts, self.settings.num_steps), jnp.nan, float)
        return _State(svi, losses, jnp.zeros(0, int))

    def _shuffle(self, key: Array, first: Array, x: Rows) -> Array:
        """The rows in the order in which the epochs from `first` on use them, batch by batch."""
        num_rows, key = count_rows(x), jax.random.fold_in(key, BATCHES)
        keys = jax.vmap(lambda epoch: jax.random.fold_in(key, epoch))(first + jnp.arange(self.epochs_at_once(num_rows)))
        orders = jax.vmap(lambda key: jax.random.permutation(key, num_rows))(keys)
        used = num_rows - num_rows % (self.settings.batch_size or num_rows)
        return orders[:, :used].reshape(-1)

    def _block(self, each: Any, order: Array, begin: Array, end: Array, x: Rows, y: Rows) -> tuple[Any, Array]:
        """Steps of each restart, of which it has the SVI state, the losses and the power of the prior."""
        svi, losses, prior_power = each
        if self.settings.num_restarts == 1 and prior_power is None:  # without the batching, XLA's code is faster
            state = _State(_first(svi), losses[0], order)
            svi, losses = self._steps(partial(self._update, None), state, begin, end, x, y)
            return _lift(svi), losses[None]
        powers = None if prior_power is None else 0
        update = jax.vmap(self._update, in_axes=(powers, 0, None, None, None))
        return self._steps(partial(update, prior_power), _State(svi, losses, order), begin, end, x, y)

    def _update(self, prior_power: Array | None, svi: Any, x: Rows, y: Rows, num_rows: int) -> tuple[Any, Array]:
        new, loss = self.svi.update(svi, x, y, num_rows, prior_power)
        return new._replace(rng_key=svi.rng_key), loss  # no site is random: spares a split a step

    def _steps(
        self, update: Callable[..., Any], state: _State, begin: Array, end: Array, x: Rows, y: Rows
    ) -> tuple[Any, Array]:
        num_rows, order = count_rows(x), state.order
        batch_size = self.settings.batch_size or num_rows

        def batch(i: Array) -> tuple[Rows, Rows]:
            rows = jax.lax.dynamic_slice_in_dim(order, i * batch_size % order.size, batch_size)
            # The barrier keeps XLA from transposing all of x before the loop instead of a batch inside it.
            return jax.lax.optimization_barrier((take_rows(x, rows), take_rows(y, rows)))

        def step(i: Array, carry: tuple[Any, Array]) -> tuple[Any, Array]:
            svi, losses = carry
            svi, loss = update(svi, *(batch(i) if self.settings.batch_size else (x, y)), num_rows)
            return svi, jax.lax.dynamic_update_index_in_dim(losses, loss, i, axis=-1)

        return jax.lax.fori_loop(begin, end, step, (state.svi, state.losses))

    def _loss(
        self, params: Weights, x: Rows, y: Rows, prior_power: Array | None = None, num_rows: int | None = None
    ) -> Array:
        """The objective divided by the number of rows, at unconstrained weights; of a batch, its estimate."""
        values = self.svi.constrain_fn(params)
        key = jax.random.key(0)  # a Delta guide draws nothing
        num_rows = num_rows or count_rows(x)
        return self.svi.loss.loss(key, values, self.svi.model, self.svi.guide, x, y, num_rows, prior_power)

    def _by_batches(self, function: Callable[[Rows, Rows], Any], x: Rows, y: Rows) -> Any:
        """The values of a function at all rows, rows first; where the fit is by batches, from a few rows at a time."""
        num_rows = count_rows(x)
        size = max(self.settings.batch_size or num_rows, ROWS_TOGETHER)
        if size >= num_rows:
            return function(x, y)
        some, rest = np.split(np.arange(num_rows), [num_rows - num_rows % size])
        parts = jax.lax.map(lambda rows: function(take_rows(x, rows), take_rows(y, rows)), some.reshape(-1, size))
        values = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), parts)
        if not rest.size:
            return values
        return jax.tree.map(
            lambda *leaves: jnp.concatenate(leaves), values, function(take_rows(x, rest), take_rows(y, rest))
        )

    def _rows_and_loss(
        self, params: Weights, x: Rows, y: Rows, prior_power: Array | None = None
    ) -> tuple[Array, Array]:
        """Log p(y_i | x_i, w) of every row, (n,), and the objective divided by the number of rows."""
        num_rows = count_rows(x)

        def batch(x: Rows, y: Rows) -> tuple[Array, Array]:
            loss = self._loss(params, x, y, prior_power, num_rows)
            return self._log_probs(params, x, y), jnp.full(count_rows(x), loss)

        log_probs, losses = self._by_batches(batch, x, y)
        return log_probs, losses.mean()  # so that a batch has the weight of its rows

    def _press_on(self, params: Weights, x: Rows, y: Rows, prior_power: Array | None = None) -> tuple[Weights, Array]:
        """Where `PRESSED` steps of L-BFGS on all rows lead, and the loss there in nats."""
        optimizer, loss = optax.lbfgs(), lambda params: self._loss(params, x, y, prior_power)
        value_and_grad = optax.value_and_grad_from_state(loss)

        def step(_: Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
            params, state, best, lowest = carry
            value, grad = value_and_grad(params, state=state)
            lower = value < lowest
            best = jax.tree.map(lambda new, old: jnp.where(lower, new, old), params, best)
            updates, state = optimizer.update(grad, state, params, value=value, grad=grad, value_fn=loss)
            return optax.apply_updates(params, updates), state, best, jnp.where(lower, value, lowest)

        start = (params, optimizer.init(params), params, loss(params))
        _, _, best, lowest = jax.lax.fori_loop(0, PRESSED, step, start)
        return best, lowest * count_rows(x)

    def _logits(self, params: Weights, x: Rows, y: Rows) -> Array | None:
        """Of the classes, (n, classes), or of all rows' tokens, (n T, classes); None where there are no logits."""
        d = observation(self.model, self._constrain(params), x, self.observed)
        while isinstance(d, dist.Independent | dist.ExpandedDistribution):
            d = d.base_dist
        if isinstance(d, dist.BernoulliLogits) and d.logits.ndim == 1:
            return jnp.stack([jnp.zeros_like(d.logits), d.logits], axis=-1)
        if isinstance(d, dist.CategoricalLogits) or hasattr(d, "padding"):
            return d.logits.reshape(-1, d.logits.shape[-1])
        return None

    def logits_shape(self, params: Weights, x: Rows, y: Rows) -> tuple[int, int] | None:
        """The shape of `logits`."""
        if "logits" not in self._known:
            logits = jax.eval_shape(self._logits, params, x, y)
            self._known["logits"] = None if logits is None else logits.shape
        return self._known["logits"]

    def _logit_slopes(self, names: tuple[str, ...], params: Weights, x: Rows, y: Rows) -> Array:
        """Derivatives of the logits by the weights of some sites, one after the other, (n, classes, weights)."""
        block, unravel = ravel_pytree([params[name] for name in names])

        def slopes(x: Rows, y: Rows) -> Array:
            def logits(block: Array) -> Array | None:
                return self._logits({**params, **dict(zip(names, unravel(block), strict=True))}, x, y)

            return jax.jacfwd(logits)(block)

        return self._by_batches(slopes, x, y)

    def _curvature(self, moving: Weights, params: Weights, x: Rows, y: Rows) -> Array:
        """How far the logits are from linear in the sites that move, relative to how far a step takes them."""
        step = {
            name: jnp.where(moving[name], jnp.cos(jnp.arange(1.0, value.size + 1)).reshape(value.shape), 0.0)
            for name, value in params.items()
        }

        def moves(x: Rows, y: Rows) -> tuple[Array, Array]:
            here, tangent = jax.jvp(lambda params: self._logits(params, x, y), (params,), (step,))
            there = self._logits(jax.tree.map(jnp.add, params, step), x, y)
            return jnp.abs(there - here - tangent), jnp.abs(tangent)

        off, along = self._by_batches(moves, x, y)
        return off.max() / jnp.maximum(along.max(), jnp.finfo(along.dtype).tiny)

    def flat_sites(self, x: Rows, y: Rows) -> frozenset[str]:
        """The latent sites whose prior is flat."""
        if "flat" not in self._known:
            priors = {name: site["fn"] for name, site in abstract_trace(self.model, x, y).items() if is_latent(site)}
            flat = [name for name, d in priors.items() if is_masked(d) or isinstance(element(d), dist.ImproperUniform)]
            self._known["flat"] = frozenset(flat)
        return self._known["flat"]

    def _row_log_probs(self, params: Weights, x: Rows, y: Rows) -> Array:
        return self._by_batches(partial(self._log_probs, params), x, y)

    def _all_logits(self, params: Weights, x: Rows, y: Rows) -> Array | None:
        return self._by_batches(partial(self._logits, params), x, y)

    def _log_probs(self, params: Weights, x: Rows, y: Rows) -> Array:
        return row_log_probs(self.model, self._constrain(params), x, y, self.observed)

    def negative_log_likelihood(self, params: Weights, x: Rows, y: Rows) -> Array:
        """Of rows that the fit has not seen, in nats."""
        return -self._row_log_probs(params, x, y).sum()

    def _polish(self, params: Weights, x: Rows, y: Rows, prior_power: Array | None = None) -> tuple[Weights, Array]:
        """Newton's end and its decrement in nats, which is infinite where Newton's method does not apply."""
        flat_params, unravel = ravel_pytree(params)
        u, decrement = newton(lambda u: self._loss(unravel(u), x, y, prior_power), flat_params)
        return unravel(u), decrement * count_rows(x)


@lru_cache(maxsize=PROGRAMS_KEPT)
def _cached_program(settings: PointSettings, model: NumPyroModel, structure: Structure, signature: Any) -> Program:
    return Program(settings, model, structure)


def program_of(settings: PointSettings, model: NumPyroModel, structure: Structure, x: Rows, y: Rows) -> Program:
    """The program for these settings, this model and these shapes: made once."""
    program = _cached_program(settings, model, structure, signature((x, y)))
    if program.svi.constrain_fn is None:
        program.start(jax.random.key(0), x, y, None, None)  # SVI learns at its first start how weights are constrained
    return program


def hold_out(fraction: float, key: Array, x: Rows, y: Rows) -> tuple[Rows, Rows, tuple[Rows, Rows] | None]:
    """Split off the validation rows, at random."""
    held = round(fraction * count_rows(x))
    if held == 0:
        return x, y, None
    if held == count_rows(x):
        raise ValueError(f"validation_fraction={fraction} of {held} rows leaves none to fit.")
    order = np.asarray(jax.random.permutation(jax.random.fold_in(key, VALIDATION), count_rows(x)))
    validation, training = order[:held], order[held:]
    return (
        take_rows(x, training),
        take_rows(y, training),
        (take_rows(x, validation), take_rows(y, validation)),
    )


class _Watch:
    """Early stopping: the best weights by the loss of the validation rows, and whether it still improves."""

    def __init__(self, program: Program, validation: tuple[Rows, Rows], patience: int) -> None:
        self.program, self.validation, self.patience = program, validation, patience
        self.likelihood = jax.jit(jax.vmap(program.negative_log_likelihood, in_axes=(0, None, None)))
        self.best: Weights = {}
        self.best_loss = np.array(np.inf)
        self.best_step = self.waited = 0

    def improving(self, state: _State, done: int) -> bool:
        """Score the weights; False when `patience` checks in a row brought no better ones for any restart."""
        params = self.program.params(state)
        losses = np.asarray(self.likelihood(params, *self.validation))
        better = losses < self.best_loss
        if self.best:
            params = {
                site: jnp.where(better.reshape(-1, *(1,) * (value.ndim - 1)), value, self.best[site])
                for site, value in params.items()
            }
        self.best, self.best_loss = params, np.where(better, losses, self.best_loss)
        self.best_step, self.waited = (done, 0) if better.any() else (self.best_step, self.waited + 1)
        return self.waited < self.patience


@lru_cache(maxsize=64)
def _check_optimizer(method: str, chosen: ByValue) -> None:
    """Raise unless this is an optax optimiser that moves weights by their gradients alone."""
    optimizer = chosen.value
    if not isinstance(optimizer, optax.GradientTransformation):
        raise ValueError(f"{method}: expected an optax optimiser such as optax.adam(1e-3); got {optimizer!r}.")
    optimizer = optax.with_extra_args_support(optimizer)

    @jax.jit
    def moves(weight: float) -> list[Array]:
        params, zero = jnp.full(3, weight), jnp.zeros(3)
        state, path = optimizer.init(params), []
        for _ in range(3):  # the first step of a schedule may have learning rate 0
            updates, state = optimizer.update(zero, state, params, value=jnp.array(1.0))
            path.append(updates)
        return path

    try:
        decays = not np.array_equal(moves(1.0), moves(2.0), equal_nan=True)
    except TypeError as error:
        raise ValueError(
            f"{method}: expected an optimiser of gradients; this one asks for more ({error}). The polish brings "
            f"small convex problems to their optimum."
        ) from error
    if decays:
        raise ValueError(
            f"{method}: the optimiser moves weights whose gradient is 0: it has weight decay, a prior that the density "
            f"does not know of. Set its weight_decay to 0 and state the prior: gaussian(scale)."
        )


def _first(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], tree)


def _lift(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[None], tree)


def param(site: str) -> str:
    """The name under which AutoDelta keeps a site."""
    return f"{site}_auto_loc"


def _by_site(params: Weights) -> Weights:
    return {name.removesuffix("_auto_loc"): value for name, value in params.items()}
