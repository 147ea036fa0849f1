"""SGMCMC: Langevin chains of which each step sees a batch of the rows."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import numpy as np
from jax import Array

from ..checks import check_positive_integer
from ..density import Density
from ..devices import Sharding, Spread, together
from ..method import Kind, Outcome
from ..programs import program
from ..reasons import Code, Reason
from ..rows import Data, Weights, signature
from ..status import Status
from ..store import Store
from .batches import batches_of, check_batch_size
from .chains import sample, stuck_chains
from .mclmc import MAX_RHAT_OF_WEIGHTS, MIN_DRAWS, lost_chains, not_settled
from .mixing import Mixing
from .point import MAP
from .stochastic import ORDER_KEY, Chains, Stochastic

MAX_BIAS = 0.1
"""The difference of the temperature of the steps from 1 above which the status warns, if it is significant."""
MAX_UNSTABLE = 0.01
"""The share of draws with an unstable step before them above which the status warns."""
SIGNIFICANT = 3.0
"""The standard errors of the temperature, over chains, above which it differs."""
WARM_START = MAP(num_steps=1000)
"""A run long enough to leave the starting point, by batches like those of the chains."""


@dataclass(frozen=True, kw_only=True)
class SGMCMC:
    """Draws near the posterior by Langevin chains with minibatches, for data sets too large for all rows at every step.

    Underdamped Langevin dynamics (stochastic-gradient Hamiltonian Monte Carlo, Chen, Fox & Guestrin 2014) over
    weights w in d unconstrained coordinates, with the gradient of a batch of rows in each step, scaled by n over their
    number as in `MAP`; the prior counts once. `methods/stochastic.py` has the formulas:

    - **The step** is that of Leimkuhler & Matthews (2013), with one gradient per step. For a Gaussian posterior and all
      rows in a batch it has no bias at all. With fewer rows its noise is binomial, with the moments of normal noise up
      to the third: steps are small then, and draws, which add up many of them, are as those by normal noise.
    - **The batches** of an epoch are a random partition of the rows, gone through forwards and then backwards (Paulin
      et al. 2024), so that their noise acts over the time of an epoch only, and not as a temperature. They are the same
      for all chains. Rows that can only be read one after the other are never read backwards.
    - **The scales** of the coordinates are those of the empirical Fisher information and the prior, measured by 32
      batches four times in the first half of the warm-up, at the place of each chain. A site of units that can be
      exchanged has one scale for all its elements: units that are off at the start are as stiff as the others later.
    - **The step size** is the smaller of two: an epoch takes `epoch_time`, in the time in which these scales are 1;
      and the square of the step times the largest curvature, found by the power method, is at most 1/4. Where a chain
      meets a stronger curvature later, whose step would throw it far out, it stays, and goes on by half the step.

    What this leaves out: there is no Metropolis correction, so the draws are those of a distribution near the
    posterior, not of the posterior. Its distance depends on the time of an epoch, and does not fall with longer runs.
    It is measured: ``stats["temperature"]`` is the mean over coordinates of the variance of the momentum before and
    after a step's gradient, which is 1 without the noise of batches. The status warns where it differs from 1 by more
    than 0.1. In chains that have settled it bounds the mean ratio of the variances of weights to those of the
    posterior: for one weight it is 1.05 and the ratio 1.006 at an `epoch_time` of 0.5; for 42 weights and 2,000 rows it
    is 1.36 at 1, where the spread of predictions is 1.19 times that of long chains. `compare` with ``reference=``
    measures the distance of predictions from those of long chains. So the fit is of kind "approximation": `diagnose`
    judges whether the chains agree, and says of what they are draws.

    ``stats["lp"]`` is the log density over the unconstrained coordinates: the mean of the estimates of the log
    likelihood by all batches since the draw before, and the log prior at the draw.

    Chains that have not settled are another matter, which the error of predictions shows: on such rows the default
    settings end within 0.015 nats per row, with spreads of predictions 5 to 11% too small; a `thinning` of 500 removes
    that.

    Where all rows at every step are affordable, `MCLMC` finds better modes, since its warm-up explores with larger
    steps: on the UCI airfoil data, with four layers of 16 units, its elpd is 0.70 nats per row after 43 s, that of
    these chains 0.45 after 8 s.

    Chains are near different modes, as those of `MCLMC`, and their draws have equal weights. Memory: each chain has
    its draws, ``num_samples`` times d numbers, in memory or with ``fit(..., resume=folder)`` on disk, with
    ``draws_dtype="float16"`` of two bytes each, and four numbers per weight on the device. Rows may stay on disk, or be
    sharded over devices.

    Args:
        num_warmup: the number of steps per chain before its first draw, which are discarded.
        num_samples: the number of draws per chain.
        thinning: the number of steps from one draw to the next.
        num_chains: the number of chains, distributed over all devices.
        batch_size: the number of rows per step; all rows where there are fewer.
        epoch_time: the longest time of an epoch, in units of the scales. The bias grows with its square or faster, the
            number of steps that a chain needs falls with it; the bias does not depend on `batch_size`. For one weight
            the noise of batches adds less than 1% to the variance at 0.5, and 20% at 2; for a network with 1,210
            weights on the digits of scikit-learn the temperature is 1.00 at 0.25 and 1.05 at 0.5, where predictions are
            as far from those of long chains of `MCLMC` as two halves of these from each other.
        friction: the rate at which the momentum is forgotten, in the same units. At 0.3 the noise of batches heats the
            chains more: to 1.16 in that example.
        start: the `MAP` run that finds the starting points; its `num_restarts` is set to `num_chains`, and where it
            has no `batch_size` to that of the chains. None is a cold start. A model of up to 256 weights, all of which
            have a meaning, starts at its mode, which Newton's method finds in raw units as well.
        improper_ok: allow a model whose prior is flat, even in part. Its posterior may not exist, which chains do not
            show.
        init_strategy: the starting points of chains without `start`; see `MAP`.

    Raises:
        ValueError: when a setting is out of range.

    Example:
        >>> import numpy as np
        >>> from flatprior.inference import SGMCMC, fit
        >>> from flatprior.models import MLP, Model, Normal, gaussian
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=(1000, 2))
        >>> y = x @ [1.0, -1.0] + 0.5 * rng.normal(size=1000)
        >>> result = fit(Model(MLP(), Normal(0.5), gaussian(1.0)), SGMCMC(batch_size=100), x, y, key=0)
        >>> print(result)
        Fit by SGMCMC: approximation, 10 chains of 100 draws, 3 weights, ok
    """

    name: ClassVar[str] = "SGMCMC"
    kind: ClassVar[Kind] = "approximation"
    draws_chains: ClassVar[bool] = True
    leaves_out: ClassVar[str] = (
        "Chains with minibatches leave out the correction of the errors of their steps: they draw from a distribution "
        "near the posterior, whose distance stats['temperature'] bounds."
    )
    spreads_rows: ClassVar[bool] = True
    growing: ClassVar[tuple[str, ...]] = ("num_samples",)
    min_draws: ClassVar[int] = MIN_DRAWS
    streams: ClassVar[bool] = True

    num_warmup: int = 10_000
    num_samples: int = 100
    thinning: int = 100
    num_chains: int = 10
    batch_size: int = 100
    epoch_time: float = 0.25
    friction: float = 1.0
    start: MAP | None = WARM_START
    improper_ok: bool = False
    init_strategy: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        for name in ("num_warmup", "num_samples", "thinning", "num_chains", "batch_size"):
            check_positive_integer("SGMCMC", name, getattr(self, name))
        for name in ("epoch_time", "friction"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
                raise ValueError(f"SGMCMC: expected a positive number as {name}; got {value!r}.")

    def run(self, density: Density, data: Data, *, key: Array, progress: bool, store: Store | None = None) -> Outcome:
        """See `Method.run`.

        Raises:
            ValueError: when the prior is flat and `improper_ok` is not set.
        """
        size = self.batch_size if self.batch_size < data.num_rows else None
        check_batch_size("SGMCMC", size, data)
        data, spread = (data.in_memory(self.name).on_device() if size is None else data), Spread.of(data)
        sharding, order_key = Sharding.of(self.num_chains, spread), jax.random.fold_in(key, ORDER_KEY)
        data, num_steps = sharding.place(data), self.num_warmup + self.num_samples * self.thinning
        started = replace(self, start=self._start(data.num_rows))
        with batches_of(data, size, num_steps, order_key, sharding, returning=True) as batches:

            def sampler(u: Weights) -> Chains:
                shapes = signature(jax.tree.map(lambda leaf: leaf[0], u))
                settings = shapes, self.num_chains, size, data.num_rows, spread
                return Chains(program(Stochastic, density.noncentred(), data, *settings), batches, order_key)

            sampled = sample(started, sampler, density, data, key=key, progress=progress, store=store)
        status = sampled.status + self.judged(density, sampled.draws, sampled.stats, together(data))
        return Outcome(sampled.draws, status, sample_stats=sampled.stats)

    def judged(
        self, density: Density, draws: Mapping[str, np.ndarray], stats: Mapping[str, np.ndarray], data: Data
    ) -> Status:
        """Return the status by the draws of all chains, in addition to that of `chains.sample`."""
        mixing = Mixing(density, draws, data, self.num_warmup / self.thinning)
        return status_of(stats, density.structure.num_weights, mixing)

    def _start(self, num_rows: int) -> MAP | None:
        """Return the run that finds the starting points, by batches like those of the chains."""
        if not isinstance(self.start, MAP) or self.start.batch_size is not None or self.batch_size >= num_rows:
            return self.start
        return replace(self.start, batch_size=self.batch_size)


def status_of(stats: Mapping[str, np.ndarray], dim: int, mixing: Mixing) -> Status:
    """Return the status by the statistics of the draws, in addition to that of `chains.sample`.

    Args:
        stats: the statistics by name, (chain, draw).
        dim: the number of weights.
        mixing: the draws themselves.
    """
    lp = stats["lp"].astype(float)
    moving = np.flatnonzero(~stuck_chains(lp))
    if not moving.size:
        return Status()
    warnings = lost_chains(lp, moving, dim)
    unstable = float(stats["diverging"].mean())
    if unstable > MAX_UNSTABLE:
        warnings.append(Reason.of(Code.UNSTABLE_STEPS, share=unstable))
    if lp.shape[1] >= MIN_DRAWS:
        warnings += not_settled(lp[moving], mixing)
        if moving.size == len(lp):
            warnings += mixing.disagreement(MAX_RHAT_OF_WEIGHTS)
    return Status(warnings=tuple(warnings + _bias(stats["temperature"][moving].astype(float))))


def _bias(temperature: np.ndarray) -> list[Reason]:
    """Return the reason for a temperature of the steps, (chain, draw), that is not that of the posterior."""
    by_chain = temperature.mean(axis=1)
    mean = float(by_chain.mean())
    error = float(by_chain.std(ddof=1) / len(by_chain) ** 0.5) if len(by_chain) > 1 else 0.0
    if abs(mean - 1) <= MAX_BIAS + SIGNIFICANT * error:
        return []
    return [Reason.of(Code.TEMPERATURE, temperature=mean, error=error)]
