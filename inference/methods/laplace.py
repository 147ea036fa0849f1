"""The Laplace approximation: a Gaussian at the mode of the posterior, and the evidence."""

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from scipy.optimize import minimize

from ..checks import check_positive_integer
from ..density import Density
from ..method import Kind, Outcome
from ..reasons import Code, Reason
from ..rows import Data, Weights, in_double
from ..status import Status
from ..surface import Curvature, PotentialSurface, by_site, potential_surface_of
from ..tangent import has_hidden_units, tangent
from .descent import Descent, descend
from .gaussian import MAX_PARETO_K, Gaussian, Importance
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
IMPORTANCE_KEY = 1
IMPORTANCE_DRAWS, MANY_IMPORTANCE_DRAWS = 1000, 4000
"""The draws that are weighted, and where there are at most `DENSE_WEIGHTS` weights, and they cost little: 1,000 draws
determine Pareto's k to 0.17, and would put one healthy posterior in ten above the limit."""


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
    it: importance weights of hundreds of weights differ by many nats in all, and by little in any one prediction.
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
        predictive: the density by which the draws predict.

            - ``"linearized"``: that of `linearized(model, at=mode)`. A scale that is an output of the network is
              linearised in its logarithm: of the coordinates that were tried (its logarithm, the inverse of softplus,
              and the scale held fixed) the one with the best predictions.
            - ``"sampled"``: that of the model itself.
            - None: ``"linearized"`` for networks (see `tangent.has_hidden_units`), ``"sampled"`` for other models, of
              which the weights have a meaning. For models with parameters linear in the weights, such as generalised
              linear models and a learned scale, the two are equal.
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
    predictive: Literal["linearized", "sampled"] | None = None
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
        potential_surface_of(density, data, self.curvature)  # raises where that is not known
        is_network = has_hidden_units(density, data)
        linearizes = is_network if self.predictive is None else self.predictive == "linearized"
        key_base, key_draws = jax.random.split(key)
        descent = descend(self.base, density, data, key=key_base, progress=progress)
        with jax.enable_x64(True):  # float32 is too coarse to invert the curvature of a network
            found = self._around_mode(descent, density, data, key_draws, linearizes=linearizes)
        gaussian, own, judged = found.gaussian, found.own, found.own if found.linearized is None else found.linearized
        dtype = jax.dtypes.canonicalize_dtype(float)
        with np.errstate(over="ignore"):  # a failure, which the status reports
            points = {site: found.weights[site].astype(dtype) for site in structure.latents}
        draws = {site: value[None, 1:] for site, value in points.items()}
        status = descent.status + self._status(descent, gaussian, density, data)
        if status:
            status += _status_of_draws(draws)
        is_by_row = is_network and linearizes
        stands = (
            judged.stands_for_rows(data.num_rows) if is_by_row else judged.stands_for_weights(structure.num_weights)
        )
        if status and not stands:
            status += Status(warnings=(_not_gaussian(judged),))
        evidence = gaussian.log_mass - found.lowest if status and not structure.flat else math.nan
        stats = {
            "loss": descent.losses,
            "newton_decrement": np.asarray(gaussian.decrement),
            "pareto_k": np.asarray(own.pareto_k),
            "log_evidence_psis": np.asarray(evidence + own.log_mean),
        }
        if found.linearized is not None:
            stats["pareto_k_linearized"] = np.asarray(judged.pareto_k)
        at = {site: value[0] for site, value in points.items()} if linearizes else {}
        return Outcome(draws, status, stats=stats, log_evidence=evidence, linearized_at=at)

    def _around_mode(
        self, descent: Descent, density: Density, data: Data, key: Array, *, linearizes: bool
    ) -> "_AroundMode":
        """Return the Gaussian around the mode that is nearest to the end of a descent, with draws; in float64."""
        surface = potential_surface_of(density, data, self.curvature)
        start, data = jax.tree.map(in_double, (descent.member(descent.best)[0], data))
        centre = np.asarray(ravel_pytree(start)[0])
        if descent.status:
            centre = _climb(surface, centre, start, data)
        lowest, slope = jax.device_get(surface.value_and_slope(centre, start, data))
        gaussian = Gaussian.at(centre, slope, np.asarray(surface.curvature(centre, start, data)))
        points = np.concatenate([centre[None], gaussian.sample(key, self.num_samples)])
        weights = jax.device_get(surface.constrain(points, start, data))
        key_weights = jax.random.fold_in(key, IMPORTANCE_KEY)
        own, linearized = _importance(surface, gaussian, key_weights, start, data), None
        if linearizes:
            around = replace(data, at={site: value[0] for site, value in weights.items()})
            linear = potential_surface_of(Density(tangent(density.model), density.structure), around, "hessian")
            linearized = _importance(linear, gaussian, key_weights, start, around)
        return _AroundMode(gaussian, float(lowest), weights, own, linearized)

    def _status(self, descent: Descent, gaussian: Gaussian, density: Density, data: Data) -> Status:
        """Return the status of the point that the trust region reached, and of the Gaussian there."""
        if not descent.status:
            return Status()
        surface, is_mode = self.base.surface(density, data), gaussian.decrement <= MAX_DECREMENT
        start = descent.member(descent.best)[0]
        mode = jax.device_get(by_site(gaussian.centre.astype(jax.dtypes.canonicalize_dtype(float)), start))
        failures: tuple[Reason, ...] = ()
        if density.structure.flat:
            found = no_maximum(surface, mode, data) or quasi_separable(surface, mode, data)
            found = found or examine(surface, mode, data).reasons
            failures = tuple(Reason.of(Code.IMPROPER_POSTERIOR, reason=each) for each in found if each.code in IMPROPER)
        if not failures and not is_mode:
            failures = is_unbounded(surface, start, data, is_suspect=True)
        if not failures and gaussian.defect is not None:
            failures = (gaussian.defect,)
        if failures:
            return Status(failures)
        if is_mode:
            return Status(warnings=prior_conflict(surface, mode, data))
        raw = raw_units(surface, mode, data)
        return Status(warnings=raw or (Reason.of(Code.NOT_AT_MODE, gain=gaussian.decrement),))


class _AroundMode(NamedTuple):
    """The result of the approximation in float64."""

    gaussian: Gaussian
    lowest: float
    """The potential at its centre."""
    weights: Weights
    """The centre and the draws, in the coordinates of the model: site -> (1 + draw, *shape)."""
    own: Importance
    """The importance of draws for the posterior of the model."""
    linearized: Importance | None
    """The same for the model linearised at the centre, where it predicts."""


def _importance(surface: PotentialSurface, gaussian: Gaussian, key: Array, *rows: Any) -> Importance:
    """Return the importance of draws of a Gaussian for a posterior, whose potential is lowest at its centre."""
    if gaussian.root is None:
        return Importance()
    is_small = len(gaussian.centre) <= DENSE_WEIGHTS
    draws = gaussian.sample(key, MANY_IMPORTANCE_DRAWS if is_small else IMPORTANCE_DRAWS)
    values = np.asarray(surface.values(np.concatenate([gaussian.centre[None], draws]), *rows))
    return Importance.of(gaussian.excess(draws) - (values[1:] - values[0]))


def _status_of_draws(draws: Mapping[str, np.ndarray]) -> Status:
    """Return the reason not to use draws that are not finite."""
    finite = np.all([np.isfinite(value[0]).reshape(value.shape[1], -1).all(axis=1) for value in draws.values()], axis=0)
    if finite.all():
        return Status()
    return Status((Reason.of(Code.NON_FINITE_DRAWS, count=(~finite).sum(), total=finite.size),))


def _not_gaussian(importance: Importance) -> Reason:
    numbers = {"k": importance.pareto_k, "divergence": importance.divergence}
    return Reason.of(Code.NOT_GAUSSIAN, limit=MAX_PARETO_K, **numbers)


def _climb(surface: PotentialSurface, u: np.ndarray, *rows: Any) -> np.ndarray:
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
