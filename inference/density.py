"""The one density: log p(y | x, w) + log p(w), for any NumPyro model ``model(x, y=None)``.

Every method minimises, samples or scores a function of this module. Nothing else in the library adds a term to it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array
from jaxtyping import Float
from numpyro.handlers import block, scale, seed, substitute, trace
from numpyro.infer.util import constrain_fn, potential_energy

from .distributions import where_known
from .handlers import counted, flat, noncentred, params_as_sites, scaled
from .kept import narrowed
from .rows import Data, Rows, Weights
from .several import observing
from .sites import NumPyroModel, log_prob, mask_of, undrawn, unmasked
from .structure import Structure


def log_density(model: NumPyroModel, weights: Weights, x: Rows, y: Rows) -> Array:
    """Return log p(y | x, w) + log p(w) in nats, at weights in the coordinates of the model. Differentiable.

    Its negative is the loss that `MAP` minimises. For `flat(model)` it is the log likelihood, whose negative is the
    loss that `MLE` minimises.
    """
    weights = jax.tree.map(jnp.asarray, weights)
    return numpyro.infer.util.log_density(params_as_sites(model), (x, y), {}, weights)[0]


@dataclass(frozen=True)
class Density:
    """The density of a model, ``log p(y | x, w) + log p(w)``, at the weights w(u) of unconstrained coordinates u.

    Densities are values: equal ones share compiled code. The methods are pure functions of u, or of weights w in the
    coordinates of the model, both as site -> value. Two densities over u differ by the Jacobian |dw/du|: `loss` is that
    of w, whose mode `MAP` finds; `potential` is that of u, which chains sample and whose mode is the centre of a
    Laplace approximation.
    """

    model: NumPyroModel
    structure: Structure
    draws_dtype: str | None = None
    """The type in which draws of real sites are kept; None is the precision of the fit. See `kept`."""

    @classmethod
    def of(cls, model: NumPyroModel, structure: Structure) -> "Density":
        """Return the density of a model as the user wrote it."""
        has_params = bool(structure.params) and not isinstance(model, params_as_sites)
        return cls(params_as_sites(model) if has_params else model, structure)

    def flattened(self) -> "Density":
        """Return the density under a flat prior: the likelihood."""
        return replace(self, model=flat(self.model), structure=self.structure.flattened())

    def without(self, sites: Iterable[str]) -> "Density":
        """Return the density without sites of the prior alone, of which a maximum likelihood fit has no draws."""
        return replace(self, structure=self.structure.given(sites))

    def of_site(self, site: str) -> "Density":
        """Return the density of one of the observed sites: that of a model of which the others are no part."""
        others = tuple(name for name in self.structure.observed_sites if name != site)
        if not others:
            return self
        return replace(self, model=observing(self.model, site, others), structure=self.structure.of_site(site))

    def by_site(self, data: Data) -> list[tuple["Density", Data]]:
        """Return the density of each observed site, with its data."""
        if len(self.structure.responses) == 1:
            return [(self, data)]
        return [(self.of_site(site), data.of_site(site)) for site in self.structure.observed_sites]

    def noncentred(self) -> "Density":
        """Return the density over coordinates in which `Structure.noncentred` are standardised by their prior.

        Its potential has no funnel where a scale is learned. Its weights w are not those of the user's model: `draws`
        maps to these.
        """
        sites = self.structure.noncentred - self.structure.flat
        return replace(self, model=noncentred(self.model, sites)) if sites else self

    def draws(self, u: Weights, data: Data) -> Weights:
        """Return the weights of the user's model at u, in the types in which draws are kept."""
        weights = self.constrain(u, data)
        if isinstance(self.model, noncentred):
            weights = self.model.weights(weights, data.x, **data.given)
        return self.kept(weights)

    def kept(self, draws: Mapping[str, Any]) -> dict[str, Any]:
        """Return draws, whatever their leading axes, in the types in which they are kept."""
        if (dtype := self.draws_dtype) is None:
            return dict(draws)
        return {site: narrowed(v, dtype) if site in self.structure.real else v for site, v in draws.items()}

    def model_of(self, data: Data) -> NumPyroModel:
        """Return the model in which rows have the weights of the data, and values of y that are not known none."""
        if data.weights is None and data.known is None:
            return self.model
        return counted(self.model, self.structure.observed_sites, data.weights, data.known)

    def is_weighted(self, data: Data) -> bool:
        """Return whether rows have weights, those of the data or of a `scale` handler in the model."""
        return self.structure.is_weighted or data.weights is not None

    def constrain(self, u: Weights, data: Data) -> Weights:
        """Return the weights w(u), in the order of the sites."""
        if self.structure.real.issuperset(self.structure.latents):  # w(u) = u, and the model need not be traced
            weights = u
        else:
            weights = constrain_fn(self.model_of(data), (data.x, data.y), data.given, u)
        return {site: weights[site] for site in self.structure.latents}

    def per_row(self, data: Data, num_rows: int | None = None, prior_power: Array | None = None) -> None:
        """Run the NumPyro model whose negative log density is the objective divided by the number of rows.

        On all rows this is the negative log density divided by n. On a batch observed sites are scaled by n / batch, so
        that the mean over the batches of an epoch is the objective on all rows. Minibatches are scaled here and
        nowhere else.

        Args:
            data: all rows, or a batch of them.
            num_rows: the number of all rows, n; by default those of `data`.
            prior_power: the factor of the log prior; for a Normal prior around 0 this is another scale.
        """
        num_rows = num_rows or data.num_rows
        with scale(scale=1.0 / num_rows), scaled(num_rows / data.num_rows, prior_power):
            self.model_of(data)(data.x, data.y, **data.given)

    def loss(
        self, u: Weights, data: Data, num_rows: int | None = None, prior_power: Array | None = None
    ) -> Float[Array, ""]:
        """Return the objective of `MAP` divided by the number of rows, in nats; of a batch, its estimate: `per_row`."""
        weights = self.constrain(u, data)
        return -numpyro.infer.util.log_density(self.per_row, (data, num_rows, prior_power), {}, weights)[0]

    def potential(self, u: Weights, data: Data) -> Float[Array, ""]:
        """Return the negative log density over u in nats: ``-log p(y | x, w(u)) - log p(w(u)) - log |dw/du|``."""
        return potential_energy(self.model_of(data), (data.x, data.y), data.given, u)

    def batch_potential(self, u: Weights, batch: Data, num_rows: int) -> Float[Array, ""]:
        """Return the estimate of `potential` on all rows, of which there are `num_rows`, by a batch: see `per_row`."""
        return num_rows * potential_energy(self.per_row, (batch, num_rows), {}, u)

    def batch_log_likelihood(self, u: Weights, batch: Data, num_rows: int) -> Float[Array, ""]:
        """Return the part of `batch_potential` that is the likelihood, in nats, with its sign changed."""
        return num_rows / batch.num_rows * self.log_likelihood(u, batch).sum()

    def prior_potential(self, u: Weights, data: Data) -> Array:
        """Return the part of `potential` that is not the likelihood."""
        prior = block(self.model_of(data), hide=list(self.structure.observed_sites))
        return potential_energy(prior, (data.x, data.y), data.given, u)

    def priors(self, weights: Weights, data: Data) -> dict[str, dist.Distribution]:
        """Return the prior of each latent site given the others."""
        traced = self._sites(weights, data, data.y)
        return {site: traced[site]["fn"] for site in self.structure.latents}

    def log_priors(self, weights: Weights, data: Data, sites: tuple[str, ...]) -> Weights:
        """Return the log prior of each of some latent sites in nats, summed over its elements."""
        traced = self._sites(weights, data, data.y)
        return {site: log_prob(traced[site]) for site in sites}

    def prior_drops(self, weights: Weights, data: Data) -> Weights:
        """Return the log prior of each latent site at its mean minus that at the weights, in nats.

        It is 0 for flat priors, and those without a finite mean. For a Normal prior it is half the sum of squares of
        the weights, in standard deviations around their mean.
        """
        traced = self._sites(weights, data, data.y)
        return {site: _drop(traced[site]) for site in self.structure.latents if site not in self.structure.flat}

    def log_likelihood(self, u: Weights, data: Data) -> Float[Array, " n"]:
        """Return what every row adds to the density at w(u) in nats, (n,): log p(y_i | x_i, w), times its weight.

        Of several observed sites it is the sum over the sites.
        """
        weights = self.constrain(u, data)
        if not self.is_weighted(data):
            return self.row_log_probs(weights, data)
        parts = self.by_site(data)
        return sum(
            (part.row_weights(weights, some) * part.row_log_probs(weights, some) for part, some in parts),
            jnp.zeros(data.num_rows),
        )

    def row_log_probs(self, weights: Weights, data: Data) -> Float[Array, " n"]:
        """Return log p(y_i | x_i, w) of every row in nats, (n,), the sum over observed sites."""
        traced = self._sites(weights, data, data.y)
        sites = [traced[name] for name in self.structure.observed_sites]
        log_probs = [site["fn"].log_prob(site["value"]) for site in sites]
        return log_probs[0] if len(log_probs) == 1 else jnp.sum(jnp.stack(log_probs), axis=0)

    def row_weights(self, weights: Weights, data: Data) -> Float[Array, " n"]:
        """Return the weight of each row in the density, (n,): of the data times that of a `scale` handler, or 1."""
        scale = self._observed(weights, data, None)["scale"]
        return jnp.broadcast_to(1.0 if scale is None else scale, (data.num_rows,))

    def observed(self, weights: Weights, data: Data) -> Array:
        """Return y as the model observes it."""
        return self._observed(weights, data, data.y)["value"]

    def observation(self, weights: Weights, data: Data) -> dist.Distribution:
        """Return p(y | x, w), the distribution of the observed site."""
        return self.scaled_observation(weights, data)[0]

    def observations(self, weights: Weights, data: Data) -> dict[str, dist.Distribution]:
        """Return p(y | x, w) of each observed site, by site."""
        traced = self._sites(weights, data, None)
        return {name: unmasked(traced[name]["fn"]) for name in self.structure.observed_sites}

    def scaled_observation(self, weights: Weights, data: Data) -> tuple[dist.Distribution, Array]:
        """Return p(y | x, w), and the weight of each row in the density: 1 without weights and masks of rows."""
        site = self._observed(weights, data, None)
        weight = jnp.asarray(1.0 if site["scale"] is None else site["scale"])
        d, weight = unmasked(site["fn"]), weight * mask_of(site["fn"])
        if data.known is None:
            return d, weight
        d = where_known(d, data.known)
        return unmasked(d), weight * mask_of(d)

    def draw_y(self, weights: Weights, data: Data, key: Array) -> Rows:
        """Draw one y from p(y | x, w) in every row; of several observed sites, by site."""
        observations = self.observations(weights, data)
        if len(observations) == 1:
            return next(iter(observations.values())).sample(key)
        keys = jax.random.split(key, len(observations))
        return {name: d.sample(each) for (name, d), each in zip(observations.items(), keys, strict=True)}

    def deterministic(self, weights: Weights, data: Data) -> Weights:
        """Return the values of the sites of `numpyro.deterministic`."""
        sites = self._sites(weights, data, data.y)
        return {name: site["value"] for name, site in sites.items() if site["type"] == "deterministic"}

    def sample(self, key: Array, data: Data, values: Callable[[dict[str, Any]], Array | None]) -> Weights:
        """Return weights: a function's value for each site, or a draw from the prior where that is None.

        The function gives values in the coordinates of the user's model.
        """
        own = self.model
        model = substitute(seed(own.model if isinstance(own, noncentred) else own, key), substitute_fn=values)
        sites = trace(model).get_trace(data.x, data.y, **data.given)
        weights = {site: sites[site]["value"] for site in self.structure.latents}
        return own.standardised(weights, data.x, **data.given) if isinstance(own, noncentred) else weights

    def _observed(self, weights: Weights, data: Data, y: Rows) -> dict[str, Any]:
        """Return the observed site of a density that has one; see `by_site`."""
        (name,) = self.structure.observed_sites
        return self._sites(weights, data, y)[name]

    def _sites(self, weights: Weights, data: Data, y: Rows) -> dict[str, Any]:
        model = undrawn(self.model_of(data), self.structure.observed_sites)
        return trace(seed(substitute(model, data=weights), jax.random.key(0))).get_trace(data.x, y, **data.given)


def _drop(site: dict[str, Any]) -> Array:
    """Return the log prior of a latent site at its mean minus that at its value; 0 where it has no finite mean."""
    try:
        mean = jnp.broadcast_to(site["fn"].mean, jnp.shape(site["value"]))
    except NotImplementedError:
        return jnp.zeros(())
    drop = log_prob({**site, "value": mean}) - log_prob(site)
    return jnp.where(jnp.isfinite(mean).all() & ~jnp.isnan(drop), drop, 0.0)
