"""What is believed: networks as NumPyro models.

A model is ``Model(network, observation, prior)``, and all three parts are ordinary values:

- the **network** turns x into outputs eta and samples its weights as named sites: `MLP`;
- the **observation** is the distribution of y given eta: `Bernoulli`, `Categorical`, `Normal`. Its negative log
  likelihood is the loss;
- the **prior** gives every weight a distribution: `gaussian`, `fan_in`, a NumPyro distribution, a mapping from site
  names to any of these, or your own function of (site, shape). Its negative log density is the regulariser.

Nothing here knows how a model is fitted. A `Model` is a plain NumPyro model ``model(x, y=None)`` and works with
`numpyro.infer`, `numpyro.handlers` and `numpyro.render_model` as it stands; the parts also work on their own inside a
model written by hand.

Example:
    >>> import jax, jax.numpy as jnp, numpyro
    >>> from flatprior.models import MLP, Bernoulli, Model, gaussian
    >>> model = Model(MLP((8,), "tanh"), Bernoulli(), gaussian(1.0))
    >>> trace = numpyro.handlers.trace(numpyro.handlers.seed(model, 0)).get_trace(jnp.ones((5, 3)))
    >>> {name: site["value"].shape for name, site in trace.items() if site["type"] == "sample"}
    {'w1': (3, 8), 'b1': (8,), 'w2': (8, 1), 'b2': (1,), 'y': (5,)}
"""

from .model import Model
from .network import MLP
from .observation import Bernoulli, Categorical, Normal
from .prior import fan_in, gaussian

__all__ = ["MLP", "Bernoulli", "Categorical", "Model", "Normal", "fan_in", "gaussian"]
