"""Partly Bayesian networks: some sites fixed at a point, and the posterior of the others given these."""

from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..density import Density
from ..handlers import conditioned
from ..method import Kind, Method, Outcome
from ..rows import Data, Weights
from ..start import CONDITIONAL_KEY, starting_weights
from ..store import Store
from .ensemble import Ensemble
from .laplace import Laplace
from .mclmc import MCLMC
from .nuts import NUTS
from .point import MAP, MLE


@dataclass(frozen=True, kw_only=True)
class Conditional:
    """Some sites fixed at a point, the others sampled given these: draws of ``p(w_s | w_f = point, x, y)``.

    This approximates the posterior p(w_s, w_f | x, y), on the same density: the uncertainty of the fixed sites, and its
    contribution to that of predictions, is left out. With the weights of the last layer as sites it is a last-layer
    posterior, which for a Normal observation of known scale is Bayesian linear regression on the features that the base
    has learned (Snoek et al. 2015, section 3). `fit.log_evidence` is None: the evidence of the sampled sites given the
    others is not that of the model.

    Args:
        base: the `MAP` or `MLE` run that finds the point of all sites, as ``fit(model, base, ...)`` does with the same
            key. With `MLE` the fixed sites are at their maximum likelihood, but the sampled ones follow their posterior
            under the prior of the model. Sites without a maximum likelihood, on which only the prior depends, such as
            a learned scale of it, are then sampled as well.
        sites: the sites that are sampled, by name or by a pattern of `fnmatch`: ``("w3", "b3")``, ``("head.*",)``.
        method: the method for these sites: `NUTS`, `MCLMC`, `Laplace` or `Ensemble`. If it has a `start`, or a base as
            `Laplace` has, it begins at the end point of `base`, with all chains at that point; `start=None` or an
            `init_strategy` of its own is respected.

    Draws include all sites. Those of a fixed site are equal, as a read-only view with the memory of one draw, and
    predictions compute values that depend only on fixed sites once for many draws.

    Raises:
        ValueError: when an argument has the wrong type.

    Example:
        >>> import numpy as np
        >>> from flatprior.inference import MAP, Conditional, Laplace, fit
        >>> from flatprior.models import MLP, Model, Normal, gaussian
        >>> x = np.linspace(-2, 2, 40)[:, None]
        >>> model = Model(MLP((8,), "tanh"), Normal(0.1), gaussian(1.0))
        >>> last = Conditional(base=MAP(), sites=("w2", "b2"), method=Laplace(num_samples=200))
        >>> print(fit(model, last, x, np.sin(2 * x[:, 0]), key=0))
        Fit by Laplace of w2, b2 given the rest by MAP: approximation, 1 chain of 200 draws, 25 weights, ok
    """

    kind: ClassVar[Kind] = "approximation"
    spreads_rows: ClassVar[bool] = False

    base: MAP | MLE = field(default_factory=MAP)
    sites: tuple[str, ...]
    method: NUTS | MCLMC | Laplace | Ensemble = field(default_factory=NUTS)

    def __post_init__(self) -> None:
        if not isinstance(self.base, MAP | MLE):
            raise ValueError(f"Conditional: expected MAP(...) or MLE(...) as base; got {self.base!r}.")
        if not isinstance(self.method, NUTS | MCLMC | Laplace | Ensemble):
            raise ValueError(
                f"Conditional: expected NUTS(...), MCLMC(...), Laplace(...) or Ensemble(...) as method; got "
                f"{self.method!r}."
            )
        patterns = tuple(self.sites) if isinstance(self.sites, tuple | list) else ()
        if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
            raise ValueError(
                f"Conditional: expected sites, a tuple of names or patterns such as ('w3', 'b3') or ('head.*',); got "
                f"{self.sites!r}."
            )
        object.__setattr__(self, "sites", patterns)

    @property
    def name(self) -> str:
        """The name in tables."""
        return f"{self.method.name} of {', '.join(self.sites)} given the rest by {self.base.name}"

    @property
    def growing(self) -> tuple[str, ...]:
        """See `Method.growing`: of the settings of `method` alone, never of those of the base."""
        return tuple(name for name in self.method.growing if name == "num_samples")

    @property
    def leaves_out(self) -> str:
        """What the draws leave out of the posterior."""
        of_method = f" {self.method.leaves_out}" if self.method.leaves_out else ""
        return (
            f"The uncertainty of all sites but {', '.join(self.sites)} is left out: they are at one point.{of_method}"
        )

    @property
    def draws_chains(self) -> bool:
        """Whether `method` draws Markov chains."""
        return self.method.draws_chains

    @property
    def streams(self) -> bool:
        """Whether rows may stay on disk; see `Method.streams`."""
        return False

    def run(self, density: Density, data: Data, *, key: Array, progress: bool, store: Store | None = None) -> Outcome:
        """See `Method.run`.

        Raises:
            ValueError: when a pattern matches no site of the model, all sites are sampled, or the method refuses the
                model of the sampled sites.
        """
        sites = list(density.structure.latents)
        sampled = self._sampled(sites)
        base = self._run_base(density, data, key=key, progress=progress, store=store)
        if base.status.is_interrupted:
            raise KeyboardInterrupt  # there are no draws to return
        base_status = base.status.within(f"In the base, {self.base.name}")
        point = jax.device_put({site: value[0, 0] for site, value in base.draws.items()})
        if not all(np.isfinite(value).all() for value in point.values()):
            return replace(base, status=base_status)
        start = _start(density, data, point, sampled, key)
        fixed = {site: value for site, value in point.items() if site not in start}
        dependent = _dependent(density, fixed, start, data)
        method, start = _started_at_base(self.method, start)
        key = jax.random.fold_in(key, CONDITIONAL_KEY)
        outcome = run_given(
            method, density, replace(data, fixed=fixed, start=start), dependent, key=key, progress=progress, store=store
        )
        status = base_status + outcome.status.within(f"In {self.method.name} given the base")
        stats = {**outcome.stats, "base_loss": base.stats["loss"]}
        return replace(outcome, status=status, stats=stats, log_evidence=None)

    def _run_base(self, density: Density, data: Data, *, key: Array, progress: bool, store: Store | None) -> Outcome:
        if store is None:
            return self.base.run(density, data, key=key, progress=progress)
        inner = store.within("base")
        run = partial(self.base.run, density, data, key=key, progress=progress, store=inner)
        return inner.outcome(self.base, run)

    def _sampled(self, sites: list[str]) -> list[str]:
        """Return the sites that match a pattern."""
        unused = [pattern for pattern in self.sites if not any(_matches(site, pattern) for site in sites)]
        if unused:
            raise ValueError(f"Conditional: the patterns {unused} match no site; the sites are {sites}.")
        sampled = [site for site in sites if any(_matches(site, pattern) for pattern in self.sites)]
        if len(sampled) == len(sites):
            raise ValueError(
                f"Conditional: expected patterns that leave some sites fixed; {list(self.sites)} match all sites, "
                f"{sites}. To sample all, use {self.method.name}."
            )
        return sampled


def run_given(
    method: Method,
    density: Density,
    data: Data,
    dependent: tuple[str, ...] = (),
    *,
    key: Array,
    progress: bool,
    store: Store | None = None,
) -> Outcome:
    """Run a method for the sites of a density that are not fixed, and return draws of all sites.

    Args:
        method: the method of the other sites.
        density: the density of all sites.
        data: rows, the values of the fixed sites, and those where the others start.
        dependent: the fixed sites whose prior depends on others.
        key: the key of the method.
        progress: show progress bars.
        store: the store that the run is written to, if any.
    """
    rest = Density(conditioned(density.model, dependent), density.structure.given(data.fixed))
    outcome = method.run(rest, data, key=key, progress=progress, store=store)
    shape = next(iter(outcome.draws.values())).shape[:2]
    copies = {site: np.broadcast_to(np.asarray(value), (*shape, *value.shape)) for site, value in data.fixed.items()}
    drawn = {**copies, **outcome.draws}
    draws = {site: drawn[site] for site in density.structure.latents if site in drawn}
    at = {**jax.device_get(data.fixed), **outcome.linearized_at} if outcome.linearized_at else {}
    return replace(outcome, draws=draws, linearized_at=at)


def _matches(site: str, pattern: str) -> bool:
    """Return whether a site matches a pattern of `fnmatch`, or equals it: a name may contain brackets."""
    return site == pattern or fnmatchcase(site, pattern)


def _start(density: Density, data: Data, point: Weights, sampled: list[str], key: Array) -> Weights:
    """Return the values at which the sampled sites start: those of the base, or of an optimiser where it has none."""
    if set(point) == set(density.structure.latents):
        return {site: point[site] for site in sampled}
    of_optimiser = jax.jit(lambda key, data: starting_weights(density, data, key))
    values = {**of_optimiser(key, data), **point}
    return {site: values[site] for site in values if site in sampled or site not in point}


def _started_at_base(
    method: NUTS | MCLMC | Laplace | Ensemble, start: Weights
) -> tuple[NUTS | MCLMC | Laplace | Ensemble, Weights]:
    """Return the method without a descent of its own, and its starting point, the end point of the base.

    Members of an ensemble differ only by their starting points, and keep them.

    Returns:
        The method, and its starting point: empty where the method has a start of its own.
    """
    match method:
        case NUTS() | MCLMC() if method.start is not None and method.start.init_strategy is None:
            return replace(method, start=None, init_strategy=None), start
        case Laplace() if method.base.init_strategy is None:
            return method, start
    return method, {}


def _dependent(density: Density, fixed: Weights, start: Weights, data: Data) -> tuple[str, ...]:
    """Return the fixed sites whose prior depends on sampled ones, such as weights with a learned scale."""
    # In a random direction, a prior that depends on the sampled sites has a derivative that is not 0.
    rng = np.random.default_rng(0)
    direction = {site: jnp.asarray(rng.normal(size=value.shape), value.dtype) for site, value in start.items()}
    return tuple(site for site, slope in _slopes(density, fixed, start, direction, data).items() if slope != 0)


@partial(jax.jit, static_argnums=0)
def _slopes(density: Density, fixed: Weights, start: Weights, direction: Weights, data: Data) -> Weights:
    """Return the derivative of the log prior of each fixed site, as the sampled sites move in a direction."""

    def log_priors(start: Weights) -> Weights:
        return density.log_priors({**fixed, **start}, data, tuple(fixed))

    return jax.jvp(log_priors, (start,), (direction,))[1]
