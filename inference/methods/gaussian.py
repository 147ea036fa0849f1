"""Gaussians around a mode, by a factor of their precision, and the importance of their draws."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from jax import Array
from scipy.linalg import LinAlgError, cholesky, solve_triangular
from scipy.special import logsumexp

from ..reasons import Code, Reason
from ..status import Status
from ..structure import Structure

MAX_PARETO_K = 0.7
"""Pareto's k above which importance weights are unreliable (Vehtari et al. 2024)."""
MAX_DIVERGENCE = 0.25
"""The divergence in nats, and per weight, below which draws stand for the posterior: where a Gaussian is displaced, 0.7
standard deviations."""
MAX_GAP = 0.01
"""The nats per row by which draws for a network may be less probable than the Gaussian has it."""
MAX_DIVERGENCE_PER_ROW = 0.02
"""The divergence in nats per row below which draws for a network stand for its posterior: that of a scale of y which is
off by 14%."""
NUM_DRAWS = {256: 4000, 4096: 1000, math.inf: 100}
"""Largest number of weights -> the number of draws whose importance is asked. 1,000 draws determine Pareto's k to 0.17,
which would put one healthy posterior in ten above the limit; 100 determine the mean of the logs, and k hardly."""
EQUAL = 1e-6
"""The difference of log importance weights, in nats, up to which they are equal."""


class Gaussian(NamedTuple):
    """N(centre, H^-1), stored by the factors of H = S L L' S, with a diagonal S and a triangular L."""

    centre: np.ndarray
    scale: np.ndarray
    """The diagonal of S."""
    root: np.ndarray | None
    """L; None where H is not positive definite."""
    decrement: float
    """The Newton decrement ``g' H^-1 g / 2`` in nats; infinite where H is not positive definite."""
    defect: Reason | None = None
    """The reason why there is no Gaussian, where H is not positive definite."""

    @classmethod
    def at(cls, centre: np.ndarray, slope: np.ndarray, h: np.ndarray) -> Self:
        """Return the Gaussian with a centre and a curvature."""
        scale = np.sqrt(np.diagonal(h), where=np.diagonal(h) > 0, out=np.ones(len(h)))
        try:
            root = cholesky(h / scale / scale[:, None], lower=True)
        except (LinAlgError, ValueError):  # not positive definite; not finite
            root = None
        rounding = len(h) * np.finfo(float).eps
        if root is None or np.diagonal(root).min() ** 2 <= rounding:
            return cls(centre, scale, None, math.inf, _defect(h, rounding))
        step = solve_triangular(root, slope / scale, lower=True)
        return cls(centre, scale, root, float(step @ step) / 2)

    @property
    def exists(self) -> bool:
        """Whether H is positive definite."""
        return self.root is not None

    def excess(self, u: np.ndarray) -> np.ndarray:
        """Return the log density at the centre minus that at points, (count, d), in nats."""
        z = (u - self.centre) * self.scale @ self.root
        return (z**2).sum(axis=1) / 2

    @property
    def log_mass(self) -> float:
        """The log of the integral of ``exp(-(u - centre)' H (u - centre) / 2)``; NaN where there is no Gaussian."""
        if self.root is None:
            return math.nan
        log_det = 2 * (np.log(np.diagonal(self.root)).sum() + np.log(self.scale).sum())
        return float(len(self.centre) * math.log(2 * math.pi) - log_det) / 2

    def sample(self, key: Array, count: int) -> np.ndarray:
        """Return draws, (count, d); copies of the centre where there is no Gaussian."""
        noise = np.asarray(jax.random.normal(key, (count, len(self.centre))))
        if self.root is None:
            return np.tile(self.centre, (count, 1))
        return self.centre + solve_triangular(self.root, noise.T, lower=True, trans="T").T / self.scale


def _defect(h: np.ndarray, rounding: float) -> Reason:
    if not np.isfinite(h).all():
        return Reason.of(Code.NO_CURVATURE)
    values = np.linalg.eigvalsh(h)
    count = int((values <= rounding * values[-1]).sum())
    return Reason.of(Code.NOT_POSITIVE_DEFINITE, count=max(count, 1), size=len(h), least=values[0], most=values[-1])


class LowRank(NamedTuple):
    """N(centre, H^-1) with a diagonal and a few directions more, ``H = P + sqrt(P) V S V' sqrt(P)``.

    P and S are diagonal, and the columns of V orthonormal. Without columns H is diagonal. No matrix of d x d is made.
    """

    centre: np.ndarray
    diagonal: np.ndarray
    """The diagonal of P, (d,)."""
    directions: np.ndarray
    """V, (d, r)."""
    values: np.ndarray
    """The diagonal of S, (r,)."""
    decrement: float
    """The Newton decrement ``g' H^-1 g / 2`` in nats; infinite where H is not positive definite."""
    defect: Reason | None = None
    """The reason why there is no Gaussian, where H is not positive definite."""

    @classmethod
    def at(
        cls,
        centre: np.ndarray,
        slope: np.ndarray,
        diagonal: np.ndarray,
        directions: np.ndarray | None = None,
        values: np.ndarray | None = None,
    ) -> Self:
        """Return the Gaussian with a centre and a curvature."""
        directions = np.zeros((len(centre), 0)) if directions is None else directions
        values = np.zeros(0) if values is None else values
        if not (np.isfinite(diagonal).all() and (diagonal > 0).all()):
            defect = _defect(np.diag([diagonal.min(), diagonal.max()]), 0.0)
            return cls(centre, diagonal, directions, values, math.inf, defect)
        step = slope / np.sqrt(diagonal)
        along = directions.T @ step
        decrement = float(step @ step - along**2 @ (values / (1 + values))) / 2
        return cls(centre, diagonal, directions, values, decrement)

    @property
    def exists(self) -> bool:
        """Whether H is positive definite."""
        return self.defect is None

    def excess(self, u: np.ndarray) -> np.ndarray:
        """Return the log density at the centre minus that at points, (count, d), in nats."""
        z = (u - self.centre) * np.sqrt(self.diagonal)
        return ((z**2).sum(axis=1) + (z @ self.directions) ** 2 @ self.values) / 2

    @property
    def log_mass(self) -> float:
        """The log of the integral of ``exp(-(u - centre)' H (u - centre) / 2)``; NaN where there is no Gaussian."""
        if not self.exists:
            return math.nan
        log_det = np.log(self.diagonal).sum() + np.log1p(self.values).sum()
        return float(len(self.centre) * math.log(2 * math.pi) - log_det) / 2

    def sample(self, key: Array, count: int) -> np.ndarray:
        """Return draws, (count, d); copies of the centre where there is no Gaussian."""
        if not self.exists:
            return np.tile(self.centre, (count, 1))
        noise = np.asarray(jax.random.normal(key, (count, len(self.centre))))
        shrunk = (noise @ self.directions) * (1 - 1 / np.sqrt(1 + self.values))
        return self.centre + (noise - shrunk @ self.directions.T) / np.sqrt(self.diagonal)


class Importance(NamedTuple):
    """The importance weights of draws of a Gaussian for a posterior: how well the one stands for the other.

    A log weight is the log density of the posterior minus that of the Gaussian, both relative to the mode.
    """

    pareto_k: float = math.inf
    """Pareto's k of the weights (Vehtari et al. 2024): 0 where they are equal, above 0.7 where no number of draws would
    make estimates by them reliable; infinite where they do not determine it."""
    log_mean: float = math.nan
    """The log of their mean in nats, smoothed: the error of the evidence. NaN where k is above 0.7."""
    gap: float = math.inf
    """The mean of their logs in nats: how much less probable, or more, the draws are than the Gaussian has it."""
    divergence: float = math.inf
    """The Kullback-Leibler divergence of the Gaussian from the posterior in nats, as the draws show it."""

    @classmethod
    def of(cls, log_weights: np.ndarray) -> Self:
        """Return the importance of draws with log weights, (draw,), in nats; NaN counts as no weight."""
        from ..internals import array_stats  # imported late; see `convergence.loo`

        log_weights = np.where(np.isnan(log_weights), -np.inf, log_weights)
        middle = np.argsort(log_weights)[len(log_weights) // 2]  # not in the tail, whose weights are smoothed
        if not np.isfinite([log_weights[middle], log_weights.max()]).all():
            return cls()
        mean = float(log_weights.mean())
        if np.ptp(log_weights) <= EQUAL:
            return cls(0.0, mean, 0.0, 0.0)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            smoothed, k = array_stats.psislw(-log_weights)
        is_determined = np.isfinite(k) and np.isfinite(smoothed).all()  # not where most weights of the tail are 0
        k = float(k) if is_determined else math.inf
        log_count = math.log(len(log_weights))
        log_mean = float(log_weights[middle] - smoothed[middle]) - log_count
        divergence = float(logsumexp(log_weights)) - log_count - mean
        return cls(k, log_mean if k <= MAX_PARETO_K else math.nan, abs(mean), divergence)

    def stands_for_weights(self, num_weights: int) -> bool:
        """Return whether the Gaussian stands for a posterior, all of whose weights have a meaning.

        Pareto's k from a few thousand draws is itself uncertain by 0.1, so it counts where the draws also differ from
        the posterior. They are used without their weights, and so must not differ by much even where k is small.
        """
        is_corrigible = self.pareto_k <= MAX_PARETO_K or self.divergence <= MAX_DIVERGENCE
        return is_corrigible and self.divergence <= MAX_DIVERGENCE * num_weights

    def stands_for_rows(self, num_rows: int) -> bool:
        """Return whether the Gaussian stands for a posterior of which only predictions have a meaning, row by row.

        Importance weights of hundreds of weights differ by many nats in all, and by little in any one prediction. But
        a scale that is learned with many weights fits noise at the mode, and is larger in the posterior: such draws
        are as probable as the Gaussian has it, and its mass is elsewhere, which the divergence shows.
        """
        if self.pareto_k <= MAX_PARETO_K:
            return True
        return self.gap <= MAX_GAP * num_rows and self.divergence <= MAX_DIVERGENCE_PER_ROW * num_rows


def importance_of(gaussian: Gaussian | LowRank, potential: Callable[[np.ndarray], Any], key: Array) -> Importance:
    """Return the importance of draws of a Gaussian for a posterior, whose potential is lowest at its centre.

    Args:
        gaussian: the Gaussian.
        potential: the negative log density of the posterior at points, (count, d) -> (count,), in nats.
        key: the key of the draws.
    """
    if not gaussian.exists:
        return Importance()
    draws = gaussian.sample(key, next(count for most, count in NUM_DRAWS.items() if len(gaussian.centre) <= most))
    values = np.asarray(potential(np.concatenate([gaussian.centre[None], draws])))
    return Importance.of(gaussian.excess(draws) - (values[1:] - values[0]))


def status_of_importance(importance: Importance, num_rows: int | None, structure: Structure) -> Status:
    """Return the reason not to rely on a Gaussian: as weights or, where `num_rows` is given, as predictions of rows."""
    stands = (
        importance.stands_for_weights(structure.num_weights)
        if num_rows is None
        else importance.stands_for_rows(num_rows)
    )
    if stands:
        return Status()
    numbers = {"k": importance.pareto_k, "divergence": importance.divergence, "limit": MAX_PARETO_K}
    asked = structure.latents.keys() - structure.exchangeable - structure.real if num_rows is not None else ()
    scales = sorted(site for site in asked if structure.latents[site] == ())
    cure = f", or give {', '.join(scales)} the value of tune(model, x, y, sites={scales})" if scales else ""
    return Status(warnings=(Reason.of(Code.NOT_GAUSSIAN, cure=cure, **numbers),))
