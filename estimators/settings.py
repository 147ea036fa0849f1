"""The parameters of estimators: networks, priors and methods, also in the short forms of a grid search."""

from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from ..inference.method import Method
from ..inference.methods import MAP, Ensemble
from ..models.model import Network
from ..models.network import MLP
from ..models.prior import Prior, fan_in

DEFAULT = Ensemble(base=MAP(num_steps=500, polish=False), num_members=10)
"""The method of an estimator that has none."""


def network_of(network: Any) -> Network:
    """Return a network: `MLP` where its numbers of hidden units are given.

    Raises:
        TypeError, ValueError: when it is neither a network nor positive integers.
    """
    if isinstance(network, Iterable) and not isinstance(network, str):
        return MLP(tuple(int(width) if isinstance(width, Integral) else width for width in network))
    if isinstance(network, type) or not callable(network):
        raise TypeError(f"network: expected hidden units, such as (16, 16), or a network; got {network!r}.")
    return network


def prior_of(prior: Any) -> Prior:
    """Return a prior: ``fan_in(scale)`` where its scale is given; `Model` checks others."""
    return fan_in(float(prior)) if isinstance(prior, Real) else prior


def method_of(method: Any) -> Method:
    """Return a method; the default where it is None, and `fit` checks others."""
    return DEFAULT if method is None else method


def key_of(random_state: Any) -> int:
    """Return the key of a fit: an integer as it is, an integer drawn from a generator, or from NumPy's own for None."""
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))
