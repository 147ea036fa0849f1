"""How a model is fitted, and what to make of the fits.

Everything works on one density, ``log p(y | x, w) + log p(w)``, of any NumPyro model ``model(x, y=None)``. The methods
answer it:

- `MLE`: the weights that make the data most probable. Fast, and sure of itself: nothing says how far to trust it, and
  where the data leave room it takes extreme weights. It is `MAP` under a flat prior, ``flat(model)``.
- `MAP`: the most probable weights under the prior. The prior is the regulariser: weight decay is a Normal prior.
- `Ensemble`: many `MAP` or `MLE` fits from different starting points, averaged. Cheap, and better than one of them;
  its spread is that of the modes that an optimiser finds, and no posterior.
- `Laplace`: a Gaussian around the mode of the posterior, and the evidence. Good where many rows determine few weights;
  the posterior of a network is no Gaussian.
- `NUTS`: draws from the posterior, by Markov chains. Exact where the chains mix; its predictions average over all
  weights that the data leave possible. For small networks, and for models written by hand.
- `MCLMC`: draws from the posterior, by many microcanonical Langevin chains, each from a mode of its own. For networks
  of hundreds of weights and more; its draws are biased by a stated amount, or, ``adjusted=True``, not at all.
- `Conditional`: some weights at a point, the others by one of the methods above given them, such as the last layer of a
  network that is too large to be sampled. Its spread leaves out that of the weights at the point.

``fit(model, method, x, y, key=...)`` returns a `Fit`, whatever the method: draws over the weights (a point is a
posterior of one draw), a `status` that says when something went wrong, `predict`, `log_likelihood`, and `to_datatree`
for ArviZ. Predicting by a fit that has failed raises a `FailedFitWarning`.

What to make of fits: `compare` scores them on rows that they have not seen, `cross_validate` on every row once,
`diagnose` asks whether chains can be trusted, and `loo` leaves out one row at a time. `explain` names the cost function
of a model. The rest is in rooms of its own:

- `flatprior.inference.criticism`: calibration, uncertainty, temperature scaling;
- `flatprior.inference.objective`: the likelihood along weights and directions;
- `flatprior.inference.methods`: the path from the prior to the maximum likelihood;
- `flatprior.inference.information`: fits as codes, in bits;
- `flatprior.inference.generation`: texts that follow a prompt;
- `flatprior.inference.plots`: pictures.
"""

# First and whole: ArviZ may have left a lazy numpyro behind, of which numpyro.distributions cannot be the first import.
import numpyro  # noqa: F401

from . import criticism, generation, information, methods, objective, plots
from .criticism import Comparison, compare, cross_validate, diagnose, loo
from .density import log_density
from .handlers import flat
from .methods import MAP, MCLMC, MLE, NUTS, Conditional, Ensemble, Laplace
from .objective import explain
from .predictive import Predictive
from .reasons import Code, Reason
from .result import Fit
from .run import fit
from .status import FailedFitWarning, Status, UndefinedPredictionWarning

__all__ = [
    "MAP",
    "MCLMC",
    "MLE",
    "NUTS",
    "Code",
    "Comparison",
    "Conditional",
    "Ensemble",
    "FailedFitWarning",
    "Fit",
    "Laplace",
    "Predictive",
    "Reason",
    "Status",
    "UndefinedPredictionWarning",
    "compare",
    "criticism",
    "cross_validate",
    "diagnose",
    "explain",
    "fit",
    "flat",
    "generation",
    "information",
    "log_density",
    "loo",
    "methods",
    "objective",
    "plots",
]
