"""The parameters of estimators: networks, priors and methods, also in the short forms of a grid search."""

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from ..inference.method import Method
from ..inference.methods import MAP, MCLMC, Ensemble
from ..models.model import Network
from ..models.network import MLP
from ..models.prior import Prior, fan_in


@dataclass(frozen=True)
class Defaults:
    """What an estimator takes where a parameter is None, chosen on scikit-learn's tables (benchmarks/tabular.md)."""

    prior: Prior
    method: Method


FOR_CLASSES = Defaults(fan_in(2.0), Ensemble(base=MAP(num_steps=500, polish=False), num_members=10))
FOR_NUMBERS = Defaults(fan_in(1.0), MCLMC(num_warmup=2_000, num_samples=100, thinning=10, num_chains=8))


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


def key_of(random_state: Any) -> int:
    """Return the key of a fit: an integer as it is, an integer drawn from a generator, or from NumPy's own for None."""
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))
