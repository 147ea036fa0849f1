"""What all estimators share: rows of x, the fit, and its predictive distribution."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import _check_sample_weight, check_array, check_is_fitted, check_X_y, validate_data

from ..inference.labels import as_weights
from ..inference.predictive import Predictive
from ..inference.result import Fit
from ..inference.status import no_failure_warnings, warn_of_precision
from ..models.heads import Observation
from ..models.model import Model
from ..tables.encoder import Encoder
from .settings import Defaults, key_of, network_of, prior_of
from .standard import StandardFit


class NetworkEstimator(BaseEstimator):
    """A network, an observation, a prior and a method as an estimator of scikit-learn.

    The parameters are documented with the estimators.
    """

    fit_: Fit
    """The fit. Its x are the rows of `rows`; its y, predictions and scores are in the units of y."""
    encoder_: Encoder | None
    """How the columns of the data frame of the fit become features; None where rows were an array of numbers."""

    def __init__(
        self,
        network: Any = (16, 16),
        *,
        observation: Any = None,
        prior: Any = None,
        method: Any = None,
        standardize: bool = True,
        random_state: Any = 0,
        progress: bool = False,
    ) -> None:
        self.network = network
        self.observation = observation
        self.prior = prior
        self.method = method
        self.standardize = standardize
        self.random_state = random_state
        self.progress = progress

    def rows(self, X: Any, y: Any = None) -> Any:  # noqa: N803
        """Return rows as `fit_` takes them: standardised x, or the pair of x and y, with classes as their numbers.

        Args:
            X: n rows, an array or a data frame, as for `fit`.
            y: n values, as for `fit`, or None.

        Example:
            >>> from sklearn.datasets import load_diabetes
            >>> from flatprior.estimators import NetworkRegressor
            >>> from flatprior.inference import MAP, compare
            >>> X, y = load_diabetes(return_X_y=True)
            >>> linear = NetworkRegressor((), method=MAP()).fit(X[:300], y[:300])
            >>> print(compare({"linear": linear.fit_}, *linear.rows(X[300:], y[300:])).to_dataframe()["rmse"].round(1))
            linear    53.1
            Name: rmse, dtype: float64
        """
        check_is_fitted(self)
        x = self._numbers(X)
        x = x if self._scaler is None else self._scaler.transform(x)
        return x if y is None else (x, self._coded(y))

    def predict_dist(self, X: Any) -> Predictive:  # noqa: N803
        """Return the predictive distribution of y at rows of X, in the units of y.

        Classes are the numbers of their places in ``classes_``.
        """
        return self.fit_.predict(self.rows(X))

    def log_prob(self, X: Any, y: Any) -> np.ndarray:  # noqa: N803
        """Return log p(y | x, data) of each row in nats, (n,): the log score, in the units of y; greater is better."""
        x, y = self.rows(X, y)
        standard = self._standard
        return self._summary(x, lambda p: p.log_prob(standard.to_standard(y))) - np.log(standard.sd)

    def _checked(self, X: Any, y: Any, **checks: Any) -> tuple[np.ndarray, np.ndarray]:  # noqa: N803
        """Return rows of a fit as numbers, (n, d), and y; what becomes of the columns of a data frame is learned here.

        All columns of numbers are features, also those that look like identifiers: whoever writes Python has chosen
        them.
        """
        self.encoder_ = None
        if not isinstance(X, pd.DataFrame):
            return validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2, **checks)
        validate_data(self, X, skip_check_array=True)  # the names and the number of the columns
        self.encoder_ = Encoder.fit(X, keep=X.columns.map(str))
        return check_X_y(
            self.encoder_.transform(X), y, dtype=np.float64, ensure_min_samples=2, estimator=self, **checks
        )

    def _numbers(self, X: Any) -> np.ndarray:  # noqa: N803
        """Return rows as numbers, (n, d), encoded as those of the fit."""
        if self.encoder_ is None:
            return validate_data(self, X, reset=False, dtype=np.float64)
        validate_data(self, X, reset=False, skip_check_array=True)
        if not isinstance(X, pd.DataFrame):
            X = pd.DataFrame(X, columns=[column.name for column in self.encoder_.columns])  # noqa: N806
        return check_array(self.encoder_.transform(X), dtype=np.float64, estimator=self)

    def _fit(self, X: np.ndarray, y: np.ndarray, weights: Any, observation: Observation, defaults: Defaults) -> Self:  # noqa: N803
        """Fit to rows that are numbers, (n, d) and (n,)."""
        if weights is not None:
            weights = as_weights(_check_sample_weight(weights, X, dtype=np.float64), len(X))
            if not weights.any():  # as scikit-learn says it from 1.9 on
                raise ValueError("sample_weight: expected at least one non-zero weight; got only zeros.")
        self._scaler = StandardScaler().fit(X, sample_weight=weights) if self.standardize else None
        x = X if self._scaler is None else self._scaler.transform(X)
        prior = defaults.prior if self.prior is None else prior_of(self.prior)
        method = defaults.method if self.method is None else self.method
        model, key = Model(network_of(self.network), observation, prior), key_of(self.random_state)
        self._standard = StandardFit.of(model, method, x, y, weights, key=key, progress=self.progress)
        in_units = self._standard.in_units
        names = getattr(self, "feature_names_in_", None) if self.encoder_ is None else self.encoder_.features
        columns = None if names is None else tuple(map(str, names))
        self.fit_ = replace(in_units, layout=replace(in_units.layout, columns_by_leaf=(columns,)))
        if self.fit_.status.reasons:
            warnings.warn(
                f"{type(self).__name__}: {self.fit_.status}",
                ConvergenceWarning,
                skip_file_prefixes=(str(Path(__file__).parent),),
            )
        return self

    def _summary(self, x: np.ndarray, summary: Callable[[Predictive], np.ndarray]) -> np.ndarray:
        """Return a summary of the predictive distribution of y in standard units, computed in float64.

        In float32 the prediction of a row would depend, in its last digits, on the other rows of its batch. That a fit
        has failed has been said by `fit`.
        """
        standard = self._standard.standard
        with no_failure_warnings():
            try:
                with jax.enable_x64(True):
                    return summary(standard.predict(x))
            except TypeError as error:  # a lifted network may fix the types of its state
                values = summary(standard.predict(x))
                warn_of_precision(error)
                return values

    def _coded(self, y: Any) -> np.ndarray:
        """Return y as numbers."""
        return np.asarray(y, float)


def seed_of(random_state: Any) -> jax.Array:
    """Return the key of samples of y."""
    return jax.random.key(key_of(random_state))
