"""Whether a fit can be relied on, and the warnings where it cannot."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from .reasons import Code, Reason

Level = Literal["ok", "check", "failed"]


@dataclass(frozen=True)
class Status:
    """Whether a fit can be relied on: "ok", "check" (read the reasons first) or "failed" (do not use it).

    Args:
        failures: each a reason why the fit is not what was asked for.
        warnings: each a reason to look before the fit is used.
    """

    failures: tuple[Reason, ...] = ()
    warnings: tuple[Reason, ...] = ()

    @property
    def level(self) -> Level:
        """The worst that was found."""
        return "failed" if self.failures else "check" if self.warnings else "ok"

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Every reason, failures first. A reason prints as a sentence, and has a ``code`` and ``numbers``."""
        return self.failures + self.warnings

    @property
    def codes(self) -> tuple[Code, ...]:
        """The codes of the reasons, failures first: what programs compare."""
        return tuple(reason.code for reason in self.reasons)

    @property
    def is_interrupted(self) -> bool:
        """Whether the run was ended by Ctrl-C before it was done."""
        return Code.INTERRUPTED in self.codes

    def within(self, part: str) -> "Status":
        """The same status, of a part of a fit that is named in every reason."""
        failures, warnings = (tuple(r.within(part) for r in reasons) for reasons in (self.failures, self.warnings))
        return Status(failures, warnings)

    def __add__(self, other: "Status") -> "Status":
        """The reasons of both."""
        return Status(self.failures + other.failures, self.warnings + other.warnings)

    def __bool__(self) -> bool:
        """True unless the fit failed."""
        return not self.failures

    def __str__(self) -> str:
        return ": ".join([self.level, " ".join(map(str, self.reasons))]) if self.reasons else self.level


class FailedFitWarning(UserWarning):
    """A failed fit is asked to predict."""


def warn_if_failed(status: Status) -> None:
    """Warn, at the line of the user, who predicts with a fit that has failed."""
    if not status:
        _warn(
            f"This fit has failed, and predicts by the weights that it was left with. {status.reasons[0]}",
            FailedFitWarning,
        )


class UndefinedPredictionWarning(UserWarning):
    """A prediction is not a number, though the draws of the weights are."""


def warn_of_nan(rows: np.ndarray) -> None:
    """Warn, at the line of the user, of the rows whose prediction is NaN, of which a mask, (n,), is true."""
    _warn(
        f"The prediction is NaN in {rows.sum()} of {rows.size} rows (row {rows.argmax()} first), though the draws of "
        f"the weights are finite. Look there for values of x that the network does not know, such as tokens beyond its "
        f"vocabulary, or for something that the distribution of y does not have, as Cauchy's has no mean.",
        UndefinedPredictionWarning,
    )


def _warn(message: str, category: type[Warning]) -> None:
    warnings.warn(message, category, skip_file_prefixes=(str(Path(__file__).parent),))


@contextmanager
def no_failure_warnings() -> Iterator[None]:
    """Within it no failed fit is warned of: its status stands beside what is predicted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FailedFitWarning)
        yield
