"""Variational: the member of a family of distributions that is nearest to the posterior."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.flatten_util import ravel_pytree

from ..blocks import Run, run_in_blocks
from ..checkpoint import Checkpoint, leaves_of
from ..checks import check_positive_integer
from ..density import Density
from ..devices import Spread
from ..fingerprint import ByValue, fingerprint
from ..method import Kind, Outcome
from ..programs import program
from ..reasons import Code, Reason
from ..rows import Data, Weights, signature
from ..status import Status
from ..store import Store
from .batches import Batches, Resident, batches_of, check_batch_size
from .bound import GUIDES, Bound, Origin, State
from .chains import buffer_rows
from .descent import descend
from .finish import Ending
from .gaussian import MAX_DIVERGENCE_PER_ROW, MAX_PARETO_K, NUM_DRAWS, Importance
from .optimizer import check_optimizer
from .point import MAP, from_mode
from .steps import MAX_BLOCK_STEPS

MAX_WEIGHTS = 4096
"""The largest number of weights whose covariance is a matrix."""
SIGNIFICANT = 4.0
"""The standard errors by which the bound must have risen over the last tenth of the steps to be still rising."""
MIN_GAIN = 0.5
"""The nats by which it must have risen as well."""
LEFT_OUT = {
    "mean_field": "all correlations between weights",
    "low_rank": "all correlations between weights but those along a few directions",
    "full_rank": "all that is not Gaussian",
}
"""What a guide leaves out, by name."""
ROUNDING = 32
"""The rounding error of a log weight, in units of the machine epsilon."""
WARM_START = MAP(num_steps=1000)
"""A run long enough to leave the starting point, by batches like those of the guide."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Variational:
    """The distribution q of a family that maximises a bound on the evidence (Kucukelbir et al. 2017).

    ``ELBO = E_q[log p(y, w) - log q(w)] = log p(y) - KL(q, p(w | y))``, in nats, over weights w in unconstrained
    coordinates. Of the members of a family, the one with the largest bound has the least divergence from the posterior;
    it is narrow where the posterior is not of the family. The density is that of all methods: batches of rows are
    scaled by n over their number as in `MAP`, and nothing but the prior counts against the data.

    - ``stats["elbo"]`` and ``stats["elbo_se"]``: the bound at the end, from draws on all rows, and its standard error.
    - ``stats["pareto_k"]``: Pareto's k of the importance weights of draws (Yao et al. 2018): up to 0.7 the draws can be
      corrected, and `Fit.log_evidence` is the evidence by these weights; above, it is NaN.
    - ``stats["loss"]``: minus the bound as each step estimates it.

    The status warns where k is above 0.7 and the draws differ from the posterior: by 0.5 nats of divergence in all, or
    for networks, whose predictions alone have a meaning, by 0.02 nats per row.

    Args:
        guide: the family: "mean_field", independent Gaussians, which leave out all correlations; "low_rank", a Gaussian
            with the square root of d directions of correlation; "full_rank", any Gaussian, for up to 4,096 weights; or
            a function that returns a guide of NumPyro for a model of one vector, such as the classes `AutoIAFNormal`
            and `AutoBNAFNormal`, or ``lambda model: AutoLowRankMultivariateNormal(model, rank=50)``.
        num_steps: the number of steps; a step costs `num_particles` gradients.
        num_particles: the number of draws by which a step estimates the bound.
        batch_size: the number of rows per step; None is all of them. Rows may then stay on disk, or be sharded over
            devices, and at the end all of them are read once, to weigh the draws.
        optimizer: an optax optimiser. The default is Adam, whose learning rate falls from 0.01 to 0 by a cosine.
        num_samples: the number of draws of the fit.
        start: the `MAP` run that finds the starting point; where it has no `batch_size` it gets that of the guide.
            A model of up to 256 weights, all of which have a meaning, starts at its mode, which Newton's method finds
            in raw units as well.
        improper_ok: allow a model whose prior is flat, even in part.

    Raises:
        ValueError: when a setting is out of range.

    Example:
        >>> import numpy as np
        >>> from flatprior.inference import Variational, fit
        >>> from flatprior.models import MLP, Model, Normal, gaussian
        >>> x = np.linspace(-1, 1, 20)[:, None]
        >>> model = Model(MLP(), Normal(0.5), gaussian(1.0))
        >>> line = fit(model, Variational(guide="full_rank"), x, 1 + x[:, 0], key=0)
        >>> print(line, f"{line.log_evidence:.2f}", f"{line.stats['elbo']:.2f}")
        Fit by Variational: approximation, 1 chain of 1000 draws, 2 weights, ok -9.40 -9.40
    """

    name: ClassVar[str] = "Variational"
    kind: ClassVar[Kind] = "approximation"
    draws_chains: ClassVar[bool] = False
    spreads_rows: ClassVar[bool] = True
    growing: ClassVar[tuple[str, ...]] = ("num_samples",)

    guide: Literal["mean_field", "low_rank", "full_rank"] | Callable[..., Any] = "mean_field"
    num_steps: int = 5000
    num_particles: int = 1
    batch_size: int | None = None
    optimizer: optax.GradientTransformation | None = None
    num_samples: int = 1000
    start: MAP = field(default_factory=lambda: WARM_START)
    improper_ok: bool = False

    def __post_init__(self) -> None:
        counts = {name: getattr(self, name) for name in ("num_steps", "num_particles", "num_samples", "batch_size")}
        for name, value in counts.items():
            if not (value is None and name == "batch_size"):
                check_positive_integer("Variational", name, value)
        if not (self.guide in GUIDES if isinstance(self.guide, str) else callable(self.guide)):
            raise ValueError(
                f"Variational: expected {', '.join(map(repr, GUIDES))} or a guide of NumPyro, such as AutoBNAFNormal, "
                f"as guide; got {self.guide!r}."
            )
        if not isinstance(self.start, MAP):
            raise ValueError(
                f"Variational: expected MAP(...), which has the same density, as start; got {self.start!r}."
            )
        if self.optimizer is not None:
            check_optimizer("Variational", ByValue(self.optimizer))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and fingerprint(self) == fingerprint(other)

    def __hash__(self) -> int:
        return hash(fingerprint(self))

    @property
    def streams(self) -> bool:
        """Whether rows may stay on disk: it takes them by batches."""
        return self.batch_size is not None

    @property
    def leaves_out(self) -> str:
        """What the draws leave out of the posterior."""
        family = LEFT_OUT[self.guide] if isinstance(self.guide, str) else "what its family does not have"
        return f"Variational inference leaves out {family}, and all modes but one."

    def run(self, density: Density, data: Data, *, key: Array, progress: bool, store: Store | None = None) -> Outcome:
        """See `Method.run`.

        Raises:
            ValueError: when the prior is flat and `improper_ok` is not set, a batch has more rows than there are, or a
                guide of full rank has more than 4,096 weights.
        """
        density.structure.check_proper("Variational", improper_ok=self.improper_ok)
        self._check_size(density, data)
        key_start, key_steps, key_draws = jax.random.split(key, 3)
        sampled = density.noncentred()
        first = self.start if self.start.batch_size else replace(self.start, batch_size=self.batch_size)
        descent = descend(first, sampled, data, key=key_start, progress=progress, store=store)
        if descent.status.is_interrupted:
            raise KeyboardInterrupt  # there is no guide to return
        u, origin = _origin(from_mode(first, sampled, descent.member(descent.best), data))
        settings = signature(u), ByValue(self.guide), self.batch_size, self.num_particles, ByValue(self.optimizer)
        bound = program(Bound, sampled, data, *settings, data.num_rows, Spread.of(data))
        checkpoint = None if store is None else store.checkpoint("guide")
        with batches_of(data, self.batch_size, self.num_steps, key_steps, bound.sharding) as batches:
            state, status = self._maximised(bound, origin, batches, checkpoint, key=key_steps, progress=progress)
        losses = np.concatenate([np.zeros(0), *state.losses]) * data.num_rows
        draws, log_weights = self._draws(bound, state, origin, data, key_draws)
        importance, middle = _importance_of(log_weights, bound.dtype)
        elbo, error = log_weights.mean(), log_weights.std(ddof=1) / len(log_weights) ** 0.5
        if status:
            status += self._status(losses, importance, density, data)
        stats = {
            "loss": losses[None],
            "elbo": np.asarray(elbo),
            "elbo_se": np.asarray(error),
            "pareto_k": np.asarray(importance.pareto_k),
        }
        has_evidence = status and not density.structure.flat
        evidence = middle + importance.log_mean if has_evidence else math.nan
        return Outcome(draws, status, stats=stats, log_evidence=evidence)

    def _check_size(self, density: Density, data: Data) -> None:
        check_batch_size("Variational", self.batch_size, data)
        count = density.structure.num_weights
        if self.guide == "full_rank" and count > MAX_WEIGHTS:
            raise ValueError(
                f"Variational: expected at most {MAX_WEIGHTS:,} weights with guide='full_rank', since memory grows "
                f"with their square; got {count:,}. Use guide='low_rank' or 'mean_field'."
            )

    def _maximised(
        self,
        bound: Bound,
        origin: Origin,
        batches: Batches | Resident,
        checkpoint: Checkpoint | None,
        *,
        key: Array,
        progress: bool,
    ) -> tuple[State, Status]:
        """Return the last finite state of the optimiser, and why it ended before the last step, if it did."""
        ends = [_begun(bound.start(key, self.num_steps), checkpoint)]

        def is_finite(state: State, _: int) -> bool:
            if not np.isfinite(state.losses[-1]).all():
                return False
            ends[0] = state
            if checkpoint is not None and checkpoint.is_due:
                _write(state, checkpoint)
            return True

        run: Run[State] = run_in_blocks(
            partial(bound.advance, origin=origin, batches=batches),
            ends[0],
            self.num_steps,
            label="Variational",
            unit="step",
            done=sum(map(len, ends[0].losses)),
            progress=progress,
            describe=lambda state, _: f"ELBO {-state.losses[-1].mean() * bound.num_rows:.5g}",
            keep_going=is_finite,
            max_block_steps=MAX_BLOCK_STEPS,
        )
        if checkpoint is not None:
            _write(ends[0], checkpoint)
        if run.ended == "interrupted":
            reason = Reason.of(Code.INTERRUPTED, done=run.done, total=self.num_steps, unit="steps")
            return ends[0], Status(warnings=(reason,))
        if run.ended == "stopped":
            losses, last = np.concatenate(run.state.losses), sum(map(len, ends[0].losses))
            step = int(np.argmax(~np.isfinite(losses)))
            reason = Reason.of(Code.NON_FINITE_LOSS, value=losses[step], step=step, last=last)
            return ends[0], Status(failures=(reason,))
        return ends[0], Status()

    def _draws(
        self, bound: Bound, state: State, origin: Origin, data: Data, key: Array
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return the draws by site, (1, draw, *shape), and the log weights of the first of them."""
        count = max(self.num_samples, num_weighed := self._num_weighed(bound.dim))
        keys, size = jax.random.split(key, count), buffer_rows(1, bound.dim)
        parts: list[Weights] = []
        log_weights: list[np.ndarray] = []
        for begin in range(0, count, size):
            of_part = jnp.take(keys, jnp.arange(begin, begin + size), mode="clip")
            draws, weights = bound.draws(state, of_part, origin, data, weighed=begin < num_weighed)
            parts.append(draws)
            log_weights.append(weights)
        whole = jax.tree.map(lambda *leaves: np.concatenate(leaves)[None, : self.num_samples], *parts)
        return whole, np.concatenate(log_weights)[:num_weighed]

    def _num_weighed(self, dim: int) -> int:
        """Return the number of draws whose importance is asked."""
        return next(count for most, count in NUM_DRAWS.items() if dim <= most)

    def _status(self, losses: np.ndarray, importance: Importance, density: Density, data: Data) -> Status:
        """Return the reasons not to rely on the guide: the bound still rises, or it is far from the posterior."""
        warnings, tenth = [], len(losses) // 10
        if tenth > 1:
            before, last = losses[-2 * tenth : -tenth], losses[-tenth:]
            gain = float(before.mean() - last.mean())
            if gain > max(MIN_GAIN, SIGNIFICANT * math.sqrt((before.var() + last.var()) / tenth)):
                warnings.append(Reason.of(Code.STILL_FALLING, gain=gain))
        structure = density.structure
        limit = MAX_DIVERGENCE_PER_ROW * data.num_rows
        stands = (
            importance.pareto_k <= MAX_PARETO_K or importance.divergence <= limit
            if structure.exchangeable
            else importance.stands_for_weights(structure.num_weights)
        )
        if not stands:
            numbers = {"k": importance.pareto_k, "divergence": importance.divergence, "limit": MAX_PARETO_K}
            warnings.append(Reason.of(Code.POOR_GUIDE, **numbers))
        return Status(warnings=tuple(warnings))


def _origin(end: Ending) -> tuple[Weights, Origin]:
    """Return the weights at which the guide begins, and that point with the scales of the posterior around a mode."""
    u = jax.tree.map(jnp.asarray, end.u)
    centre, _ = ravel_pytree(u)
    scale = jnp.ones_like(centre)
    if end.polished and end.minimum is not None:
        precision = np.diagonal(end.minimum.curvature)
        scale = jnp.asarray(np.where(precision > 0, np.abs(precision), 1.0) ** -0.5, centre.dtype)
    return u, Origin(centre, scale)


def _begun(start: State, checkpoint: Checkpoint | None) -> State:
    """Return the state on disk; the start where there is none."""
    saved = None if checkpoint is None else checkpoint.read()
    if saved is None or checkpoint is None:
        return start
    return State(checkpoint.restore(start.svi, saved.arrays), (saved.arrays["losses"],))


def _write(state: State, checkpoint: Checkpoint) -> None:
    losses = np.concatenate([np.zeros(0, np.float32), *state.losses])
    checkpoint.write({**leaves_of(state.svi), "losses": losses}, {})


def _importance_of(log_weights: np.ndarray, dtype: Any) -> tuple[Importance, float]:
    """Return the importance of draws by their log weights, less their median in nats, and this median.

    Where the guide is the posterior they differ by rounding alone, whose tail says nothing.
    """
    middle = float(np.nanmedian(log_weights))
    rounding = ROUNDING * np.finfo(dtype).eps * abs(middle)
    relative = np.where(np.abs(log_weights - middle) <= rounding, 0.0, log_weights - middle)
    return Importance.of(relative), middle
