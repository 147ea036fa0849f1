"""Whether the place where a descent ended is a mode, and whether there is one.

The maximum of a likelihood may not exist. Three cases are told from the data and the fit, each by a rule that no fit
with a maximum can meet:

- **Separable classes.** Every row is given a probability above one half, and the loss falls, and keeps falling, when
  all weights from some layer on are moved 10 and 1,000 times as far out (Albert & Anderson 1984). A proper prior makes
  the loss rise on the way. Data of one class only are of this kind.
- **Classes separable in part** (quasi-complete separation; a class that never occurs). Where the logits are linear in
  the weights from some layer on, and these have flat priors, a linear program looks for a direction along which no row
  becomes less probable and some become more so (Konis 2007). At a maximum there is none: the gradients of the rows'
  log probabilities sum to 0, so where one row gains another loses.
- **A density that grows without bound**: the scale shrinks around rows that are met exactly. Where a row's density is
  more than 100 times that of y spread over its own standard deviation, and no mode was found, 200 steps of L-BFGS
  follow; if they take that density 10 times as far again, and the loss falls with it, there is nowhere to stop.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.optimize import linprog
from scipy.special import softmax

from ..reasons import Code, Reason
from ..rows import Data, Weights, in_double
from ..surface import LBFGS_STEPS, Surface
from .optimizer import LEARNING_RATE

MAX_GAIN = 0.1
"""Nats that a small move of one weight may gain at a point that passes for a mode."""
RAY = (10.0, 1000.0)
"""How many times as far out the loss is looked at, to see whether it has a minimum."""
LOGITS = (-100.0, 0.0, 100.0)
"""How far the most moved row's logit is taken along a direction that a linear program proposes. The first is on the way
to where the fit stopped: there may be no digits left to see a loss fall any further."""
SURE = 0.01
"""At a point that passes for a mode a class that a row might be separated from has at most this probability there."""
MAX_ENTRIES = 2**21
"""Most entries of the matrices of the linear program; larger problems are not looked at."""
PEAKED = 100.0
"""How many times the density of y spread over its standard deviation a row's may be before it is looked at again."""


def no_maximum(surface: Surface, u: Weights, data: Data, prior_power: Array | None = None) -> tuple[Reason, ...]:
    """Whether the classes are separable under a density that does not hold the weights back: the first rule above."""
    structure, num_rows = surface.density.structure, data.num_rows
    if not structure.response.is_discrete:
        return ()
    log_probs, loss_per_row = jax.device_get(surface.log_likelihood_and_loss(u, data, prior_power))
    if not (log_probs > -math.log(2)).all():
        return ()
    is_saturated = not log_probs.any()  # so far out that every probability is rounded to 1, and no loss falls any more
    here = float(loss_per_row) * num_rows
    sites = [site for site in structure.latents if site in structure.real]

    def loss(factor: float, moving: list[str]) -> float:
        there = {site: factor * value if site in moving else value for site, value in u.items()}
        return float(surface.loss(there, data, prior_power)) * num_rows

    for i in range(len(sites)):
        further, furthest = (loss(factor, sites[i:]) for factor in RAY)
        if (further < here or is_saturated) and furthest <= further:
            code = Code.SATURATED if is_saturated else Code.SEPARABLE
            evidence = _evidence(data)
            return (Reason.of(code, evidence=evidence, factor=RAY[0], here=here, further=abs(further)),)
    return ()


def _evidence(data: Data) -> str:
    values = np.unique(np.asarray(jax.tree.leaves(data.y)[0]))
    if len(values) == 1:
        return f"y is {values[0]} in all {data.num_rows} rows"
    return f"all {data.num_rows} rows are classified correctly (the classes are separable)"


def quasi_separable(surface: Surface, u: Weights, data: Data) -> tuple[Reason, ...]:
    """Whether some rows are separable from a class, at a point that passes for a mode: the second rule above."""
    structure, observed = surface.density.structure, np.asarray(jax.tree.leaves(data.y)[0])
    shape = surface.logits_shape(u, data) if structure.response.num_classes else None
    if shape is None or shape[0] != observed.size:
        return ()
    labels = observed.ravel()  # of rows of tokens all tokens, one after the other
    is_known = structure.response.is_known(observed).ravel()
    labels, place = labels[is_known], np.flatnonzero(is_known)
    absent = sorted(set(range(shape[1])) - set(labels.tolist()))
    sites = [site for site in structure.latents if site in structure.real & structure.flat]
    blocks = _blocks({site: u[site].size for site in sites}, labels.size, shape[1], bool(absent))
    if not blocks:
        return ()
    probs = softmax(np.asarray(surface.logits(u, data), float)[place], axis=-1)
    if (probs > SURE).all():
        return ()
    sites = next((block for block in blocks if _is_linear(surface, block, u, data)), [])
    if not sites:
        return ()
    slopes = np.asarray(surface.logit_slopes(tuple(sites), u, data), float)[place]
    found = _recession(slopes, probs, labels)
    if found is None:
        return ()
    rows = np.unique(place[found.rows] // (observed.size // len(observed)))
    return _along(surface, {site: u[site] for site in sites}, found.direction, u, data, rows, absent)


def _along(
    surface: Surface,
    block: Weights,
    direction: np.ndarray,
    u: Weights,
    data: Data,
    rows: np.ndarray,
    absent: list[int],
) -> tuple[Reason, ...]:
    """The reason, where the loss does fall along a direction of recession and no row becomes less probable."""
    parts = np.split(direction, np.cumsum([value.size for value in block.values()])[:-1])
    step = {site: part.reshape(block[site].shape) for site, part in zip(block, parts, strict=True)}
    moved = [{**u, **{site: u[site] + reach * step[site] for site in step}} for reach in LOGITS]
    ray = np.stack([surface.log_likelihood(there, data) for there in moved]).astype(float)
    before, here, further = -ray.sum(axis=1)
    if np.diff(ray, axis=0).min() < -SURE or not (here < before - SURE and further <= here + SURE):
        return ()
    losses = {"back": -LOGITS[0], "on": LOGITS[-1], "before": before, "here": here, "further": further}
    if absent:
        return (Reason.of(Code.MISSING_CLASS, absent=", ".join(map(str, absent)), rows=data.num_rows, **losses),)
    counts = {"rows": data.num_rows, "count": rows.size, "first": rows[0]}
    return (Reason.of(Code.QUASI_SEPARABLE, **counts, **losses),)


def _blocks(sizes: dict[str, int], num_rows: int, num_classes: int, is_absent: bool) -> list[list[str]]:
    """The weights from some name on to the last whose linear program is not too large, the largest set first.

    Where only the biases of the classes are that few, they can separate a class which is absent, and no other: what
    they add makes the rows of one class less probable where it makes those of another more so.
    """
    names = list(sizes)
    counts = [sum(sizes[name] for name in names[i:]) for i in range(len(names))]
    first = next((i for i, count in enumerate(counts) if num_rows * num_classes * count <= MAX_ENTRIES), len(names))
    if first > 0 and first < len(names) and counts[first] <= num_classes and not is_absent:
        return []
    return [names[i:] for i in range(first, len(names))]


def _is_linear(surface: Surface, block: list[str], u: Weights, data: Data) -> bool:
    """Whether the logits are linear in these weights."""
    moving = {site: np.array(site in block) for site in u}
    return float(surface.nonlinearity(moving, u, data)) < 1e-3


class _Recession(NamedTuple):
    direction: np.ndarray
    """In the weights of the block, (p,): the row that moves most moves by one logit."""
    rows: np.ndarray
    """The rows that become more probable along it."""


def _recession(slopes: np.ndarray, probs: np.ndarray, labels: np.ndarray) -> _Recession | None:
    """A direction along which no row's margin over any class falls, and some rise.

    Args:
        slopes: derivatives of the logits, (n, classes, p).
        probs: probabilities of the classes at a point that passes for a mode, (n, classes).
        labels: classes, (n,).
    """
    num_rows, num_classes, _ = slopes.shape
    others = np.arange(num_classes) != labels[:, None]
    margins = (slopes[np.arange(num_rows), labels][:, None] - slopes)[others]
    rows = np.broadcast_to(np.arange(num_rows)[:, None], others.shape)[others]
    widths = np.abs(margins).max(axis=0)
    margins = margins / np.where(widths > 0, widths, 1)
    # The rows' slopes, weighed by these probabilities, sum to 0 at a mode: those that weigh something cannot move.
    fixed = probs[others] > SURE
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


def is_unbounded(surface: Surface, u: Weights, data: Data, prior_power: Array | None = None) -> tuple[Reason, ...]:
    """Whether the density of a row grows without bound: the third rule above."""
    times, _ = _peak(surface, u, data)
    if times < PEAKED and not (times and np.ptp(np.asarray(jax.tree.leaves(data.y)[0]), axis=0).min() == 0):
        return ()
    with jax.enable_x64(True):  # float32 has not the digits for a scale that small
        u, data, prior_power = jax.tree.map(in_double, (u, data, prior_power))
        here = float(surface.loss(u, data, prior_power)) * data.num_rows
        end, further = surface.lbfgs(u, data, prior_power)
        (again, row), further = _peak(surface, end, data), float(further)
    if not (again > 10 * times and further < here - math.log(10)):
        return ()
    numbers = {"row": row, "times": times, "again": again, "steps": LBFGS_STEPS, "here": here, "further": further}
    return (Reason.of(Code.UNBOUNDED_DENSITY, **numbers),)


def _peak(surface: Surface, u: Weights, data: Data) -> tuple[float, int]:
    """How many times denser the densest row is than y spread over its standard deviation, per number of y; and the row.

    It is 0 where y is discrete, or more than one array.
    """
    leaves = jax.tree.leaves(data.y)
    if surface.density.structure.response.is_discrete or len(leaves) != 1:
        return 0.0, 0
    values = np.asarray(leaves[0], float).reshape(len(leaves[0]), -1)
    spread = values.std(axis=0)
    spread = np.where(spread > 0, spread, np.maximum(np.abs(values).max(axis=0), 1.0))
    log_probs = np.asarray(surface.log_likelihood(u, data), float)
    row = int(np.nanargmax(log_probs))
    return math.exp(min(700.0, log_probs[row] / values.shape[1] + np.log(spread).mean())), row


def still_falling(losses: np.ndarray) -> tuple[Reason, ...]:
    """Whether the loss fell by more than a nat, and by more than its noise, in the last tenth of the steps."""
    tenth = len(losses) // 10
    if tenth < 2:
        return ()
    before, after = losses[-2 * tenth : -tenth], losses[-tenth:]
    gain = before.mean() - after.mean()
    noise = math.sqrt((before.var() + after.var()) / tenth)
    return (Reason.of(Code.STILL_FALLING, gain=gain),) if gain > max(1.0, 3 * noise) else ()


def not_stationary(surface: Surface, u: Weights, data: Data, prior_power: Array | None = None) -> tuple[Reason, ...]:
    """Whether one weight alone, moved by 0.01, would still lower the loss by more than a tenth of a nat.

    A learning rate that has fallen to 0 stops the loss from falling wherever it is; its slope tells.
    """
    slopes = jax.tree.leaves(surface.slope(u, data, prior_power))
    gain = LEARNING_RATE * data.num_rows * max(float(jnp.abs(slope).max(initial=0.0)) for slope in slopes)
    return () if gain <= MAX_GAIN else (Reason.of(Code.NOT_STATIONARY, move=LEARNING_RATE, gain=gain),)
