"""What a model predicts at each draw of the weights and each row: log probabilities, classes and moments."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax import Array
from jaxtyping import Float

from .chunks import Summary, over_rows, over_rows_in_double
from .density import Density
from .marginals import moments_of
from .mixture import by_row
from .rows import Data, Weights
from .status import warn_of_nan
from .stored import in_parts


def log_likelihood(density: Density, draws: Weights, data: Data) -> np.ndarray:
    """Return log p(y_i | x_i, w_s) in nats, (draw, n), times the weight of the row where rows have weights."""
    if not density.is_weighted(data):
        return log_probs_over_rows(by_row, density, draws, data).T
    first, *rest = (
        log_probs_over_rows(by_row, part, draws, some).T * row_weights(part, draws, some)
        for part, some in density.by_site(data)
    )
    return sum(rest, first)


def row_weights(density: Density, draws: Weights, data: Data) -> np.ndarray:
    """Return the weight of each row in the density, (n,), or 1; it does not depend on the draw.

    Raises:
        ValueError: when a row has different weights at several observed sites.
    """
    if not density.is_weighted(data):
        return np.ones((), jax.dtypes.canonicalize_dtype(float))
    draw = {site: value[:1] for site, value in draws.items()}
    by_site = [
        over_rows(Density.row_weights, by_row, part, draw, some)[:, 0]
        for part, some in density.by_site(replace(data, y=None, known=None))
    ]
    if any((weights != by_site[0]).any() for weights in by_site):
        raise ValueError(
            f"log_prob: expected each row to have one weight, since the sites of a row share a draw; the model weights "
            f"{', '.join(map(repr, sorted(density.structure.weighted)))} by numpyro.handlers.scale, and not all sites "
            f"alike. Ask for one site, or for log_likelihood, which is a sum over sites for each draw."
        )
    return by_site[0]


def log_probs_over_rows(summary: Summary, density: Density, draws: Weights, data: Data) -> np.ndarray:
    """Return a summary over draws of log p(y_i | x_i, w_s) in nats, rows first.

    Where y has probabilities or densities that cancel in float32, the model and the summary are evaluated in float64,
    at the given draws and rows; the result has the default precision.

    Warns:
        PrecisionWarning: where that is not possible, as for a network that fixes the type of its state.
        UndefinedPredictionWarning: when the result is NaN in some rows although the draws are finite.
    """
    evaluate = over_rows_in_double if density.structure.response.needs_double else over_rows
    return warn_if_nan(evaluate(Density.row_log_probs, summary, density, draws, data), draws)


def class_log_probs(density: Density, weights: Weights, data: Data) -> Float[Array, "n *t k"]:
    """Return log p(y = k | x, w), (n, num_classes), or that of each token, (n, T, num_classes)."""
    return density.structure.response.class_log_probs(density.observation(weights, data))


def moments(density: Density, weights: Weights, data: Data) -> tuple[Array, Array]:
    """Return E[y | x, w] and Var[y | x, w] in the shape of y."""
    return moments_of(density.observation(weights, data))


def warn_if_nan(values: Any, draws: Weights) -> Any:
    """Return the values, and warn about rows that are NaN, unless the draws are: the status of the fit reports that."""
    for leaf in jax.tree.leaves(values):
        with np.errstate(all="ignore"):
            if not np.isnan(leaf.sum()):  # one pass without a temporary; only suspects are examined closely
                continue
        rows = np.isnan(leaf).reshape(len(leaf), -1).any(axis=1)
        if rows.any() and all(np.isfinite(part).all() for value in draws.values() for _, part in in_parts(value)):
            warn_of_nan(rows)
            break
    return values
