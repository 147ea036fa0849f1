"""The search for the values of `tune`, on the scale of their logs."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import OptimizeResult, minimize, minimize_scalar

from ..reasons import Code, Reason
from ..status import Status

if TYPE_CHECKING:  # importing it takes a tenth of a second or more
    import pandas as pd

GRID = np.linspace(-math.log(30.0), math.log(30.0), 7)
"""The logs of the multiples of the starting values that are tried first, from a thirtieth to 30."""
REACH = math.log(1000.0)
"""The distance from the starting values, of their logs, to which the evidence is followed."""
EVALUATIONS, LINE, PRECISION = 40, 8, 1e-8
"""The largest number of evaluations along the gradient of the evidence, and of those along one line, and the relative
gain of a step that ends them."""
PATIENCE, GAIN_PER_ROW = 10, 1e-3
"""The number of evaluations, and what they must gain together, in nats per row, for the search to go on: where the
evidence jumps, line searches gain nothing, while a smooth maximum is found to its last digits in fewer."""
NEAR = 0.1
"""The distance of two values, on the scale of logs, within which the evidence is compared with its own gradient."""
REFINEMENTS, RESOLUTION = 6, 0.05
"""The number of further values that are tried by held-out rows, and their least distance on the scale of logs."""
EDGE = 1e-3
"""The distance of logs from the bounds of a support that are not tried themselves."""
FLAT = 0.01
"""The nats, over all rows, by which the best value exceeds those at the ends of the range if it is a maximum."""


class Score(NamedTuple):
    """The score of some values."""

    value: float
    """The score in nats, or nats per row; -inf where there is none."""
    se: float
    """Its standard error; NaN where it has none."""
    status: Status
    gradient: np.ndarray
    """The derivatives by the logs of the values; empty where they are not known."""
    note: str = ""
    """What has to be known about the score, in words."""


@dataclass
class Search:
    """The search for the values with the highest score, on the scale of their logs."""

    sites: tuple[str, ...]
    start: Float[np.ndarray, " k"]
    low: Float[np.ndarray, " k"]
    high: Float[np.ndarray, " k"]
    count: Callable[[], None]
    evaluate: Callable[[np.ndarray], Score]
    num_rows: int
    """The number of rows that are scored."""
    per_row: bool
    """Whether scores are nats per row, and not nats of all rows."""
    tried: list[tuple[np.ndarray, Score]] = field(default_factory=list)
    arrived: bool = True
    """Whether the search ended at a maximum, as far as it can: not where the evidence jumps."""

    def at(self, logs: Float[np.ndarray, " k"]) -> Score:
        """Return the score of values, given by their logs."""
        score = self.evaluate(logs)
        self.tried.append((np.array(logs), score))
        self.count()
        return score

    @property
    def best(self) -> int:
        """The number of the best evaluation."""
        return int(np.argmax([score.value for _, score in self.tried]))

    def multiple(self, log_multiple: float) -> np.ndarray:
        """Return the logs of a common multiple of the starting values, in their ranges."""
        return np.clip(self.start + log_multiple, self.low, self.high)

    def on_grid(self) -> None:
        """Try common multiples, from the starting values outwards: modes are sought from those of nearby values."""
        for log_multiple in sorted(GRID, key=abs):
            self.at(self.multiple(log_multiple))

    def along_gradient(self) -> None:
        """Follow the gradient from the best multiple, and try the ends of the range of each site."""
        self.on_grid()
        best_so_far: list[float] = []
        worst = min((score.value for _, score in self.tried if math.isfinite(score.value)), default=0.0)

        def loss(logs: np.ndarray) -> tuple[float, np.ndarray]:
            score = self.at(logs)
            best_so_far.append(self.tried[self.best][1].value)
            return -max(score.value, worst - 1e3), -score.gradient

        def stop_without_gain(intermediate_result: OptimizeResult) -> None:
            enough = GAIN_PER_ROW * self.num_rows
            if len(best_so_far) > PATIENCE and best_so_far[-1] < best_so_far[-1 - PATIENCE] + enough:
                raise StopIteration

        bounds = list(zip(self.low, self.high, strict=True))
        options = {"maxfun": EVALUATIONS, "maxls": LINE, "ftol": PRECISION, "gtol": PRECISION}
        begin, callback = self.tried[self.best][0], stop_without_gain
        end = minimize(loss, begin, jac=True, method="L-BFGS-B", bounds=bounds, options=options, callback=callback)
        self.arrived = end.success or not end.nfev
        best = self.tried[self.best][0]
        for ends in (self.low, self.high):
            for number in range(len(self.sites)):
                self.at(np.where(np.arange(len(best)) == number, ends, best))

    def by_multiples(self) -> None:
        """Try further multiples, beside the best one."""
        self.on_grid()
        self.low, self.high = self.multiple(GRID[0]), self.multiple(GRID[-1])
        scores = [score.value for _, score in sorted(self.tried, key=lambda each: each[0][0])]
        best = int(np.argmax(scores))
        bounds = GRID[max(best - 1, 0)], GRID[min(best + 1, len(GRID) - 1)]
        options = {"maxiter": REFINEMENTS, "xatol": RESOLUTION}
        minimize_scalar(
            lambda m: -max(self.at(self.multiple(m)).value, -1e10), bounds=bounds, method="bounded", options=options
        )

    @property
    def status(self) -> Status:
        """Whether the best values can be relied on."""
        best = self.tried[self.best][1]
        status = best.status + Status(warnings=tuple(self._ends_as_good()) if math.isfinite(best.value) else ())
        if not math.isfinite(best.value):
            status += Status((Reason.of(Code.NOT_TUNED, sites=", ".join(self.sites)),))
        return status

    def curve(self) -> "pd.DataFrame":
        """Return all that was tried: values, score, its standard error where there is one, and status."""
        import pandas as pd

        rows = [
            {**dict(zip(self.sites, np.exp(at), strict=True)), "score": score.value, "se": score.se}
            | {"status": score.status.level}
            for at, score in self.tried
        ]
        curve = pd.DataFrame(rows).drop_duplicates(list(self.sites)).sort_values(list(self.sites))
        return curve.reset_index(drop=True).dropna(axis="columns", how="all")

    @property
    def note(self) -> str:
        """What has to be known about the best score: its own note, or that the search ended beside no maximum."""
        best = self.tried[self.best][1]
        if self.arrived or not math.isfinite(best.value):
            return best.note
        jump, beside = max(((self._jump(at, score), at) for at, score in self.tried), key=lambda pair: pair[0])
        note = f"The search found no smooth maximum in {len(self.tried)} evaluations: the values are the best of these."
        if jump > GAIN_PER_ROW * self.num_rows:
            there = ", ".join(f"{site} = {math.exp(log):.4g}" for site, log in zip(self.sites, beside, strict=True))
            note += f" Near {there} the evidence jumps by {jump:.2g} nats, since the weights move to another mode."
        return note

    def _jump(self, at: np.ndarray, score: Score) -> float:
        """Return by how much the change from the best score to that of near values is not that of the gradients."""
        logs, best = self.tried[self.best]
        if not (score.gradient.size and math.isfinite(score.value)) or np.abs(at - logs).max() > NEAR:
            return 0.0
        smooth = float((score.gradient + best.gradient) @ (at - logs)) / 2
        return abs(score.value - best.value - smooth)

    def _ends_as_good(self) -> Iterator[Reason]:
        """Return a reason for each site that has an end of its range where the score is as good as at the best."""
        logs, best = self.tried[self.best]
        for number, site in enumerate(self.sites):
            for end, ends in (("smallest", self.low), ("largest", self.high)):
                there = [score.value for at, score in self.tried if at[number] == ends[number]]
                if there and max(there) > best.value - (FLAT / self.num_rows if self.per_row else FLAT):
                    numbers = {"best": math.exp(logs[number]), "value": math.exp(ends[number])}
                    scores = {"score": best.value, "there": max(there)}
                    yield Reason.of(Code.END_OF_RANGE, site=site, end=end, **numbers, **scores)
