"""Leave-one-out scores of the rows of a fit, by importance sampling."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from threading import Lock
from typing import Any

import numpy as np
from scipy.special import logsumexp

from ..labels import labelled
from ..result import Fit
from .convergence import check_chains
from .scores import mean, standard_error

PARETO = "Estimated shape parameter"
"""The beginning of ArviZ's warning about a large Pareto k."""
FILTERS = Lock()
"""The filters of warnings are those of the process: two threads that change and restore them may leave them changed."""


def loo(fit: Fit, x: Any, y: Any, *, weights: Any = None) -> Any:
    """Estimate the leave-one-out elpd by Pareto-smoothed importance sampling (Vehtari, Gelman & Gabry 2017).

    Of several observed sites whole rows are left out; of one of them, ``loo(fit["a"], x, y["a"])``, the value of this
    site alone, given all others of its row.

    Args:
        fit: a fit of kind "chain".
        x: the training rows of the fit.
        y: the training rows of the fit.
        weights: their weights, where they were fitted with weights. Of a row of weight w one of w equal rows is left
            out, or all of it where w < 1; ``elpd_i`` is that of one row, and ``elpd`` their sum times the weights.

    Returns:
        ArviZ's `ELPDData`, pointwise, with Pareto's k of each row in ``pareto_k``: above 0.7 the estimate of that row
        is unreliable, and ArviZ warns. `arviz.compare` takes several of them by name.

    Raises:
        ValueError: when the fit is not of kind "chain", or these are not its rows, in their order.
    """
    import arviz_base

    check_chains(fit, "loo")
    if fit.counts is not None and fit.counts.weight is not None and weights is None:
        raise TypeError("loo: expected the weights of the rows, since they were fitted with weights; got none.")
    if fit.was_fitted_to(x, y, weights) is False:
        raise ValueError(
            "loo: expected the rows of the fit, in the order in which they were fitted; got others. LOO estimates from "
            "the rows of a fit how well it predicts others; compare({...}, x, y) measures it on these."
        )
    import arviz_stats  # a third of the time of importing this library, which only chains need

    x, y, row_weights = labelled(x, y, weights).scored
    log_probs = fit.log_likelihood(x, y)
    parts = log_probs if row_weights is None else _left_out(row_weights) * log_probs
    rows = arviz_base.from_dict({"log_likelihood": {"rows": parts}}, dims={"rows": ["row"]})
    tree = fit.to_datatree()
    tree["log_likelihood"] = rows["log_likelihood"]
    result = arviz_stats.loo(tree, pointwise=True)  # type: ignore[attr-defined]
    return result if row_weights is None else _weighted(result, log_probs, row_weights)


def _left_out(weights: np.ndarray) -> np.ndarray:
    """Return what is left out of each row: one of the equal rows that it counts as, or all of it."""
    return np.minimum(weights, 1.0).astype(float)


def _weighted(result: Any, log_probs: np.ndarray, weights: np.ndarray) -> Any:
    """Return an `ELPDData` of rows, of which the parts `_left_out` were left out, for rows that count as their weights.

    The sums and their standard error are those of rows that occur as often as they count.
    """
    elpd_i, count = result.elpd_i / _left_out(weights), math.prod(log_probs.shape[:2])
    known = logsumexp(log_probs, axis=(0, 1)) - math.log(count)
    total = float(weights.sum(dtype=float))
    return replace(
        result,
        elpd=float(weights @ elpd_i.to_numpy()),
        se=total * standard_error(elpd_i.to_numpy(), weights),
        p=float(weights @ (known - elpd_i.to_numpy())),
        n_data_points=total,
        elpd_i=elpd_i,
    )


def leave_one_out(fits: Sequence[Fit], x: Any, y: Any, weights: Any = None) -> tuple[dict[str, float], str]:
    """Return the scores in nats per row, the mean over fits, and a note on Pareto's k."""
    with FILTERS, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=PARETO)  # the note has it, with the row
        results = [loo(fit, x, y, weights=weights) for fit in fits]
    row_weights = labelled(x, y, weights).scored[2]
    rows = np.mean([result.elpd_i.values for result in results], axis=0)
    k = np.max([result.pareto_k.values for result in results], axis=0)
    limit = min(result.good_k for result in results)
    scores = {"elpd_loo": mean(rows, row_weights), "elpd_loo_se": standard_error(rows, row_weights)}
    worst = f"Pareto's k is at most {k.max():.2f}, in row {k.argmax()} of the fit"
    if (k > limit).any():
        worst += f", and above {limit:.2f} in {(k > limit).sum()} of {len(k)} rows: LOO is unreliable there"
    return scores, f"{worst}."
