"""The Laplace approximation: a Gaussian at the mode of the posterior, and the evidence."""

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import numpy as np
from jax import Array
from scipy.sparse.linalg import LinearOperator, eigsh

from ..checks import check_positive_integer
from ..density import Density
from ..method import Kind, Outcome
from ..reasons import Code, Reason
from ..rows import Data, Weights, in_double
from ..second_order import as_vector, from_vector
from ..status import Status
from ..store import Store
from ..structure import Structure
from ..surface import Curvature, PotentialSurface, known_curvature, potential_surface_of
from ..tangent import has_hidden_units, tangent
from .climb import climb_to_mode
from .collapse import collapsing
from .descent import ROWS_TOGETHER, descend
from .gaussian import Gaussian, Importance, LowRank, importance_of, status_of_importance
from .layers import last_layer
from .mode import no_maximum, quasi_separable
from .point import IMPROPER, MAP
from .recession import examine
from .rowwise import RowwiseSurface, rowwise_surface_of
from .scales import prior_conflict, raw_units
from .unbounded import is_unbounded

MAX_WEIGHTS = 4096
"""The largest number of weights: a matrix of as many rows takes 128 MiB in float64, and three exist at a time."""
MAX_DECREMENT = 0.01
"""The Newton decrement, in nats, up to which a point counts as the mode: at most 0.14 standard deviations away."""
MATRIX_FREE = "diagonal", "low_rank"  # the structures without a matrix of all weights
MAX_NUMBERS, IMPORTANCE_KEY = 2**27, 1
"""The largest number of numbers in all draws: they take 512 MiB in float32, and a GiB in float64 as they are made."""


@dataclass(frozen=True)
class Laplace:
    """A Gaussian at the mode of the posterior, ``N(u*, H^-1)``, and the evidence that it implies (MacKay 1992).

    The Gaussian is over unconstrained coordinates u, in which every weight can be any number (a scale is replaced by
    its logarithm). The mode u* is that of the density over u, with its Jacobian: for a scale it differs from the point
    of `MAP`. H is the curvature at u* of the negative log density ``-log p(y | x, w(u)) - log p(w(u)) - log |dw/du|``.
    The mode is found and H is formed in float64. Draws are mapped back to the coordinates of the model, and
    `Fit.log_evidence` is ``log p(y, u*) + d/2 log 2 pi - 1/2 log det H``, log p(y | x) of the model, in nats. It counts
    one mode: a network of h tanh units has h! 2^h copies of each.

    The approximation is exact for a linear model with known noise and Normal priors, and elsewhere correct up to O(1/n)
    where n rows determine the weights. They do not determine those of a network, and no Gaussian can follow its
    posterior: at draws of the weights a network predicts far worse than at the mode. With Gauss-Newton curvature,
    however, the Gaussian approximates the posterior of *another model*, that in which the parameters of y are linear in
    the weights around the mode, `linearized(model, at=mode)`, and for Normal observations of known scale it is that
    posterior (Khan et al. 2019; Immer et al. 2021). By this model networks predict: see `predictive`. The draws are the
    same; predictions, scores, `compare` and all other questions about y evaluate the density of the linearised model.

    **How good it is.** Of 1,000 draws (4,000 up to 256 weights) the importance weights are computed, for the posterior
    of the model that predicts. The status warns that it is no Gaussian around this mode where Pareto's k of the weights
    is above 0.7 (Yao et al. 2018; Vehtari et al. 2024), unless the divergence from the posterior is below 0.25 nats,
    since k is itself uncertain by 0.1; or where the divergence is above 0.25 nats per weight. For networks it warns
    where k is above 0.7 and the draws are, on average, more than 0.01 nats per row less probable than the Gaussian has
    it, or their divergence is above 0.02 nats per row, as where a learned scale has fitted noise at the mode:
    importance weights of hundreds of weights differ by many nats in all, and by little in any one prediction. That says
    nothing of how far the linearised network is from the network itself, nor of its fit to the data: ask held-out rows.
    Recorded are ``stats["pareto_k"]``, for the posterior of the model itself, which `compare` notes where it is above
    0.7; where the linearised model predicts, ``stats["pareto_k_linearized"]``; and ``stats["log_evidence_psis"]``, the
    evidence by Pareto-smoothed importance sampling from the Gaussian, NaN where ``pareto_k`` is above 0.7.

    Args:
        base: the `MAP` run that finds the neighbourhood of the mode, on all rows and without early stopping; the best
            of its restarts is used. From there a trust-region method (Conn et al. 2000, chapter 7) goes to the mode, in
            at most 200 steps. Each forms the Hessian at the cost of d gradients: seconds in all for a hundred weights,
            minutes for several hundred. Memory grows with the square of the number of weights, at most 4,096.
        num_samples: the number of draws, in one chain: draws are shaped (1, num_samples, *shape of the site).
        curvature: the matrix H.

            - ``"ggn"``: the generalised Gauss-Newton matrix, ``J' F J`` plus the curvature of the prior: J are the
              derivatives in u of the parameters of the observed site, F is its Fisher information (Martens 2020). The
              contribution of the data is never negative, so under Normal priors no weight is more uncertain than under
              its prior. It equals the Hessian where logits, or means of known scale, are linear in the weights. It is
              known for sites with a finite support, Normal, Poisson and others with a KL divergence in NumPyro.
            - ``"hessian"``: the Hessian. It omits nothing, but is positive only where the gradient vanishes, which it
              need not in networks with kinks (ReLU), and may be so small that the draws leave the network's mode.
            - None: ``"ggn"`` where it is known, ``"hessian"`` elsewhere.
        structure: the form of H.

            - ``"full"``: the matrix, of at most 4,096 weights.
            - ``"low_rank"``: the Hessian of the prior, a diagonal, and the `rank` directions in which data determine
              the weights best relative to the prior, by Lanczos iterations with products of Jacobians (Lehoucq et al.
              1998). In all other directions weights are as uncertain as under the prior: too uncertain, if anything.
            - ``"diagonal"``: the diagonal of H, exactly, by one product for each parameter of y in every row.
            - ``"last_layer"``: the full matrix of the last layer of a network given the other layers, which keep the
              values at which `base` ends; the evidence is that of the last layer given these. It is `Conditional` with
              the sites of the last layer.

            With ``"low_rank"`` and ``"diagonal"`` no matrix is formed, and rows are evaluated 128, or a batch of
            `base`, at a time: memory beyond the data is that of their evaluation, of a few vectors of all weights (for
            Lanczos iterations 2 `rank`), and of the draws, which are stored: at most 2^27 numbers, a GiB in float64.
            Above 4,096 weights the centre is where `base` ends, which the status judges.
        rank: see `structure`.
        predictive: the density by which the draws predict.

            - ``"linearized"``: that of `linearized(model, at=mode)`. A scale that is an output of the network is
              linearised in its logarithm: of the coordinates that were tried (its logarithm, the inverse of softplus,
              and the scale held fixed) the one with the best predictions.
            - ``"sampled"``: that of the model itself.
            - None: ``"linearized"`` for networks (see `tangent.has_hidden_units`), ``"sampled"`` for other models, of
              which the weights have a meaning. For models with parameters linear in the weights, such as generalised
              linear models and a learned scale, the two are equal.
        improper_ok: allow a model with a flat prior, whose posterior may not exist: `Fit.log_evidence` is NaN.

    Raises:
        ValueError: when a setting is out of range, or `base` is not a `MAP` run to the end.

    Example:
        >>> import numpy as np
        >>> from flatprior.inference import Laplace, fit
        >>> from flatprior.models import MLP, Model, Normal, gaussian
        >>> x = np.linspace(-1, 1, 20)[:, None]
        >>> for slope in 0.0, 0.5:  # the evidence for a slope: y = 1 + slope x + residuals
        ...     y = 1 + slope * x[:, 0] + 0.2 * np.cos(20 * x[:, 0])
        ...     line = fit(Model(MLP(), Normal(0.2), gaussian(1.0)), Laplace(), x, y, key=0)
        ...     none = fit(Model(MLP(), Normal(0.2), gaussian(1.0)), Laplace(), np.zeros((20, 1)), y, key=0)
        ...     print(f"{line.log_evidence - none.log_evidence:.1f}")
        -2.6
        20.3
    """

    name: ClassVar[str] = "Laplace"
    kind: ClassVar[Kind] = "approximation"
    draws_chains: ClassVar[bool] = False
    leaves_out: ClassVar[str] = "Laplace leaves out all modes but one, and around it all that is not Gaussian."
    streams: ClassVar[bool] = False
    spreads_rows: ClassVar[bool] = False

    base: MAP = field(default_factory=MAP)
    _: KW_ONLY
    num_samples: int = 1000
    curvature: Curvature | None = None
    predictive: Literal["linearized", "sampled"] | None = None
    structure: Literal["full", "diagonal", "low_rank", "last_layer"] = "full"
    rank: int = 50
    improper_ok: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.base, MAP):
            raise ValueError(
                f"Laplace: expected MAP(...) as base; got {self.base!r}. A flat prior may have no posterior: for "
                f"flat(model) give base=MAP(...) and improper_ok=True."
            )
        if self.base.validation_fraction:
            raise ValueError(
                f"Laplace: expected a base with validation_fraction=0, which ends at the mode of all rows; got "
                f"{self.base.validation_fraction!r}."
            )
        check_positive_integer("Laplace", "num_samples", self.num_samples)
        if self.curvature not in (None, "ggn", "hessian"):
            raise ValueError(f"Laplace: expected 'ggn', 'hessian' or None as curvature; got {self.curvature!r}.")
        if self.predictive not in (None, "linearized", "sampled"):
            raise ValueError(
                f"Laplace: expected 'linearized', 'sampled' or None as predictive; got {self.predictive!r}."
            )
        if self.structure not in ("full", "diagonal", "low_rank", "last_layer"):
            raise ValueError(
                f"Laplace: expected 'full', 'diagonal', 'low_rank' or 'last_layer' as structure; got "
                f"{self.structure!r}."
            )
        check_positive_integer("Laplace", "rank", self.rank)
        if self.curvature == "hessian" and self.structure in MATRIX_FREE:
            raise ValueError(
                f"Laplace: expected structure='full' or 'last_layer' with curvature='hessian', which is no product of "
                f"Jacobians; got {self.structure!r}."
            )

    @property
    def growing(self) -> tuple[str, ...]:
        """See `Method.growing`."""
        return ("num_samples", *self.base.growing)

    def run(self, density: Density, data: Data, *, key: Array, progress: bool, store: Store | None = None) -> Outcome:
        """See `Method.run`.

        Raises:
            ValueError: when the prior is flat and `improper_ok` is not set, the model has more than 4,096 weights, or
                the requested curvature is not known.
        """
        density.structure.check_proper("Laplace", improper_ok=self.improper_ok)
        sites = density.structure.latents
        of_part = last_layer(density, data) if self.structure == "last_layer" else None
        self._check_size(density.structure if of_part is None else of_part.structure)
        known_curvature(density, data, "ggn" if self.structure in MATRIX_FREE else self.curvature)
        key_base, key_draws = jax.random.split(key)
        descent = descend(self.base, density, data, key=key_base, progress=progress, store=store)
        start = descent.member(descent.best)
        fixed: Weights = {}
        if of_part is not None:
            fixed, density, data, start = of_part.at(start, data)
        is_network = has_hidden_units(density, data)
        linearizes = is_network if self.predictive is None else self.predictive == "linearized"
        with jax.enable_x64(True):  # float32 is too coarse to invert the curvature of a network
            found = self._around_mode(
                start, density, data, key_draws, climbs=bool(descent.status), linearizes=linearizes
            )
        status = descent.status
        if status:
            status += self._status(start, found.gaussian, density, data)
        draws, at = _in_default_precision(found.weights, fixed, sites)
        if status:
            status += _status_of_draws(draws)
        if status:
            num_rows = data.num_rows if is_network and linearizes else None
            status += status_of_importance(found.judged, num_rows, density.structure)
        has_evidence = status and not density.structure.flat
        evidence = found.gaussian.log_mass - found.lowest if has_evidence else math.nan
        stats = {
            "loss": descent.losses,
            "newton_decrement": np.asarray(found.gaussian.decrement),
            "pareto_k": np.asarray(found.own.pareto_k),
            "log_evidence_psis": np.asarray(evidence + found.own.log_mean),
        }
        if linearizes:
            stats["pareto_k_linearized"] = np.asarray(found.judged.pareto_k)
        return Outcome(draws, status, stats=stats, log_evidence=evidence, linearized_at=at if linearizes else {})

    def _check_size(self, structure: Structure) -> None:
        """Raise ValueError where matrices or draws would not fit in memory."""
        count = structure.num_weights
        if self.structure not in MATRIX_FREE and count > MAX_WEIGHTS:
            raise ValueError(
                f"Laplace: expected at most {MAX_WEIGHTS:,} weights, since memory grows with their square; got "
                f"{count:,}. Use structure='last_layer', 'low_rank' or 'diagonal', Ensemble() or MCLMC(), or a smaller "
                f"network."
            )
        if count * self.num_samples > MAX_NUMBERS:
            raise ValueError(
                f"Laplace: expected at most {MAX_NUMBERS // count:,} draws of {count:,} weights, which take a GiB in "
                f"float64; got num_samples={self.num_samples:,}."
            )

    def _around_mode(
        self, start: Weights, density: Density, data: Data, key: Array, *, climbs: bool, linearizes: bool
    ) -> "_AroundMode":
        """Return the Gaussian around the mode that is nearest to a point, with draws; in float64."""
        start, data = jax.tree.map(in_double, (start, data))
        centre = as_vector(start)
        if climbs and len(centre) <= MAX_WEIGHTS:
            centre = climb_to_mode(potential_surface_of(density, data, self.curvature), centre, start, data)
        surface = self._surface(density, data)
        lowest, slope = jax.device_get(surface.value_and_slope(centre, start, data))
        gaussian = self._gaussian(surface, centre, slope, start, data)
        points = np.concatenate([centre[None], gaussian.sample(key, self.num_samples)])
        weights = jax.device_get(surface.constrain(points, start, data))
        key_weights = jax.random.fold_in(key, IMPORTANCE_KEY)
        judged = own = importance_of(gaussian, lambda us: surface.values(us, start, data), key_weights)
        if linearizes:
            around = replace(data, at={site: value[0] for site, value in weights.items()})
            linear = self._surface(Density(tangent(density.model), density.structure), around, "hessian")
            judged = importance_of(gaussian, lambda us: linear.values(us, start, around), key_weights)
        return _AroundMode(gaussian, float(lowest), weights, own, judged)

    def _surface(
        self, density: Density, data: Data, curvature: Curvature | None = None
    ) -> PotentialSurface | RowwiseSurface:
        """Return the compiled potential, which for many weights is evaluated a few rows at a time."""
        if self.structure in MATRIX_FREE:
            return rowwise_surface_of(density, data, max(self.base.batch_size or 0, ROWS_TOGETHER))
        return potential_surface_of(density, data, curvature or self.curvature)

    def _gaussian(
        self, surface: PotentialSurface | RowwiseSurface, centre: np.ndarray, slope: np.ndarray, *rows: Any
    ) -> Gaussian | LowRank:
        """Return the Gaussian of the structure at a point."""
        if isinstance(surface, PotentialSurface):
            return Gaussian.at(centre, slope, np.asarray(surface.curvature(centre, *rows)))
        prior = surface.diagonal_of_prior(centre, *rows)
        if not (prior > 0).all():
            return LowRank.at(centre, slope, prior)
        if self.structure == "diagonal":
            return LowRank.at(centre, slope, prior + np.asarray(surface.diagonal(centre, *rows)))
        root = np.sqrt(prior)

        def product(v: np.ndarray) -> np.ndarray:
            return np.asarray(surface.product(centre, np.ravel(v) / root, *rows)) / root

        operator = LinearOperator((len(centre),) * 2, matvec=product, dtype=centre.dtype)
        start = np.cos(np.arange(1.0, len(centre) + 1))
        values, directions = eigsh(operator, k=min(self.rank, len(centre) - 1), v0=start, tol=1e-6)
        return LowRank.at(centre, slope, prior, directions, np.maximum(values, 0.0))

    def _status(self, start: Weights, gaussian: Gaussian | LowRank, density: Density, data: Data) -> Status:
        """Return the status of the point that the trust region reached, and of the Gaussian there."""
        surface, effort = self.base.surface(density, data), self.base.effort(density, data)
        is_mode = gaussian.decrement <= MAX_DECREMENT
        mode = from_vector(gaussian.centre.astype(jax.dtypes.canonicalize_dtype(float)), start)
        failures: tuple[Reason, ...] = ()
        if density.structure.flat:
            found = no_maximum(surface, mode, data) or quasi_separable(surface, mode, data)
            found = found or examine(surface, mode, data, effort).reasons
            failures = tuple(Reason.of(Code.IMPROPER_POSTERIOR, reason=each) for each in found if each.code in IMPROPER)
        collapse = Status() if failures else collapsing(surface, mode, data, effort, is_over_u=True)
        failures = failures or collapse.failures
        if not failures and not is_mode:
            failures = is_unbounded(surface, start, data, effort, is_suspect=True)
        failures = failures or (() if gaussian.defect is None else (gaussian.defect,))
        if failures:
            return Status(failures)
        if is_mode:
            return Status(warnings=collapse.warnings + prior_conflict(surface, mode, data))
        raw = raw_units(surface, mode, data)
        return Status(warnings=raw or (Reason.of(Code.NOT_AT_MODE, gain=gaussian.decrement),))


class _AroundMode(NamedTuple):
    """The result of the approximation in float64."""

    gaussian: Gaussian | LowRank
    lowest: float
    """The potential at its centre."""
    weights: Weights
    """The centre and the draws, in the coordinates of the model: site -> (1 + draw, *shape)."""
    own: Importance
    """The importance of draws for the posterior of the model."""
    judged: Importance
    """The same for the model that predicts, which may be that linearised at the centre."""


def _status_of_draws(draws: Mapping[str, np.ndarray]) -> Status:
    """Return the reason not to use draws that are not finite."""
    finite = np.all([np.isfinite(value[0]).reshape(value.shape[1], -1).all(axis=1) for value in draws.values()], axis=0)
    if finite.all():
        return Status()
    return Status((Reason.of(Code.NON_FINITE_DRAWS, count=(~finite).sum(), total=finite.size),))


def _in_default_precision(
    weights: Weights, fixed: Weights, sites: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return draws, (1, draw, *shape), and the mode by site, with copies of fixed sites that take no memory."""
    dtype, count = jax.dtypes.canonicalize_dtype(float), len(next(iter(weights.values())))
    with np.errstate(over="ignore"):  # a failure, which the status reports
        points = {site: np.asarray(value).astype(dtype) for site, value in weights.items()}
    points |= {site: np.broadcast_to(np.asarray(value), (count, *value.shape)) for site, value in fixed.items()}
    return {site: points[site][None, 1:] for site in sites}, {site: points[site][0] for site in sites}
