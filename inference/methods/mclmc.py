"""MCLMC: microcanonical Langevin chains, many of them, each from a mode of its own."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np
from jax import Array

from ..density import Density
from ..method import Kind, Outcome
from ..programs import program
from ..reasons import Code, Reason, numbered
from ..rows import Data, Weights, signature
from ..status import Status
from ..store import Store
from .chains import sample, stuck_chains
from .langevin import Langevin
from .point import MAP

MAX_HEAT = 4.0
"""Measured energy variance, relative to its target, above which the status warns that the draws are hot."""
MAX_REJECTED = 0.005
"""Share of rejected steps above which the status warns."""
MIN_ACCEPTANCE = 0.6
"""Acceptance rate of the Metropolis step below which the status warns."""
LOST = 6.0
"""Robust standard deviations by which a chain's log density must fall short of the chains' median to be lost."""
MAX_RHAT = 1.1
"""Median over chains of the R-hat between the halves of a chain above which chains have not settled."""
MIN_DRAWS = 8
"""Draws per chain below which it is not known whether its halves agree."""
MIN_ESS = 400
"""Effective draws of the log density, summed over chains, below which estimates are rough (Vehtari et al. 2021)."""
WARM_START = MAP(num_steps=500, polish=False)
"""Long enough to leave the starting point: longer descents ended in no better places after the warm-up."""


@dataclass(frozen=True, kw_only=True)
class MCLMC:
    """The posterior by microcanonical Langevin dynamics (Robnik & Seljak 2024): many chains, for networks.

    With weights w in d unconstrained coordinates, a momentum u of length 1 and the log density ``log p``::

        dw = u dt,   du = (I - u u^T) (grad log p(w) / (d - 1) dt + sqrt(2 / (d L)) dB)

    The dynamics hold their energy exactly; a step of finite size does not, and its energy errors measure the bias of
    the draws. So the step size is adapted to a target: `energy_variance`, the mean square of a step's energy error in
    nats^2, divided by d. It goes as the sixth power of the step size. Each chain begins where a short `MAP` run on the
    same density has arrived, explores with large steps, and is cooled to small ones before its first draw: hot
    exploration finds better modes, and the draws are not hot.

    Chains of a network stay in the neighbourhood of a mode each, and different chains are in different modes. The
    draws are the mixture of them with equal weights, whatever their masses: many chains matter more than long ones.
    Whether a chain has settled is judged within it. The status does not ask whether chains agree on the weights; see
    that their predictions do.

    Args:
        num_warmup: steps of each chain before its first draw, thrown away. A step costs one gradient.
        num_samples: draws of each chain.
        thinning: steps from draw to draw.
        num_chains: number of chains, spread over all devices.
        start: the `MAP` run that finds the starting points; its `num_restarts` is set to `num_chains`. None is a cold
            start.
        warmup_energy_variance: the target while the chains explore. Larger steps find better modes, up to 1 or 3; at 10
            chains have too much to make up for.
        energy_variance: the target of the draws. By default standard deviations are off by 1% to 4% with few weights,
            at 0.02 by 3% to 8% (`benchmarks/truth.py`). Directions that the data determine best suffer most: of a
            Gaussian with 100 correlated weights the worst standard deviation was too large by 7%, and by 44% at 0.02.
        cooling: share of the warm-up, at its end, that goes from the one target to the other: the first half of it
            geometrically, the second half at the target of the draws.
        momentum_length: L, the distance over which the momentum is forgotten, in units of the posterior's spread
            ``sqrt(sum_i Var[w_i])``, estimated in the warm-up within each chain. To Gaussian posteriors 1 and 3 are the
            same; a network's posterior is wider than what a chain has seen of it, and 3 finds better modes.
        precondition: scale each coordinate by its standard deviation, estimated in the warm-up. For posteriors with
            few modes and unequal scales, with a `start`: chains that begin cold settle too late to learn them.
        adjusted: accept or reject each step by Metropolis' rule, so that the draws have no bias from the step size. The
            draws' target is then an energy variance of 0.03 nats^2 in all, whatever `energy_variance` says: smaller
            steps where there are more than 150 weights, larger ones where there are fewer.
        improper_ok: sample a model with a flat prior, in part or in all. Its posterior may not exist, and chains do not
            show it.
        init_strategy: where chains begin that have no `start`; see `MAP`.

    Raises:
        ValueError: when a setting is out of its range.
    """

    name: ClassVar[str] = "MCLMC"
    kind: ClassVar[Kind] = "chain"
    draws_chains: ClassVar[bool] = True

    num_warmup: int = 20_000
    num_samples: int = 200
    thinning: int = 40
    num_chains: int = 10
    start: MAP | None = WARM_START
    warmup_energy_variance: float = 1.0
    energy_variance: float = 2e-4
    cooling: float = 0.2
    momentum_length: float = 3.0
    precondition: bool = False
    adjusted: bool = False
    improper_ok: bool = False
    init_strategy: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        for name in ("num_warmup", "num_samples", "thinning", "num_chains"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"MCLMC: expected a positive integer as {name}; got {value!r}.")
        for name in ("warmup_energy_variance", "energy_variance", "momentum_length"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
                raise ValueError(f"MCLMC: expected a positive number as {name}; got {value!r}.")
        if not 0 < self.cooling <= 1:
            raise ValueError(f"MCLMC: expected 0 < cooling <= 1; got {self.cooling!r}.")

    def run(self, density: Density, data: Data, *, key: Array, progress: bool, store: Store | None = None) -> Outcome:
        """See `Method.run`.

        Raises:
            ValueError: when the prior is flat and `improper_ok` is not set, or the model has one weight only.
        """
        if density.structure.num_weights < 2:
            raise ValueError(
                "MCLMC: expected a model of at least 2 weights, since a momentum of length 1 must have directions to "
                "turn to; got 1. Use NUTS."
            )

        def sampler(u: Weights) -> Langevin:
            shapes = signature(jax.tree.map(lambda leaf: leaf[0], u))
            return program(Langevin, density, data, shapes, self.num_chains, self.precondition, self.adjusted)

        found = sample(self, sampler, density, data, min_draws=MIN_DRAWS, key=key, progress=progress, store=store)
        status = found.status + status_of(self, found.stats, found.sampler.dim)
        length = found.sampler.momentum_length(self, found.state)
        return Outcome(found.draws, status, sample_stats=found.stats, stats={"momentum_length": length})


def status_of(settings: MCLMC, stats: Mapping[str, np.ndarray], dim: int) -> Status:
    """What the statistics of the draws show, beside what `chains.sample` reports."""
    lp = stats["lp"].astype(float)
    moving = np.flatnonzero(~stuck_chains(lp))
    if not moving.size:
        return Status()
    warnings = _lost(lp, moving, dim) + _rough_steps(settings, {name: of[moving] for name, of in stats.items()})
    if lp.shape[1] >= MIN_DRAWS:
        warnings += _not_settled(lp[moving])
    return Status(warnings=tuple(warnings))


def _lost(lp: np.ndarray, moving: np.ndarray, dim: int) -> list[Reason]:
    """Chains whose log density is far below the others'.

    The log density of draws from a mode with d directions has standard deviation sqrt(d / 2); modes differ too, which
    their median absolute deviation measures.
    """
    if moving.size < 3:
        return []
    means = lp[moving].mean(axis=1)
    middle = np.median(means)
    spread = max(math.sqrt(dim / 2), 1.4826 * float(np.median(np.abs(means - middle))))
    lost = means < middle - LOST * spread
    if not lost.any():
        return []
    chains = np.zeros(len(lp), bool)
    chains[moving[lost]] = True
    short = middle - means[lost].max()
    return [Reason.of(Code.LOST_CHAINS, chains=numbered(chains), short=short, times=LOST, spread=spread)]


def _rough_steps(settings: MCLMC, stats: Mapping[str, np.ndarray]) -> list[Reason]:
    """What the energy errors say."""
    warnings = []
    heat = float(stats["energy_variance"].mean())
    if settings.adjusted:
        rate = float(stats["acceptance_rate"].mean())
        if rate < MIN_ACCEPTANCE:
            warnings.append(Reason.of(Code.LOW_ACCEPTANCE, rate=rate, limit=MIN_ACCEPTANCE))
    elif heat > MAX_HEAT * settings.energy_variance:
        warnings.append(Reason.of(Code.ENERGY_VARIANCE, heat=heat, target=settings.energy_variance))
    share = 1 - (1 - float(stats["diverging"].mean())) ** (1 / settings.thinning)  # of steps, were they independent
    if share > MAX_REJECTED:
        warnings.append(Reason.of(Code.REJECTED_STEPS, share=share))
    return warnings


def _not_settled(lp: np.ndarray) -> list[Reason]:
    """Whether the halves of each chain agree, and how many effective draws there are; chains may differ."""
    from arviz_stats.base import array_stats  # type: ignore[attr-defined]  # half a second that only chains need

    warnings = []
    half = lp.shape[1] // 2
    rhat = float(np.median([array_stats.rhat(np.stack([chain[:half], chain[-half:]])) for chain in lp]))
    if not rhat <= MAX_RHAT:
        rise = float(lp[:, -half:].mean() - lp[:, :half].mean())
        warnings.append(Reason.of(Code.NOT_SETTLED, rhat=rhat, limit=MAX_RHAT, rise=rise))
    ess = sum(float(array_stats.ess(chain[None])) for chain in lp)
    if not ess >= MIN_ESS:
        warnings.append(Reason.of(Code.LOW_TOTAL_ESS, ess=ess, limit=MIN_ESS))
    return warnings
