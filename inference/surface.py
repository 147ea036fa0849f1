"""A density evaluated at points of weight space: values, slopes and curvature, compiled once."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.flatten_util import ravel_pytree

from .curvature import COLUMNS_TOGETHER, expected_loss, has_fisher_information, hessian, product
from .density import Density
from .devices import Spread, by_shard
from .gauss_newton import expected_hessian, is_by_rows
from .marginals import moments_of
from .processes import jit
from .programs import program
from .rows import Data, Weights

Curvature = Literal["ggn", "hessian"]
LBFGS_STEPS = 200
"""Steps of L-BFGS by which a fit whose density seems to grow without bound is continued."""


class Responses(NamedTuple):
    """The mean of y in each row at given weights, and how it moves with them."""

    observed: Array
    """y as the model observes it, in the shape of y; a number between the bounds where only these are known."""
    mean: Array
    """E[y | x, w]."""
    moves: Array
    """Its derivative as every weight moves by 1, up or down."""


class Surface:
    """The loss of a density at given points, and what is asked of its neighbourhood.

    Losses are those of `Density.loss`, divided by the number of rows. Points are in unconstrained coordinates,
    site -> value. Functions of rows take at most `rows_together` of them at a time, so that looking at all rows takes
    the memory of a few.

    Args:
        density: what is evaluated.
        rows_together: how many rows are evaluated together; None is all of them.
        spread: how the rows are spread over devices.
    """

    def __init__(self, density: Density, rows_together: int | None, spread: Spread | None = None) -> None:
        self.density, self.rows_together, self.shards = density, rows_together, spread.num_shards if spread else 1
        self._logits_shape: list[tuple[int, int] | None] = []
        self._part = jax.jit(density.loss, static_argnums=2)  # traced once for all functions of the same rows
        self.log_likelihood_and_loss = jit(self._log_likelihood_and_loss)
        self.value_and_slope = jit(jax.value_and_grad(self._loss_of_parts))
        self.lbfgs = jit(self._lbfgs)
        self.validation_loss = jit(jax.vmap(lambda u, data: -self._log_likelihood(u, data).sum(), in_axes=(0, None)))
        self.parameter_slopes = jit(self._parameter_slopes, static_argnums=0)
        self.constrain = jit(density.constrain)
        # What follows runs once or twice, on not too many rows: it is compiled in less time than fast code would be.
        once = partial(jit, compiler_options={"xla_backend_optimization_level": 0})
        self.logits = once(self._all_logits)
        self.logit_slopes = once(self._logit_slopes, static_argnums=0)
        self.nonlinearity = once(self._nonlinearity)
        self.reach = once(self._reach)
        self.prior_drops = once(density.prior_drops)
        self.responses = once(self._responses)

    def loss(self, u: Weights, data: Data, prior_power: Array | None = None) -> Array:
        """Return the loss; the program is that of `log_likelihood_and_loss`, so that one is compiled and not three."""
        return self.log_likelihood_and_loss(u, data, prior_power)[1]

    def log_likelihood(self, u: Weights, data: Data) -> Array:
        """Return what each row adds to the log density in nats, (n,)."""
        return self.log_likelihood_and_loss(u, data, None)[0]

    def by_site(self, data: Data) -> list[tuple["Surface", Data]]:
        """Return the surface of each observed site, with its data."""
        if len(self.density.structure.responses) == 1:
            return [(self, data)]
        return [(surface_of(part, some, self.rows_together), some) for part, some in self.density.by_site(data)]

    def logits_shape(self, u: Weights, data: Data) -> tuple[int, int] | None:
        """The shape of `logits`; None where y is no class, or its distribution has no logits. Traced once."""
        if not self._logits_shape:
            logits = jax.eval_shape(self._logits, u, data)
            self._logits_shape.append(None if logits is None else logits.shape)
        return self._logits_shape[0]

    def _loss(self, u: Weights, data: Data, prior_power: Array | None = None) -> Array:
        return self._part(u, data, data.num_rows, prior_power)

    def _loss_of_parts(self, u: Weights, data: Data, prior_power: Array | None = None) -> Array:
        """The loss, of which the gradient needs the memory of a few rows as well."""

        @jax.checkpoint
        def part(some: Data) -> Array:
            return jnp.full(some.num_rows, self._part(u, some, data.num_rows, prior_power))

        return self._by_rows(part, data).mean()

    def _by_rows(self, function: Callable[[Data], Any], data: Data) -> Any:
        """The values of a function at all rows, rows first, from a few rows at a time."""
        num_rows = data.num_rows
        size = self.rows_together or num_rows
        if size >= num_rows:
            return function(data)
        size = -(-num_rows // -(-num_rows // size))  # parts of about equal size: often there is no rest to be compiled
        if self.shards > 1:
            return self._by_rows_of_shards(function, data, -(-size // self.shards))
        some, rest = np.split(np.arange(num_rows), [num_rows - num_rows % size])
        parts = jax.lax.map(lambda rows: function(data.take(rows)), some.reshape(-1, size))
        values = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), parts)
        if not rest.size:
            return values
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), values, function(data.take(rest)))

    def _by_rows_of_shards(self, function: Callable[[Data], Any], data: Data, size: int) -> Any:
        """The values of a function at all rows, rows first, from a few rows of each shard at a time."""
        length = data.num_rows // self.shards
        some, rest = np.split(np.arange(length), [length - length % size])

        def of_each(rows: Array) -> Any:
            values = function(by_shard(data, jnp.broadcast_to(rows, (self.shards, len(rows)))))
            return jax.tree.map(lambda leaf: leaf.reshape(self.shards, len(rows), *leaf.shape[1:]), values)

        parts = jax.lax.map(of_each, some.reshape(-1, size))
        values = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1).reshape(self.shards, -1, *leaf.shape[3:]), parts)
        if rest.size:
            join = lambda *leaves: jnp.concatenate(leaves, axis=1)  # noqa: E731
            values = jax.tree.map(join, values, of_each(jnp.asarray(rest)))
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), values)

    def _log_likelihood(self, u: Weights, data: Data) -> Array:
        """Log p(y_i | x_i, w) of every row in nats, (n,)."""
        return self._by_rows(partial(self.density.log_likelihood, u), data)

    def _log_likelihood_and_loss(self, u: Weights, data: Data, prior_power: Array | None = None) -> tuple[Array, Array]:
        """Log p(y_i | x_i, w) of every row, (n,), and the loss."""

        def batch(some: Data) -> tuple[Array, Array]:
            loss = self._part(u, some, data.num_rows, prior_power)
            return self.density.log_likelihood(u, some), jnp.full(some.num_rows, loss)

        log_probs, losses = self._by_rows(batch, data)
        return log_probs, losses.mean()  # so that a batch has the weight of its rows

    def _lbfgs(self, u: Weights, data: Data, prior_power: Array | None = None) -> tuple[Weights, Array]:
        """Where `LBFGS_STEPS` steps of L-BFGS on all rows lead, and the loss there in nats."""
        optimizer, loss = optax.lbfgs(), lambda u: self._loss(u, data, prior_power)
        value_and_grad = optax.value_and_grad_from_state(loss)

        def step(_: Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
            u, state, best, lowest = carry
            value, grad = value_and_grad(u, state=state)
            lower = value < lowest
            best = jax.tree.map(lambda new, old: jnp.where(lower, new, old), u, best)
            updates, state = optimizer.update(grad, state, u, value=value, grad=grad, value_fn=loss)
            return optax.apply_updates(u, updates), state, best, jnp.where(lower, value, lowest)

        start = (u, optimizer.init(u), u, loss(u))
        _, _, best, lowest = jax.lax.fori_loop(0, LBFGS_STEPS, step, start)
        return best, lowest * data.num_rows

    def _responses(self, u: Weights, data: Data) -> "Responses":
        """What the fit predicts, and how that moves with the weights and with x; for a y with a mean."""
        signs = {
            site: jnp.sign(jnp.cos(jnp.arange(1.0, value.size + 1))).reshape(value.shape) for site, value in u.items()
        }

        def mean(u: Weights, data: Data) -> Array:
            return moments_of(self.density.observation(self.density.constrain(u, data), data))[0]

        def rows(data: Data) -> Responses:
            means, moves = jax.jvp(lambda u: mean(u, data), (u,), (signs,))
            observed = self.density.observed(self.density.constrain(u, data), data)
            return Responses(self.density.structure.response.points(observed), means, moves)

        return self._by_rows(rows, data)

    def _logits(self, u: Weights, data: Data) -> Array | None:
        """The logits of the classes, (n, classes), or of all tokens, (n T, classes); None where there are none."""
        if len(self.density.structure.responses) > 1:  # each has its own; see `by_site`
            return None
        weights = self.density.constrain(u, data)
        return self.density.structure.response.logits(self.density.observation(weights, data))

    def _all_logits(self, u: Weights, data: Data) -> Array | None:
        return self._by_rows(partial(self._logits, u), data)

    def _logit_slopes(self, sites: tuple[str, ...], u: Weights, data: Data) -> Array:
        """Derivatives of the logits by the weights of some sites, one after the other, (n, classes, weights)."""
        block, unravel = ravel_pytree([u[site] for site in sites])

        def slopes(data: Data) -> Array:
            return jax.jacfwd(lambda block: self._logits({**u, **dict(zip(sites, unravel(block), strict=True))}, data))(
                block
            )

        return self._by_rows(slopes, data)

    def _parameter_slopes(self, sites: tuple[str, ...], u: Weights, data: Data) -> Array:
        """Return the derivatives of the parameters of y by the weights of some sites, (parameters, weights).

        The parameters are those that NumPyro's distribution of y has, of all rows, one after the other.
        """
        block, unravel = ravel_pytree([u[site] for site in sites])

        def parameters(block: Array) -> Array:
            moved = {**u, **dict(zip(sites, unravel(block), strict=True))}
            distributions = self.density.observations(self.density.constrain(moved, data), data)
            leaves = [jnp.ravel(leaf) for leaf in jax.tree.leaves(distributions)]
            return jnp.concatenate([leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)])

        return jax.jacfwd(parameters)(block)

    def _reach(self, u: Weights, data: Data) -> Weights:
        """The derivatives of a sum of the parameters of y, in factors without a pattern: 0 for weights of no effect."""

        def total(u: Weights) -> Array:
            leaves = jax.tree.leaves(self.density.observations(self.density.constrain(u, data), data))
            real = [jnp.ravel(leaf) for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
            vector = jnp.concatenate(real)
            return vector @ jnp.cos(jnp.arange(1.0, vector.size + 1))

        return jax.grad(total)(u)

    def _nonlinearity(self, moving: dict[str, Array], u: Weights, data: Data) -> Array:
        """How far the logits are from linear in the sites that move, relative to how far a step takes them."""
        step = {
            site: jnp.where(moving[site], jnp.cos(jnp.arange(1.0, value.size + 1)).reshape(value.shape), 0.0)
            for site, value in u.items()
        }

        def moves(data: Data) -> tuple[Array, Array]:
            here, tangent = jax.jvp(lambda u: self._logits(u, data), (u,), (step,))
            there = self._logits(jax.tree.map(jnp.add, u, step), data)
            return jnp.abs(there - here - tangent), jnp.abs(tangent)

        off, along = self._by_rows(moves, data)
        return off.max() / jnp.maximum(along.max(), jnp.finfo(along.dtype).tiny)


def surface_of(density: Density, data: Data, rows_together: int | None = None) -> Surface:
    """The compiled functions of a density for these shapes of data: made once."""
    return program(Surface, density, data, rows_together, Spread.of(data))


class PotentialSurface:
    """The potential of a density, the negative log density over unconstrained coordinates, and how it curves.

    Points are vectors u. The functions take as a second argument a point by site, of which only the shapes matter.

    Args:
        density: what is evaluated.
        curvature: which matrix `curvature` is; see `Laplace`.
        by_rows: form the Gauss-Newton matrix row by row.
    """

    def __init__(self, density: Density, curvature: Curvature, by_rows: bool) -> None:
        self.is_gauss_newton = curvature == "ggn"

        @jax.jit  # traced once for all functions
        def potential(u: Array, like: Weights, data: Data) -> Array:
            return density.potential(by_site(u, like), data)

        def expected(u: Array, centre: Array, like: Weights, data: Data) -> Array:
            return expected_loss(density, by_site(u, like), by_site(centre, like), data)

        def gauss_newton(u: Array, like: Weights, data: Data) -> Array:
            if by_rows:
                return expected_hessian(density, by_site(u, like), data)
            return hessian(expected)(u, u, like, data)

        def constrain(u: Array, like: Weights, data: Data) -> Weights:
            return density.constrain(by_site(u, like), data)

        self.value_and_slope = jax.jit(jax.value_and_grad(potential))
        self.hessian = jax.jit(hessian(potential))
        self.product = jax.jit(product(potential))
        self.curvature = self.hessian if curvature == "hessian" else jax.jit(gauss_newton)
        self.constrain = jax.jit(jax.vmap(constrain, in_axes=(0, None, None)))
        self.values = jax.jit(lambda us, *args: jax.lax.map(lambda u: potential(u, *args), us))


def potential_surface_of(density: Density, data: Data, curvature: Curvature | None) -> PotentialSurface:
    """The compiled potential of a density for these shapes of data: made once.

    Args:
        density: what is evaluated.
        data: rows.
        curvature: None is "ggn" where the Fisher information of y is known, and "hessian" elsewhere.

    Raises:
        ValueError: when the Gauss-Newton matrix is asked for and the Fisher information is not known.
    """
    curvature = known_curvature(density, data, curvature)
    is_large = density.structure.num_weights > COLUMNS_TOGETHER  # else columns are compiled in less time
    by_rows = curvature == "ggn" and is_large and is_by_rows(density, data)
    return program(PotentialSurface, density, data, curvature, by_rows)


def known_curvature(density: Density, data: Data, curvature: Curvature | None) -> Curvature:
    """Return the curvature that is asked for, or the default; see `potential_surface_of`."""
    is_known = curvature == "hessian" or has_fisher_information(density, data)
    if curvature == "ggn" and not is_known:
        raise ValueError(
            f"Laplace: curvature='ggn' needs the Fisher information of the observed site "
            f"{', '.join(map(repr, density.structure.observed_sites))}, for which NumPyro has no KL divergence. Give "
            f"curvature='hessian'."
        )
    return curvature or ("ggn" if is_known else "hessian")


def by_site(u: Any, like: Any) -> Weights:
    """A vector of unconstrained coordinates, taken apart into sites of the shapes of others."""
    return ravel_pytree(like)[1](u)
