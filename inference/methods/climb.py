"""A trust region, from the neighbourhood of a mode to the mode."""

import math
from typing import Any

import jax
import numpy as np
from scipy.optimize import minimize

from ..surface import PotentialSurface

MAX_STEPS = 200
"""The largest number of steps of the trust region from the end point of the base to the mode."""
DENSE_WEIGHTS = 256
"""The largest number of weights for which each of these steps forms the Hessian; for more, only products with it."""
SMALL_SLOPE = 1e-6
"""The length of the gradient, in nats, at which the mode is reached."""


def climb_to_mode(surface: PotentialSurface, u: np.ndarray, *rows: Any) -> np.ndarray:
    """Return the mode near u by a trust region, or the point reached after `MAX_STEPS` steps."""

    def value_and_slope(u: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = jax.device_get(surface.value_and_slope(u, *rows))
        return (float(value), slope) if np.isfinite(value) else (math.inf, np.zeros_like(u))

    def hessian(u: np.ndarray) -> np.ndarray:
        h = np.asarray(surface.hessian(u, *rows))
        return h if np.isfinite(h).all() else np.eye(len(u))  # a gradient step, where there is no second derivative

    def product(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        hv = np.asarray(surface.product(u, v, *rows))
        return hv if np.isfinite(hv).all() else v

    settings: dict[str, Any] = {"method": "trust-exact", "hess": hessian}
    if len(u) > DENSE_WEIGHTS:
        settings = {"method": "trust-krylov", "hessp": product}
    options = {"gtol": SMALL_SLOPE, "maxiter": MAX_STEPS, "max_trust_radius": 1e4}
    return minimize(value_and_slope, u, jac=True, options=options, **settings).x
