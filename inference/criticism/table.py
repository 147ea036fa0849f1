"""The table of a comparison: entries scored on the same rows, best first."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, get_args

import numpy as np

from ..report import Printed, Report
from ..status import Level, Status
from .scores import OF, mean, standard_error

if TYPE_CHECKING:  # importing it takes a tenth of a second or more
    import pandas as pd

COLUMNS = {
    "elpd": ("elpd", "{:.3f}"),
    "elpd_se": ("se", "{:.3f}"),
    "bits": ("bits", "{:.3f}"),
    "elpd_diff": ("elpd_diff", "{:.3f}"),
    "dse": ("dse", "{:.3f}"),
    "keys": ("keys", "{:.0f}"),
    "keys_se": ("se of keys", "{:.3f}"),
    "elpd_loo": ("LOO", "{:.3f}"),
    "elpd_loo_se": ("se", "{:.3f}"),
    "bits_per_token": ("bits per token", "{:.3f}"),
    "rmse": ("RMSE", "{:.4g}"),
    "crps": ("CRPS", "{:.4g}"),
    "accuracy": ("accuracy", "{:.1%}"),
    "brier": ("Brier", "{:.4f}"),
    "rps": ("RPS", "{:.4f}"),
    "coverage": ("90% covers", "{:.1%}"),
    "calibration_error": ("calibration error", "{:.3f}"),
    "agreement": ("agreement", "{:.1%}"),
    "agreement_se": ("se", "{:.1%}"),
    "total_variation": ("total variation", "{:.3f}"),
    "total_variation_se": ("se", "{:.3f}"),
    "w2": ("W2", "{:.3g}"),
    "w2_se": ("se", "{:.2g}"),
    "w2_mean": ("W2 of means", "{:.3g}"),
    "w2_mean_se": ("se", "{:.2g}"),
    "spread": ("spread ratio", "{:.2f}"),
    "spread_se": ("se", "{:.2f}"),
    "kind": ("kind", "{}"),
    "status": ("status", "{}"),
    "seconds_compile": ("compile s", "{:.1f}"),
    "seconds_run": ("run s", "{:.1f}"),
}
"""Column -> (heading, format) of the printed table."""
PRINTED_BY_SITE = ("elpd", "bits_per_token", "rmse", "accuracy", "total_variation", "w2_mean")
"""The scores of each of several observed sites that are printed; `Comparison.to_dataframe` has all of them."""
NOT_BLANK = ("elpd", "elpd_se", "bits", "elpd_diff", "dse")
"""Columns that every row has, in which NaN is printed. In the others it means that there is no such score."""


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Printed):
    """The scores of several fits on the same rows, best first; see `compare`. Prints as a table."""

    table: "pd.DataFrame"
    """One row per fit."""
    log_probs: Mapping[str, np.ndarray]
    """Name of a fit -> log predictive density of each row in nats, (n,); for several keys, their mean."""
    notes: tuple[str, ...]
    """The notes below the table: units, and the reasons of statuses that are not ok."""
    floor: Mapping[str, float] = field(default_factory=dict)
    """The distance between two halves of the reference, by measure, with its standard error; empty without one."""

    def to_dataframe(self) -> "pd.DataFrame":
        """Return the scores, unrounded, one row per fit; `compare` describes the columns."""
        return self.table.copy()

    @property
    def _report(self) -> Report:
        columns = columns_of_table(self.table.columns)
        is_printed = {name: name in COLUMNS or name.partition(OF)[0] in PRINTED_BY_SITE for name in columns}
        printed = {name: column for name, column in columns.items() if is_printed[name]}
        return Report(self.table, printed, self.notes, printed_nan=NOT_BLANK)


def columns_of_table(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return column -> (heading, format) in the order of the table; the scores of sites follow those of all."""
    names = list(names)
    known = [name for name in COLUMNS if name in names]
    of_sites = [name for name in names if name.partition(OF)[0] in COLUMNS and OF in name]
    last = next((i for i, name in enumerate(known) if name == "kind"), len(known))
    columns = {}
    for name in [*known[:last], *of_sites, *known[last:]]:
        score, of, site = name.partition(OF)
        heading, form = COLUMNS[score]
        columns[name] = f"{heading}{of}{site}", form
    return columns


@dataclass(frozen=True)
class Entry:
    """The values of one row of the table."""

    log_probs: np.ndarray
    """Log predictive density, (key, n)."""
    scores: dict[str, float]
    kind: str
    statuses: tuple[Status, ...]
    seconds_compile: float
    seconds_run: float


def tabulate(
    entries: Mapping[str, Entry],
    notes: Sequence[str],
    weights: np.ndarray | None = None,
    floor: Mapping[str, float] | None = None,
) -> Comparison:
    """Return the comparison of several entries scored on the same rows, best first; rows may have weights, (n,)."""
    import pandas as pd

    log_probs = {name: _over_keys(entry.log_probs) for name, entry in entries.items()}
    means = {name: mean(values, weights) for name, values in log_probs.items()}
    order = sorted(means, key=lambda name: -means[name] if math.isfinite(means[name]) else math.inf)  # stable
    many = any(len(entry.log_probs) > 1 for entry in entries.values())
    rows = []
    for name in order:
        entry, values = entries[name], log_probs[name]
        with np.errstate(invalid="ignore"):  # infinite minus infinite is NaN, which the table shows
            difference = values - log_probs[order[0]]
        each = np.array([mean(of_key, weights) for of_key in entry.log_probs])
        rows.append(
            {
                "elpd": means[name],
                "elpd_se": standard_error(values, weights),
                "bits": -means[name] / math.log(2),
                "elpd_diff": mean(difference, weights),
                "dse": standard_error(difference, weights),
                **({"keys": len(each), "keys_se": standard_error(each)} if many else {}),
                **entry.scores,
                "kind": entry.kind,
                "status": _worst(entry.statuses).level,
                "seconds_compile": entry.seconds_compile,
                "seconds_run": entry.seconds_run,
            }
        )
    table = pd.DataFrame(rows, index=order)
    reasons = [f"{name}: {reason}" for name, entry in entries.items() for reason in _reasons(entry)]
    return Comparison(table[list(columns_of_table(table.columns))], log_probs, (*notes, *reasons), floor or {})


def _over_keys(log_probs: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return log_probs[0] if len(log_probs) == 1 else log_probs.mean(axis=0, dtype=np.float64)


def _reasons(entry: Entry) -> list[str]:
    """Return the notes on an entry: rows whose log density is not finite, and statuses that are not ok."""
    reasons, values = [], entry.log_probs
    odd = np.flatnonzero(~np.isfinite(values).all(axis=0))
    if odd.size:
        value = next(of_key[odd[0]] for of_key in values if not np.isfinite(of_key[odd[0]]))
        reasons.append(
            f"The log density is not finite in {odd.size} of {values.shape[1]} rows ({value} in row {odd[0]}); the fit "
            f"is last."
        )
    suspect = [status for status in entry.statuses if status.level != "ok"]
    if suspect:
        worst = _worst(suspect)
        many = len(entry.statuses) > 1
        count = f"{len(suspect)} of {len(entry.statuses)} fits are not ok, the worst: " if many else ""
        reasons.append(f"{count}{worst}")
    return reasons


def _worst(statuses: Iterable[Status]) -> Status:
    return max(statuses, key=lambda status: get_args(Level).index(status.level))
