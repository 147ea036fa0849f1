"""The likelihood as a function: along one or two weights, or along directions in weight space."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import Array
from numpyro.infer.util import compute_log_probs

from ..checks import check_labelled
from ..density import Density
from ..labels import labelled
from ..methods.effort import rows_in_memory
from ..result import Fit
from ..rows import Data, Weights, in_double
from ..sites import NumPyroModel
from ..structure import Structure
from ..words import in_words
from .place import Point, as_weights, weights_at
from .terms import double_parts, is_over_rows

COPIES = 2
"""The copies of an evaluation in the default precision that one in float64 takes."""
POINTS_TOGETHER = 16
"""Points of the curve that are computed together; this bounds the memory, at as many copies of one evaluation's."""
VALIDATION = Lock()
"""NumPyro's validation is on or off for the process: two threads that change and restore it may leave it changed."""

type Along = str | Point
"""A scalar site (``"p"``), an element of a site (``"w1[0, 2]"``), or a direction in weight space: a mapping from sites
to values, or a fit, which is the direction from ``at`` to that fit."""


@dataclass(frozen=True, eq=False)
class Likelihood:
    """The log likelihood and the log prior on a grid along one or two axes, with all other weights fixed.

    The axes of ``log_likelihood[i, j]`` are those of the grid, in order. All values are in nats, computed in float64
    from rows in the precision of `fit`.
    """

    names: tuple[str, ...]
    """The name of each axis: an element of a site, or a direction."""
    values: tuple[np.ndarray, ...]
    """The grid along each axis: values of the site, or steps in units of the direction."""
    log_likelihood: np.ndarray
    """Log p(y | x, w), summed over rows."""
    log_prior: np.ndarray
    """Log p(w); 0 for a flat prior."""

    @property
    def likelihood(self) -> np.ndarray:
        """p(y | x, w). For more than some hundred rows it underflows to 0 in float64 (or overflows to inf)."""
        with np.errstate(over="ignore"):
            return np.exp(self.log_likelihood)

    @property
    def relative_likelihood(self) -> np.ndarray:
        """The likelihood divided by its largest value on the grid."""
        return np.exp(self.log_likelihood - np.nanmax(self.log_likelihood))

    @property
    def log_joint(self) -> np.ndarray:
        """Log p(y | x, w) + log p(w): the log posterior up to a constant."""
        return self.log_likelihood + self.log_prior

    @property
    def posterior(self) -> np.ndarray:
        """The posterior density along the axes, given all other weights: normalised over the grid (trapezoid rule)."""
        return self._normalised(self.log_joint)

    @property
    def prior(self) -> np.ndarray:
        """The prior density along the axes, normalised over the grid in the same way."""
        return self._normalised(self.log_prior)

    @property
    def mle(self) -> tuple[float, ...]:
        """The point of the grid with the highest likelihood: one number per axis."""
        return self._peak(self.log_likelihood)

    @property
    def map(self) -> tuple[float, ...]:
        """The point of the grid with the highest posterior density: one number per axis."""
        return self._peak(self.log_joint)

    def _peak(self, log_density: np.ndarray) -> tuple[float, ...]:
        peak = np.unravel_index(np.nanargmax(log_density), log_density.shape)
        return tuple(float(values[i]) for values, i in zip(self.values, peak, strict=True))

    def _normalised(self, log_density: np.ndarray) -> np.ndarray:
        density = np.exp(log_density - np.nanmax(log_density))
        mass = density
        for values in reversed(self.values):
            mass = np.trapezoid(mass, values, axis=-1)
        return density / mass


def likelihood_curve(
    model: NumPyroModel,
    x: Any,
    y: Any,
    along: Along,
    values: Any,
    *,
    at: Point | None = None,
    weights: Any = None,
) -> Likelihood:
    """Return the likelihood along one weight, or along a direction in weight space.

    Args:
        model: a NumPyro model.
        x: n rows, as for `fit`.
        y: n rows, as for `fit`.
        along: the axis: a site with one element (``"p"``), an element of a site (``"w1[0, 2]"``), or a direction:
            a mapping from every latent site to an array, or a fit, for the direction from `at` to it.
        values: the grid (m,): values of the weight, in the coordinates of the model, or steps along the direction (0 is
            `at`, and where the direction is a fit, 1 is that fit).
        at: the values of all other weights: a fit (its first draw) or a mapping from sites to values. Optional where
            there are no other weights.
        weights: the weight of each row, (n,), as for `fit`.

    Raises:
        TypeError, ValueError: when data, model, axis, grid or point are invalid, or the grid leaves the support of a
            site.

    Example:
        The likelihood of the tosses 0, 0, 0, 1, 0 of a coin is highest at 1/5:

        >>> import numpy as np, numpyro, numpyro.distributions as dist
        >>> from flatprior.inference.objective import likelihood_curve
        >>> def coin(x, y=None):
        ...     p = numpyro.sample("p", dist.Uniform(0, 1))
        ...     with numpyro.plate("toss", len(x)):
        ...         numpyro.sample("y", dist.Bernoulli(p), obs=y)
        >>> y = np.array([0, 0, 0, 1, 0])
        >>> curve = likelihood_curve(coin, np.zeros((5, 0)), y, "p", np.linspace(0, 1, 101))
        >>> print(curve.mle, f"{curve.likelihood.max():.5f}")
        (0.2,) 0.08192
    """
    return _likelihood(model, (x, y, weights), (along,), (values,), at)


def likelihood_surface(
    model: NumPyroModel,
    x: Any,
    y: Any,
    along: tuple[Along, Along],
    values: tuple[Any, Any],
    *,
    at: Point | None = None,
    weights: Any = None,
) -> Likelihood:
    """Return the likelihood over two weights, or over the plane of two directions in weight space.

    Args:
        model: a NumPyro model.
        x: n rows, as for `fit`.
        y: n rows, as for `fit`.
        along: the two axes; see `likelihood_curve`.
        values: the grid along each axis, (m,) and (k,); the result has shape (m, k).
        at: the values of all other weights; see `likelihood_curve`.
        weights: the weight of each row, (n,), as for `fit`.

    Raises:
        TypeError, ValueError: when data, model, axes, grids or point are invalid, or a grid leaves the support of a
            site.
    """
    if not isinstance(along, tuple | list) or len(along) != 2 or len(values) != 2:
        raise ValueError(f"likelihood_surface: expected two axes and two grids; got {along!r} and {len(values)} grids.")
    return _likelihood(model, (x, y, weights), tuple(along), tuple(values), at)


def _likelihood(
    model: NumPyroModel, rows: tuple[Any, Any, Any], along: tuple[Along, ...], values: tuple[Any, ...], at: Point | None
) -> Likelihood:
    density, data = check_labelled(model, labelled(*rows))
    structure = density.structure
    if at is None and not _covers(along, structure):
        raise ValueError(
            f"Expected `at`, a fit or weights, as the values of all other weights: the model has "
            f"{structure.num_weights} weights, and some are not on an axis."
        )
    grids = tuple(_as_grid(grid) for grid in values)
    points = np.stack([grid.ravel() for grid in np.meshgrid(*grids, indexing="ij")], axis=-1)
    # A site outside its support is refused below; NumPyro's error names the distribution whose parameter it becomes.
    with VALIDATION, jax.enable_x64(True), numpyro.validation_enabled(False):
        few = data.take(np.arange(1))
        centre = jax.device_put(jax.tree.map(in_double, weights_at(at, density, few)))
        plane = _Plane(density, centre, tuple(_axis(axis, structure, centre) for axis in along))
        log_likelihood, log_prior, inside = plane.evaluate(points, data)
        if not inside.all():
            plane.refuse(points[~inside][0], jax.tree.map(in_double, few))
    if not np.isfinite(log_likelihood).any():
        raise ValueError(f"Expected a log likelihood that is finite on the grid; it starts with {log_likelihood[0]}.")
    infinite = np.isposinf(log_likelihood) | np.isposinf(log_prior)
    if infinite.any():
        raise ValueError(f"The density is infinite at {plane.describe(points[infinite][0])}: leave it out of the grid.")
    shape = tuple(map(len, grids))
    return Likelihood(
        tuple(axis.name for axis in plane.axes), grids, log_likelihood.reshape(shape), log_prior.reshape(shape)
    )


@dataclass(frozen=True)
class _Axis:
    name: str
    element: tuple[str, tuple[int, ...]] | None
    """The site and the index of the element on the axis; None for a direction."""
    move: Callable[[Weights, Array], Weights]


@dataclass(frozen=True)
class _Plane:
    """The plane, or the line, that the axes span through a centre."""

    density: Density
    centre: Weights
    axes: tuple[_Axis, ...]

    def __post_init__(self) -> None:
        elements = [axis.element for axis in self.axes if axis.element]
        if len(set(elements)) < len(elements):
            raise ValueError(f"Expected two different axes; got {self.axes[0].name!r} twice.")

    def evaluate(self, points: np.ndarray, data: Data) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return log likelihood and log prior at points (m, axes), and whether all sites are inside their support.

        Rows are evaluated a part at a time where they are many; a factor of no row is added by all in equal shares.
        """

        @jax.jit
        def at_all(points: Array, data: Data, share: Array) -> tuple[Array, Array, Array]:
            return jax.lax.map(lambda point: self._at(point, data, share)[:3], points, batch_size=POINTS_TOGETHER)

        size = rows_in_memory(self.density, data, COPIES * POINTS_TOGETHER)
        parts = double_parts(data, size)
        found = [jax.device_get(at_all(points, part, part.num_rows / data.num_rows)) for part in parts]
        _, log_prior, inside = found[0]
        return sum((rest for rest, _, _ in found[1:]), found[0][0]), log_prior, inside

    def refuse(self, point: np.ndarray, data: Data) -> None:
        """Raise ValueError for a point at which a site is outside its support, with the expected values."""
        sites = self._at(jnp.asarray(point), data)[3]
        for site in self.density.structure.latents:
            support, value = sites[site]["fn"].support, sites[site]["value"]
            if not np.all(support(value)):
                raise ValueError(
                    f"Site {site!r}, at {self.describe(point)}: expected {in_words(support)}; got {value}."
                )

    def describe(self, point: np.ndarray) -> str:
        """Return a description of a point."""
        return ", ".join(f"{axis.name} = {value:.6g}" for axis, value in zip(self.axes, point, strict=True))

    def _at(self, point: Array, data: Data, share: Any = 1.0) -> tuple[Array, Array, Array, dict[str, Any]]:
        weights = self.centre
        for axis, value in zip(self.axes, point, strict=True):
            weights = axis.move(weights, value)
        log_probs, sites = compute_log_probs(self.density.model_of(data), (data.x, data.y), {}, weights)
        prior = sum((value for site, value in log_probs.items() if site in weights), jnp.zeros(()))
        others = {site: value for site, value in log_probs.items() if site not in weights}
        rest = sum((v if is_over_rows(sites[s]) else share * v for s, v in others.items()), jnp.zeros(()))
        # A log_prob does not check the support: that of Uniform(0, 1) is 0 at 2 as well.
        inside = [jnp.all(sites[site]["fn"].support(value)) for site, value in weights.items()]
        return rest, prior, jnp.stack(inside).all(), sites


def _axis(along: Along, structure: Structure, centre: Weights) -> _Axis:
    if isinstance(along, str):
        site, index = _element(along, structure)
        return _Axis(along, (site, index), lambda weights, t: {**weights, site: weights[site].at[index].set(t)})
    step = as_weights(along, structure)
    if isinstance(along, Fit):
        step = {site: value - centre[site] for site, value in step.items()}
    if not any(np.any(value) for value in step.values()):
        raise ValueError("Expected a direction; got one of length 0.")
    return _Axis(
        "step towards the fit" if isinstance(along, Fit) else "step along the direction",
        None,
        lambda weights, t: {site: value + t * step[site] for site, value in weights.items()},
    )


def _element(label: str, structure: Structure) -> tuple[str, tuple[int, ...]]:
    """Return the site and the index of an element from its label."""
    match = re.fullmatch(r"\s*([^\[\]]+?)\s*(?:\[([\d,\s]+)\])?\s*", label)
    site = match.group(1) if match else label
    if site not in structure.latents:
        raise ValueError(f"Expected one of the sites {list(structure.latents)}; got {label!r}.")
    shape = structure.latents[site]
    if match and match.group(2):
        index = tuple(int(part) for part in match.group(2).split(",") if part.strip())
        if len(index) != len(shape) or any(i >= size for i, size in zip(index, shape, strict=True)):
            raise ValueError(f"{label!r}: expected an index into shape {shape}.")
        return site, index
    if int(np.prod(shape)) != 1:
        example = f"{site}[{', '.join('0' * len(shape))}]"
        raise ValueError(f"Site {site!r} has shape {shape}: name one element, such as {example!r}.")
    return site, (0,) * len(shape)


def _covers(along: tuple[Along, ...], structure: Structure) -> bool:
    """Return whether the axes include every weight."""
    moved = {_element(axis, structure) for axis in along if isinstance(axis, str)}
    return len(moved) == structure.num_weights


def _as_grid(values: Any) -> np.ndarray:
    try:
        grid = np.asarray(values, float)
    except (TypeError, ValueError):
        raise TypeError(f"Expected a grid of increasing finite numbers; got {values!r}.") from None
    if grid.ndim != 1 or len(grid) < 2 or not np.isfinite(grid).all() or not (np.diff(grid) > 0).all():
        raise ValueError(f"Expected a grid of at least two increasing finite numbers; got shape {grid.shape}.")
    return grid
