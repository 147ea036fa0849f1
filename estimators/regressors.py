"""Numbers and counts: `NetworkRegressor` and `NetworkCountRegressor`."""

from typing import Any, Self

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from ..models.counts import NegativeBinomial
from ..models.numbers import Normal
from .base import NetworkEstimator, seed_of


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
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # noqa: N803
        X, y = validate_data(  # noqa: N806
            self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2
        )
        y = column_or_1d(y, warn=True).astype(float)
        return self._fit(X, y, sample_weight, Normal() if self.observation is None else self.observation)


class NetworkCountRegressor(_Regressor):
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # noqa: N803
        X, y = validate_data(  # noqa: N806
            self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2
        )
        y = column_or_1d(y, warn=True)
        wrong = np.flatnonzero((y < 0) | (y != np.round(y)))
        if wrong.size:
            raise ValueError(f"y[{wrong[0]}]: expected counts, integers from 0; got {y[wrong[0]]}.")
        observation = NegativeBinomial("network") if self.observation is None else self.observation
        return self._fit(X, y.astype(np.int64), sample_weight, observation)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = True
        return tags
