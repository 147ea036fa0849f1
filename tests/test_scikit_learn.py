"""scikit-learn's own checks of estimators, each of them a test."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.utils.estimator_checks import estimator_checks_generator

from flatprior.estimators import NetworkClassifier, NetworkCountRegressor, NetworkRegressor
from flatprior.inference import MAP

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

QUICK = MAP(num_steps=300, polish=False)


class Rounded(NetworkCountRegressor):
    """Counts from the numbers that scikit-learn's checks have: they know no targets of whole numbers."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "Rounded":  # noqa: N803
        values = np.asarray(y)
        return super().fit(X, np.round(values) if values.dtype.kind == "f" else y, sample_weight)


INEXACT = "check_sample_weight_equivalence_on_dense_data"
"""The check that a row of weight 2 counts as two rows to seven digits: sums of float32 in another order differ in the
last digits, and in more after an optimiser that has not arrived. It holds on some machines."""
CHEAP = {
    "check_estimator_cloneable",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_estimator_repr",
    "check_no_attributes_set_in_init",
    "check_estimators_unfitted",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_mixin_order",
    "check_complex_data",
    "check_all_zero_sample_weights_error",
    "check_estimators_empty_data_messages",
    "check_estimator_sparse_tag",
    "check_estimator_sparse_array",
    "check_classifiers_one_label",
    "check_classifiers_regression_target",
    "check_supervised_y_no_nan",
    "check_parameters_default_constructible",
    "check_fit2d_1sample",
    "check_get_params_invariance",
    "check_set_params",
    "check_fit1d",
    "check_requires_y_none",
}
"""The checks that fit nothing."""


def checks() -> list[Any]:
    """All checks of scikit-learn, as parameters of a test."""
    result = []
    for estimator in (NetworkClassifier(method=QUICK), NetworkRegressor(method=QUICK), Rounded(method=QUICK)):
        kind = type(estimator).__name__
        seen: dict[str, int] = {}
        for _, check in estimator_checks_generator(estimator):
            name = getattr(check, "func", check).__name__
            seen[name] = seen.get(name, 0) + 1
            marks = [] if name in CHEAP else [pytest.mark.slow]
            if name == INEXACT:
                marks.append(pytest.mark.xfail(reason="float32", strict=False))
            result.append(pytest.param(estimator, check, marks=marks, id=f"{kind}-{name}-{seen[name]}"))
    return result


@pytest.mark.parametrize(("estimator", "check"), checks())
def test_a_check_of_scikit_learn_passes(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)
