"""Laplace's evidence as a function of the values of some sites, such as the scale of a prior, and its gradient."""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from ..density import Density
from ..handlers import conditioned
from ..programs import program
from ..rows import Data, Weights, in_double
from ..second_order import as_vector
from ..status import Status
from ..surface import PotentialSurface, potential_surface_of
from .climb import climb_to_mode
from .descent import descend
from .laplace import MAX_DECREMENT, MAX_WEIGHTS, Laplace


class Evaluation(NamedTuple):
    """The evidence at one set of values."""

    log_evidence: float
    """Log p(y | x, values) in nats, by Laplace's approximation; NaN where there is no Gaussian around the mode."""
    gradient: Float[np.ndarray, " k"]
    """Its derivatives by the logs of the values."""
    mode: Float[np.ndarray, " d"]
    """The mode of the other sites, in unconstrained coordinates."""
    decrement: float
    """The Newton decrement at the mode, in nats."""

    @property
    def is_exact(self) -> bool:
        """Whether the mode was reached, so that gradient and evidence are those of one function."""
        return self.decrement <= MAX_DECREMENT and math.isfinite(self.log_evidence)


class Evidence:
    """Laplace's log evidence of a model given the values s of some positive sites, ``log p(y | x, s)``.

    At the mode u*(s) of the other sites it is ``-U(u*, s) + d/2 log 2 pi - 1/2 log det H(u*, s)``, with the potential U
    and its curvature H. The mode is found anew for each s, and moves by ``du*/ds = -(d^2 U / du^2)^-1 d^2 U / du ds``
    (the implicit function theorem); with that, the gradient is exact, that of the determinant included (MacKay 1992,
    section 5, where H does not depend on u; Immer et al. 2021, section 3.1). All is computed in float64.

    Args:
        density: the density of all sites.
        data: n rows.
        sites: the sites that have values, which are positive numbers.
        settings: the `MAP` run that finds the neighbourhood of the first mode, and the curvature.
        start: the values at which it is found, (k,).
        key: the key of that run.
        progress: show its progress bar.

    Raises:
        ValueError: when the prior of another site is flat, or there are too many.
    """

    def __init__(
        self,
        density: Density,
        data: Data,
        sites: tuple[str, ...],
        settings: Laplace,
        start: Float[np.ndarray, " k"],
        *,
        key: Array,
        progress: bool,
    ) -> None:
        rest = Density(conditioned(density.model), density.structure.given(sites))
        rest.structure.check_proper("tune", improper_ok=False)
        if rest.structure.num_weights > MAX_WEIGHTS:
            raise ValueError(
                f"tune: expected at most {MAX_WEIGHTS:,} weights for by='evidence', whose memory grows with their "
                f"square; got {rest.structure.num_weights:,}. Use by='held-out'."
            )
        data = replace(data, fixed=_values(sites, jnp.asarray(np.log(start), float)))
        self.sites, self.surface = sites, potential_surface_of(rest, data, settings.curvature)
        self.compiled = program(_Gradient, rest, data, sites, self.surface)
        descent = descend(settings.base, rest, data, key=key, progress=progress)
        self.status: Status = descent.status
        with jax.enable_x64(True):
            self.like, self.data = jax.tree.map(in_double, (descent.member(descent.best), data))
            self.first = as_vector(self.like)
        self.known: list[tuple[np.ndarray, Evaluation]] = []
        """The logs of the values so far, and the evaluations there."""

    def at(self, log_values: Float[np.ndarray, " k"]) -> Evaluation:
        """Return the evidence at values, given by their logs; the mode is sought from that of the nearest values."""
        nearest = min(self.known, key=lambda known: float(np.abs(known[0] - log_values).sum()), default=None)
        begin = self.first if nearest is None else nearest[1].mode
        with jax.enable_x64(True):
            theta = jnp.asarray(log_values, float)
            data = replace(self.data, fixed=_values(self.sites, theta))
            mode = climb_to_mode(self.surface, begin, self.like, data)
            value, gradient, decrement = jax.device_get(self.compiled.evaluate(theta, mode, self.like, data))
        evaluation = Evaluation(float(value), np.asarray(gradient), mode, float(decrement))
        if evaluation.is_exact:
            self.known.append((np.array(log_values), evaluation))
        return evaluation


def _values(sites: tuple[str, ...], log_values: Array) -> Weights:
    return {site: jnp.exp(log_value) for site, log_value in zip(sites, log_values, strict=True)}


class _Gradient:
    """The evidence at a mode, and its gradient, compiled."""

    def __init__(self, density: Density, sites: tuple[str, ...], surface: PotentialSurface) -> None:
        def log_evidence(theta: Array, u: Array, like: Weights, data: Data) -> tuple[Array, tuple[Array, Array]]:
            data = replace(data, fixed=_values(sites, theta))
            _, slope = surface.value_and_slope(u, like, data)
            step = jnp.linalg.solve(jax.lax.stop_gradient(surface.hessian(u, like, data)), slope)
            mode = u - step  # in its value a step that hardly matters, in its derivative that of the mode
            lowest, _ = surface.value_and_slope(mode, like, data)
            root = jnp.linalg.cholesky(surface.curvature(mode, like, data))  # NaN where it is not positive definite
            log_det = 2 * jnp.log(jnp.diagonal(root)).sum()
            value = -lowest + u.size * math.log(2 * math.pi) / 2 - log_det / 2
            return value, (value, jnp.abs(slope @ step) / 2)

        def evaluate(theta: Array, *at: Any) -> tuple[Array, Array, Array]:
            gradient, (value, decrement) = jax.jacfwd(log_evidence, has_aux=True)(theta, *at)
            return value, gradient, decrement

        self.evaluate = jax.jit(evaluate)
