"""Units and priors that do not fit the data: the causes of wrecks that no other check names.

- **Raw units.** Some column of x or y is far from numbers of about 1, and the model does not make up for it: y is far
  beyond what weights that move by 1 change in the predictions, or a single step of the optimiser throws these far
  beyond the range of y. What the model predicts decides, not the data alone: a model that standardises x and y itself
  has no such problem.
- **Saturated units.** Where x is in raw units, the units of a network may all be at their ends, where the gradient is
  0 and so looks like a mode: a small move of x changes hardly any prediction, and a linear least squares fit is better.
- **A prior in conflict with the data** (Box 1980; Evans & Moshonov 2006). If the prior is right, twice the nats by
  which the log prior drops from its mean to the mode follow, for Normal priors, at most a chi-squared distribution with
  a degree of freedom for each weight. For a y that is no class, the same holds with the nats of log likelihood that the
  prior costs added to those of all sites, since both together are what the data say against the prior.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from scipy.special import gammainccinv

from ..density import Density
from ..kept import widened
from ..processes import readable
from ..reasons import Code, Reason
from ..rows import Data, Rows, Weights
from ..structure import Structure
from ..surface import Surface, surface_of
from .heads import first
from .optimizer import LEARNING_RATE

RAW = 30.0
"""The factor by which the mean or the standard deviation of a column in raw units differs from 1."""
FAR = 100.0
"""The distance of y from the predictions, in moves of these as all weights move by 1, that is out of reach."""
SMALL = 0.1
"""The move of x, in standard deviations, that changes the predictions of a network unless it is saturated."""
STEEP = 3.0
"""The move of predictions by one step of the optimiser, in standard deviations of y, that leaves no way to fit."""
SAMPLED_ROWS = 10_000
"""The largest number of rows from which units are judged."""
RARE = 1e-6
"""The probability, if the prior is right, of weights that are counted as in conflict with it."""
FEW_ROWS = 2
"""The number of rows per weight below which a network fits the noise of numbers, which needs large weights."""
OF_NOISE = (
    " With few rows per weight a network fits their noise as well, by weights that are too large: fix the scale of y, "
    "no smaller than the errors that matter, give a validation_fraction, or use MCLMC, which averages over such fits."
)


def raw_units(surface: Surface, u: Weights, data: Data) -> tuple[Reason, ...]:
    """Return a reason if x or y are in raw units, and too far from the model's for a descent that ended at u."""
    some = _sampled(data)
    of_y = [
        (its.points(rows), name) for name, its, rows in surface.density.structure.by_site(some.y) if not its.is_discrete
    ]
    found = [_rawest_column(rows, name) for rows, name in ((some.x, "x"), *of_y)]
    raw = max((each for each in found if each is not None), key=lambda each: each["factor"], default=None)
    if raw is None or not any(_is_out_of_reach(part, u, rows) for part, rows in surface.by_site(data)):
        return ()
    return (Reason.of(Code.UNITS, **raw),)


def _is_out_of_reach(surface: Surface, u: Weights, data: Data) -> bool:
    """Return whether y is far beyond what the weights change in its mean, or a step throws this far beyond y."""
    if not surface.density.structure.response.has_moments:
        return False
    with np.errstate(all="ignore"):
        at = jax.tree.map(lambda leaf: np.asarray(leaf, float), surface.responses(u, data))
        far, move = _size(at.observed - at.mean), _size(at.moves)
        is_steep = not LEARNING_RATE * move <= STEEP * at.observed.std(axis=0).max()
    return far > FAR * move or is_steep


def saturated(surface: Surface, u: Weights, data: Data) -> tuple[Reason, ...]:
    """Return a reason if a network ended with saturated units, since x is in raw units."""
    return first(_saturated(part, u, some) for part, some in surface.by_site(data))


def _saturated(surface: Surface, u: Weights, data: Data) -> tuple[Reason, ...]:
    """Return a reason as `saturated` does, by one observed site."""
    response = surface.density.structure.response
    if response.is_discrete or not response.has_moments:
        return ()
    data = _sampled(data)
    raw = _rawest_column(data.x, "x")
    if raw is None:
        return ()
    columns = _columns(data.x)
    if 2 * columns.shape[1] >= len(columns):
        return ()
    moved = jax.tree.map(lambda leaf: leaf + SMALL * np.std(leaf, axis=0) if _is_real(leaf) else leaf, data.x)
    here, there = (jax.device_get(surface.responses(u, replace(data, x=x))) for x in (data.x, moved))
    y, means, others = (np.reshape(leaf, (len(columns), -1)).astype(float) for leaf in (here[0], here[1], there[1]))
    spread = y.std(axis=0)
    if not (np.median(np.abs(others - means), axis=0) < SMALL**2 * spread).all():
        return ()
    design = np.column_stack([np.ones(len(columns)), (columns - columns.mean(axis=0)) / columns.std(axis=0)])
    best = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    times = float(((y - means) ** 2).mean() / ((y - best) ** 2).mean())
    return (Reason.of(Code.SATURATED_UNITS, times=times, **raw),) if times > 2 else ()


def _sampled(data: Data) -> Data:
    """Return at most `SAMPLED_ROWS` rows, evenly spaced, so that a look at large data takes little time and memory."""
    step = -(-data.num_rows // SAMPLED_ROWS)
    return data.with_rows(readable(data.rows)) if step == 1 else data.take(np.arange(0, data.num_rows, step))


def _columns(x: Rows) -> np.ndarray:
    """Return the columns of x that are real numbers and vary, (n, columns)."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(x)]
    real = [leaf.reshape(len(leaf), -1).astype(float) for leaf in leaves if _is_real(leaf)]
    columns = np.concatenate([np.empty((len(leaves[0]), 0)), *real], axis=1)
    return columns[:, columns.std(axis=0) > 0]


def _is_real(leaf: Any) -> bool:
    return bool(np.issubdtype(leaf.dtype, np.floating))


def _size(values: np.ndarray) -> float:
    return float(np.sqrt((values**2).mean()))


def _rawest_column(rows: Rows, name: str) -> dict[str, Any] | None:
    """Return name, mean and standard deviation of the column furthest from numbers of about 1; None if none is raw."""
    worst, raw = RAW, None
    for path, leaf in jax.tree.leaves_with_path(rows):
        if not _is_real(leaf) or not np.size(leaf):
            continue
        columns = np.asarray(leaf, float).reshape(len(leaf), -1)
        mean, sd = columns.mean(axis=0), columns.std(axis=0)
        factor = np.maximum(np.maximum(np.abs(mean), sd), 1 / np.where(sd > 0, sd, 1.0))
        i = int(factor.argmax())
        if factor[i] > worst:
            where = f"{name}{jax.tree_util.keystr(path)}" + (f", column {i}," if columns.shape[1] > 1 else "")
            worst, raw = float(factor[i]), {"where": where, "mean": mean[i], "sd": sd[i], "factor": float(factor[i])}
    return raw


def prior_conflict(surface: Surface, u: Weights, data: Data, likelihood_lost: float = 0.0) -> tuple[Reason, ...]:
    """Return a reason if the prior and the data disagree.

    Args:
        surface: the density.
        u: its mode.
        data: n rows.
        likelihood_lost: the log likelihood of its maximum minus that of the mode, in nats.
    """
    structure = surface.density.structure
    drops = jax.device_get(surface.prior_drops(surface.constrain(u, data), data))
    has_numbers = any(not response.is_discrete for response in structure.responses)
    fits_noise = structure.exchangeable and has_numbers and data.num_rows < FEW_ROWS * structure.num_weights
    return _conflict(drops, structure, likelihood_lost, OF_NOISE if fits_noise else "")


def prior_conflict_of_chains(density: Density, draws: Mapping[str, np.ndarray], data: Data) -> tuple[Reason, ...]:
    """Return a reason if the prior and the data disagree, by the mean over chains at their last draws."""
    surface, num_chains = surface_of(density, data), len(next(iter(draws.values())))
    last = [{site: widened(value[i, -1]) for site, value in draws.items()} for i in range(num_chains)]
    drops = [jax.device_get(surface.prior_drops(weights, data.few())) for weights in last]
    return _conflict(jax.tree.map(lambda *each: np.mean(each), *drops), density.structure)


def _conflict(
    drops: Mapping[str, np.ndarray], structure: Structure, likelihood_lost: float = 0.0, aside: str = ""
) -> tuple[Reason, ...]:
    """Return a reason if log priors have dropped too far, in nats by site, for the numbers of weights."""
    sizes = {site: size for site in drops if (size := math.prod(structure.latents[site]))}
    if not sizes:
        return ()
    site = max(sizes, key=lambda site: drops[site] / _limit(sizes[site]))
    limit, total = _limit(sizes[site]), float(sum(drops.values())) + likelihood_lost
    if drops[site] > limit:
        evidence = (
            f"the log prior of {site} is {drops[site]:.4g} nats below that at its mean (under a Normal prior, weights "
            f"of {math.sqrt(2 * drops[site] / sizes[site]):.3g} prior standard deviations, root mean square)"
        )
        numbers = {"limit": limit, "site": site, "drop": float(drops[site])}
        return (Reason.of(Code.PRIOR_CONFLICT, evidence=evidence, aside=aside, **numbers),)
    if likelihood_lost > 0 and total > (limit := _limit(sum(sizes.values()))):
        of_prior = total - likelihood_lost
        evidence = f"the prior costs {likelihood_lost:.4g} nats of log likelihood and {of_prior:.4g} of log prior"
        return (Reason.of(Code.PRIOR_CONFLICT, evidence=evidence, aside=aside, limit=limit, site=None, drop=total),)
    return ()


def _limit(num_weights: int) -> float:
    """Return the nats above which weights are in conflict with their prior.

    They are rare, and the weights two standard deviations out, root mean square: many weights that are a little wider
    than their prior are no conflict.
    """
    return max(float(gammainccinv(num_weights / 2, RARE)), 2.0 * num_weights)
