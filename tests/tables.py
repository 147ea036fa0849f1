"""What the laws are asked of: every method, at settings that run within a second, and the draws that it then has.

Settings that compile anew (rows, widths, chains, members) are the same wherever a test does not need its own.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpyro.distributions as dist
import pytest
from flax import nnx
from numpyro.handlers import seed, substitute, trace

from flatprior.inference import MAP, MCLMC, MLE, NUTS, SGMCMC, Conditional, Ensemble, Fit, Laplace, Prior, Variational
from flatprior.models import (
    MLP,
    Bernoulli,
    Beta,
    Categorical,
    CategoricalSequence,
    Censored,
    Exponential,
    Gamma,
    Independent,
    Lift,
    LogNormal,
    Mixture,
    Model,
    MultivariateNormal,
    NegativeBinomial,
    Normal,
    Ordinal,
    Poisson,
    StudentT,
    Weibull,
    ZeroInflated,
    fan_in,
    gaussian,
)
from flatprior.models.architectures import GRU

FindProblem = Callable[[str], tuple[Any, Any, Any]]
"""Name of a model -> (model, x, y)."""
CommonFit = Callable[[str, str], Fit]
"""(name of a model, method) -> its fit."""


def some_by_default(cases: Iterable[Any], *chosen: Any) -> list[Any]:
    """Return the cases of a test: it has the chosen ones by default, and the others are slow tests."""
    several = {True: lambda case: case, False: lambda case: (case,)}
    return [
        pytest.param(*several[isinstance(case, tuple)](case), marks=[] if case in chosen else pytest.mark.slow)
        for case in cases
    ]


def observation(model: Any, weights: Any, x: Any) -> dist.Distribution:
    """p(y | x, w) by NumPyro itself."""
    return trace(seed(substitute(model, data=weights), 0)).get_trace(x)["y"]["fn"]


NUM_ROWS = 40
NUM_STEPS = 150
POINT: dict[str, Any] = {"num_steps": NUM_STEPS, "polish": False}

METHODS: dict[str, Callable[[], Any]] = {
    "MLE": lambda: MLE(**POINT),
    "MAP": lambda: MAP(**POINT),
    "Ensemble": lambda: Ensemble(base=MAP(**POINT), num_members=3),
    "Laplace": lambda: Laplace(base=MAP(**POINT), num_samples=12),
    "NUTS": lambda: NUTS(num_warmup=30, num_samples=20, num_chains=2, start=None, max_tree_depth=4),
    "MCLMC": lambda: MCLMC(num_warmup=100, num_samples=15, thinning=3, num_chains=3, start=None),
    "SGMCMC": lambda: SGMCMC(num_warmup=100, num_samples=15, thinning=3, num_chains=3, batch_size=20, start=None),
    "Variational": lambda: Variational(num_steps=NUM_STEPS, num_samples=12, start=MAP(**POINT)),
    "Prior": lambda: Prior(num_samples=12),
}
"""Each time a new one, equal to the last. `Conditional` names sites, and so belongs to a model: see `method_of`."""
KINDS = {
    "MLE": "point",
    "MAP": "point",
    "Ensemble": "approximation",
    "Laplace": "approximation",
    "NUTS": "chain",
    "MCLMC": "chain",
    "SGMCMC": "approximation",
    "Variational": "approximation",
    "Conditional": "approximation",
    "Prior": "prior",
}
LEADING = {
    "MLE": (1, 1),
    "MAP": (1, 1),
    "Ensemble": (1, 3),
    "Laplace": (1, 12),
    "NUTS": (2, 20),
    "MCLMC": (3, 15),
    "SGMCMC": (3, 15),
    "Variational": (1, 12),
    "Conditional": (1, 12),
    "Prior": (1, 12),
}
"""Chains and draws."""


MODULE = nnx.Sequential(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), nnx.tanh, nnx.Linear(2, 1, rngs=nnx.Rngs(1)))
MODELS: dict[str, tuple[Model, str]] = {
    "Bernoulli": (Model(MLP(), Bernoulli()), "binary"),
    "Categorical": (Model(MLP(), Categorical(3)), "classes"),
    "Normal, known scale": (Model(MLP(), Normal(0.5), gaussian(2.0)), "real"),
    "Normal, learned scale": (Model(MLP(), Normal(dist.HalfNormal(1.0))), "real"),
    "Normal, scale of the network": (Model(MLP((2,), "tanh"), Normal("network"), fan_in()), "real"),
    "Poisson": (Model(MLP(), Poisson(), gaussian(1.0)), "counts"),
    "CategoricalSequence": (Model(Lift(GRU(3, 2, rngs=nnx.Rngs(0))), CategoricalSequence(3), gaussian(1.0)), "tokens"),
    "Lift": (Model(Lift(MODULE), Bernoulli(), fan_in()), "binary"),
    "NegativeBinomial": (Model(MLP(), NegativeBinomial()), "counts"),
    "ZeroInflated": (Model(MLP(), ZeroInflated(Poisson())), "counts"),
    "StudentT": (Model(MLP(), StudentT()), "real"),
    "LogNormal": (Model(MLP(), LogNormal(0.4)), "positive"),
    "Gamma": (Model(MLP(), Gamma()), "positive"),
    "Weibull": (Model(MLP(), Weibull()), "positive"),
    "Exponential": (Model(MLP(), Exponential()), "positive"),
    "Beta": (Model(MLP(), Beta(20.0)), "shares"),
    "Ordinal": (Model(MLP(), Ordinal(3)), "classes"),
    "Mixture": (Model(MLP(), Mixture(Normal(0.5), 2)), "real"),
    "Independent": (Model(MLP(), Independent(Normal(dist.HalfNormal(1.0)), 2)), "vectors"),
    "MultivariateNormal": (Model(MLP(), MultivariateNormal(2)), "vectors"),
    "Censored": (Model(MLP(), Censored(Weibull(1.5)), gaussian(1.0)), "bounds"),
}
"""Every observation, and every kind of network: `MLP`, and what a `Lift` makes of a module."""
LONG = (
    "NegativeBinomial",
    "ZeroInflated",
    "StudentT",
    "LogNormal",
    "Gamma",
    "Weibull",
    "Exponential",
    "Beta",
    "Ordinal",
    "Mixture",
    "Independent",
    "MultivariateNormal",
    "Censored",
    "CategoricalSequence",
    "Lift",
    "mixture_density",
)
"""What only slow tests of the contract fit: by default `test_observations.py` has the distributions, and the last three
have files of their own."""
LAST: dict[str, str] = {
    "Bernoulli": "w1",
    "Categorical": "w1",
    "Normal, known scale": "w1",
    "Normal, learned scale": "w1",
    "Normal, scale of the network": "[wb]2",
    "Poisson": "w1",
    **dict.fromkeys(LONG, "w1"),
    "CategoricalSequence": "head.*",
    "Lift": "layers.2.*",
    "hierarchical": "offset",
    "mixture_density": "[wb]2",
    "dictionary": "slope",
}
"""Model -> the sites that `Conditional` samples: those of the last layer."""


def method_of(method: str, name: str) -> Any:
    """A method for a model, each time a new one; `Conditional` is Laplace of the last layer given the rest by MAP."""
    if method == "Conditional":
        return Conditional(base=MAP(**POINT), sites=(LAST[name],), method=METHODS["Laplace"]())
    return METHODS[method]()
