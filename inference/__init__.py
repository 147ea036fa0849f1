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

What to make of fits: `compare` holds them against rows that they have not seen, `cross_validate` against every row
once, and `plot_compare` draws either; `plot_fit` and `plot_decision` draw what they predict along one or two dimensions
of x, and `plot_loss` the way to a point. `diagnose` asks whether chains can be trusted, and `loo` leaves one row out.
`calibration` holds probabilities against frequencies, and `plot_calibration` draws it; `temperature_scaling` repairs
them, outside of the one density; `uncertainty` tells noise from what more data would settle. `code_length` says what y
costs in bits, `compress` and `decompress` write labels in as many and read them, `prequential` counts the fit as well,
`cross_entropy` splits the cost of soft labels, and `weight_of_evidence` shares the log odds of a row out among its
features. `generate` draws the tokens that follow a prompt, where y is a row of tokens.

What to make of a model: `explain` names its cost function; `likelihood_curve`, `likelihood_surface` and `prior_path`
show where its maxima lie, and `plot_likelihood` and `plot_path` draw them.
"""

# First and whole: ArviZ may have left a lazy numpyro behind, of which numpyro.distributions cannot be the first import.
import numpyro  # noqa: F401

from .criticism import (
    Calibration,
    CodeLength,
    Comparison,
    CrossEntropy,
    CrossValidation,
    Diagnosis,
    Explanation,
    Likelihood,
    Prequential,
    PriorPath,
    Tempered,
    Uncertainty,
    WeightOfEvidence,
    calibration,
    code_length,
    compare,
    compress,
    cross_entropy,
    cross_validate,
    decompress,
    diagnose,
    explain,
    generate,
    likelihood_curve,
    likelihood_surface,
    loo,
    plot_calibration,
    plot_compare,
    plot_decision,
    plot_fit,
    plot_likelihood,
    plot_loss,
    plot_path,
    prequential,
    prior_path,
    temperature_scaling,
    uncertainty,
    weight_of_evidence,
)
from .density import flat, log_density
from .methods import MAP, MCLMC, MLE, NUTS, Conditional, Ensemble, Laplace
from .predictive import Predictive
from .result import Fit
from .run import fit
from .status import FailedFitWarning, Status, UndefinedPredictionWarning

__all__ = [
    "MAP",
    "MCLMC",
    "MLE",
    "NUTS",
    "Calibration",
    "CodeLength",
    "Comparison",
    "Conditional",
    "CrossEntropy",
    "CrossValidation",
    "Diagnosis",
    "Ensemble",
    "Explanation",
    "FailedFitWarning",
    "Fit",
    "Laplace",
    "Likelihood",
    "Predictive",
    "Prequential",
    "PriorPath",
    "Status",
    "Tempered",
    "Uncertainty",
    "UndefinedPredictionWarning",
    "WeightOfEvidence",
    "calibration",
    "code_length",
    "compare",
    "compress",
    "cross_entropy",
    "cross_validate",
    "decompress",
    "diagnose",
    "explain",
    "fit",
    "flat",
    "generate",
    "likelihood_curve",
    "likelihood_surface",
    "log_density",
    "loo",
    "plot_calibration",
    "plot_compare",
    "plot_decision",
    "plot_fit",
    "plot_likelihood",
    "plot_loss",
    "plot_path",
    "prequential",
    "prior_path",
    "temperature_scaling",
    "uncertainty",
    "weight_of_evidence",
]
