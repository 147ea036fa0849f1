"""Units: a model in standardised units, with its density in the user's."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.distributions import constraints
from numpyro.handlers import seed, trace
from numpyro.primitives import Messenger

from .arrays import as_rows, check_finite
from .checks import check_pair
from .contract import check_model
from .distributions import affine, of_one_value
from .handlers import params_as_sites
from .labels import as_weights
from .rows import Rows, Weights, count_rows
from .sites import NumPyroModel, is_real, undrawn
from .stored import Stored, check_in_parts, in_parts


@dataclass(frozen=True)
class Units:
    """The mean and the standard deviation of each number in a row of an array, in row-major order."""

    mean: tuple[float, ...]
    sd: tuple[float, ...]

    @classmethod
    def of(cls, values: Any, *, weights: np.ndarray | None = None, is_centred: bool = True) -> Self:
        """Return the units in which values, (n, ...), have mean 0 (unless not centred) and standard deviation 1.

        The standard deviation of a constant column is taken to be 1. Rows may have weights, (n,).
        """
        if isinstance(values, Stored):
            mean, sd = _moments_in_parts(values, weights)
            return cls(tuple((mean if is_centred else 0 * mean).tolist()), tuple(sd.tolist()))
        columns = np.asarray(values, np.float64).reshape(len(values), -1)
        is_constant = np.ptp(columns if weights is None else columns[weights > 0], axis=0) == 0
        mean = np.average(columns, axis=0, weights=weights)
        sd = np.where(is_constant, 1.0, np.sqrt(np.average((columns - mean) ** 2, axis=0, weights=weights)))
        return cls(tuple((mean if is_centred else 0 * mean).tolist()), tuple(sd.tolist()))

    def arrays(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Return means and standard deviations in the shape of a row; both bounds of a number have its units."""
        if len(self.mean) == 1:
            return np.full(shape, self.mean[0]), np.full(shape, self.sd[0])
        return np.reshape(self.mean, shape), np.reshape(self.sd, shape)

    def standardize(self, values: Array) -> Array:
        """Return the values, (n, ...), in these units."""
        mean, sd = self.arrays(jnp.shape(values)[1:])
        return (values - mean.astype(values.dtype)) / sd.astype(values.dtype)

    def __str__(self) -> str:
        if len(self.mean) > 1:
            return f"{len(self.mean)} columns"
        return f"mean {self.mean[0]:.4g}, sd {self.sd[0]:.4g}"


def _moments_in_parts(values: Stored, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the means and standard deviations of columns that are read in parts."""
    from sklearn.preprocessing import StandardScaler  # imported late, as it takes long

    scaler = StandardScaler()
    for start, part in in_parts(values, "standardising"):
        of_part = None if weights is None else weights[start : start + len(part)]
        scaler.partial_fit(part.reshape(len(part), -1).astype(np.float64), sample_weight=of_part)
    return scaler.mean_, np.where(scaler.var_ > 0, np.sqrt(scaler.var_), 1.0)


@dataclass(frozen=True, repr=False)
class Standardized:
    """A model in standardised units, made by `standardize`. Compared and hashed by value."""

    model: NumPyroModel
    """The model of the standardised x and y."""
    x: tuple[Units | None, ...]
    """The units of each leaf of x; None where a leaf stays as it is."""
    y: tuple[tuple[str, Units], ...]
    """The units of y, by observed site; sites whose y stays as it is are left out."""

    def __call__(self, x: Rows, y: Rows | None = None, **given: Weights) -> Any:
        """Run the NumPyro model, with x and y in the user's units."""
        leaves, tree = jax.tree.flatten(x)
        pairs = zip(leaves, self.x, strict=True)
        x = jax.tree.unflatten(tree, [leaf if units is None else units.standardize(leaf) for leaf, units in pairs])
        with _Observed(dict(self.y)):
            return self.model(x, y, **given)

    def __repr__(self) -> str:
        units = [f"x {units}" for units in self.x if units] + [f"{site} {units}" for site, units in self.y]
        return f"standardize({self.model!r}; {'; '.join(units)})"


class _Observed(Messenger):
    """Replaces the distributions of observed sites, those of a standardised y, by those of y."""

    def __init__(self, units: dict[str, Units]) -> None:
        super().__init__()
        self.units = units

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["name"] in self.units:
            msg["fn"] = affine(msg["fn"], *self.units[msg["name"]].arrays(msg["fn"].event_shape))


def standardize(model: NumPyroModel, x: Any, y: Any, *, weights: Any = None) -> Standardized:
    """Return the model in standardised units, with its density, predictions and scores in the units of x and y.

    The default priors and the optimiser expect numbers of about 1. This makes a model of raw data, such as prices in
    dollars, out of a model that expects such numbers:

    - The model gets the columns of x minus their mean, divided by their standard deviation. Only leaves of real numbers
      are standardised: integers may be indices. A model may name entries of x that stay as they are in an attribute
      `own_units`, as `Model` does those of an offset or exposure.
    - Its distribution of the observed site becomes that of ``mean + sd * Y``: a Normal(0, 0.5) is Normal(mean, 0.5 sd).
      So the log density of a row is that of the standardised row minus ``log sd`` (per number of y), and predictions,
      `compare`, `calibration` and `explain` are in the units of y. Where y is positive by its distribution, as for
      LogNormal or Gamma, it is only divided by its standard deviation; where y is discrete, or has other bounds, it
      stays as it is.

    The weights and their priors, and a scale in the observation, are those of the standardised problem. Means and
    standard deviations are constants of the model, taken from the rows given here: give the rows of the fit, without
    test rows.

    Args:
        model: a NumPyro model of standardised data.
        x: n rows, as for `fit`.
        y: n rows likewise.
        weights: the weight of each row, (n,), as for `fit`: a row of weight w counts as w equal rows.

    Raises:
        TypeError, ValueError: when data or model are invalid, or the model is standardised already.

    Example:
        >>> import numpy as np
        >>> from flatprior.inference import MAP, fit, standardize
        >>> from flatprior.models import MLP, Model, Normal, gaussian
        >>> area = np.linspace(40, 200, 50)[:, None]  # square metres
        >>> price = 50_000 + 3_000 * area[:, 0] + 20_000 * np.cos(area[:, 0])  # dollars
        >>> model = standardize(Model(MLP(), Normal(0.1), gaussian(1.0)), area, price)
        >>> prices = fit(model, MAP(), area, price, key=0).predict([[100.0]])
        >>> print(f"{prices.mean.item():,.0f} dollars, sd {np.sqrt(prices.variance.item()):,.0f}")
        349,825 dollars, sd 14,247
    """
    inner = model
    while not isinstance(inner, Standardized) and hasattr(inner, "model"):
        inner = inner.model
    if isinstance(inner, Standardized):
        raise ValueError(f"standardize: expected a model that is not standardised yet; got {model!r}.")
    x, y = as_rows("x", x), as_rows("y", y)
    check_pair(x, y)
    check_finite("x", x)
    weights = None if weights is None else as_weights(weights, count_rows(x))
    structure = check_model(model, x, y)
    for site, response, part in structure.by_site(y):
        check_in_parts(lambda some: check_finite(site, response.points(some)), part)  # noqa: B023
    responses = structure.responses
    own_units = getattr(inner, "own_units", frozenset[str]())
    of_x = tuple(
        Units.of(leaf, weights=weights)
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not _is_at(path, own_units)
        else None
        for path, leaf in jax.tree.leaves_with_path(x)
    )
    numbers = [its for its in responses if not (its.is_discrete or its.is_interval)]
    moved = [its for its in numbers if is_real(its.support) or _is_positive(its.support)]
    values = _observed_values(model, tuple(its.site for its in moved), x, y) if moved else {}
    of_y = tuple(
        (its.site, Units.of(its.points(values[its.site]), weights=weights, is_centred=is_real(its.support)))
        for its in moved
    )
    return Standardized(model, of_x, of_y)


def _is_at(path: tuple[Any, ...], names: frozenset[str]) -> bool:
    """Return whether a leaf of x is below one of some entries of a dict."""
    return bool(path) and getattr(path[0], "key", None) in names


def _is_positive(support: constraints.Constraint) -> bool:
    return of_one_value(support) in (constraints.positive, constraints.nonnegative)


def _observed_values(model: NumPyroModel, sites: tuple[str, ...], x: Rows, y: Rows) -> dict[str, np.ndarray]:
    """Return the values of observed sites, which may be parts of y, or functions of it."""
    parts = [jax.device_get(_observed(model, sites, *part)) for _, part in in_parts((x, y), "standardising")]
    return {site: np.concatenate([part[site] for part in parts]) for site in sites}


@partial(jax.jit, static_argnums=(0, 1))
def _observed(model: NumPyroModel, sites: tuple[str, ...], x: Rows, y: Rows) -> dict[str, Array]:
    seeded = seed(undrawn(params_as_sites(model)), jax.random.key(0))
    traced = trace(seeded).get_trace(x, y)
    return {site: jnp.asarray(traced[site]["value"], float) for site in sites}
