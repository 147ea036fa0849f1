"""Point estimates: maximum likelihood and maximum a posteriori."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.flatten_util import ravel_pytree
from numpyro.distributions import biject_to
from numpyro.handlers import mask, seed, substitute, trace
from numpyro.infer import SVI, Trace_ELBO, init_to_uniform
from numpyro.infer.autoguide import AutoDelta

from .. import status as says
from ..blocks import Run, run_in_blocks
from ..density import (
    NumPyroModel,
    Rows,
    Structure,
    Weights,
    count_rows,
    flat,
    is_latent,
    is_real,
    per_row,
    row_log_probs,
    signature,
    take_rows,
)
from ..status import Status
from .method import Kind, Outcome
from .newton import newton

LEARNING_RATE = 1e-2
"""Of the default Adam, annealed to 0 by a cosine; suits inputs and outputs of unit scale."""
START_NOISE = 0.1
"""Standard deviation, in unconstrained coordinates, of the starting points of biases and scalars."""
POLISH_WEIGHTS = 256
"""Most weights for which the polish forms the Hessian."""
SHUFFLED_ROWS = 2**20
"""Rows that are put in order at a time, a whole number of epochs: sorting many short epochs together is faster."""
NUM_CHECKS = 100
"""How often the validation rows are scored during a run that may stop early."""
STARTS, BATCHES, VALIDATION = range(3)
"""What the key of a fit is folded with, for its three uses."""
MAX_GAIN = 0.1
"""Nats that a small move of one weight may gain at a point that passes for a mode."""
RAY = (10.0, 1000.0)
"""How many times as far out the loss is looked at, to see whether it has a minimum."""


@dataclass(frozen=True, kw_only=True)
class PointSettings:
    """The settings of `MAP` and `MLE`; described in `MAP`."""

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
            _check_optimizer(type(self).__name__, self.optimizer)


@dataclass(frozen=True, kw_only=True)
class MAP(PointSettings):
    """Maximum a posteriori: ``argmax_w log p(y | x, w) + log p(w)``, by NumPyro's SVI with an `AutoDelta` guide.

    The maximum is that of the density in the coordinates in which the model states its sites (AutoDelta's space): for
    a scale it is not where its logarithm has its mode, which is where a Laplace approximation is centred.

    Args:
        optimizer: an optax optimiser of the loss divided by the number of rows. By default Adam, with a learning rate
            that falls from 0.01 to 0 by a cosine over `num_steps`. One with weight decay is refused: a decay is a prior
            that the density would not know of.
        num_steps: updates in all.
        batch_size: rows an update, drawn anew without replacement every epoch (the rows that do not fill a batch wait
            for another epoch); None is all rows.
        num_restarts: independent starting points, run side by side on the same batches; the one with the smallest
            loss is kept.
        validation_fraction: share of the rows that is held out of the fit, to stop it when their loss has not improved
            for `patience` of 100 checks, with the best weights seen. 0 is no early stopping. A fit that was stopped
            early is not at the mode, and its status says so.
        patience: see `validation_fraction`.
        polish: finish by Newton's method on all rows, where there are at most 256 weights and the loss is convex
            around the point that the optimiser reached. Linear and logistic models reach their optimum to working
            precision.
        init_strategy: a NumPyro initialisation strategy such as `numpyro.infer.init_to_median`. By default weight
            matrices start at Normal(0, 1 / sqrt(inputs)) (LeCun et al. 1998, section 4.6) and other sites near their
            prior mean.

    Raises:
        ValueError: when a setting is out of its range, or the optimiser has weight decay.
    """

    def run(
        self, model: NumPyroModel, structure: Structure, x: Rows, y: Rows, *, key: Array, progress: bool
    ) -> Outcome:
        """See `Method.run`."""
        x, y, validation = _hold_out(self.validation_fraction, key, x, y)
        descent = descend(self, model, structure, x, y, validation, key=key, progress=progress)
        best = int(np.argmin(np.where(np.isfinite(descent.final), descent.final, np.inf)))
        params = jax.tree.map(lambda leaf: leaf[best], descent.params)
        program = _program(self, model, structure, x, y)
        failures, warnings = list(descent.failures), list(descent.warnings)
        stats = {"loss": descent.losses}
        polished = False
        if self.polish and not failures and not warnings and structure.num_weights <= POLISH_WEIGHTS:
            params, decrement, polished = jax.device_get(program.polish(params, x, y))
            stats |= {"newton_decrement": np.asarray(decrement)} if polished else {}
        if not failures:
            failures += _no_mode(program, structure, params, descent.final[best], x, y)
        if not (polished or failures or warnings):
            warnings += _still_falling(descent.losses[best])
        if self.batch_size is None and not (polished or failures or warnings):
            warnings += _not_at_a_mode(program, params, x, y)
        weights = program.constrain(params)
        draws = {site: np.asarray(value)[None, None] for site, value in weights.items()}
        return Outcome(draws, Status(tuple(failures), tuple(warnings)), stats=stats)


@dataclass(frozen=True, kw_only=True)
class MLE(PointSettings):
    """Maximum likelihood, ``argmax_w log p(y | x, w)``: `MAP` under a flat prior. Settings as for `MAP`."""

    def run(
        self, model: NumPyroModel, structure: Structure, x: Rows, y: Rows, *, key: Array, progress: bool
    ) -> Outcome:
        """See `Method.run`."""
        return MAP(**vars(self)).run(flat(model), structure, x, y, key=key, progress=progress)


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
    def unconstrained(self) -> Weights:
        """Site -> value in unconstrained coordinates, shaped (restart, *shape)."""
        return _by_site(self.params)


def starting_points(
    settings: MAP, model: NumPyroModel, structure: Structure, x: Rows, y: Rows, *, key: Array
) -> Weights:
    """Where `descend` would begin: site -> value in unconstrained coordinates, shaped (restart, *shape)."""
    program = _program(settings, model, structure, x, y)
    return _by_site(program.params(program.start(key, x, y)))


def descend(
    settings: MAP,
    model: NumPyroModel,
    structure: Structure,
    x: Rows,
    y: Rows,
    validation: tuple[Rows, Rows] | None = None,
    *,
    key: Array,
    progress: bool,
) -> Descent:
    """Minimise the negative log density from every starting point, in blocks of steps."""
    num_rows, total = count_rows(x), settings.num_steps
    if settings.batch_size is not None and settings.batch_size > num_rows:
        raise ValueError(f"Expected batch_size to be at most {num_rows}, the rows to fit; got {settings.batch_size}.")
    program = _program(settings, model, structure, x, y)
    start = program.start(key, x, y)
    kept = (start, 0)
    watch = _Watch(program, validation, settings.patience) if validation else None

    per_epoch = program.steps_per_epoch(num_rows)
    shuffled = program.epochs_at_once(num_rows) * per_epoch

    def block(state: _State, begin: int, end: int) -> _State:
        if settings.batch_size is not None and begin % shuffled == 0:
            state = state._replace(order=program.shuffle(key, begin // per_epoch, x))
        return program.block(state, begin, end, x, y)

    def keep_going(state: _State, done: int) -> bool:
        nonlocal kept
        if not program.finite(state, done).any():
            return False
        kept = (state, done)
        return watch is None or watch.improving(state, done)

    run: Run[_State] = run_in_blocks(
        block,
        start,
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
    return Descent(params, losses, final, tuple(failures), tuple(warnings), run.ended == "interrupted")


class _State(NamedTuple):
    svi: Any
    losses: Array
    """(restart, step), divided by the number of rows."""
    order: Array
    """The rows in the order in which the epochs of the block use them; empty where all are used at once."""


class _Program:
    """SVI of one model, under one set of settings, for one shape of data: what is compiled once."""

    def __init__(self, settings: MAP, model: NumPyroModel, structure: Structure) -> None:
        self.settings, self.model, self.latents, self.observed = settings, model, structure.latents, structure.observed
        objective = per_row(model)
        schedule = optax.cosine_decay_schedule(LEARNING_RATE, settings.num_steps)
        guide = AutoDelta(objective, init_loc_fn=init_to_uniform)
        self.svi = SVI(
            objective,
            mask(guide, False),  # its log density is 0 at its own point; evaluating that would cost a log a weight
            settings.optimizer or optax.adam(schedule),
            Trace_ELBO(),
        )
        self.start = jax.jit(self._start)
        self.shuffle = jax.jit(self._shuffle)
        self.block = jax.jit(self._block)
        self.polish = jax.jit(self._polish)
        self.beyond = jax.jit(self._beyond)
        self.slope = jax.jit(jax.grad(self._loss))
        self.row_log_probs = jax.jit(self._row_log_probs)
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
        return {site: weights[_param(site)] for site in self.latents}

    def _start(self, key: Array, x: Rows, y: Rows) -> _State:
        keys = jax.random.split(jax.random.fold_in(key, STARTS), self.settings.num_restarts)

        def one(key: Array) -> Any:
            weights = starting_weights(self.model, self.latents, key, x, y, self.settings.init_strategy)
            values = {_param(site): value for site, value in weights.items()}
            return self.svi.init(key, x, y, count_rows(x), init_params=values)

        svi = jax.vmap(one)(keys) if len(keys) > 1 else _lift(one(keys[0]))
        losses = jnp.full((self.settings.num_restarts, self.settings.num_steps), jnp.nan, float)
        return _State(svi, losses, jnp.zeros(0, int))

    def _shuffle(self, key: Array, first: Array, x: Rows) -> Array:
        """The rows in the order in which the epochs from `first` on use them, batch by batch."""
        num_rows, key = count_rows(x), jax.random.fold_in(key, BATCHES)
        keys = jax.vmap(lambda epoch: jax.random.fold_in(key, epoch))(first + jnp.arange(self.epochs_at_once(num_rows)))
        orders = jax.vmap(lambda key: jax.random.permutation(key, num_rows))(keys)
        used = num_rows - num_rows % (self.settings.batch_size or num_rows)
        return orders[:, :used].reshape(-1)

    def _block(self, state: _State, begin: Array, end: Array, x: Rows, y: Rows) -> _State:
        if self.settings.num_restarts == 1:  # without the batching, XLA's code is faster
            single = state._replace(svi=_first(state.svi), losses=state.losses[0])
            single = self._steps(self._update, single, begin, end, x, y)
            return single._replace(svi=_lift(single.svi), losses=single.losses[None])
        return self._steps(jax.vmap(self._update, in_axes=(0, None, None, None)), state, begin, end, x, y)

    def _update(self, svi: Any, x: Rows, y: Rows, num_rows: int) -> tuple[Any, Array]:
        new, loss = self.svi.update(svi, x, y, num_rows)
        return new._replace(rng_key=svi.rng_key), loss  # no site is random: spares a split a step

    def _steps(self, update: Callable[..., Any], state: _State, begin: Array, end: Array, x: Rows, y: Rows) -> _State:
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

        svi, losses = jax.lax.fori_loop(begin, end, step, (state.svi, state.losses))
        return state._replace(svi=svi, losses=losses)

    def _loss(self, params: Weights, x: Rows, y: Rows) -> Array:
        """The objective divided by the number of rows, at unconstrained weights."""
        values = self.svi.constrain_fn(params)
        key = jax.random.key(0)  # a Delta guide draws nothing
        return self.svi.loss.loss(key, values, self.svi.model, self.svi.guide, x, y, count_rows(x))

    def _row_log_probs(self, params: Weights, x: Rows, y: Rows) -> Array:
        return row_log_probs(self.model, self._constrain(params), x, y, self.observed)

    def negative_log_likelihood(self, params: Weights, x: Rows, y: Rows) -> Array:
        """Of rows that the fit has not seen, in nats."""
        return -self._row_log_probs(params, x, y).sum()

    def _polish(self, params: Weights, x: Rows, y: Rows) -> tuple[Weights, Array, Array]:
        flat_params, unravel = ravel_pytree(params)
        u, decrement = newton(lambda u: self._loss(unravel(u), x, y), flat_params)
        return unravel(u), decrement * count_rows(x), jnp.isfinite(decrement)

    def _beyond(self, params: Weights, moving: dict[str, Array], x: Rows, y: Rows) -> tuple[Array, Array]:
        """The losses at the weights and at `RAY` times as far out, for every row of `moving`: sites that move."""

        def at(factor: Array, moves: dict[str, Array]) -> Array:
            moved = {name: jnp.where(moves[name], factor * value, value) for name, value in params.items()}
            return self._loss(moved, x, y)

        factors = jnp.array((1.0, *RAY))
        return jax.lax.map(lambda moves: jax.lax.map(lambda factor: at(factor, moves), factors), moving)


@lru_cache(maxsize=64)
def _cached_program(settings: MAP, model: NumPyroModel, structure: Structure, signature: Any) -> _Program:
    return _Program(settings, model, structure)


def _program(settings: MAP, model: NumPyroModel, structure: Structure, x: Rows, y: Rows) -> _Program:
    """The program for these settings, this model and these shapes: made once."""
    return _cached_program(settings, model, structure, signature((x, y)))


def starting_weights(
    model: NumPyroModel,
    latents: dict[str, tuple[int, ...]],
    key: Array,
    x: Rows,
    y: Rows,
    strategy: Callable[..., Any] | None = None,
) -> Weights:
    """Where an optimiser or a chain begins; see `init_strategy` in `MAP`.

    One normal draw serves all sites: a draw a site would take seconds to compile.
    """
    key_noise, key_model = jax.random.split(key)
    sizes = [math.prod(shape) for shape in latents.values()]
    parts = jnp.split(jax.random.normal(key_noise, (sum(sizes),)), np.cumsum(sizes)[:-1])
    noise = dict(zip(latents, parts, strict=True))

    def near_prior_mean(site: dict[str, Any]) -> Array | None:
        if not is_latent(site):
            return None
        d, shape, eps = site["fn"], site["fn"].shape(), noise[site["name"]]
        if is_real(d.support) and len(shape) >= 2:
            return eps.reshape(shape) / math.sqrt(math.prod(shape[:-1]))
        transform = biject_to(d.support)
        try:
            centre = transform.inv(jnp.broadcast_to(d.mean, shape))
        except NotImplementedError:
            centre = jnp.zeros(transform.inverse_shape(shape))
        centre = jnp.where(jnp.isfinite(centre), centre, 0.0)
        return transform(centre + START_NOISE * eps[: centre.size].reshape(centre.shape))

    started = substitute(seed(model, key_model), substitute_fn=strategy or near_prior_mean)
    sites = trace(started).get_trace(x, y)
    return {site: sites[site]["value"] for site in latents}


def _hold_out(fraction: float, key: Array, x: Rows, y: Rows) -> tuple[Rows, Rows, tuple[Rows, Rows] | None]:
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

    def __init__(self, program: _Program, validation: tuple[Rows, Rows], patience: int) -> None:
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


def _no_mode(program: _Program, structure: Structure, params: Weights, loss: float, x: Rows, y: Rows) -> list[str]:
    """Whether the classes are separable under a density that does not hold the weights back.

    The rule: every row is given a probability above one half, and the loss falls, and keeps falling, when all weights
    from some layer on are moved 10 and 1,000 times as far out. Then no finite weights minimise it (Albert & Anderson
    1984). A proper prior makes the loss rise on the way, so no fit with one is concerned.
    """
    num_rows = count_rows(x)
    if not structure.support.is_discrete or loss > num_rows * math.log(2):
        return []  # some row has a probability below one half, or there is no bound on it
    log_probs = np.asarray(program.row_log_probs(params, x, y))
    if not (log_probs > -math.log(2)).all():
        return []
    saturated = not log_probs.any()  # so far out that every probability is rounded to 1, and no loss falls any more
    names = [_param(site) for site in structure.latents if site in structure.real]
    tails = [names[i:] for i in range(len(names))]
    moving = {name: jnp.array([name in tail for tail in tails]) for name in params}
    losses = np.asarray(program.beyond(params, moving, x, y)) * num_rows
    for here, further, furthest in losses:
        if (further < here or saturated) and furthest <= further:
            return [says.NO_MODE.format(rows=num_rows, factor=RAY[0], here=here, further=abs(further))]
    return []


def _still_falling(losses: np.ndarray) -> list[str]:
    """Whether the loss fell by more than a nat, and by more than its noise, in the last tenth of the steps."""
    tenth = len(losses) // 10
    if tenth < 2:
        return []
    before, after = losses[-2 * tenth : -tenth], losses[-tenth:]
    gain = before.mean() - after.mean()
    noise = math.sqrt((before.var() + after.var()) / tenth)
    return [says.STILL_FALLING.format(gain=gain)] if gain > max(1.0, 3 * noise) else []


def _not_at_a_mode(program: _Program, params: Weights, x: Rows, y: Rows) -> list[str]:
    """Whether one weight alone, moved by 0.01, would still lower the loss by more than a tenth of a nat.

    A learning rate that has fallen to 0 stops the loss from falling wherever it is; its slope tells.
    """
    slopes = jax.tree.leaves(program.slope(params, x, y))
    gain = LEARNING_RATE * count_rows(x) * max(float(jnp.abs(slope).max(initial=0.0)) for slope in slopes)
    return [] if gain <= MAX_GAIN else [says.SLOPE.format(move=LEARNING_RATE, gain=gain)]


@lru_cache(maxsize=64)
def _check_optimizer(method: str, optimizer: Any) -> None:
    """Raise unless this is an optax optimiser that moves weights by their gradients alone."""
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


def _param(site: str) -> str:
    """The name under which AutoDelta keeps a site."""
    return f"{site}_auto_loc"


def _by_site(params: Weights) -> Weights:
    return {name.removesuffix("_auto_loc"): value for name, value in params.items()}
