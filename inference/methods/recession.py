"""Directions that a flat prior leaves open: along them the likelihood rises for ever, or does not change.

Under a flat prior the data alone determine the weights, and may fail to do so in two ways:

- **There is no maximum.** Along a direction of recession the likelihood rises for ever, as it does for the weight of a
  group of counts that are all 0 (Rockafellar 1970, theorem 27.1; for exponential families Barndorff-Nielsen 1978,
  theorem 9.13). As the loss falls by a factor of e, Newton's method takes a step of the same length: at a maximum its
  steps vanish, along a direction of recession they do not. So the rule follows Newton's last step, in float64: there is
  no maximum if the loss does not rise over ten steps more, and was higher on the way. Where the weights themselves
  converge, as those of a scale to 0, the maximum is at the boundary of their support.
- **The maximum is not unique.** Columns of x are constant or linearly related, or there are more of them than rows:
  the derivatives of the parameters of y by the weights have a null space, which is the same at all weights.

Both rules apply to models of up to 256 weights in which each parameter of the distribution of y (a logit, a rate, a
probability) is a function of one linear combination of the weights with a flat prior, whatever the link: there the null
space is one of the model, and not of a point. Networks with hidden layers are no such models, and are not examined.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float
from scipy.linalg import qr

from ..newton import Minimum
from ..reasons import Code, Reason
from ..rows import Data, Weights, in_double
from ..second_order import second_order
from ..status import Status
from ..surface import Surface
from .effort import Effort

MAX_WEIGHTS = 256
"""The largest number of weights for which Hessians are formed."""
MAX_ENTRIES = 2**21
"""The largest number of derivatives that are computed together."""
DETERMINED, SHORT = 1e-4, 1e-3
"""The smallest eigenvalue of a Hessian with a diagonal of 1, and the largest Newton step relative to a weight, with
which a minimum in float32 counts as one without further checks."""
PARALLEL = 1e-6
"""The largest relative change of direction of a gradient that counts as rounding, in float64."""
NULL = 1e-12
"""The largest eigenvalue of the null space, relative to the largest: linear relations to six digits, the precision of
columns in float32."""
STEPS, RIDGE = 8, 1e-9
"""The number of Newton steps, and the smallest curvature that they use; see `minimise`."""
BACK, ON = (1.0, 2.0, *map(float, range(4, 101, 4))), (1.0, 3.0, 10.0)
"""The multiples of the last Newton step at which the loss is evaluated, before the point and beyond it. Far beyond it
the logs of gamma functions cancel, and no multiple would show more: near a maximum the loss rises on both sides."""
ROUNDING = 0.01
"""The difference of two losses or log probabilities, in nats, up to which it counts as rounding."""
FAR = 100.0
"""The change of a parameter of y, by one weight alone, over which a direction of the null space is followed."""
SHOWN = 6
"""The largest number of weights by which a direction is described."""


def examine(surface: Surface, u: Weights, data: Data, effort: Effort, end: Minimum | None = None) -> Status:
    """Return a failure where the likelihood has no maximum, and a warning where it has many or one at the boundary.

    Where the curvature at a minimum is that of some of the rows and determines it, so do all rows: none takes away
    curvature of the others. Where it does not, and Hessians of all rows would cost more than the fit, nothing is found.

    Args:
        surface: the density, at given points.
        u: the point where a fit ended.
        data: n rows.
        effort: how much may follow the fit.
        end: the result of Newton's method at u, if known. A minimum that it determines well is not examined further.
    """
    structure = surface.density.structure
    sites = tuple(site for site in structure.latents if site in structure.flat)
    if not sites or structure.num_weights > MAX_WEIGHTS or (end is not None and _is_determined(end)):
        return Status()
    if not effort.pays_for_hessians(STEPS):
        return Status()
    with jax.enable_x64(True):
        u, data = jax.tree.map(in_double, (u, data))
        design = _design(surface, sites, u, data)
        if design is None:
            return Status()
        ray = None if _is_left_to_linear_program(surface, u, data) else _recession(surface, u, data, effort)
        if ray is not None:
            reason = _receding(surface, u, data, ray)
            return Status((reason,)) if reason.code is Code.RECEDING else Status((), (reason,))
        return Status((), _not_unique(surface, sites, u, data, design))


def _is_determined(end: Minimum) -> bool:
    """Return whether the curvature at a minimum is large in all directions, and the next Newton step is short."""
    u, slope, h = (np.asarray(part, np.float64) for part in (end.u, end.slope, end.curvature))
    scale = np.sqrt(np.diagonal(h), where=np.diagonal(h) > 0, out=np.zeros(len(h)))
    if not (scale > 0).all() or not np.isfinite(h).all():
        return False
    scaled = h / scale / scale[:, None]
    if np.linalg.eigvalsh(scaled)[0] < DETERMINED:
        return False
    step = np.linalg.solve(scaled, slope / scale) / scale
    is_short = (np.abs(step) <= SHORT * np.abs(u)) & (slope != 0)  # exactly 0 where probabilities are rounded to 1
    return bool(is_short.all())


def _is_left_to_linear_program(surface: Surface, u: Weights, data: Data) -> bool:
    """Return whether `mode.quasi_separable` decides if there is a maximum, exactly, from the logits of the classes."""
    shape = surface.logits_shape(u, data)
    return shape is not None and shape[0] * shape[1] * surface.density.structure.num_weights <= MAX_ENTRIES


class _Design(NamedTuple):
    """The derivatives of the parameters of y by the weights with a flat prior, of which each row has a length of 1."""

    gram: Float[np.ndarray, "p p"]
    """Their sums of products."""
    sizes: Float[np.ndarray, " p"]
    """The largest derivatives by each weight, before rows are scaled."""


def _design(surface: Surface, sites: tuple[str, ...], u: Weights, data: Data) -> _Design | None:
    """Return the design; None where a parameter is not a function of one linear combination of the weights."""
    size = sum(u[site].size for site in sites)
    shape = surface.parameter_slopes.eval_shape(sites, u, data).shape
    parts = min(data.num_rows, -(-shape[0] * shape[1] // MAX_ENTRIES))
    rows = -(-data.num_rows // parts)
    moved = {**u, **{site: u[site] + _small_step(np.asarray(u[site])) for site in sites}}
    gram, sizes = np.zeros((size, size)), np.zeros(size)
    for begin, part in data.parts(rows):
        here = np.asarray(surface.parameter_slopes(sites, u, part))
        if begin == 0 and not _are_parallel(here, np.asarray(surface.parameter_slopes(sites, moved, part))):
            return None
        unit = _unit(here)
        gram, sizes = gram + unit.T @ unit, np.fmax(sizes, np.abs(here).max(axis=0, initial=0.0))
    return _Design(gram, sizes)


def _small_step(value: np.ndarray) -> np.ndarray:
    """Return a step of a hundredth of each weight, in signs without a pattern."""
    return (0.01 * np.abs(value) + 1e-4) * np.cos(np.arange(1.0, value.size + 1)).reshape(value.shape)


def _unit(slopes: Float[np.ndarray, "m p"]) -> Float[np.ndarray, "m p"]:
    """Return gradients of length 1; 0 for those that are 0 or not finite."""
    slopes = np.where(np.isfinite(slopes).all(axis=1, keepdims=True), slopes, 0.0)
    lengths = np.linalg.norm(slopes, axis=1, keepdims=True)
    return slopes / np.where(lengths > 0, lengths, 1.0)


def _are_parallel(here: Float[np.ndarray, "m p"], there: Float[np.ndarray, "m p"]) -> bool:
    """Return whether the gradient of each parameter has the same direction at two points."""
    here, there = _unit(here), _unit(there)
    cosines = (here * there).sum(axis=1, keepdims=True)
    off = np.where(cosines != 0, there - cosines * here, 0.0)  # 0 where either is not known
    return bool(here.any() and np.abs(off).max() <= PARALLEL)


class _Ray(NamedTuple):
    """A Newton step that does not vanish, and the likelihood along it."""

    u: Weights
    """The point."""
    step: Weights
    log_probs: Float[np.ndarray, "2 n"]
    """The log probabilities of the rows before the point and at it, in nats."""
    losses: tuple[float, float, float]
    """The losses before the point, at it, and beyond it, in nats."""
    back: float
    """The multiple of the step from the first point to the second."""


def _recession(surface: Surface, u: Weights, data: Data, effort: Effort) -> _Ray | None:
    """Return the ray along which Newton's method goes on for ever; None where it arrives."""
    problem = second_order(surface.density, data, False)
    together = effort.rows_together
    end = problem.minimise(u, data, max_steps=STEPS, damping=0.0, floor=RIDGE, rows_together=together)
    vector, step = end.u, _newton_step(end.slope, end.curvature)
    if step is None or (np.abs(step) <= 1e-6 * np.abs(vector)).all():
        return None
    unravel = ravel_pytree(u)[1]

    def at(multiple: float) -> tuple[np.ndarray, float]:
        point = unravel(jnp.asarray(vector + multiple * step))
        log_probs, loss = jax.device_get(surface.log_likelihood_and_loss(point, data, None))
        return log_probs, float(loss) * data.num_rows

    log_probs, here = at(0.0)
    further = max(at(multiple)[1] for multiple in ON)
    if not further <= here + ROUNDING / 10:
        return None
    for multiple in BACK:
        earlier, before = at(-multiple)
        if not before >= here - ROUNDING:
            return None
        if before >= here + ROUNDING:
            losses = (before, here, at(ON[-1])[1])
            return _Ray(
                unravel(jnp.asarray(vector)),
                unravel(jnp.asarray(step)),
                np.stack([earlier, log_probs]),
                losses,
                multiple,
            )
    return None


def _newton_step(slope: np.ndarray, h: np.ndarray) -> np.ndarray | None:
    """Return the Newton step outside the null space of the Hessian; None where it has negative eigenvalues."""
    if not np.isfinite(h).all():
        return None
    diagonal = np.diagonal(h)
    scale = np.sqrt(diagonal, where=diagonal > 0, out=np.full(len(h), np.inf))
    values, vectors = np.linalg.eigh(h / scale / scale[:, None])
    if values[0] < -RIDGE:
        return None
    known = values > NULL * max(values[-1], 1.0)
    return -(vectors[:, known] @ ((vectors[:, known].T @ (slope / scale)) / values[known])) / scale


def _receding(surface: Surface, u: Weights, data: Data, ray: _Ray) -> Reason:
    """Return the reason of a ray: there is no maximum, or it is at the boundary of the support."""
    lengths = {site: float(np.abs(step).max(initial=0.0)) for site, step in ray.step.items()}
    running = [site for site, length in lengths.items() if length > 1e-6 * max(lengths.values())]

    def weights(multiple: float) -> Weights:
        moved = {site: value + multiple * ray.step[site] for site, value in ray.u.items()}
        return jax.device_get(surface.constrain(moved, data))

    here, some, all_ = (weights(multiple) for multiple in (0.0, 10.0, 100.0))
    converges = all(np.abs(all_[site] - some[site]).max() <= np.abs(some[site] - here[site]).max() for site in running)
    direction = np.concatenate([np.ravel(ray.step[site]) for site in running])
    words = _in_words(direction, _names({site: u[site].shape for site in running}, surface))
    before, here_, further = ray.losses
    numbers = {"direction": words, "before": before, "back": ray.back, "here": here_, "further": further, "on": ON[-1]}
    if converges:
        sites = ", ".join(f"{site!r}" for site in running)
        return Reason.of(Code.AT_BOUNDARY, sites=sites, **numbers)
    gains = ray.log_probs[1] - ray.log_probs[0]
    rows = np.flatnonzero(gains > ROUNDING * gains.max())
    return Reason.of(Code.RECEDING, **numbers, count=rows.size, rows=gains.size, first=rows[0])


def _not_unique(
    surface: Surface, sites: tuple[str, ...], u: Weights, data: Data, design: _Design
) -> tuple[Reason, ...]:
    """Return a reason if the parameters of y do not change along some directions in the weights, nor does the loss."""
    basis = _null_space(design.gram)
    if not basis.shape[1]:
        return ()
    block, unravel = ravel_pytree([u[site] for site in sites])

    def at(step: np.ndarray) -> np.ndarray:
        moved = {**u, **dict(zip(sites, unravel(block + step), strict=True))}
        log_probs, loss = jax.device_get(surface.log_likelihood_and_loss(moved, data, None))
        return np.append(log_probs, loss * data.num_rows)

    here = at(np.zeros(len(block)))
    for direction in basis.T:
        effects = np.abs(direction) * design.sizes
        reach = FAR / effects.max() if effects.any() else FAR * (1.0 + np.abs(block).max())
        if not all(
            (np.abs(at(sign * reach * direction) - here) <= ROUNDING + 1e-6 * np.abs(here)).all() for sign in (-1, 1)
        ):
            return ()
    simplest = basis[:, np.argmin((np.abs(basis) > 1e-3).sum(axis=0))]
    words = _in_words(simplest, _names({site: u[site].shape for site in sites}, surface))
    return (Reason.of(Code.NOT_UNIQUE, count=basis.shape[1], direction=words),)


def _null_space(gram: Float[np.ndarray, "p p"]) -> Float[np.ndarray, "p k"]:
    """Return a basis of the null space of a matrix of sums of products, in which each vector has few components."""
    scale = np.sqrt(np.diagonal(gram))
    scale = np.where(scale > 0, scale, 1.0)
    values, vectors = np.linalg.eigh(gram / scale / scale[:, None])
    basis = vectors[:, values <= NULL * max(values[-1], 1.0)] / scale[:, None]
    if not basis.shape[1]:
        return basis
    pivots = qr(basis.T, mode="r", pivoting=True)[1][: basis.shape[1]]
    basis = basis @ np.linalg.inv(basis[pivots])  # each vector has a component of 1 that no other one has
    return basis / np.abs(basis).max(axis=0)


def _names(shapes: dict[str, tuple[int, ...]], surface: Surface) -> list[str]:
    """Return the names of the elements of sites, one after the other."""
    real = surface.density.structure.real
    names = {site: site if site in real else f"unconstrained {site}" for site in shapes}
    return [
        f"{names[site]}[{', '.join(map(str, index))}]" if shape else names[site]
        for site, shape in shapes.items()
        for index in np.ndindex(shape)
    ]


def _in_words(direction: np.ndarray, names: list[str]) -> str:
    """Return the largest components of a direction, such as "w1[2] + 0.5 w1[5] - b1[0]"."""
    direction = direction / np.abs(direction).max()
    order = [i for i in np.argsort(-np.abs(direction), kind="stable") if abs(direction[i]) > 1e-3]
    words = ""
    for i in order[:SHOWN]:
        size = f"{abs(direction[i]):.3g}"
        sign = "-" if direction[i] < 0 else "+"
        words += f" {sign} {'' if size == '1' else size + ' '}{names[i]}"
    words = words[3:] if words.startswith(" +") else f"-{words[3:]}"
    return words + (f" and {len(order) - SHOWN} more" if len(order) > SHOWN else "")
