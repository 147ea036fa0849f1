"""Fit a model, and judge the fits: how to choose a method, and where to find the rest.

Every method works on the same density, ``log p(y | x, w) + log p(w)``, of any NumPyro model ``model(x, y=None)``:

- `MLE`: the weights under which the data are most probable. It is fast, but a point estimate has no uncertainty, and
  the weights become extreme where the data do not determine them. It is `MAP` under a flat prior, ``flat(model)``.
- `MAP`: the most probable weights under the prior. The prior is the regulariser: weight decay is a Normal prior.
- `Ensemble`: the average of many `MAP` or `MLE` fits from different starting points, side by side. It is usually better
  than any one of them where these end at different modes, and equals a single fit where all end at the same one. How
  its members differ is not the uncertainty of the posterior.
- `Laplace`: a Gaussian around the mode of the posterior, and the evidence. It is good where many rows determine few
  weights, and its status says where it is not. The posterior of a network is not Gaussian: it predicts by the network
  `linearized` at the mode, of which the Gaussian nearly is the posterior.
- `Variational`: the Gaussian, or the distribution of another family, with the largest bound on the evidence, by batches
  of rows. It is narrower than the posterior where that is not of the family, and its status says where it is not.
- `NUTS`: draws from the posterior, by Markov chains. It is exact where the chains mix, and suits models written by
  hand; on networks its trajectories are long, and its chains need more time than those of `MCLMC`.
- `MCLMC`: draws from the posterior, by many microcanonical Langevin chains, each from its own mode. It suits networks
  of hundreds of weights and more. The bias of its draws has a stated size; with ``adjusted=True`` there is none.
- `SGMCMC`: Langevin chains of which each step sees a batch of the rows, for data sets too large for `MCLMC`. Its draws
  are near those of the posterior, and their temperature shows how near; `compare` with ``reference=`` measures it.
- `Conditional`: some weights are fixed at a point estimate, and the others are fitted by one of the methods above given
  these, such as the last layer of a network that is too large to sample. The uncertainty of the fixed weights is left
  out.
- `Prior`: draws from the prior alone. They show what the model believes before it sees the data, and what the data add.

Start with `MAP`, and read its status. Where predictions need honest uncertainty, use `MCLMC` for networks and `NUTS`
for models written by hand; where chains take too long, `Laplace`, `Ensemble` or `Conditional`. The scale of the prior
matters most to `MAP` and to `Laplace`, which keep to one mode: `tune` sets it by the data, and chains can sample it,
under a prior of its own such as ``gaussian(HalfNormal(1.0))``. Then let `compare` decide, on rows that no fit has seen.

``fit(model, method, x, y, key=...)`` returns a `Fit`, whatever the method: draws of the weights (a point is a posterior
of one draw), a `status` that reports what went wrong, `predict`, `log_likelihood`, and `to_datatree` for ArviZ.
Predictions of a failed fit come with a `FailedFitWarning`.

Where a model observes several sites, y is a dict with the rows of each under its name, and the log probability of a row
is the sum over them. ``result["a"]`` is the fit as one of site a alone, for what is asked of one kind of y.

To judge fits: `compare` scores them on unseen rows, `cross_validate` on every row once, `loo` estimates the same from
one fit, and `diagnose` checks whether chains can be trusted. `tune` sets the scales of a prior by the data. `explain`
names the cost function of a model. The rest is in these packages and modules:

- `flatprior.inference.criticism`: calibration, uncertainty, temperature scaling;
- `flatprior.inference.objective`: the likelihood along weights and directions;
- `flatprior.inference.methods`: the path from the prior to the maximum likelihood;
- `flatprior.inference.information`: fits as codes, in bits;
- `flatprior.inference.generation`: text that continues a prompt;
- `flatprior.inference.plots`: figures.
"""

# First, and as a whole: ArviZ may have left a lazy numpyro, and then numpyro.distributions cannot be imported first.
import numpyro  # noqa: F401

from . import criticism, generation, information, methods, objective, plots
from .criticism import Comparison, compare, cross_validate, diagnose, loo, tune
from .density import log_density
from .handlers import flat
from .labels import class_weights
from .methods import MAP, MCLMC, MLE, NUTS, SGMCMC, Conditional, Ensemble, Laplace, Prior, Variational
from .objective import explain
from .predictive import Predictive
from .reasons import Code, Reason
from .result import Fit
from .run import fit
from .sources import rows_of
from .status import FailedFitWarning, PrecisionWarning, Status, UndefinedPredictionWarning
from .tangent import linearized
from .threads import separate_handlers
from .units import standardize

__all__ = [
    "MAP",
    "MCLMC",
    "MLE",
    "NUTS",
    "SGMCMC",
    "Code",
    "Comparison",
    "Conditional",
    "Ensemble",
    "FailedFitWarning",
    "Fit",
    "Laplace",
    "PrecisionWarning",
    "Predictive",
    "Prior",
    "Reason",
    "Status",
    "UndefinedPredictionWarning",
    "Variational",
    "class_weights",
    "compare",
    "criticism",
    "cross_validate",
    "diagnose",
    "explain",
    "fit",
    "flat",
    "generation",
    "information",
    "linearized",
    "log_density",
    "loo",
    "methods",
    "objective",
    "plots",
    "rows_of",
    "standardize",
    "tune",
]

separate_handlers()
