"""Networks as NumPyro models.

A model is ``Model(network, observation, prior)``. All three parts are ordinary values:

- the **network** maps x to outputs eta and samples its weights as named sites: `MLP`, or `Lift(module)` for any
  module of Flax NNX or Equinox;
- the **observation** is the distribution of y given eta; its negative log likelihood is the loss:

  - classes: `Bernoulli`, `Categorical`, and `CategoricalSequence` for rows of tokens, whose x and y come from
    `next_token_rows`; `Ordinal` for classes with an order;
  - numbers: `Normal`, and `StudentT` where there may be outliers;
  - counts: `Poisson` and `NegativeBinomial`;
  - positive numbers: `LogNormal`, `Gamma`, `Weibull` and `Exponential`; shares: `Beta`;
  - `Censored` around a number or a positive number, of which only bounds may be known (`censored`);
    `ZeroInflated` around a count, `Mixture` of any of these;
  - vectors: `Independent` values of any of these, and `MultivariateNormal`.

  Several observations by name, ``{"price": Normal(), "sold": Bernoulli()}``, share the network, and y has rows of each.
  A scale or a shape is a number, a NumPyro distribution (learned, with this prior), or ``"network"`` (an output);
- the **prior** gives every weight a distribution: `gaussian`, `fan_in`, a NumPyro distribution, your own function of
  (site, shape), ``"flat"``, or a mapping from patterns of site names to any of these, where the first match counts;
  ``"fixed"`` leaves a parameter of a lifted module as it is. Its negative log density is the regulariser. The scale of
  `gaussian` and `fan_in` may be a distribution, and is then learned. `priors` prints the prior of each site.

This package does not depend on how a model is fitted. A `Model` is a plain NumPyro model ``model(x, y=None)`` and works
unchanged with `numpyro.infer`, `numpyro.handlers` and `numpyro.render_model`; the parts also work on their own inside a
model written by hand.

Example:
    >>> import jax, jax.numpy as jnp, numpyro
    >>> from flatprior.models import MLP, Bernoulli, Model, gaussian
    >>> model = Model(MLP((8,), "tanh"), Bernoulli(), gaussian(1.0))
    >>> trace = numpyro.handlers.trace(numpyro.handlers.seed(model, 0)).get_trace(jnp.ones((5, 3)))
    >>> {name: site["value"].shape for name, site in trace.items() if site["type"] == "sample"}
    {'w1': (3, 8), 'b1': (8,), 'w2': (8, 1), 'b2': (1,), 'y': (5,)}
"""

from .censored import Censored, censored
from .classes import Bernoulli, Categorical, CategoricalSequence
from .counts import NegativeBinomial, Poisson
from .lift import Lift
from .mixtures import Mixture, ZeroInflated
from .model import Model
from .network import MLP
from .numbers import Normal, StudentT
from .ordinal import Ordinal
from .positive import Beta, Exponential, Gamma, LogNormal, Weibull
from .prior import fan_in, gaussian
from .table import priors
from .tokens import next_token_rows
from .vectors import Independent, MultivariateNormal

__all__ = [
    "MLP",
    "Bernoulli",
    "Beta",
    "Categorical",
    "CategoricalSequence",
    "Censored",
    "Exponential",
    "Gamma",
    "Independent",
    "Lift",
    "LogNormal",
    "Mixture",
    "Model",
    "MultivariateNormal",
    "NegativeBinomial",
    "Normal",
    "Ordinal",
    "Poisson",
    "StudentT",
    "Weibull",
    "ZeroInflated",
    "censored",
    "fan_in",
    "gaussian",
    "next_token_rows",
    "priors",
]
