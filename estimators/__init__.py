"""Estimators of scikit-learn."""

from .classifier import NetworkClassifier
from .regressors import NetworkCountRegressor, NetworkRegressor

__all__ = ["NetworkClassifier", "NetworkCountRegressor", "NetworkRegressor"]
