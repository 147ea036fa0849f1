"""The Laplace approximation: a Gaussian at the mode of the posterior, and the evidence."""

import math
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar, NamedTuple, Self

import jax
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from scipy.linalg import LinAlgError, cholesky, solve_triangular
from scipy.optimize import minimize

from ..checks import check_positive_integer
from ..density import Density
from ..method import Kind, Outcome
from ..reasons import Code, Reason
from ..rows import Data, Weights, in_double
from ..status import Status
from ..surface import Curvature, PotentialSurface, by_site, potential_surface_of
from .collapse import collapsing
from .descent import Descent, descend
from .mode import is_unbounded, no_maximum, quasi_separable
from .point import IMPROPER, MAP
from .recession import examine
from .scales import prior_conflict, raw_units

MAX_WEIGHTS = 4096
"""The largest number of weights: a matrix of as many rows takes 128 MiB in float64, and three exist at a time."""
MAX_STEPS = 200
"""The largest number of steps of the trust region from the end point of the base to the mode."""
DENSE_WEIGHTS = 256
"""The largest number of weights for which each of these steps forms the Hessian; for more, only products with it."""
SMALL_SLOPE = 1e-6
"""The length of the gradient, in nats, at which the mode is reached."""
MAX_DECREMENT = 0.01
"""The Newton decrement, in nats, up to which a point counts as the mode: at most 0.14 standard deviations away."""
IMPORTANCE_KEY, IMPORTANCE_DRAWS = 1, 1000
MIN_EFFICIENCY = 0.1
"""The efficiency of importance weights below which the posterior counts as another distribution than the Gaussian."""
STRAY = 20.0
"""The nats by which a stray draw is less probable than under the Gaussian."""
MAX_STRAYS = 0.01
JUDGED_WEIGHTS = 10
"""The largest number of weights for which the status judges importance weights. Those of networks nearly always fail
(13 weights: an efficiency of 0.003), as the class says, and a warning that is always on says nothing."""


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
    where n rows determine the weights. They do not determine those of a network: a Gaussian cannot follow its
    posterior, and the draws may predict worse than the mode alone (Immer et al. 2021); `compare` shows it. Predictions
    of the network linearised around its mode do better, but belong to another model, and are not included.

    ``fit.stats["importance_efficiency"]`` says how far the posterior is from the Gaussian: the effective sample size of
    the importance weights of 1,000 draws, as a share of these. It is 1 where the approximation is exact, above 0.5 for
    most logistic regressions, and near 0 for networks. Up to 10 weights the status warns where it is below 0.1, or more
    than 1% of the draws are 20 nats less probable than the Gaussian has it, as beside the boundary of a positive site.

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
        improper_ok: allow a model with a flat prior. Its posterior may not exist, and it has no evidence
            (`Fit.log_evidence` is NaN).

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

    base: MAP = field(default_factory=MAP)
    _: KW_ONLY
    num_samples: int = 1000
    curvature: Curvature | None = None
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

    def run(self, density: Density, data: Data, *, key: Array, progress: bool) -> Outcome:
        """See `Method.run`.

        Raises:
            ValueError: when the prior is flat and `improper_ok` is not set, the model has more than 4,096 weights, or
                the requested curvature is not known.
        """
        structure = density.structure
        structure.check_proper("Laplace", improper_ok=self.improper_ok)
        if structure.num_weights > MAX_WEIGHTS:
            raise ValueError(
                f"Laplace: expected at most {MAX_WEIGHTS:,} weights, since memory grows with their square; got "
                f"{structure.num_weights:,}. Use Ensemble() or MCLMC(), or a smaller network."
            )
        potential = potential_surface_of(density, data, self.curvature)
        key_base, key_draws = jax.random.split(key)
        descent = descend(self.base, density, data, key=key_base, progress=progress)
        with jax.enable_x64(True):  # float32 is too coarse to invert the curvature of a network
            start, wide = jax.tree.map(in_double, (descent.member(descent.best)[0], data))
            centre = np.asarray(ravel_pytree(start)[0])
            if descent.status:
                centre = climb(potential, centre, start, wide)
            lowest, slope = jax.device_get(potential.value_and_slope(centre, start, wide))
            gaussian = _Gaussian.at(centre, slope, np.asarray(potential.curvature(centre, start, wide)))
            weights = jax.device_get(potential.constrain(gaussian.sample(key_draws, self.num_samples), start, wide))
            importance = _Importance.of(gaussian, potential, float(lowest), key_draws, start, wide)
        dtype = jax.dtypes.canonicalize_dtype(float)
        with np.errstate(over="ignore"):  # a failure, which the status reports
            draws = {site: weights[site][None].astype(dtype) for site in structure.latents}
        mode = jax.device_get(by_site(centre.astype(dtype), start))
        status = descent.status + self._status(descent, mode, gaussian, density, data)
        if status:
            status += _status_of_draws(draws, importance)
        evidence = gaussian.log_mass - float(lowest) if status and not structure.flat else math.nan
        stats = {
            "loss": descent.losses,
            "newton_decrement": np.asarray(gaussian.decrement),
            "importance_efficiency": np.asarray(importance.efficiency),
        }
        return Outcome(draws, status, stats=stats, log_evidence=evidence)

    def _status(self, descent: Descent, mode: Weights, gaussian: "_Gaussian", density: Density, data: Data) -> Status:
        """Return the status of the point that the trust region reached, and of the Gaussian there."""
        if not descent.status:
            return Status()
        surface, is_mode = self.base.surface(density, data), gaussian.decrement <= MAX_DECREMENT
        failures: tuple[Reason, ...] = ()
        if density.structure.flat:
            found = no_maximum(surface, mode, data) or quasi_separable(surface, mode, data)
            found = found or examine(surface, mode, data).reasons
            failures = tuple(Reason.of(Code.IMPROPER_POSTERIOR, reason=each) for each in found if each.code in IMPROPER)
        collapse = Status() if failures else collapsing(surface, mode, data, is_over_u=True)
        failures = failures or collapse.failures
        if not failures and not is_mode:
            failures = is_unbounded(surface, descent.member(descent.best)[0], data, is_suspect=True)
        if not failures and gaussian.defect is not None:
            failures = (gaussian.defect,)
        if failures:
            return Status(failures)
        if is_mode:
            return Status(warnings=collapse.warnings + prior_conflict(surface, mode, data))
        raw = raw_units(surface, mode, data)
        return Status(warnings=raw or (Reason.of(Code.NOT_AT_MODE, gain=gaussian.decrement),))


def _status_of_draws(draws: dict[str, np.ndarray], importance: "_Importance") -> Status:
    """Return the reasons not to use the draws of a Gaussian around a mode."""
    finite = np.all([np.isfinite(value[0]).reshape(value.shape[1], -1).all(axis=1) for value in draws.values()], axis=0)
    if not finite.all():
        return Status((Reason.of(Code.NON_FINITE_DRAWS, count=(~finite).sum(), total=finite.size),))
    num_weights = sum(math.prod(value.shape[2:]) for value in draws.values())
    return Status(warnings=importance.reasons if num_weights <= JUDGED_WEIGHTS else ())


class _Importance(NamedTuple):
    """The importance weights of draws of the Gaussian, which show how far the posterior is from it."""

    efficiency: float
    """Their effective sample size as a share of the draws (Kong 1992): 1 where the posterior is the Gaussian."""
    strays: float
    """The share of draws that are `STRAY` nats less probable than under the Gaussian."""

    @classmethod
    def of(cls, gaussian: "_Gaussian", surface: PotentialSurface, lowest: float, key: Array, *rows: Any) -> Self:
        """Return the importance of draws around a mode of potential `lowest`; NaN where there is no Gaussian."""
        if gaussian.root is None:
            return cls(math.nan, math.nan)
        draws = gaussian.sample(jax.random.fold_in(key, IMPORTANCE_KEY), IMPORTANCE_DRAWS)
        excess = np.asarray(surface.values(draws, *rows)) - lowest - gaussian.excess(draws)
        excess = np.where(np.isnan(excess), np.inf, excess)
        weights = np.exp(-np.maximum(excess - excess.min(), 0.0)) if np.isfinite(excess.min()) else np.ones(1)
        return cls(float(weights.sum() ** 2 / (weights @ weights) / len(excess)), float((excess > STRAY).mean()))

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """The reason, where the posterior is not the Gaussian."""
        if not (self.efficiency < MIN_EFFICIENCY or self.strays > MAX_STRAYS):
            return ()
        return (Reason.of(Code.NOT_GAUSSIAN, stray=STRAY, **self._asdict()),)


def climb(surface: PotentialSurface, u: np.ndarray, *rows: Any) -> np.ndarray:
    """Return the mode near u by a trust region, or the point reached after `MAX_STEPS` steps."""

    def value_and_slope(u: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = jax.device_get(surface.value_and_slope(u, *rows))
        return (float(value), slope) if np.isfinite(value) else (math.inf, np.zeros_like(u))

    def hessian(u: np.ndarray) -> np.ndarray:
        h = np.asarray(surface.hessian(u, *rows))
        return h if np.isfinite(h).all() else np.eye(len(u))  # a gradient step, where there is no second derivative

    def product(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        hv = np.asarray(surface.product(u, v, *rows))
        return hv if np.isfinite(hv).all() else v

    settings: dict[str, Any] = {"method": "trust-exact", "hess": hessian}
    if len(u) > DENSE_WEIGHTS:
        settings = {"method": "trust-krylov", "hessp": product}
    options = {"gtol": SMALL_SLOPE, "maxiter": MAX_STEPS, "max_trust_radius": 1e4}
    return minimize(value_and_slope, u, jac=True, options=options, **settings).x


class _Gaussian(NamedTuple):
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
    def at(cls, centre: np.ndarray, slope: np.ndarray, h: np.ndarray) -> "_Gaussian":
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
