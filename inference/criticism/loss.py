"""Which cost function is this? A model's objective in the words of deep learning, checked."""

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pandas as pd
from jax import Array
from jax.scipy import stats
from numpyro.infer.util import compute_log_probs

from ..checks import check_problem
from ..density import NumPyroModel, Rows, Weights, in_double, is_masked, is_observation, log_density
from ..result import Fit
from .place import Place, weights_at

BITS = 1 / np.log(2)
SOFT_LABELS = "soft-label cross-entropy"
"""What a distribution over soft labels calls its `loss`."""
ADAMW = (
    "Decoupled weight decay (AdamW) is no prior: it shrinks the weights beside the gradient, by an amount that does "
    "not pass through Adam's scaling, so where it comes to rest depends on the optimiser and minimises no density."
)

COLUMNS = {
    "site": ("site", "{}"),
    "distribution": ("distribution", "{}"),
    "name": ("in the words of deep learning", "{}"),
    "nats": ("nats", "{:.4f}"),
    "constant": ("of it constant", "{:.4f}"),
    "nats_per_row": ("nats a row", "{:.4f}"),
    "bits_per_row": ("bits a row", "{:.4f}"),
}
"""Column -> (heading, format) of the printed table."""


@dataclass(frozen=True)
class Term:
    """What one site of a model adds to its objective."""

    site: str
    role: Literal["loss", "penalty", "factor"]
    """An observed site, a latent site, or a `numpyro.factor`."""
    distribution: str
    """The distribution of the site; a parameter that varies stands as its name."""
    name: str
    """What deep learning calls it."""
    nats: float
    """The negative log probability of the site, summed."""
    constant: float
    """The part of `nats` that does not depend on the weights."""
    weight_decay: float | None
    """For a Normal prior around 0 with one fixed scale: the `weight_decay` of an optimiser of the summed loss that is
    this prior, ``1 / scale^2``."""
    checked_by: str | None
    """The independent implementation that it was checked against."""


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """The objective of a model, term by term; see `explain`. Prints as a table."""

    terms: tuple[Term, ...]
    num_rows: int
    place: str
    """Where in weight space the terms were evaluated, in words."""
    value_difference: float
    """|independent total - objective|, in nats, computed in float64."""
    gradient_difference: float
    """The largest difference between an element of the two gradients, in nats a unit of the weight."""

    @property
    def loss(self) -> float:
        """The negative log likelihood in nats, summed over rows: what `MLE` minimises."""
        return sum(term.nats for term in self.terms if term.role != "penalty")

    @property
    def penalty(self) -> float:
        """The negative log prior in nats."""
        return sum(term.nats for term in self.terms if term.role == "penalty")

    @property
    def total(self) -> float:
        """Loss plus penalty, in nats: what `MAP` minimises."""
        return self.loss + self.penalty

    def to_dataframe(self) -> pd.DataFrame:
        """The terms, unrounded, one row a site. Penalties have no value a row."""
        rows = []
        for term in self.terms:
            per_row = term.nats / self.num_rows if term.role == "loss" else np.nan
            rows.append(vars(term) | {"nats_per_row": per_row, "bits_per_row": per_row * BITS})
        columns = [*COLUMNS, "role", "weight_decay", "checked_by"]
        return pd.DataFrame(rows)[columns].set_index("site")

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said below the table: the identity, the check, and weight decay in an optimiser's units."""
        penalised = any(term.role == "penalty" and term.name != FLAT for term in self.terms)
        minimised = "what MAP minimises; MLE minimises the loss alone" if penalised else "what MLE minimises"
        notes = [
            f"At {self.place}, {self.num_rows} rows: loss {self.loss:.4f} + penalty {self.penalty:.4f} = "
            f"{self.total:.4f} nats, {minimised}.",
            f"Checked in float64 against {self._checks()}: the largest difference is {self.value_difference:.1g} nats "
            f"in value and {self.gradient_difference:.1g} in gradient.",
        ]
        decays: dict[float, list[str]] = {}
        for term in self.terms:
            if term.weight_decay is not None:
                decays.setdefault(term.weight_decay, []).append(term.site)
        if decays:
            listed = "; ".join(
                f"{decay:.4g} for the summed loss, {decay / self.num_rows:.4g} for its mean over rows "
                f"({', '.join(sites)})"
                for decay, sites in decays.items()
            )
            notes.append(f"As an optimiser counts it (weight_decay times w is added to the gradient): {listed}.")
        return (*notes, ADAMW)

    def _checks(self) -> str:
        by: dict[str, list[str]] = {}
        for term in self.terms:
            by.setdefault(term.checked_by or "NumPyro's own log_prob, for want of another", []).append(term.site)
        return ", ".join(f"{source} ({', '.join(sites)})" for source, sites in by.items())

    def __str__(self) -> str:
        table = self._formatted().to_string(index=False, justify="left")
        return "\n".join([*(line.rstrip() for line in table.splitlines()), "", *self.notes])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        notes = "<br>".join(escape(note) for note in self.notes)
        return f"{self._formatted().to_html(index=False, border=0)}<p>{notes}</p>"

    def _formatted(self) -> pd.DataFrame:
        table = self.to_dataframe().reset_index()
        cells = {
            heading: table[column].map(lambda value, form=form: "" if value != value else form.format(value))
            for column, (heading, form) in COLUMNS.items()
        }
        return pd.DataFrame(cells)


def explain(model: NumPyroModel, x: Any, y: Any, *, at: Place | None = None) -> Explanation:
    """Say what the objective of a model is, in the words of deep learning, and check that it is so.

    The objective is ``-log p(y | x, w) - log p(w)``: a loss for the observed site and a penalty for each latent site.
    Both are computed a second time, in float64, from implementations that are not NumPyro's (optax where it has the
    loss), and held against the density that every method works on, in value and in gradient.

    Args:
        model: a NumPyro model.
        x: n rows, as for `fit`.
        y: n rows likewise.
        at: the weights at which the terms are evaluated: a fit (its first draw) or a mapping from sites to values. By
            default where an optimiser starts (key 0). The words hold everywhere, the numbers here.

    Raises:
        TypeError, ValueError: when data or model are not what they should be; see `fit`.

    Example:
        >>> import numpy as np
        >>> from flatprior.inference import explain
        >>> from flatprior.models import MLP, Bernoulli, Model, gaussian
        >>> x, y = np.array([[0.0], [1.0], [2.0]]), np.array([0, 1, 1])
        >>> told = explain(Model(MLP(), Bernoulli(), gaussian(2.0)), x, y, at={"w1": [[1.0]], "b1": [0.0]})
        >>> for term in told.terms:
        ...     print(f"{term.site}: {term.name}")
        y: binary cross-entropy with logits
        w1: weight decay, |w1|^2 / (2 * 2^2)
        b1: weight decay, |b1|^2 / (2 * 2^2)
        >>> print(f"{told.loss:.3f} + {told.penalty:.3f} = {told.total:.3f}")
        1.133 + 3.349 = 4.483
    """
    structure, x, y = check_problem(model, x, y)
    weights = weights_at(at, model, structure, x, y)
    place = "the weights given" if at is not None else "the place where an optimiser starts (key 0)"
    if isinstance(at, Fit):
        place = f"the weights of the {type(at.method).__name__} fit" if at.kind == "point" else "the first draw"
    with jax.enable_x64(True):
        weights, x, y = jax.tree.map(in_double, (weights, x, y))
        read = _reader(model, x, y)
        sites, varying = read(weights)
        readings = {name: _read(site, varying[name]) for name, site in sites.items()}

        def independent(weights: Weights) -> dict[str, Array]:
            sites = _sites(model, weights, x, y)
            return {name: reading.negative_log_prob(sites[name]) for name, reading in readings.items()}

        def total(weights: Weights) -> tuple[Array, dict[str, Array]]:
            parts = independent(weights)
            return sum(parts.values(), jnp.zeros(())), parts

        (value, parts), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(weights)
        objective, true_gradient = jax.jit(jax.value_and_grad(lambda w: -log_density(model, w, x, y)))(weights)
        apart = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max(initial=0.0)), gradient, true_gradient)
        terms = [
            Term(
                site=name,
                role=reading.role,
                distribution=reading.distribution,
                name=reading.name,
                nats=float(parts[name]),
                constant=float(reading.constant(sites[name])),
                weight_decay=reading.weight_decay,
                checked_by=reading.source,
            )
            for name, reading in readings.items()
        ]
        difference = abs(float(value) - float(objective))
    terms.sort(key=lambda term: term.role == "penalty")  # the loss first; a stable sort
    return Explanation(tuple(terms), len(jax.tree.leaves(x)[0]), place, difference, max(apart.values()))


FLAT = "none: flat"
"""What a site without a prior adds."""


class _Reading(NamedTuple):
    """How a site is read: in words, and by formulas that are not its own."""

    role: Literal["loss", "penalty", "factor"]
    distribution: str
    name: str
    formula: Callable[[Any, Any], Array] | None
    """(distribution, value) -> negative log probability of each element."""
    constants: Callable[[Any, Any], Array] | None
    """The part of it that depends on no weight."""
    source: str | None
    weight_decay: float | None

    def negative_log_prob(self, site: dict[str, Any]) -> Array:
        """Of the site, summed, by the independent formula where there is one."""
        if self.formula is None:
            return _sum(site, lambda d, value: -d.log_prob(value), site["fn"])
        return _sum(site, self.formula, _base(site["fn"]))

    def constant(self, site: dict[str, Any]) -> Array:
        """The part of it that depends on no weight, summed."""
        return jnp.zeros(()) if self.constants is None else _sum(site, self.constants, _base(site["fn"]))


def _sum(site: dict[str, Any], formula: Callable[[Any, Any], Array], d: Any) -> Array:
    """A formula summed over a site's elements, with the site's mask and scale."""
    values = formula(d, site["value"])
    batch = len(site["fn"].batch_shape)
    values = values.sum(axis=tuple(range(batch, values.ndim)))
    if isinstance(site["fn"], dist.MaskedDistribution):
        values = jnp.where(site["fn"]._mask, values, 0.0)
    return jnp.sum(values if site["scale"] is None else site["scale"] * values)


def _base(d: Any) -> Any:
    """The distribution of one element, without expansion, mask and event dimensions."""
    while isinstance(d, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        d = d.base_dist
    return d


def _parameters(d: Any) -> dict[str, Array]:
    d = _base(d)
    return {name: getattr(d, name) for name in d.arg_constraints if isinstance(vars(d).get(name), Array | np.ndarray)}


def _sites(model: NumPyroModel, weights: Weights, x: Rows, y: Rows) -> dict[str, Any]:
    trace = compute_log_probs(model, (x, y), {}, weights)[1]
    return {name: site for name, site in trace.items() if site["type"] == "sample"}


def _reader(model: NumPyroModel, x: Rows, y: Rows) -> Callable[[Weights], tuple[dict[str, Any], dict[str, set[str]]]]:
    """Weights -> the sites of the model there, and for each the names of its parameters that depend on the weights."""

    def parameters(weights: Weights) -> dict[str, dict[str, Array]]:
        found = {name: _parameters(site["fn"]) for name, site in _sites(model, weights, x, y).items()}
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, float), found)

    def read(weights: Weights) -> tuple[dict[str, Any], dict[str, set[str]]]:
        # In a direction that is nobody's zero, what depends on the weights has a derivative that is not 0.
        direction = {
            site: jax.random.normal(jax.random.key(i), jnp.shape(v)) for i, (site, v) in enumerate(weights.items())
        }
        moved = jax.jit(lambda w: jax.jvp(parameters, (w,), (direction,))[1])(weights)
        varying = {site: {name for name, leaf in found.items() if np.any(leaf)} for site, found in moved.items()}
        return _sites(model, weights, x, y), varying

    return read


def _read(site: dict[str, Any], varying: set[str]) -> _Reading:
    """Put a site into words."""
    d, name = _base(site["fn"]), site["name"]
    if isinstance(site["fn"], dist.Unit):
        return _Reading("factor", "numpyro.factor", "a term written by hand", None, None, None, None)
    words = _in_words(d, varying)
    if is_observation(site):
        return _Reading("loss", words, *_loss(d, varying), None)
    if is_masked(site["fn"]):
        return _Reading("penalty", words, FLAT, lambda d, value: jnp.zeros_like(value), None, "0", None)
    return _Reading("penalty", words, *_penalty(d, name, varying))


def _loss(d: Any, varying: set[str]) -> tuple[str, Any, Any, str | None]:
    """(name, formula, constants, source) of an observed site."""
    if isinstance(d, dist.BernoulliLogits):
        return (
            "binary cross-entropy with logits",
            lambda d, y: optax.sigmoid_binary_cross_entropy(d.logits, y),
            None,
            "optax.sigmoid_binary_cross_entropy",
        )
    if isinstance(d, dist.BernoulliProbs):
        return (
            "binary cross-entropy",
            lambda d, y: jnp.where(y == 1, -jnp.log(d.probs), -jnp.log1p(-d.probs)),
            None,
            "-log p or -log(1 - p)",
        )
    if isinstance(d, dist.CategoricalLogits):
        return (
            "softmax cross-entropy",
            lambda d, y: optax.softmax_cross_entropy_with_integer_labels(d.logits, y),
            None,
            "optax.softmax_cross_entropy_with_integer_labels",
        )
    if isinstance(d, dist.CategoricalProbs):
        return (
            "cross-entropy",
            lambda d, y: -jnp.log(jnp.take_along_axis(d.probs, y[..., None], -1)[..., 0]),
            None,
            ("-log p of the label"),
        )
    if getattr(d, "loss", None) == SOFT_LABELS:
        return (
            SOFT_LABELS,
            lambda d, y: optax.softmax_cross_entropy(d.logits, y),
            None,
            "optax.softmax_cross_entropy",
        )
    if isinstance(d, dist.Normal):
        name, constants = "Gaussian negative log likelihood: squared error weighed by a scale that is learned", None
        if "scale" not in varying:
            constants, scale = _normal_constant, np.unique(np.asarray(d.scale))
            each = f"1 / (2 * {scale[0]:.4g}^2)" if scale.size == 1 else "1 / (2 scale^2) of each row"
            name = f"squared error times {each}, and n/2 log(2 pi s^2)"
        return name, _squared_error, constants, "optax.squared_error"
    if isinstance(d, dist.Laplace):
        constants = None if "scale" in varying else lambda d, value: jnp.log(2 * d.scale) + 0 * value
        return "absolute error / scale", _absolute_error, constants, "sums of absolute values"
    if isinstance(d, dist.Poisson):
        return "Poisson loss", lambda d, y: -stats.poisson.logpmf(y, d.rate), None, "jax.scipy.stats.poisson"
    return f"negative log of {_title(d)}", None, None, None


def _penalty(d: Any, site: str, varying: set[str]) -> tuple[str, Any, Any, str | None, float | None]:
    """(name, formula, constants, source, weight_decay) of a latent site."""
    if isinstance(d, dist.ImproperUniform):
        return FLAT, lambda d, w: jnp.zeros_like(w), None, "0", None
    if isinstance(d, dist.Uniform) and not varying:
        formula = lambda d, w: jnp.log(d.high - d.low) + 0 * w  # noqa: E731
        return f"{FLAT} inside its bounds", formula, formula, "the log of its width", None
    if isinstance(d, dist.Normal):
        if varying:
            return "weight decay with a coefficient that is learned", _squared_error, None, "optax.squared_error", None
        loc, scale = np.unique(np.asarray(d.loc)), np.unique(np.asarray(d.scale))
        towards = "" if loc.size == 1 and loc[0] == 0 else f" - {loc[0]:.4g}" if loc.size == 1 else " - loc"
        spread = f"{scale[0]:.4g}" if scale.size == 1 else "scale"
        decay = float(scale[0] ** -2.0) if scale.size == 1 and not towards else None
        return (
            f"weight decay, |{site}{towards}|^2 / (2 * {spread}^2)",
            _squared_error,
            _normal_constant,
            "optax.squared_error",
            decay,
        )
    if isinstance(d, dist.Laplace):
        constants = None if varying else lambda d, value: jnp.log(2 * d.scale) + 0 * value
        return "L1, the sum of absolute values / scale", _absolute_error, constants, "sums of absolute values", None
    return f"negative log of {_title(d)}", None, None, None, None


def _squared_error(d: Any, value: Array) -> Array:
    return optax.squared_error(value - d.loc) / (2 * d.scale**2) + _normal_constant(d, value)


def _normal_constant(d: Any, value: Array) -> Array:
    return 0.5 * jnp.log(2 * jnp.pi * d.scale**2) + jnp.zeros(jnp.shape(value))


def _absolute_error(d: Any, value: Array) -> Array:
    return jnp.abs(value - d.loc) / d.scale + jnp.log(2 * d.scale)


def _title(d: Any) -> str:
    return type(d).__name__.removesuffix("Logits").removesuffix("Probs")


def _in_words(d: Any, varying: set[str]) -> str:
    """A distribution with the values of those parameters that are one fixed number, and the names of the others."""

    def word(name: str) -> str:
        value = vars(d).get(name)
        values = np.unique(np.asarray(value)) if value is not None and name not in varying else np.array([])
        return f"{values[0]:.4g}" if values.size == 1 and values.dtype.kind in "biuf" else name

    names = [name for name in d.arg_constraints if name in vars(d)]
    return f"{_title(d)}({', '.join(map(word, names))})"
