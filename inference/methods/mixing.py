"""Do chains agree, and have they settled? Judged by weights where these have a meaning, and else by predictions.

The hidden units of a network can be exchanged, and their signs turned, without changing the density, so chains of a
network agree on no weight; and the density of the weights moves along directions in which no prediction does. So a
network (`Structure.exchangeable`) is judged by what it is asked for, the predictive density of y at some of the rows,
and by the size of its error in nats per row. All other weights, such as slopes and scales, have a meaning by
themselves: chains must agree on them, as R-hat measures it. Those of a network, such as the scale of its noise, are
those of the mode that a chain is near: they must agree as far as a difference shows in predictions.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import jax
import numpy as np
from jax import Array
from jaxtyping import Float
from scipy.special import logsumexp

from ..density import Density
from ..kept import wide_bytes, widened
from ..processes import jit
from ..programs import program
from ..reasons import Code, Reason
from ..rows import Data, Weights

PROBE_ROWS, PROBE_DRAWS = 200, 200
"""The largest number of rows at which predictions are judged, and of draws per chain, fewer for large networks."""
PROBE_BYTES, TOGETHER = 2**28, 10
"""The bytes of draws that are evaluated, and the number of draws that are evaluated together."""
PROBE_WEIGHTS = 1000
"""The largest number of elements of a site of which R-hat is computed."""
MAX_NATS = 0.03
"""The error of the log predictive density of a row, in nats, up to which predictions are right: that of a mean which is
off by 0.04 standard deviations of y."""
DRIFT = 2.0
"""The error of chains that are still on their way, in units of the change between their halves, where the change is no
more than `SIGNIFICANT` standard errors."""
SIGNIFICANT = 2.0
"""The standard errors from which a change between halves is not noise but a way that goes on."""
AGREE_NATS = 0.1
"""The difference of one chain from all, in nats, up to which the predictions of chains agree."""


@dataclass(frozen=True)
class Mixing:
    """The draws of chains, and the questions to them.

    Args:
        density: the density that is sampled.
        draws: the draws by site, (chain, draw, *shape).
        data: n rows.
        warmup: the length of the warm-up, in units of the distance between draws.
    """

    density: Density
    draws: Mapping[str, np.ndarray]
    data: Data
    warmup: float = 0.0

    @property
    def is_network(self) -> bool:
        """Whether some of the weights are those of exchangeable units."""
        return bool(self.density.structure.exchangeable)

    def disagreement(self, limit: float) -> tuple[Reason, ...]:
        """Return a reason if the chains disagree on weights that have a meaning, in a network if predictions show it.

        Args:
            limit: the R-hat above which chains disagree.
        """
        if self._shape[0] < 2:
            return ()
        meaningful = [
            site for site in self.density.structure.latents if site not in self.density.structure.exchangeable
        ]
        rhat = {site: _worst(self.draws[site], "rhat") for site in meaningful}
        apart = sorted((site for site in meaningful if rhat[site] > limit), key=lambda site: -rhat[site])
        if not apart or (self.is_network and self._shown_by_predictions(apart) <= MAX_NATS):
            return ()
        nats = self.between_chains
        names = ", ".join(apart[:3]) + (f" and {len(apart) - 3} others" if len(apart) > 3 else "")
        how = "Their predictions agree" if nats <= AGREE_NATS else "Their predictions differ as well"
        return (Reason.of(Code.WEIGHTS_DISAGREE, sites=names, rhat=rhat[apart[0]], limit=limit, how=how, nats=nats),)

    @property
    def imprecision(self) -> Reason:
        """The reason why the predictions of all chains are imprecise, that those of the chains differ."""
        numbers = {"nats": self.between_chains, "error": self.error, "count": self._shape[0]}
        return Reason.of(Code.CHAINS_DIFFER, limit=MAX_NATS, **numbers)

    @cached_property
    def error(self) -> float:
        """The mean absolute error of the log predictive density of a row in nats, as the draws themselves show it.

        It is the largest of three. Where chains have settled, two estimates of the same noise: half the difference
        between the halves of all chains, and the standard error of a mean over chains, which is the larger where chains
        hardly moved. Where they are still on their way, what a run of twice the length would change, by the change of
        the mean over rows between the halves: it goes with the log of the number of steps.

        On networks of 40 to 450 weights it was within a factor of 1.5 of the distance from long runs with other keys
        where chains had settled. Where they had not, longer runs moved by 0.3 to 0.8 times as much, and those of eight
        times the length by up to 3 times: 50 units that fit 277 rows almost exactly go on to fit them more exactly.
        """
        return max(self._errors)

    @property
    def is_of_chains(self) -> bool:
        """Whether the error is that of the mean over chains, more than that within chains."""
        return self._errors[0] == self.error

    @cached_property
    def _errors(self) -> tuple[float, float, float]:
        """The three errors: of the mean over chains, of the halves of chains, and of chains on their way."""
        half = self._log_probs.shape[1] // 2
        first, second = self._log_probs[:, :half], self._log_probs[:, -half:]
        change = _log_mean(second) - _log_mean(first)
        of_chains = self.between_chains / self._shape[0] ** 0.5
        by_chain = [(_log_mean(b[None]) - _log_mean(a[None])).mean() for a, b in zip(first, second, strict=True)]
        noise = np.std(by_chain, ddof=1) / len(by_chain) ** 0.5 if len(by_chain) > 1 else math.inf
        drift = self._drift if abs(change.mean()) > SIGNIFICANT * noise else DRIFT
        return of_chains, float(np.abs(change).mean()) / 2, drift * abs(float(change.mean()))

    @property
    def _drift(self) -> float:
        """What a run of twice the length changes, in units of the change between the halves of the draws."""
        first, second = (self.warmup + share * self._shape[1] for share in (0.25, 0.75))
        return max(DRIFT, math.log(2) / math.log(second / first))

    @property
    def _shape(self) -> tuple[int, int]:
        chains, draws = next(iter(self.draws.values())).shape[:2]
        return chains, draws

    @cached_property
    def between_chains(self) -> float:
        """The mean absolute difference of the log predictive density of a row between one chain and all chains."""
        each = np.stack([_log_mean(chain[None]) for chain in self._log_probs])
        return float(np.abs(each - _log_mean(self._log_probs)).mean())

    def _shown_by_predictions(self, sites: list[str]) -> float:
        """Return the error of the log predictive density of a row that is due to the disagreement on some sites.

        It is the mean absolute change where these sites have the mean of all chains in place of that of their own, and
        all other weights remain, over the square root of the number of chains; infinite where that has no density.
        """
        own = {site: widened(self.draws[site]) for site in sites}
        moved = {site: v - v.mean(1, keepdims=True) + v.mean((0, 1)) for site, v in own.items()}
        there = self._log_probs_of({**self.draws, **moved})
        changes = [
            np.abs(_log_mean(a[None]) - _log_mean(b[None])).mean() for a, b in zip(self._log_probs, there, strict=True)
        ]
        error = float(np.mean(changes)) / self._shape[0] ** 0.5
        return error if math.isfinite(error) else math.inf

    def smallest_ess(self) -> float:
        """Return the smallest effective sample size of all weights."""
        return min(_worst(values, "ess") for values in self.draws.values())

    @cached_property
    def _log_probs(self) -> Float[np.ndarray, "chain draw row"]:
        """Log p(y_i | x_i, w) at some rows and draws."""
        return self._log_probs_of(self.draws)

    def _log_probs_of(self, draws: Mapping[str, np.ndarray]) -> Float[np.ndarray, "chain draw row"]:
        rows = self.data.counted_rows
        some = self.data.take(rows[_evenly(len(rows), PROBE_ROWS)])
        chains, num_draws = self._shape
        bytes_per_draw = chains * sum(wide_bytes(value[0, 0]) for value in draws.values())
        count = max(2, min(PROBE_DRAWS, PROBE_BYTES // max(1, bytes_per_draw)))
        chosen = np.linspace(0, num_draws - 1, count).round().astype(int)  # fewer draws repeat: one shape to compile
        flat = {site: widened(value[:, chosen]).reshape(-1, *value.shape[2:]) for site, value in draws.items()}
        log_probs = program(_RowLogProbs, self.density, some).at_draws(jax.device_put(flat), some)
        return np.asarray(log_probs, float).reshape(chains, count, -1)


class _RowLogProbs:
    """The compiled log probabilities of rows of a density, (draw, row), at several draws."""

    def __init__(self, density: Density) -> None:
        def at_draws(draws: Weights, data: Data) -> Array:
            return jax.lax.map(lambda weights: density.row_log_probs(weights, data), draws, batch_size=TOGETHER)

        self.at_draws = jit(at_draws)


def _log_mean(log_probs: Float[np.ndarray, "chain draw row"]) -> Float[np.ndarray, " row"]:
    """Return the log predictive density of each row under the mixture of draws."""
    return logsumexp(log_probs, axis=(0, 1)) - np.log(log_probs.shape[0] * log_probs.shape[1])


def _worst(values: np.ndarray, which: Literal["rhat", "ess"]) -> float:
    """Return the largest R-hat, or the smallest effective sample size, of the elements of a site.

    Its draws are (chain, draw, *shape). Elements that are constant, or not finite, are left out.
    """
    from ..internals import array_stats  # half a second that only chains need

    flat = values.reshape(*values.shape[:2], -1)
    flat = np.moveaxis(flat[..., _evenly(flat.shape[-1], PROBE_WEIGHTS)], -1, 0).astype(float)
    flat = flat[(np.ptp(flat, axis=(1, 2)) > 0) & np.isfinite(flat).all(axis=(1, 2))]
    if which == "rhat":
        return float(np.fmax.reduce(array_stats.rhat(flat), initial=1.0)) if len(flat) else 1.0
    return float(np.fmin.reduce(array_stats.ess(flat), initial=np.inf)) if len(flat) else np.inf


def _evenly(size: int, count: int) -> np.ndarray:
    """Return at most `count` evenly spaced indices."""
    return np.unique(np.linspace(0, size - 1, min(count, size)).round().astype(int))
