"""The objective of a model in the terms of deep learning, checked against independent implementations."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.infer.util import log_density

from ..checks import check_labelled
from ..density import Density
from ..labels import labelled
from ..methods.effort import COPIES, rows_in_memory
from ..report import Printed, Report
from ..result import Fit
from ..rows import Data, Weights, in_double
from ..sites import NumPyroModel
from .place import Point, weights_at, within_supports
from .terms import FLAT, Reading, Term, double_parts, is_over_rows, read_sites, sites_at

if TYPE_CHECKING:  # importing it takes a tenth of a second or more
    import pandas as pd

BITS = 1 / np.log(2)
ADAMW = (
    "Decoupled weight decay (AdamW) is not a prior: it shrinks the weights separately from the gradient, without the "
    "scaling of Adam, so its fixed point depends on the optimiser and maximises no density."
)

COLUMNS = {
    "distribution": ("distribution", "{}"),
    "name": ("in deep learning", "{}"),
    "nats": ("nats", "{:.4f}"),
    "constant": ("constant", "{:.4f}"),
    "nats_per_row": ("nats per row", "{:.4f}"),
    "bits_per_row": ("bits per row", "{:.4f}"),
}
"""Column -> (heading, format) of the printed table."""


@dataclass(frozen=True, eq=False, repr=False)
class Explanation(Printed):
    """The objective of a model, term by term; see `explain`. Prints as a table."""

    terms: tuple[Term, ...]
    num_rows: float
    """The number of rows, or the sum of their weights."""
    place: str
    """The point at which the terms were evaluated, in words."""
    value_difference: float
    """The absolute difference of independent total and objective in nats, computed in float64."""
    gradient_difference: float
    """The largest difference of an element of the two gradients, in nats per unit of the weight."""
    about_rows: tuple[str, ...] = ()
    """The rows that are left out, and values of y that are missing, in words."""
    leaves_out: str = ""
    """What the fit at whose weights the terms were evaluated leaves out of the posterior; see `Fit.leaves_out`."""

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

    def to_dataframe(self) -> "pd.DataFrame":
        """Return the terms, unrounded, one row per site. Penalties have no value per row of data."""
        import pandas as pd

        rows = []
        for term in self.terms:
            per_row = term.nats / self.num_rows if term.role == "loss" else np.nan
            rows.append(vars(term) | {"nats_per_row": per_row, "bits_per_row": per_row * BITS})
        columns = ["site", *COLUMNS, "role", "weight_decay", "checked_by"]
        return pd.DataFrame(rows)[columns].set_index("site")

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes below the table: the sum, the check, and weight decay in an optimiser's units."""
        penalised = any(term.role == "penalty" and term.name != FLAT for term in self.terms)
        minimised = "what MAP minimises; MLE minimises the loss alone" if penalised else "what MLE minimises"
        sources = _grouped((term.checked_by or "only NumPyro's own log_prob", term) for term in self.terms)
        checks = "; ".join(f"{source} ({sites})" for source, sites in sources.items())
        notes = [
            *self.about_rows,
            f"At {self.place}, {self.num_rows:.10g} rows: loss {self.loss:.4f} + penalty {self.penalty:.4f} = "
            f"{self.total:.4f} nats, {minimised}.",
            f"Checked in float64 against {checks}: the largest difference is {self.value_difference:.1g} nats in value "
            f"and {self.gradient_difference:.1g} in gradient.",
        ]
        decays = _grouped((term.weight_decay, term) for term in self.terms if term.weight_decay is not None)
        if decays:
            listed = "; ".join(
                f"{decay:.4g} for the summed loss, {decay / self.num_rows:.4g} for its mean over rows ({sites})"
                for decay, sites in decays.items()
            )
            notes.append(f"As weight_decay of an optimiser (weight_decay times w is added to the gradient): {listed}.")
        return (*notes, ADAMW, *([self.leaves_out] if self.leaves_out else []))

    @property
    def _report(self) -> Report:
        return Report(self.to_dataframe(), COLUMNS, self.notes)


def explain(model: NumPyroModel, x: Any, y: Any, *, at: Point | None = None, weights: Any = None) -> Explanation:
    """Return the objective of a model, term by term, in the terms of deep learning, and check it.

    The objective is ``-log p(y | x, w) - log p(w)``: a loss for each observed site and a penalty for each latent site.
    Both are computed a second time, in float64, from implementations that are not NumPyro's (optax where it has the
    loss), and compared with the density that all methods use, in value and in gradient. Rows are evaluated a part at a
    time, in about 256 MiB beside x and y.

    Args:
        model: a NumPyro model.
        x: n rows, as for `fit`.
        y: n rows, as for `fit`.
        at: the weights at which the terms are evaluated: a fit (its first draw) or a mapping from sites to values. The
            default is the starting point of an optimiser (key 0). Only the numbers depend on it, not the words.
        weights: the weight of each row, (n,), as for `fit`.

    Raises:
        TypeError, ValueError: when data, model or point are invalid; see `fit`.

    Example:
        >>> import numpy as np
        >>> from flatprior.inference import explain
        >>> from flatprior.models import MLP, Bernoulli, Model, gaussian
        >>> x, y = np.array([[0.0], [1.0], [2.0]]), np.array([0, 1, 1])
        >>> explanation = explain(Model(MLP(), Bernoulli(), gaussian(2.0)), x, y, at={"w1": [[1.0]], "b1": [0.0]})
        >>> for term in explanation.terms:
        ...     print(f"{term.site}: {term.name}")
        y: binary cross-entropy with logits
        w1: weight decay, |w1|^2 / (2 * 2^2)
        b1: weight decay, |b1|^2 / (2 * 2^2)
        >>> print(f"{explanation.loss:.3f} + {explanation.penalty:.3f} = {explanation.total:.3f}")
        1.133 + 3.349 = 4.483
    """
    given = labelled(x, y, weights)
    density, data = check_labelled(model, given)
    size = rows_in_memory(density, data, COPIES)
    few = data.take(np.arange(1))
    start = weights_at(None, density, few)
    point = start if at is None else weights_at(at, density, few)
    with jax.enable_x64(True):
        start, point, few = jax.tree.map(in_double, (start, point, few))
        start, point = (within_supports(density, weights, few) for weights in (start, point))
        readings = read_sites(density, start, data, size)
        compiled = jax.jit(partial(_values_and_gradients, density, readings, data.num_rows))
        total: Any = None
        for part in double_parts(data, size):
            own = jax.device_get(compiled(point, part))
            total = own if total is None else jax.tree.map(np.add, total, own)
    (value, parts), gradient, true_value, true_gradient = total
    differences = jax.tree.map(lambda a, b: float(np.abs(a - b).max(initial=0.0)), gradient, true_gradient)
    terms = tuple(reading.term(name, *parts[name]) for name, reading in readings.items())
    difference = abs(float(value) - float(true_value))
    leaves_out = at.leaves_out if isinstance(at, Fit) else ""
    of_gradient, about_rows = max(differences.values()), given.counts.notes
    return Explanation(terms, data.total_weight, _in_words(at), difference, of_gradient, about_rows, leaves_out)


def _values_and_gradients(
    density: Density, readings: dict[str, Reading], num_rows: int, weights: Weights, data: Data
) -> Any:
    """Return what some of the rows add to the objective, by its terms and by the density, and to the gradients.

    A term that is no sum over rows is added in equal shares by all rows, as in batches: see `Density.per_row`.
    """

    def by_terms(weights: Weights) -> tuple[Array, dict[str, tuple[Array, Array | None]]]:
        sites = sites_at(density, weights, data)
        parts = {}
        for name, each in readings.items():
            share = 1.0 if is_over_rows(sites[name]) else data.num_rows / num_rows
            nats, constant = each.negative_log_prob(sites[name]), each.constant(sites[name])
            parts[name] = share * nats, None if constant is None else share * constant
        return sum((nats for nats, _ in parts.values()), jnp.zeros(())), parts

    def by_density(weights: Weights) -> Array:
        return -data.num_rows * log_density(density.per_row, (data, num_rows), {}, weights)[0]

    return *jax.value_and_grad(by_terms, has_aux=True)(weights), *jax.value_and_grad(by_density)(weights)


def _in_words(point: Point | None) -> str:
    if point is None:
        return "the starting point of an optimiser (key 0)"
    if not isinstance(point, Fit):
        return "the given weights"
    return f"{'the weights' if point.kind == 'point' else 'the first draw'} of the {point.method.name} fit"


def _grouped(pairs: Iterable[tuple[Any, Term]]) -> dict[Any, str]:
    """Return the sites of terms, joined for each value that terms have in common."""
    sites: dict[Any, list[str]] = {}
    for common, term in pairs:
        sites.setdefault(common, []).append(term.site)
    return {common: ", ".join(names) for common, names in sites.items()}
