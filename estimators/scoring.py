"""A score of predictive distributions, for scikit-learn's searches."""

from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline


def elpd(estimator: Any, X: Any, y: Any, sample_weight: Any = None) -> float:  # noqa: N803
    """Return the mean of log p(y | x, data) over rows, in nats per row: a proper score, greater is better.

    It judges the whole predictive distribution, which R^2 and accuracy do not: a distribution that is too narrow
    loses. ``scoring=elpd`` chooses by it in `GridSearchCV` and `cross_val_score`.

    Args:
        estimator: a fitted estimator, or a `Pipeline` or a search that ends in one.
        X: n rows of features.
        y: n values, or classes.
        sample_weight: the weight of each row, (n,). By default 1.

    Raises:
        TypeError: when the estimator is another one.

    Example:
        >>> from sklearn.datasets import load_diabetes
        >>> from sklearn.model_selection import cross_val_score
        >>> from flatprior.estimators import NetworkRegressor, elpd
        >>> from flatprior.inference import MAP
        >>> X, y = load_diabetes(return_X_y=True)
        >>> print(cross_val_score(NetworkRegressor((), method=MAP()), X, y, scoring=elpd, cv=3).round(2))
        [-5.43 -5.47 -5.39]
    """
    while not hasattr(estimator, "log_prob"):
        if isinstance(estimator, Pipeline):
            X, estimator = estimator[:-1].transform(X) if len(estimator) > 1 else X, estimator[-1]  # noqa: N806
        elif hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        else:
            raise TypeError(f"elpd: expected an estimator of flatprior.estimators; got {estimator!r:.200}.")
    return float(np.average(estimator.log_prob(X, y), weights=sample_weight))
