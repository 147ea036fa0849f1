"""Fits in standard units of y, and the same fits in the user's."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from ..inference.checks import check_problem
from ..inference.digests import digest_of_rows
from ..inference.labels import with_gaps
from ..inference.method import Method, Outcome
from ..inference.result import Fit
from ..inference.run import fit
from ..inference.sites import NumPyroModel
from ..inference.units import Units, standardize

IN_NATS = {"loss": 1, "base_loss": 1, "energy": 1, "lp": -1, "log_evidence_psis": -1}
"""Statistics that contain the log density of all rows: name -> the sign of the log of the unit of y in them."""


@dataclass(frozen=True)
class StandardFit:
    """A fit to y in standard units.

    The means and the standard deviations that `standardize` writes into a model are constants of its compiled code: a
    model of other rows is compiled anew. A fit to rows that are standardised beforehand has the same weights, and
    shares its compiled code with every other fit to rows of these shapes, such as those of a grid search. `in_units`
    then states it as the fit of the standardised model.
    """

    standard: Fit
    """The fit to y in standard units, with the compiled code of all rows of these shapes."""
    units: Units | None
    """The units of y; None where y stays as it is, as classes and counts do."""
    in_units: Fit
    """The same fit, with densities, predictions and scores in the units of y."""

    @classmethod
    def of(cls, model: NumPyroModel, method: Method, x: Any, y: Any, weights: Any, **options: Any) -> Self:
        """Fit a model of one observed site by a method; x is fitted as it is. The options are those of `fit`."""
        standardized = standardize(model, x, y, weights=weights)
        if not standardized.y:
            fitted = fit(model, method, x, y, weights=weights, **options)
            return cls(fitted, None, fitted)
        ((_, units),) = standardized.y
        in_standard_units = (np.asarray(y, float) - units.mean[0]) / units.sd[0]
        fitted = fit(model, method, x, in_standard_units, weights=weights, **options)
        density, data = check_problem(replace(standardized, x=(None,) * len(standardized.x)), x, y, weights)
        if lacking := density.structure.of_prior - set(fitted.outcome.draws):
            density = density.without(lacking)
        total = data.total_weight
        in_units = replace(
            fitted,
            density=density,
            outcome=_moved(fitted.outcome, total * float(np.log(units.sd[0]))),
            rows=digest_of_rows(data.x, with_gaps(data.y, data.known)),
        )
        return cls(fitted, units, in_units)

    def from_standard(self, values: np.ndarray) -> np.ndarray:
        """Return values of y, which are in standard units, in the units of y."""
        return values if self.units is None else self.units.mean[0] + self.units.sd[0] * values

    def to_standard(self, values: np.ndarray) -> np.ndarray:
        """Return values of y in standard units."""
        return values if self.units is None else (values - self.units.mean[0]) / self.units.sd[0]

    @property
    def sd(self) -> float:
        """The standard unit of y, in the units of y."""
        return 1.0 if self.units is None else self.units.sd[0]


def _moved(outcome: Outcome, log_unit: float) -> Outcome:
    """Return an outcome whose log densities are those in the units of y: lower by the log of the standard unit.

    Args:
        outcome: an outcome in standard units.
        log_unit: the log of the standard unit of y, summed over rows.
    """
    evidence = None if outcome.log_evidence is None else outcome.log_evidence - log_unit
    stats, sample_stats = (
        {name: values + IN_NATS[name] * log_unit if name in IN_NATS else values for name, values in each.items()}
        for each in (outcome.stats, outcome.sample_stats)
    )
    return replace(outcome, log_evidence=evidence, stats=stats, sample_stats=sample_stats)
