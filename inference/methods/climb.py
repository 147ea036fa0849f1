"""From the neighbourhood of a mode of a potential to the mode."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from scipy.optimize import minimize

from ..newton import Derivatives, is_hopeless, minimise
from ..second_order import FEW_WEIGHTS, GAUSS_NEWTON_WEIGHTS, HESSIAN_WEIGHTS
from ..surface import PotentialSurface

MAX_STEPS = 300
"""The largest number of steps from the end point of the base to the mode."""
DENSE_WEIGHTS = GAUSS_NEWTON_WEIGHTS
"""The largest number of weights for which steps form a matrix; for more, only products with it."""
ENOUGH, DIGITS = 1e-3, 1e-6
"""The Newton decrement in nats at which steps by Gauss-Newton matrices end, and those by Hessians: see `minimise`."""
SMALL_SLOPE = 1e-6
"""The length of the gradient, in nats, at which a mode counts as reached by products."""


def climb_to_mode(surface: PotentialSurface, u: np.ndarray, *rows: Any) -> np.ndarray:
    """Return the mode near u by Newton's method, or the point that it has reached where it does not arrive.

    A network linearised on the way to a mode predicts better than one linearised where the optimiser ended: of nine
    fits to UCI data six were 0.1 to 1.0 nats per row better, and three worse, whose modes fit the noise.

    Args:
        surface: the potential.
        u: a point, (d,).
        rows: the other arguments of its functions.
    """
    if len(u) > DENSE_WEIGHTS:
        return _by_products(surface, u, *rows)
    is_large = len(u) > HESSIAN_WEIGHTS

    def steps(curvature: Callable[..., Any], u: np.ndarray, enough: float, *, is_positive: bool) -> np.ndarray:
        return minimise(
            lambda u: _value_and_slope(surface, u, *rows)[0],
            lambda u: Derivatives.of(*_value_and_slope(surface, u, *rows), curvature(u, *rows)),
            u,
            max_steps=MAX_STEPS,
            keep_going=lambda decrements: not (is_large and is_hopeless(decrements)),
            enough=enough,
            is_positive=is_positive,
        ).u

    if surface.is_gauss_newton and len(u) > FEW_WEIGHTS:
        u = steps(surface.curvature, u, ENOUGH, is_positive=True)
        if is_large:
            return u
    return steps(surface.hessian, u, DIGITS, is_positive=False)


def _value_and_slope(surface: PotentialSurface, u: np.ndarray, *rows: Any) -> tuple[float, np.ndarray]:
    value, slope = jax.device_get(surface.value_and_slope(u, *rows))
    return (float(value), slope) if np.isfinite(value) else (math.inf, np.zeros_like(u))


def _by_products(surface: PotentialSurface, u: np.ndarray, *rows: Any) -> np.ndarray:
    """Return the mode near u by a trust region, or the point reached after `MAX_STEPS` steps."""

    def product(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        hv = np.asarray(surface.product(u, v, *rows))
        return hv if np.isfinite(hv).all() else v  # a gradient step, where there is no second derivative

    options = {"gtol": SMALL_SLOPE, "maxiter": MAX_STEPS, "max_trust_radius": 1e4}
    value_and_slope = lambda u: _value_and_slope(surface, u, *rows)  # noqa: E731
    return minimize(value_and_slope, u, jac=True, hessp=product, method="trust-krylov", options=options).x
