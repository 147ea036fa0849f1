"""Classes: `NetworkClassifier`."""

from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from ..models.classes import Bernoulli, Categorical
from ..models.heads import Observation
from ..models.ordinal import Ordinal
from .base import NetworkEstimator, seed_of
from .settings import FOR_CLASSES


class NetworkClassifier(ClassifierMixin, NetworkEstimator):
    """A network whose predictive probabilities of classes are the answer, fitted by any method.

    Args:
        network: see `flatprior.estimators`.
        observation: the distribution of the class given the outputs of the network: an observation, or a class of
            observations that takes the number of classes, such as `Ordinal`, for which the classes are in the order in
            which they sort. By default `Bernoulli` for two classes, `Categorical` for more.
        prior: see `flatprior.estimators`. By default ``fan_in(2.0)``: classes are often nearly separable, and with a
            scale of 1 the probabilities of easy tables (wine, iris) stay too far from 0 and 1.
        method: see `flatprior.estimators`. By default an `Ensemble` of ten `MAP` fits of 500 steps, which do not go on
            to the mode: on scikit-learn's tables its log loss is about that of chains or lower, in less of their time
            (benchmarks/tabular.md).
        standardize: see `flatprior.estimators`.
        random_state: see `flatprior.estimators`.
        progress: see `flatprior.estimators`.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from flatprior.estimators import NetworkClassifier
        >>> from flatprior.inference import MAP
        >>> iris = load_iris()
        >>> linear = NetworkClassifier((), method=MAP()).fit(iris.data, iris.target_names[iris.target])
        >>> print(linear.predict(iris.data[:1]), linear.predict_proba(iris.data[:1]).round(2), linear.fit_.status)
        ['setosa'] [[0.99 0.01 0.  ]] ok
    """

    classes_: np.ndarray
    """The classes, sorted."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # noqa: N803
        """Fit to n rows and their classes, (n,).

        Args:
            X: an array of finite numbers, (n, d), or a pandas data frame, whose dates, texts and missing values become
                numbers as well.
            y: labels of any type: text, booleans, integers.
            sample_weight: the weight of each row, (n,): a row of weight w counts as w equal rows. By default 1.

        Raises:
            ValueError: when rows, classes or weights are invalid, or there is only one class.

        Warns:
            ConvergenceWarning: when the status of the fit is not "ok", with the reasons.
        """
        categories = getattr(y, "dtype", None)
        X, y = self._checked(X, y)  # noqa: N806
        y = column_or_1d(y, warn=True)
        try:
            self.classes_, codes = np.unique(y, return_inverse=True)
        except TypeError:  # they cannot be sorted
            types = sorted({type(label).__name__ for label in y})
            raise ValueError(f"y: expected labels of one type; got {', '.join(types)}.") from None
        check_classification_targets(y)
        if len(self.classes_) < 2:
            raise ValueError(f"y: expected at least 2 classes; got 1 class, {self.classes_[0]!r}.")
        observation = self._observation(len(self.classes_))
        if isinstance(observation, Ordinal):
            check_order(self.classes_, categories)
        return self._fit(X, codes, sample_weight, observation, FOR_CLASSES)

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """Return the most probable class of each row, (n,)."""
        probs = self.predict_proba(X)
        return self.classes_[probs.argmax(axis=1)]

    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803
        """Return the predictive probabilities of the classes, (n, num_classes), in the order of ``classes_``."""
        return self._summary(self.rows(X), lambda predictive: predictive.class_probs)

    def predict_log_proba(self, X: Any) -> np.ndarray:  # noqa: N803
        """Return the logs of the probabilities of the classes, (n, num_classes)."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def sample_y(self, X: Any, n_samples: int = 1, random_state: Any = 0) -> np.ndarray:  # noqa: N803
        """Draw classes, (n, n_samples). The rows of a sample share one draw of the weights: it is joint."""
        codes = self.predict_dist(X).sample(seed_of(random_state), (n_samples,))
        return self.classes_[codes.T]

    def _observation(self, num_classes: int) -> Observation:
        """Return the observation of a number of classes."""
        if self.observation is None:
            return Bernoulli() if num_classes == 2 else Categorical(num_classes)
        return self.observation(num_classes) if isinstance(self.observation, type) else self.observation

    def _coded(self, y: Any) -> np.ndarray:
        """Return the places of classes in ``classes_``.

        Raises:
            ValueError: when a class was not in the fit.
        """
        y = column_or_1d(y)
        unknown = np.setdiff1d(y, self.classes_)
        if unknown.size:
            raise ValueError(f"y: expected the classes of the fit, {self.classes_.tolist()}; got {unknown.tolist()}.")
        return np.searchsorted(self.classes_, y)


def check_order(classes: np.ndarray, dtype: Any) -> None:
    """Raise ValueError where classes do not sort in the order that the categories of a pandas series state."""
    if isinstance(dtype, pd.CategoricalDtype) and dtype.ordered:
        stated = [category for category in dtype.categories if category in set(classes)]
        if stated != list(classes):
            raise ValueError(
                f"y: Ordinal takes classes in the order in which they sort, {list(classes)}; got categories in the "
                f"order {stated}. Pass their codes, y.cat.codes."
            )
