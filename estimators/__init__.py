"""Networks as estimators of scikit-learn.

`NetworkClassifier`, `NetworkRegressor` and `NetworkCountRegressor` are a network, an observation, a prior and a method
behind ``fit(X, y)`` and ``predict(X)``: they work in pipelines, searches and cross-validation, in other processes, with
data frames and with labels of any type. Their parameters:

- `network`: the numbers of hidden units, such as ``(16, 16)``, of an `MLP`; ``()`` is a linear model. Or any network of
  `flatprior.models`.
- `observation`: the distribution of y given the outputs of the network; None is the one that each estimator states.
- `prior`: a number is the scale of `fan_in`, so that a search can vary it: ``{"prior": [0.3, 1.0, 3.0]}``. Or any prior
  of `flatprior.models`; None is the one that each estimator states.
- `method`: a method of `flatprior.inference`, such as ``MAP()``, ``Laplace()`` or ``MCLMC()``. None is one that
  suits tables of some hundreds to some thousands of rows, and that each estimator states: short chains for numbers
  and counts, whose intervals must be honest, and an ensemble of MAP fits for classes. After the first fit, which
  compiles for some seconds, fits to 500 rows take about a second.
- `standardize`: whether features are standardised first, as priors and optimisers expect; constants become 0.
- `random_state`: an integer, the key of the fit, so that by default the same data give the same fit; a NumPy generator
  (`RandomState`); or None for another key in each fit.
- `progress`: show a progress bar when a fit takes more than a second.

Arrays of numbers are features as they are. The columns of a pandas data frame are encoded by `flatprior.tables.Encoder`
(dates become their parts, texts indicators, missing values the median with an indicator; columns without values,
constants, and texts of which no few values recur are left out). ``estimator.encoder_.description`` is the table
of what was done to each column, and ``estimator.encoder_.surprises(X)`` names what new rows have that the fit did not.
What is learned of a column does not depend on the weights of rows.

``estimator.fit_`` is the `Fit`, so that `compare`, `explain` and ArviZ are one step away: ``estimator.rows(X, y)`` are
the rows as it takes them. A fit whose status is not "ok" warns (`sklearn.exceptions.ConvergenceWarning`) with the
reasons. ``scoring=elpd`` scores whole predictive distributions in scikit-learn's searches.

Fits to rows of one shape share their compiled code: the first fit takes seconds, those of the other folds of a search
do not. Estimators can be pickled, as scikit-learn's users expect. A pickle can run code when it is loaded: to store a
fit, `Fit.save` writes a file without code.
"""

from .classifier import NetworkClassifier
from .regressors import NetworkCountRegressor, NetworkRegressor
from .scoring import elpd

__all__ = ["NetworkClassifier", "NetworkCountRegressor", "NetworkRegressor", "elpd"]
