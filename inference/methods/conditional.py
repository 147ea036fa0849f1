"""Partly Bayesian networks: some sites at a point, the posterior of the others given them."""

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
from ..method import Kind, Outcome
from ..rows import Data, Weights
from ..start import CONDITIONAL_KEY
from ..store import Store
from .ensemble import Ensemble
from .laplace import Laplace
from .mclmc import MCLMC
from .nuts import NUTS
from .point import MAP, MLE


@dataclass(frozen=True, kw_only=True)
class Conditional:
    """Some sites fixed at a point, the others sampled given them: draws of ``p(w_s | w_h = point, x, y)``.

    It is an approximation to the posterior p(w_s, w_h | x, y), on the same density: the fixed sites have no spread, and
    what their uncertainty would add to that of the predictions is left out. With the weights of the last layer as
    sites it is a last-layer posterior, which for a Normal observation of known scale is Bayesian linear regression on
    the features that the base has learned (Snoek et al. 2015, section 3). `fit.log_evidence` is None: that of the
    sampled sites given the others is no evidence of the model.

    Args:
        base: the `MAP` or `MLE` run that finds the point, of all sites. It is that of ``fit(model, base, ...)`` with
            the same key. With `MLE` the fixed sites are at their maximum likelihood, and the sampled ones follow their
            posterior under the prior of the model, which then is no longer flat.
        sites: the sites that are sampled, by name or by a pattern of `fnmatch`: ``("w3", "b3")``, ``("head.*",)``.
        method: how they are sampled: `NUTS`, `MCLMC`, `Laplace` or `Ensemble`. Where it has a `start`, or as `Laplace`
            a base, it begins where `base` ended, and all chains at that one place; `start=None` or an `init_strategy`
            of its own is left as it is.

    Draws have all sites. Those of a fixed site are one value, seen through a read-only view that takes the memory of
    one draw, and predictions compute what depends on fixed sites alone once for many draws.

    Raises:
        ValueError: when a part is not of its kind.

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
        """What it is, in words."""
        return f"{self.method.name} of {', '.join(self.sites)} given the rest by {self.base.name}"

    @property
    def draws_chains(self) -> bool:
        """Whether its method draws Markov chains."""
        return self.method.draws_chains

    def run(self, density: Density, data: Data, *, key: Array, progress: bool, store: Store | None = None) -> Outcome:
        """See `Method.run`.

        Raises:
            ValueError: when a pattern matches no site of the model, all sites are sampled, or the method refuses the
                model of the sampled sites.
        """
        sites = list(density.structure.latents)
        sampled = self._sampled(sites)
        base = self.base.run(density, data, key=key, progress=progress)
        if base.status.is_interrupted:
            raise KeyboardInterrupt  # there are no draws to return
        base_status = base.status.within(f"In the base, {self.base.name}")
        point = {site: jnp.asarray(value[0, 0]) for site, value in base.draws.items()}
        if not all(np.isfinite(value).all() for value in point.values()):
            return replace(base, status=base_status)
        start = {site: point[site] for site in sampled}
        fixed = {site: value for site, value in point.items() if site not in start}
        rest = Density(
            conditioned(density.model, _dependent(density, fixed, start, data)), density.structure.given(fixed)
        )
        method, start = _from_the_base(self.method, start)
        found = method.run(
            rest,
            replace(data, fixed=fixed, start=start),
            key=jax.random.fold_in(key, CONDITIONAL_KEY),
            progress=progress,
            **({} if store is None else {"store": store}),  # type: ignore[arg-type]
        )
        shape = next(iter(found.draws.values())).shape[:2]
        copies = {site: np.broadcast_to(np.asarray(value), (*shape, *value.shape)) for site, value in fixed.items()}
        draws = {site: copies[site] if site in copies else found.draws[site] for site in sites}
        status = base_status + found.status.within(f"In {self.method.name} given it")
        stats = {**found.stats, "base_loss": base.stats["loss"]}
        return replace(found, draws=draws, status=status, stats=stats, log_evidence=None)

    def _sampled(self, sites: list[str]) -> list[str]:
        """The sites that match a pattern."""
        unused = [pattern for pattern in self.sites if not any(_matches(site, pattern) for site in sites)]
        if unused:
            raise ValueError(f"Conditional: the patterns {unused} match no site; the sites are {sites}.")
        sampled = [site for site in sites if any(_matches(site, pattern) for pattern in self.sites)]
        if len(sampled) == len(sites):
            raise ValueError(
                f"Conditional: expected sites to leave some to condition on; {list(self.sites)} match all of them, "
                f"{sites}. To sample all, use {self.method.name}."
            )
        return sampled


def _matches(site: str, pattern: str) -> bool:
    """Whether a pattern is the name of a site, which may have brackets in it, or one of `fnmatch` that it follows."""
    return site == pattern or fnmatchcase(site, pattern)


def _from_the_base(
    method: NUTS | MCLMC | Laplace | Ensemble, start: Weights
) -> tuple[NUTS | MCLMC | Laplace | Ensemble, Weights]:
    """The method, begun where the base ended. There is no way left for a descent to go, so none is made.

    Members of an ensemble differ by where they begin alone, and are left to it.

    Returns:
        The method, and where it begins: nowhere in particular where it has a start of its own.
    """
    match method:
        case NUTS() | MCLMC() if method.start is not None and method.start.init_strategy is None:
            return replace(method, start=None, init_strategy=None), start
        case Laplace() if method.base.init_strategy is None:
            return method, start
    return method, {}


def _dependent(density: Density, fixed: Weights, start: Weights, data: Data) -> tuple[str, ...]:
    """The fixed sites whose prior depends on sampled ones, as that of weights does on a scale that is learned."""
    # In a direction that is nobody's zero, what depends on them has a derivative that is not 0.
    rng = np.random.default_rng(0)
    direction = {site: jnp.asarray(rng.normal(size=value.shape), value.dtype) for site, value in start.items()}
    return tuple(site for site, slope in _slopes(density, fixed, start, direction, data).items() if slope != 0)


@partial(jax.jit, static_argnums=0)
def _slopes(density: Density, fixed: Weights, start: Weights, direction: Weights, data: Data) -> Weights:
    """Derivatives of the log prior of each fixed site, as the sampled sites move in a direction."""

    def log_priors(start: Weights) -> Weights:
        return density.log_priors({**fixed, **start}, data, tuple(fixed))

    return jax.jvp(log_priors, (start,), (direction,))[1]
