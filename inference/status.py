"""The reliability of a fit, and the warnings where it is unreliable."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .reasons import Code, Reason

Level = Literal["ok", "check", "failed"]


@dataclass(frozen=True)
class Status:
    """The reliability of a fit: "ok", "check" (read the reasons first) or "failed" (do not use it).

    Args:
        failures: the reasons why the fit cannot be used.
        warnings: the reasons to check the fit before it is used.
        leaves_out: what an approximation leaves out of the posterior however well it ran, in one sentence, which is
            printed at the end. It is no reason and has no part in comparisons.
    """

    failures: tuple[Reason, ...] = ()
    warnings: tuple[Reason, ...] = ()
    leaves_out: str = field(default="", compare=False)

    @property
    def level(self) -> Level:
        """The level of the most severe reason."""
        return "failed" if self.failures else "check" if self.warnings else "ok"

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """All reasons, failures first. A reason prints as a sentence, and has a ``code`` and ``numbers``."""
        return self.failures + self.warnings

    @property
    def codes(self) -> tuple[Code, ...]:
        """The codes of the reasons, failures first, for programs to compare."""
        return tuple(reason.code for reason in self.reasons)

    @property
    def is_interrupted(self) -> bool:
        """Whether the run was interrupted by Ctrl-C."""
        return Code.INTERRUPTED in self.codes

    def within(self, part: str) -> "Status":
        """Return the status with every reason attributed to a named part of a fit."""
        failures, warnings = (tuple(r.within(part) for r in reasons) for reasons in (self.failures, self.warnings))
        return Status(failures, warnings)

    def to_json(self) -> list[list[Any]]:
        """Return the status as JSON has it."""
        return [[reason.to_json() for reason in reasons] for reasons in (self.failures, self.warnings)]

    @classmethod
    def from_json(cls, saved: list[list[Any]]) -> "Status":
        """Return the status that `to_json` gave."""
        failures, warnings = (tuple(map(Reason.from_json, reasons)) for reasons in saved)
        return cls(failures, warnings)

    def __add__(self, other: "Status") -> "Status":
        """Return a status with the reasons of both."""
        return Status(self.failures + other.failures, self.warnings + other.warnings)

    def __bool__(self) -> bool:
        """Return True unless the fit has failed."""
        return not self.failures

    def __str__(self) -> str:
        level = f"{self.level}: " if self.reasons else f"{self.level}. " if self.leaves_out else self.level
        return level + " ".join([*map(str, self.reasons), *([self.leaves_out] if self.leaves_out else [])])


_SUPPRESSED: ContextVar[bool] = ContextVar("_SUPPRESSED", default=False)


class FailedFitWarning(UserWarning):
    """A failed fit is used to predict."""


def warn_if_failed(status: Status) -> None:
    """Warn, at the user's line, about predictions of a failed fit."""
    if not (status or _SUPPRESSED.get()):
        _warn(
            f"This fit has failed; its predictions use the weights at which it ended. {status.reasons[0]}",
            FailedFitWarning,
        )


class UndefinedPredictionWarning(UserWarning):
    """A prediction is NaN although the draws of the weights are finite."""


def warn_of_nan(rows: np.ndarray) -> None:
    """Warn, at the user's line, about rows whose prediction is NaN, given as a mask, (n,)."""
    _warn(
        f"The prediction is NaN in {rows.sum()} of {rows.size} rows (row {rows.argmax()} first), although the draws "
        f"of the weights are finite. Look there for values of x that the network cannot take, such as tokens outside "
        f"its vocabulary, or for a summary that the distribution of y does not have, such as the mean of a Cauchy.",
        UndefinedPredictionWarning,
    )


class PrecisionWarning(UserWarning):
    """Log probabilities are computed in a precision in which they may be inexact."""


def warn_of_precision(error: Exception) -> None:
    """Warn, at the user's line, about a model that cannot be evaluated in float64, for the reason in an error."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    _warn(
        f"The model cannot be evaluated in float64 ({reason}), so its log probabilities are those of float32, which "
        f"are inexact where they are differences of large numbers, such as the log gammas of counts above 1,000. Let "
        f"the types of its arrays follow from its arguments: jnp.zeros_like(x) in place of jnp.zeros(n, jnp.float32).",
        PrecisionWarning,
    )


def _warn(message: str, category: type[Warning]) -> None:
    warnings.warn(message, category, skip_file_prefixes=(str(Path(__file__).parent),))


@contextmanager
def no_failure_warnings() -> Iterator[None]:
    """Suppress warnings of failed fits, where their status is shown next to the predictions.

    Only in this thread: `warnings.catch_warnings` changes the filters of all, and two threads may leave them changed.
    """
    token = _SUPPRESSED.set(True)
    try:
        yield
    finally:
        _SUPPRESSED.reset(token)
