"""Weights of evidence: the contribution of each feature to the log odds of a class, in bits."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array

from ..arrays import as_rows, check_finite
from ..checks import Layout, check_like
from ..chunks import over_rows
from ..density import Density
from ..predictive import Predictive
from ..report import Printed, Report, columns_of
from ..result import Fit, check_fit
from ..rows import Data, Rows, Weights
from .bits import in_double_precision

if TYPE_CHECKING:  # importing it takes a tenth of a second or more
    import pandas as pd

type Kind = Literal["linear", "ablation"]

LINEAR = 1e-5
"""Share of the largest log odds by which a linear logit may differ from the sum of its parts, by rounding."""
MAX_LINES = 12
"""The most features that are printed."""


@dataclass(frozen=True, eq=False, repr=False)
class WeightOfEvidence(Printed):
    """The contribution of each feature to the log odds of a class, in bits; see `weight_of_evidence`.

    Prints as a table, the largest contributions first.
    """

    features: tuple[str, ...]
    """The names of the columns of x, or their numbers."""
    bits: np.ndarray
    """The contribution of each feature in each row, the mean over draws, (n, features)."""
    low: np.ndarray
    """The lower end of its central interval over draws, (n, features); for a point estimate the contribution itself."""
    high: np.ndarray
    """The upper end, (n, features)."""
    log_odds: np.ndarray
    """The log odds of each row, the mean over draws, in bits, (n,)."""
    baseline: float
    """The log odds of the baseline, the mean over draws, in bits."""
    kind: Kind
    """"linear" if the log odds are linear in x, so that contributions add up, else "ablation"."""
    question: str
    """The classes of the odds, in words."""
    interval: float
    """The share of the draws in the intervals."""

    @property
    def remainder(self) -> np.ndarray:
        """``log_odds - baseline - sum of bits``, (n,): 0 for a linear logit, else the interactions of features."""
        return self.log_odds - self.baseline - self.bits.sum(axis=1)

    def to_dataframe(self) -> "pd.DataFrame":
        """Return bits, low and high, one row per row of x and feature, unsorted."""
        import pandas as pd

        index = pd.MultiIndex.from_product([range(len(self.bits)), self.features], names=["row", "feature"])
        columns = {"bits": self.bits, "low": self.low, "high": self.high}
        return pd.DataFrame({name: values.ravel() for name, values in columns.items()}, index=index)

    @property
    def _report(self) -> Report:
        import pandas as pd

        order = np.argsort(-np.abs(self.bits).mean(axis=0), kind="stable")
        shown, rest = order[:MAX_LINES], order[MAX_LINES:]
        table = pd.DataFrame({name: values[shown] for name, values in self._columns().items()})
        table.index = pd.Index([self.features[i] for i in shown])
        notes = []
        if len(rest):
            notes.append(f"And {len(rest)} smaller ones: {self.bits[:, rest].sum(axis=1).mean():+.2f} bits together.")
        parts = f"{self.baseline:.2f} (baseline) {self.bits.sum(axis=1).mean():+.2f} (features)"
        if self.kind == "ablation":
            parts += f" {self.remainder.mean():+.2f} (interactions)"
        many = f", mean over {len(self.bits)} rows" if len(self.bits) > 1 else ""
        notes.append(f"Log odds of {self.question} in bits{many}: {self.log_odds.mean():.2f} = {parts}.")
        return Report(table, columns_of(table, "{:.2f}"), notes)

    def _columns(self) -> dict[str, np.ndarray]:
        """Return the printed columns: for one row its bits and interval, for several a summary over rows."""
        if len(self.bits) > 1:
            sizes = np.abs(self.bits).mean(axis=0)
            return {"mean |bits|": sizes, "lowest": self.bits.min(axis=0), "highest": self.bits.max(axis=0)}
        tail = (1 - self.interval) / 2
        ends = {f"{tail:.3g}": self.low[0], f"{1 - tail:.3g}": self.high[0]}
        return {"bits": self.bits[0]} | ({} if (self.low == self.high).all() else ends)


def weight_of_evidence(
    fit: Fit, x: Any, *, baseline: Any, label: int = 1, against: int | None = None, interval: float = 0.9
) -> WeightOfEvidence:
    """Split the log odds of a class into contributions of the features of a row, in bits (Good 1950).

    The log odds of the class are compared with those of a baseline. The contribution of feature j is the loss of log
    odds when x_j is set to the baseline's b_j and the other features stay: for a logit that is linear in x this is
    ``w_j (x_j - b_j) / log 2``, and for each draw the contributions and the log odds of the baseline add up to those of
    the row. For a network they do not, as features interact: the contributions are then those of ablation, and
    `remainder` is the difference. `kind` is determined by evaluation: it is "linear" if in each draw the contributions
    add up, and the log odds half-way between row and baseline are the mean of theirs.

    One bit for a class doubles its odds. Contributions are computed for each draw, in double precision, and returned as
    means over draws with central intervals, which are posterior intervals if the draws are from the posterior. The mean
    of the log odds is not the log odds of the mean probability that `predict` returns. Contributions describe the
    model, not the effects of the features: if features are correlated, the data do not determine how they share the
    evidence, and the intervals are wide.

    Args:
        fit: a fit, by any method, whose y is one of a finite set of classes.
        x: n rows of one array or data frame, (n, features).
        baseline: the reference: rows, (m, features), whose mean is taken, such as the x of the fit (which a fit does
            not store); or one row, (features,).
        label: the class of interest; of a `Bernoulli` 1.
        against: the other class; by default, of two classes, the other one, and of more the mean log probability of all
            others, so that the log odds are against their geometric mean, and linear if the logits are.
        interval: the share of the draws in the intervals.

    Returns:
        The contributions, in bits.

    Raises:
        TypeError: when `fit` is not a fit or y is not a class.
        ValueError: when x is not rows of one array, like those of the fit, or baseline, classes or interval are
            invalid.

    Example:
        >>> import numpy as np
        >>> from flatprior.inference import MAP, fit
        >>> from flatprior.inference.information import weight_of_evidence
        >>> from flatprior.models import MLP, Bernoulli, Model, gaussian
        >>> x = np.random.default_rng(0).normal(size=(200, 2))
        >>> y = (x @ [1.0, -2.0] > 0).astype(int)
        >>> logistic = fit(Model(MLP(), Bernoulli(), gaussian(1.0)), MAP(), x, y, key=0)
        >>> print(weight_of_evidence(logistic, np.array([[1.0, 1.0]]), baseline=[0.0, 0.0]))
            bits
        1  -6.61
        0   2.86
        <BLANKLINE>
        Log odds of class 1 against class 0 in bits: -3.66 = 0.09 (baseline) -3.75 (features).
    """
    check_fit("weight_of_evidence", fit)
    predictive = fit.predict(x)
    others = _others(predictive, label, against)
    if not 0 < interval < 1:
        raise ValueError(f"weight_of_evidence: expected an interval between 0 and 1; got {interval!r}.")
    shape = fit.layout.shapes[0]
    if fit.layout.tree != jax.tree.structure(0) or len(shape) != 1:
        raise ValueError(
            f"weight_of_evidence: expected a fit to one array x, rows of features; got rows shaped "
            f"{', '.join(map(str, fit.layout.shapes))} in {fit.layout.tree}."
        )
    reference = _mean_row(fit.layout, baseline)
    levels = np.array([(1 - interval) / 2, (1 + interval) / 2])
    with in_double_precision(predictive) as precise:
        rows = np.asarray(precise.x, np.float64)
        against_rows = np.broadcast_to(reference, rows.shape)
        data = predictive.data(rows, against_rows)
        parts = over_rows(_Parts(label, others), _summary, predictive.density, precise.draws, data, levels)
    scale = max(float(np.abs(parts.pop("size")).max()), 1.0)
    return WeightOfEvidence(
        features=fit.layout.columns or tuple(map(str, range(shape[0]))),
        baseline=float(parts.pop("baseline")[0]) / math.log(2),
        kind="linear" if parts.pop("miss").max() <= LINEAR * scale else "ablation",
        question=_question(label, others),
        interval=interval,
        **{name: value / math.log(2) for name, value in parts.items()},
    )


def _others(predictive: Predictive, label: int, against: int | None) -> tuple[int, ...]:
    """Return the classes that the class of interest is compared with."""
    classes = range(predictive.response.expect_class("weight_of_evidence"))
    if label not in classes or (against is not None and against not in classes) or label == against:
        raise ValueError(
            f"weight_of_evidence: expected label and against to be two of the classes 0 to {classes[-1]}; got "
            f"{label!r} and {against!r}."
        )
    return tuple(k for k in classes if k != label) if against is None else (against,)


def _question(label: int, others: tuple[int, ...]) -> str:
    return f"class {label} against " + (f"class {others[0]}" if len(others) == 1 else "the mean of the others")


def _mean_row(layout: Layout, baseline: Any) -> np.ndarray:
    """Return the row that others are compared with, (features,), in float64."""
    rows = np.asarray(as_rows("baseline", baseline))
    if rows.shape[-1:] != layout.shapes[0] or rows.ndim > 2:
        raise ValueError(
            f"baseline: expected rows, shape (m, {layout.shapes[0][0]}), or one row, shape {layout.shapes[0]}; got "
            f"{rows.shape}."
        )
    rows = np.asarray(check_like(layout, baseline, "baseline")) if rows.ndim == 2 else rows[None]
    check_finite("baseline", rows)
    return rows.mean(axis=0, dtype=np.float64)


@dataclass(frozen=True)
class _Parts:
    """The log odds of each row, of its baseline, and with each feature in turn at the baseline, for one draw."""

    label: int
    others: tuple[int, ...]

    def __call__(self, density: Density, weights: Weights, data: Data) -> dict[str, Array]:
        x, y = data.x, data.y  # y is the baseline
        swapped = jnp.where(jnp.eye(x.shape[1], dtype=bool), y[:, None], x[:, None])
        rows = jnp.concatenate([x, y, (x + y) / 2, swapped.reshape(-1, x.shape[1])])
        log_odds = self._log_odds(density.observation(weights, replace(data, x=rows, y=None)))
        here, there, between, without = jnp.split(log_odds, len(x) * np.arange(1, 4))
        bits = here[:, None] - without.reshape(x.shape)
        miss = jnp.maximum(jnp.abs(here - there - bits.sum(axis=1)), jnp.abs(between - (here + there) / 2))
        return {"bits": bits, "log_odds": here, "baseline": there, "miss": miss}

    def _log_odds(self, d: dist.Distribution) -> Array:
        return d.log_prob(self.label) - sum(d.log_prob(k) for k in self.others) / len(self.others)


def _summary(parts: dict[str, Array], y: Rows, levels: Array) -> dict[str, Array]:
    """Return the means over draws, the ends of the intervals, and the largest deviation from linearity."""
    low, high = jnp.quantile(parts["bits"], levels, axis=0)
    size = jnp.maximum(jnp.abs(parts["log_odds"]), jnp.abs(parts["baseline"])).max(axis=0)
    means = {name: parts[name].mean(axis=0) for name in ("bits", "log_odds", "baseline")}
    return {**means, "low": low, "high": high, "size": size, "miss": parts["miss"].max(axis=0)}
