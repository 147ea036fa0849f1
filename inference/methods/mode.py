"""Checks that a mode exists.

The maximum of a likelihood may not exist. Two cases are detected here, and a third one by `unbounded`, each from the
data and the fit, by a rule that no fit with a maximum satisfies:

- **Separable classes.** Every row has a probability above one half, and the loss keeps falling when all weights from
  some layer on are multiplied by 10 and by 1,000 (Albert & Anderson 1984). A proper prior makes the loss rise along
  the way. Data of one class only are of this kind, and those of which every row is censored.
- **Quasi-complete separation** (classes separable in part; a class that never occurs). Where the logits are linear in
  the weights from some layer on, and these have flat priors, a linear program searches for a direction along which no
  row becomes less probable and some become more probable (Konis 2007). At a maximum there is none: the gradients of the
  rows' log probabilities sum to 0, so a gain of one row is a loss of another.

Of several observed sites each is judged, by the rows of the site and the weights that no other site depends on; the
loss, which must keep falling, is that of all.
"""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from scipy.optimize import linprog
from scipy.special import softmax

from ..processes import readable
from ..reasons import Code, Reason
from ..response import Response
from ..rows import Data, Weights
from ..surface import Surface
from .heads import Head, first, heads_of
from .representative import by_unit_weight

RAY_FACTORS = (10.0, 1000.0)
"""The multiples of the weights at which the loss is evaluated, to see whether it has a minimum."""
LOGIT_STEPS = (-100.0, 0.0, 100.0)
"""The moves along a direction from the linear program, by the largest change of a logit. The first is on the way to the
point where the fit stopped, beyond which rounding may hide a further fall of the loss."""
MAX_PROBABILITY = 0.01
"""The largest probability, at a point that counts as a mode, of a class from which a row might be separated."""
ROUNDING = 0.01
"""The difference of two losses or log probabilities, in nats, up to which it counts as rounding."""
MAX_ENTRIES = 2**21
"""The largest number of entries in the matrices of the linear program; larger problems are not checked."""


def no_maximum(surface: Surface, u: Weights, data: Data, prior_power: Array | None = None) -> tuple[Reason, ...]:
    """Return a reason if the classes are separable and no prior bounds the weights: the first rule above."""
    if all(its.has_densities(y) for _, its, y in surface.density.structure.by_site(data.y)):
        return ()
    return first(_separable(surface, head, u, data, prior_power) for head in heads_of(surface, u, data))


def _separable(surface: Surface, head: Head, u: Weights, data: Data, prior_power: Array | None) -> tuple[Reason, ...]:
    """Return a reason if the classes of one site are separable, by the loss of all of them."""
    structure = head.surface.density.structure
    if structure.response.has_densities(head.data.y):
        return ()
    log_probs, loss_per_row = jax.device_get(head.surface.log_likelihood_and_loss(u, head.data, prior_power))
    if not (by_unit_weight(log_probs, head.data) > -math.log(2)).all():
        return ()
    is_saturated = not log_probs.any()  # every probability is rounded to 1, and the loss cannot fall
    sites = [site for site in structure.latents if site in structure.real and head.own[site].any()]

    def loss(factor: float, moving: list[str]) -> float:
        there: dict[str, Any] = {
            site: np.where(head.own[site], factor, 1.0).astype(value.dtype) * value for site, value in u.items()
        }
        return float(surface.loss({**u, **{site: there[site] for site in moving}}, data, prior_power)) * data.num_rows

    here = float(loss_per_row) * data.num_rows if head.surface is surface else loss(1.0, [])
    for i in range(len(sites)):
        further, furthest = (loss(factor, sites[i:]) for factor in RAY_FACTORS)
        if (further < here or is_saturated) and furthest <= further:
            code = Code.SATURATED if is_saturated else Code.SEPARABLE
            evidence = _evidence(structure.response, head.data)
            return (Reason.of(code, evidence=evidence, factor=RAY_FACTORS[0], here=here, further=abs(further)),)
    return ()


def _evidence(response: Response, data: Data) -> str:
    if response.are_bounds(data.y):
        return f"y is censored in all {data.num_rows} rows"
    values = np.unique(np.asarray(readable(jax.tree.leaves(data.y)[0])))
    if len(values) == 1:
        return f"y is {values[0]} in all {data.num_rows} rows"
    return f"all {data.num_rows} rows are classified correctly (the classes are separable)"


def quasi_separable(surface: Surface, u: Weights, data: Data) -> tuple[Reason, ...]:
    """Return a reason if some rows are separable from a class, at a point that counts as a mode: the second rule."""
    if not any(response.num_classes is not None for response in surface.density.structure.responses):
        return ()
    return first(_quasi_separable(surface, head, u, data) for head in heads_of(surface, u, data))


def _quasi_separable(surface: Surface, head: Head, u: Weights, data: Data) -> tuple[Reason, ...]:
    """Return a reason if some rows are separable from a class of one site, by the log probabilities of all sites."""
    part, some = head.surface, head.data
    structure, observed = part.density.structure, np.asarray(readable(jax.tree.leaves(some.y)[0]))
    shape = part.logits_shape(u, some)
    if shape is None or shape[0] != observed.size:
        return ()
    labels = observed.ravel()  # for rows of tokens all tokens, one after the other
    is_known = structure.response.is_known(observed).ravel()
    if some.known is not None:
        is_known &= np.asarray(readable(some.known)).ravel()
    labels, known = labels[is_known], np.flatnonzero(is_known)
    absent = sorted(set(range(shape[1])) - set(labels.tolist()))
    sites = [site for site in structure.latents if site in structure.real & structure.flat and head.own[site].any()]
    blocks = _blocks({site: u[site].size for site in sites}, labels.size, shape[1], bool(absent))
    if not blocks:
        return ()
    probs = softmax(np.asarray(part.logits(u, some), float)[known], axis=-1)
    if (probs > MAX_PROBABILITY).all():
        return ()
    sites = next((block for block in blocks if _is_linear(head, block, u)), [])
    if not sites:
        return ()
    own = np.concatenate([np.broadcast_to(head.own[site], u[site].shape).ravel() for site in sites])
    slopes = np.asarray(part.logit_slopes(tuple(sites), u, some), float)[known][..., own]
    recession = _recession(slopes, probs, labels)
    if recession is None:
        return ()
    direction = np.zeros(own.size)
    direction[own] = recession.direction
    rows = np.unique(known[recession.rows] // (observed.size // len(observed)))
    return _along(surface, {site: u[site] for site in sites}, direction, u, data, rows, absent)


def _along(
    surface: Surface,
    block: Weights,
    direction: np.ndarray,
    u: Weights,
    data: Data,
    rows: np.ndarray,
    absent: list[int],
) -> tuple[Reason, ...]:
    """Return the reason, if the loss falls along a direction of recession and no row becomes less probable."""
    parts = np.split(direction, np.cumsum([value.size for value in block.values()])[:-1])
    step = {site: part.reshape(block[site].shape) for site, part in zip(block, parts, strict=True)}
    moved = [{**u, **{site: u[site] + reach * step[site] for site in step}} for reach in LOGIT_STEPS]
    ray = np.stack([surface.log_likelihood(there, data) for there in moved]).astype(float)
    before, here, further = -ray.sum(axis=1)
    if np.diff(ray, axis=0).min() < -ROUNDING or not (here < before - ROUNDING and further <= here + ROUNDING):
        return ()
    losses = {"back": -LOGIT_STEPS[0], "on": LOGIT_STEPS[-1], "before": before, "here": here, "further": further}
    if absent:
        return (Reason.of(Code.MISSING_CLASS, absent=", ".join(map(str, absent)), rows=data.num_rows, **losses),)
    counts = {"rows": data.num_rows, "count": rows.size, "first": rows[0]}
    return (Reason.of(Code.QUASI_SEPARABLE, **counts, **losses),)


def _blocks(sizes: dict[str, int], num_rows: int, num_classes: int, is_absent: bool) -> list[list[str]]:
    """Return the sets of all sites from some site on whose linear program is not too large, the largest set first.

    Where only the biases of the classes are few enough, they can separate only an absent class: otherwise a change that
    makes the rows of one class more probable makes those of another less probable.
    """
    names = list(sizes)
    counts = [sum(sizes[name] for name in names[i:]) for i in range(len(names))]
    first = next((i for i, count in enumerate(counts) if num_rows * num_classes * count <= MAX_ENTRIES), len(names))
    if first > 0 and first < len(names) and counts[first] <= num_classes and not is_absent:
        return []
    return [names[i:] for i in range(first, len(names))]


def _is_linear(head: Head, block: list[str], u: Weights) -> bool:
    """Return whether the logits of a site are linear in its own weights among some sites."""
    moving = {site: np.array(site in block) & head.own[site] for site in u}
    return float(head.surface.nonlinearity(moving, u, head.data)) < 1e-3


class _Recession(NamedTuple):
    direction: np.ndarray
    """The direction in the weights of the block, (p,), with a largest change of a logit of 1."""
    rows: np.ndarray
    """The rows that become more probable along the direction."""


def _recession(slopes: np.ndarray, probs: np.ndarray, labels: np.ndarray) -> _Recession | None:
    """Return a direction along which no margin of a row over a class falls and some rise; None without any.

    Args:
        slopes: the derivatives of the logits, (n, classes, p).
        probs: the probabilities of the classes at a point that counts as a mode, (n, classes).
        labels: the classes, (n,).
    """
    num_rows, num_classes, _ = slopes.shape
    others = np.arange(num_classes) != labels[:, None]
    margins = (slopes[np.arange(num_rows), labels][:, None] - slopes)[others]
    rows = np.broadcast_to(np.arange(num_rows)[:, None], others.shape)[others]
    widths = np.abs(margins).max(axis=0)
    margins = margins / np.where(widths > 0, widths, 1)
    # Weighted by these probabilities the rows' slopes sum to 0 at a mode: those with a weight cannot move.
    fixed = probs[others] > MAX_PROBABILITY
    values, vectors = np.linalg.eigh(margins[fixed].T @ margins[fixed])
    free = vectors[:, values <= 1e-11 * max(1.0, values.max(initial=0.0))]
    moved = margins[~fixed] @ free
    if moved.size == 0 or np.abs(moved).max() < 1e-6:
        return None
    program = linprog(-moved.sum(axis=0), A_ub=-moved, b_ub=np.zeros(len(moved)), bounds=(-1, 1), method="highs")
    if program.status != 0:
        return None
    gains = moved @ program.x
    if gains.max() < 1e-3:
        return None
    direction = free @ program.x / np.where(widths > 0, widths, 1)
    return _Recession(direction / gains.max(), np.unique(rows[~fixed][gains > 1e-3 * gains.max()]))
