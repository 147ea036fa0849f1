"""Units and priors that do not fit the data: the causes of wrecks that no other check names.

- **Raw units.** Some column of x or y is far from numbers of about 1, and the model does not make up for it: y is far
  beyond what weights that move by 1 change in the predictions, or a single step of the optimiser throws these far
  beyond the range of y. What the model predicts decides, not the data alone: a model that standardises x and y itself
  has no such problem.
- **A prior in conflict with the data** (Box 1980; Evans & Moshonov 2006). If the prior is right, twice the nats by
  which the log prior drops from its mean to the mode follow, for Normal priors, at most a chi-squared distribution with
  a degree of freedom for each weight. For a y that is no class, the same holds with the nats of log likelihood that the
  prior costs added to those of all sites, since both together are what the data say against the prior.
"""

import math

import jax
import numpy as np
from scipy.special import gammainccinv

from ..reasons import Code, Reason
from ..rows import Data, Weights
from ..surface import Surface
from .optimizer import LEARNING_RATE

RAW = 30.0
"""The factor by which the mean or the standard deviation of a column in raw units differs from 1."""
FAR = 100.0
"""The distance of y from the predictions, in moves of these as all weights move by 1, that is out of reach."""
STEEP = 3.0
"""The move of predictions by one step of the optimiser, in standard deviations of y, that leaves no way to fit."""
RARE = 1e-6
"""The probability, if the prior is right, of weights that are counted as in conflict with it."""


def raw_units(surface: Surface, u: Weights, data: Data) -> tuple[Reason, ...]:
    """Return a reason if x or y are in raw units, and too far from the model's for a descent that ended at u."""
    response, raw = surface.density.structure.response, _rawest_column(surface, data)
    if raw is None or not response.has_moments:
        return ()
    with np.errstate(all="ignore"):
        found = jax.tree.map(lambda leaf: np.asarray(leaf, float), surface.responses(u, data))
        far, move = _size(found.observed - found.mean), _size(found.moves)
        is_steep = not LEARNING_RATE * move <= STEEP * max(found.observed.std(axis=0).max(), 1e-30)
    return (Reason.of(Code.UNITS, **raw),) if far > FAR * move or is_steep else ()


def _size(values: np.ndarray) -> float:
    return float(np.sqrt((values**2).mean()))


def _rawest_column(surface: Surface, data: Data) -> dict[str, object] | None:
    """Return name, mean and standard deviation of the column furthest from numbers of about 1; None if none is raw."""
    worst, raw = RAW, None
    is_discrete = surface.density.structure.response.is_discrete
    for name, rows in (("x", data.x), ("y", None if is_discrete else data.y)):
        for path, leaf in jax.tree.leaves_with_path(rows):
            values = np.asarray(leaf)
            if values.dtype.kind != "f":
                continue
            columns = values.reshape(len(values), -1).astype(float)
            mean, sd = columns.mean(axis=0), columns.std(axis=0)
            largest = np.maximum(np.abs(mean), sd)
            factor = np.maximum(largest, np.where(sd > 0, 1 / np.where(sd > 0, sd, 1.0), 0.0))
            i = int(factor.argmax())
            if factor[i] > worst:
                where = f"{name}{jax.tree_util.keystr(path)}" + (f", column {i}," if columns.shape[1] > 1 else "")
                worst, raw = float(factor[i]), {"where": where, "mean": mean[i], "sd": sd[i]}
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
    drops = {site: float(drop) for site, drop in jax.device_get(surface.prior_drops(u, data)).items()}
    return conflict(drops, {site: math.prod(structure.latents[site]) for site in drops}, likelihood_lost)


def conflict(drops: dict[str, float], sizes: dict[str, int], likelihood_lost: float = 0.0) -> tuple[Reason, ...]:
    """Return a reason if log priors have dropped too far, in nats by site, for the numbers of weights."""
    if not drops:
        return ()
    site = max(drops, key=lambda site: drops[site] / _limit(sizes[site]))
    limit, total = _limit(sizes[site]), sum(drops.values()) + likelihood_lost
    if drops[site] > limit:
        evidence = (
            f"the log prior of {site} is {drops[site]:.4g} nats below that at its mean (under a Normal prior, weights "
            f"of {math.sqrt(2 * drops[site] / sizes[site]):.3g} prior standard deviations, root mean square)"
        )
        return (Reason.of(Code.PRIOR_CONFLICT, evidence=evidence, limit=limit, site=site, drop=drops[site]),)
    if likelihood_lost > 0 and total > (limit := _limit(sum(sizes.values()))):
        of_prior = total - likelihood_lost
        evidence = f"the prior costs {likelihood_lost:.4g} nats of log likelihood and {of_prior:.4g} of log prior"
        return (Reason.of(Code.PRIOR_CONFLICT, evidence=evidence, limit=limit, site=None, drop=total),)
    return ()


def _limit(num_weights: int) -> float:
    """Return the nats above which weights are in conflict with their prior.

    They are rare, and the weights two standard deviations out, root mean square: many weights that are a little wider
    than their prior are no conflict.
    """
    return max(float(gammainccinv(num_weights / 2, RARE)), 2.0 * num_weights)
