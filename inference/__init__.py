"""How a model is fitted, and what to make of the fits.

Everything works on one density, ``log p(y | x, w) + log p(w)``, of any NumPyro model ``model(x, y=None)``. Three
methods answer it:

- `MLE`: the weights that make the data most probable. Fast, and sure of itself: nothing says how far to trust it, and
  where the data leave room it takes extreme weights. It is `MAP` under a flat prior, ``flat(model)``.
- `MAP`: the most probable weights under the prior. The prior is the regulariser: weight decay is a Normal prior.
- `NUTS`: draws from the posterior, by Markov chains. Slow, exact where the chains mix; its predictions average over all
  weights that the data leave possible.

``fit(model, method, x, y, key=...)`` returns a `Fit`, whatever the method: draws over the weights (a point is a
posterior of one draw), a `status` that says when something went wrong, `predict`, `log_likelihood`, and `to_datatree`
for ArviZ. `compare` holds fits against rows that they have not seen.
"""

# First and whole: ArviZ may have left a lazy numpyro behind, of which numpyro.distributions cannot be the first import.
import numpyro  # noqa: F401

from .criticism import (
    Comparison,
    CrossEntropy,
    Diagnosis,
    Explanation,
    Likelihood,
    PriorPath,
    compare,
    cross_entropy,
    diagnose,
    explain,
    likelihood_curve,
    likelihood_surface,
    loo,
    plot_likelihood,
    plot_path,
    prior_path,
)
from .density import flat, log_density
from .methods import MAP, MCLMC, MLE, NUTS, Ensemble
from .predictive import Predictive
from .result import Fit
from .run import fit
from .status import Status

__all__ = [
    "MAP",
    "MCLMC",
    "MLE",
    "NUTS",
    "Comparison",
    "CrossEntropy",
    "Diagnosis",
    "Ensemble",
    "Explanation",
    "Fit",
    "Likelihood",
    "Predictive",
    "PriorPath",
    "Status",
    "compare",
    "cross_entropy",
    "diagnose",
    "explain",
    "fit",
    "flat",
    "likelihood_curve",
    "likelihood_surface",
    "log_density",
    "loo",
    "plot_likelihood",
    "plot_path",
    "prior_path",
]
