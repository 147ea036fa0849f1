"""Numbers and counts: `NetworkRegressor` and `NetworkCountRegressor`."""

from typing import Any, Self

import numpy as np
import numpyro.distributions as dist
from sklearn.base import RegressorMixin
from sklearn.utils import Tags
from sklearn.utils.validation import column_or_1d

from ..models.counts import NegativeBinomial
from ..models.numbers import Normal
from .base import NetworkEstimator, seed_of
from .settings import FOR_NUMBERS

ONE_SCALE = Normal(dist.LogNormal(-1.0, 1.0))
"""The observation of numbers: one unknown scale, in standard deviations of y; its median is 0.37, R^2 = 0.86."""


class _Regressor(RegressorMixin, NetworkEstimator):
    """What the estimators of numbers share: moments, intervals and samples, in the units of y."""

    def predict(self, X: Any, return_std: bool = False) -> Any:  # noqa: N803
        """Return the predictive mean of y at each row, (n,).

        Args:
            X: n rows of features.
            return_std: return the pair of mean and standard deviation of y, (n,) each.
        """
        x, standard = self.rows(X), self._standard
        mean = standard.from_standard(self._summary(x, lambda predictive: predictive.mean))
        return (mean, standard.sd * self._summary(x, lambda predictive: predictive.std)) if return_std else mean

    def predict_quantiles(self, X: Any, quantiles: Any = (0.05, 0.5, 0.95)) -> np.ndarray:  # noqa: N803
        """Return quantiles of y at each row, (n, len(quantiles))."""
        values = self._summary(self.rows(X), lambda predictive: predictive.quantile(np.asarray(quantiles, float)))
        return self._standard.from_standard(values).T

    def predict_interval(self, X: Any, prob: float = 0.9) -> np.ndarray:  # noqa: N803
        """Return the ends of the central interval that contains y with a probability, (n, 2)."""
        values = self._summary(self.rows(X), lambda predictive: predictive.interval(prob))
        return self._standard.from_standard(values).T

    def sample_y(self, X: Any, n_samples: int = 1, random_state: Any = 0) -> np.ndarray:  # noqa: N803
        """Draw y, (n, n_samples). The rows of a sample share one draw of the weights: it is joint."""
        return np.asarray(self.predict_dist(X).sample(seed_of(random_state), (n_samples,))).T


class NetworkRegressor(_Regressor):
    """A network whose predictive distribution of a number is the answer, fitted by any method.

    y is standardised for the fit, so that priors and optimiser see numbers of about 1; densities, predictions and
    scores are in the units of y. A positive y, of the observation `LogNormal` or `Gamma`, is only divided by its
    standard deviation.

    Args:
        network: see `flatprior.estimators`.
        observation: the distribution of y given the outputs of the network, in standard deviations of y. By default
            `Normal` with one unknown scale, whose prior is LogNormal(-1, 1): MAP estimates of a scale per row, the
            output of a network, fit the noise of single rows (benchmarks/tabular.md).
        prior: see `flatprior.estimators`. By default ``fan_in(1.0)``.
        method: see `flatprior.estimators`. By default draws from the posterior, by `MCLMC` with eight short chains:
            the intervals of an ensemble of MAP fits are too narrow where a network has many weights per row, since a
            learned scale then fits the noise (benchmarks/tabular.md).
        standardize: see `flatprior.estimators`.
        random_state: see `flatprior.estimators`.
        progress: see `flatprior.estimators`.

    Example:
        >>> from sklearn.datasets import load_diabetes
        >>> from flatprior.estimators import NetworkRegressor
        >>> from flatprior.inference import MAP
        >>> X, y = load_diabetes(return_X_y=True)
        >>> linear = NetworkRegressor((), method=MAP()).fit(X[:300], y[:300])
        >>> mean, sd = linear.predict(X[300:302], return_std=True)
        >>> print(mean.round(), sd.round())
        [225. 122.] [54. 54.]
        >>> print(linear.predict_interval(X[300:302], prob=0.9).round())
        [[136. 313.]
         [ 34. 211.]]
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # noqa: N803
        """Fit to n rows and their numbers, (n,).

        Args:
            X: an array of finite numbers, (n, d), or a pandas data frame, whose dates, texts and missing values become
                numbers as well.
            y: finite numbers.
            sample_weight: the weight of each row, (n,): a row of weight w counts as w equal rows. By default 1.

        Raises:
            TypeError, ValueError: when rows, numbers, weights or parameters are invalid.

        Warns:
            ConvergenceWarning: when the status of the fit is not "ok", with the reasons.
        """
        X, y = self._checked(X, y, y_numeric=True)  # noqa: N806
        y = column_or_1d(y, warn=True).astype(float)
        return self._fit(X, y, sample_weight, ONE_SCALE if self.observation is None else self.observation, FOR_NUMBERS)


class NetworkCountRegressor(_Regressor):
    """A network whose predictive distribution of a count, 0, 1, 2, ..., is the answer, fitted by any method.

    Args:
        network: see `flatprior.estimators`.
        observation: the distribution of y given the outputs of the network. By default `NegativeBinomial` with one
            unknown concentration: counts rarely vary as little as those of `Poisson`.
        prior: see `flatprior.estimators`. By default ``fan_in(1.0)``.
        method: see `flatprior.estimators`. The default is that of `NetworkRegressor`.
        standardize: see `flatprior.estimators`.
        random_state: see `flatprior.estimators`.
        progress: see `flatprior.estimators`.

    Example:
        >>> import numpy as np
        >>> from flatprior.estimators import NetworkCountRegressor
        >>> from flatprior.inference import MAP
        >>> from flatprior.models import Poisson
        >>> x = np.linspace(-1, 1, 200)[:, None]
        >>> y = np.random.default_rng(0).poisson(np.exp(1 + x[:, 0]))
        >>> loglinear = NetworkCountRegressor((), observation=Poisson(), method=MAP()).fit(x, y)
        >>> print(loglinear.predict([[0.0]]).round(1), loglinear.predict_interval([[0.0]], prob=0.9))
        [3.1] [[1. 6.]]
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # noqa: N803
        """Fit to n rows and their counts, (n,).

        Args:
            X: an array of finite numbers, (n, d), or a pandas data frame, whose dates, texts and missing values become
                numbers as well.
            y: integers from 0, of any type.
            sample_weight: the weight of each row, (n,): a row of weight w counts as w equal rows. By default 1.

        Raises:
            TypeError, ValueError: when rows, counts, weights or parameters are invalid.

        Warns:
            ConvergenceWarning: when the status of the fit is not "ok", with the reasons.
        """
        X, y = self._checked(X, y, y_numeric=True)  # noqa: N806
        y = column_or_1d(y, warn=True)
        wrong = np.flatnonzero((y < 0) | (y != np.round(y)))
        if wrong.size:
            raise ValueError(f"y[{wrong[0]}]: expected counts, integers from 0; got {y[wrong[0]]}.")
        observation = NegativeBinomial() if self.observation is None else self.observation
        return self._fit(X, y.astype(np.int64), sample_weight, observation, FOR_NUMBERS)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = True
        return tags
