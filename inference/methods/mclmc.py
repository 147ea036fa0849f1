"""MCLMC: many microcanonical Langevin chains, each from its own mode."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np
from jax import Array

from ..checks import check_positive_integer
from ..density import Density
from ..devices import Spread, together
from ..method import Kind, Outcome
from ..programs import program
from ..reasons import Code, Reason, numbered
from ..rows import Data, Weights, signature
from ..status import Status
from ..store import Store
from .chains import sample, stuck_chains
from .langevin import Langevin
from .mixing import MAX_NATS, Mixing
from .point import MAP

MAX_ENERGY_RATIO = 4.0
"""The energy variance, relative to its target, above which the status warns that the draws are biased."""
MAX_REJECTED = 0.005
"""The share of rejected steps above which the status warns."""
MIN_ACCEPTANCE = 0.6
"""The acceptance rate of Metropolis steps below which the status warns."""
MAX_SHORTFALL = 6.0
"""The shortfall of a chain's log density from the median chain's, in robust standard deviations, above which the chain
counts as lost."""
MAX_RHAT = 1.1
"""The R-hat between the halves of a chain, median over chains, above which the status warns."""
MAX_RHAT_OF_WEIGHTS = 1.1
"""The R-hat between chains above which the status warns that they disagree on weights that have a meaning."""
MIN_DRAWS = 8
"""The number of draws per chain below which its halves are not compared."""
MIN_ESS = 400
"""The effective draws of the log density, summed over chains, below which the status warns (Vehtari et al. 2021)."""
MEANWHILE = (
    " With almost no noise in y, chains may find better modes for as long as they run; how well their draws predict "
    "until then, held-out rows show (compare)."
)
"""What is said of a network whose chains have not settled."""
WARM_START = MAP(num_steps=500, polish=False)
"""A run long enough to leave the starting point: longer ones led to no better points after the warm-up."""


@dataclass(frozen=True, kw_only=True)
class MCLMC:
    """Draws from the posterior by microcanonical Langevin dynamics (Robnik & Seljak 2024): many chains, for networks.

    With weights w in d unconstrained coordinates, a momentum u of length 1 and the log density ``log p``::

        dw = u dt,   du = (I - u u^T) (grad log p(w) / (d - 1) dt + sqrt(2 / (d L)) dB)

    The dynamics conserve the energy exactly; a step of finite size does not, and its energy errors measure the bias of
    the draws. So the step size is adapted to a target: `energy_variance`, the mean square of a step's energy error in
    nats^2, divided by d. It grows as the sixth power of the step size. Each chain begins at the end point of a short
    `MAP` run on the same density, explores with large steps, and is cooled to small ones before its first draw:
    exploration at a high energy variance finds better modes, and the draws have a low one.

    Each chain of a network stays near one mode, and different chains are near different modes. The draws are their
    mixture with equal weights, whatever the masses of the modes: many chains matter more than long ones.

    **The status** of a network is judged by the size of the error of its predictions, at the rows of the fit: 0.03 nats
    per row, that of a mean which is off by 0.04 predictive standard deviations. The error is that of the mean over
    chains, or what a run of twice the length would change, if that is more. At new rows it is two to three times as
    large, of either sign: on the UCI set concrete, a run of four times the length moved single rows of the fit by 0.04
    nats and new ones by 0.09, and their means by 0.02. Where y has almost no noise, chains of wide networks find ever
    better weights: on yacht and energy, runs of eight times the length predicted better by 0.1 to 0.5 nats per row; on
    energy, with one learned scale, they had settled by then, on yacht they had not. Held-out rows show how well such
    draws predict, but they are not yet those of the posterior. The weights of other models are judged by the log
    density within each chain, and chains must agree on them.

    Args:
        num_warmup: the number of steps per chain before its first draw, which are discarded. A step costs one gradient.
        num_samples: the number of draws per chain.
        thinning: the number of steps from one draw to the next.
        num_chains: the number of chains, distributed over all devices.
        start: the `MAP` run that finds the starting points; its `num_restarts` is set to `num_chains`. None is a cold
            start.
        warmup_energy_variance: the target while the chains explore. Larger steps find better modes, up to 1 or 3; at 10
            chains are too far off to recover by the end of the warm-up.
        energy_variance: the target of the draws. By default standard deviations are off by 1% to 4% with few weights,
            at 0.02 by 3% to 8% (`benchmarks/truth.py`). Directions that the data determine best are affected most: for
            a Gaussian with 100 correlated weights the worst standard deviation was too large by 7%, at 0.02 by 44%.
        cooling: the share of the warm-up, at its end, in which the target moves from the first to the second:
            geometrically in the first half of it, constant in the second half.
        momentum_length: L, the distance over which the momentum is forgotten, in units of the posterior's scale
            ``sqrt(sum_i Var[w_i])``, estimated in the warm-up within each chain. For Gaussian posteriors 1 and 3 are
            equivalent; the posterior of a network is wider than what one chain explores, and 3 finds better modes.
        precondition: scale each coordinate by its standard deviation, estimated in the warm-up. This suits posteriors
            with few modes and unequal scales, with a `start`: chains that begin cold settle too late for the estimate.
        adjusted: accept or reject each step by Metropolis' rule, so that the draws have no bias from the step size. The
            target of the draws is then a total energy variance of 0.03 nats^2, in place of `energy_variance`: smaller
            steps for more than 150 weights, larger ones for fewer.
        improper_ok: allow a model whose prior is flat, even in part. Its posterior may not exist, which chains do not
            show.
        init_strategy: the starting points of chains without `start`; see `MAP`.

    Raises:
        ValueError: when a setting is out of range.
    """

    name: ClassVar[str] = "MCLMC"
    kind: ClassVar[Kind] = "chain"
    draws_chains: ClassVar[bool] = True
    leaves_out: ClassVar[str] = ""
    spreads_rows: ClassVar[bool] = True
    growing: ClassVar[tuple[str, ...]] = ("num_samples",)
    min_draws: ClassVar[int] = MIN_DRAWS
    streams: ClassVar[bool] = False

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
            check_positive_integer("MCLMC", name, getattr(self, name))
        for name in ("warmup_energy_variance", "energy_variance", "momentum_length"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
                raise ValueError(f"MCLMC: expected a positive number as {name}; got {value!r}.")
        if not 0 < self.cooling <= 1:
            raise ValueError(f"MCLMC: expected 0 < cooling <= 1; got {self.cooling!r}.")

    def run(self, density: Density, data: Data, *, key: Array, progress: bool, store: Store | None = None) -> Outcome:
        """See `Method.run`.

        Raises:
            ValueError: when the prior is flat and `improper_ok` is not set, or the model has only one weight.
        """
        if density.structure.num_weights < 2:
            raise ValueError(
                "MCLMC: expected a model with at least 2 weights, since a momentum of length 1 must be able to turn; "
                "got 1. Use NUTS()."
            )

        def sampler(u: Weights) -> Langevin:
            shapes = signature(jax.tree.map(lambda leaf: leaf[0], u))
            settings = shapes, self.num_chains, self.precondition, self.adjusted, Spread.of(data)
            return program(Langevin, density.noncentred(), data, *settings)

        sampled = sample(self, sampler, density, data, key=key, progress=progress, store=store)
        status = sampled.status + self.judged(density, sampled.draws, sampled.stats, together(data))
        length = sampled.sampler.momentum_length(self, sampled.state)
        return Outcome(sampled.draws, status, sample_stats=sampled.stats, stats={"momentum_length": length})

    def judged(
        self, density: Density, draws: Mapping[str, np.ndarray], stats: Mapping[str, np.ndarray], data: Data
    ) -> Status:
        """Return the status by the draws of all chains, in addition to that of `chains.sample`."""
        mixing = Mixing(density, draws, data, self.num_warmup / self.thinning)
        return status_of(self, stats, density.structure.num_weights, mixing)


def status_of(settings: MCLMC, stats: Mapping[str, np.ndarray], dim: int, mixing: Mixing | None = None) -> Status:
    """Return the status by the statistics of the draws, in addition to that of `chains.sample`.

    Args:
        settings: the settings of the run.
        stats: the statistics by name, (chain, draw).
        dim: the number of weights.
        mixing: the draws themselves; without them the log density alone is judged.
    """
    lp = stats["lp"].astype(float)
    moving = np.flatnonzero(~stuck_chains(lp))
    if not moving.size:
        return Status()
    of_moving = {name: values[moving] for name, values in stats.items()}
    warnings = lost_chains(lp, moving, dim) + _step_errors(settings, of_moving)
    if lp.shape[1] >= MIN_DRAWS:
        warnings += not_settled(lp[moving], mixing)
        if mixing is not None and moving.size == len(lp):
            warnings += mixing.disagreement(MAX_RHAT_OF_WEIGHTS)
    return Status(warnings=tuple(warnings))


def lost_chains(lp: np.ndarray, moving: np.ndarray, dim: int) -> list[Reason]:
    """Return the reason for chains with a log density far below that of the others.

    The log density of draws from a mode with d directions has standard deviation sqrt(d / 2); modes differ as well, as
    measured by the median absolute deviation.
    """
    if moving.size < 3:
        return []
    means = lp[moving].mean(axis=1)
    middle = np.median(means)
    spread = max(math.sqrt(dim / 2), 1.4826 * float(np.median(np.abs(means - middle))))
    lost = means < middle - MAX_SHORTFALL * spread
    if not lost.any():
        return []
    chains = np.zeros(len(lp), bool)
    chains[moving[lost]] = True
    short = middle - means[lost].max()
    return [Reason.of(Code.LOST_CHAINS, chains=numbered(chains), short=short, times=MAX_SHORTFALL, spread=spread)]


def _step_errors(settings: MCLMC, stats: Mapping[str, np.ndarray]) -> list[Reason]:
    """Return the reasons for large energy errors."""
    warnings = []
    variance = float(stats["energy_variance"].mean())
    if settings.adjusted:
        rate = float(stats["acceptance_rate"].mean())
        if rate < MIN_ACCEPTANCE:
            warnings.append(Reason.of(Code.LOW_ACCEPTANCE, rate=rate, limit=MIN_ACCEPTANCE))
    elif variance > MAX_ENERGY_RATIO * settings.energy_variance:
        warnings.append(Reason.of(Code.ENERGY_VARIANCE, variance=variance, target=settings.energy_variance))
    share = 1 - (1 - float(stats["diverging"].mean())) ** (1 / settings.thinning)  # if steps were independent
    if share > MAX_REJECTED:
        warnings.append(Reason.of(Code.REJECTED_STEPS, share=share))
    return warnings


def not_settled(lp: np.ndarray, mixing: Mixing | None) -> list[Reason]:
    """Return the reasons for halves of chains that disagree, and for few effective draws; chains may differ.

    The log density of a network moves along directions in which no prediction does, and seems settled where chains
    stay near poor modes. So a network is judged by the size of the error of its predictions.
    """
    from ..internals import array_stats  # half a second that only chains need

    half = lp.shape[1] // 2
    rhat = float(np.median([array_stats.rhat(np.stack([chain[:half], chain[-half:]])) for chain in lp]))
    rise = float(lp[:, -half:].mean() - lp[:, :half].mean())
    if mixing is not None and mixing.is_network:
        if mixing.error <= MAX_NATS:
            return []
        if rhat <= MAX_RHAT and mixing.is_of_chains:
            return [mixing.imprecision]
        predictions = f"; the log predictive density of a row is off by about {mixing.error:.2g} nats"
        return [Reason.of(Code.NOT_SETTLED, rhat=rhat, rise=rise, predictions=predictions, aside=MEANWHILE)]
    ess, warnings = sum(float(array_stats.ess(chain[None])) for chain in lp), []
    if not rhat <= MAX_RHAT:
        warnings.append(Reason.of(Code.NOT_SETTLED, rhat=rhat, rise=rise, predictions="", aside=""))
    if not ess >= MIN_ESS:
        warnings.append(Reason.of(Code.LOW_TOTAL_ESS, ess=ess, limit=MIN_ESS))
    return warnings
