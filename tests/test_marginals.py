"""The cdf of every distribution of y, against SciPy, sums and quadrature; also where NumPyro has none."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import Array
from numpyro.distributions import constraints
from scipy import stats

from flatprior.inference.distributions import affine
from flatprior.inference.kinds import response_of
from flatprior.inference.marginals import cdf_of, interval_of, moments_of, sums_pmf, values_of

COUNTS = np.array([-1, 0, 1, 2, 3, 5, 8])
REALS = np.array([-np.inf, -2.0, -0.5, 0.0, 0.3, 1.0, 2.5, np.inf])
PROBS = np.array([0.2, 0.3, 0.5])
COV = np.array([[2.0, 0.6], [0.6, 0.5]])
Cdf = Callable[[Any], Any]
ONE_VALUE: dict[str, tuple[Callable[[], dist.Distribution], Cdf, np.ndarray]] = {
    "Poisson": (lambda: dist.Poisson(2.5), stats.poisson(2.5).cdf, COUNTS),
    "Bernoulli": (lambda: dist.Bernoulli(0.3), stats.bernoulli(0.3).cdf, COUNTS),
    "binomial": (lambda: dist.Binomial(5, 0.3), stats.binom(5, 0.3).cdf, COUNTS),
    "binomial of logits": (lambda: dist.Binomial(5, logits=-1.0), stats.binom(5, 1 / (1 + np.e)).cdf, COUNTS),
    "binomial of nothing": (lambda: dist.Binomial(0, 0.3), stats.binom(0, 0.3).cdf, COUNTS),
    "beta-binomial": (lambda: dist.BetaBinomial(2.0, 3.0, 5), stats.betabinom(5, 2.0, 3.0).cdf, COUNTS),
    "beta negative binomial": (
        lambda: dist.BetaNegativeBinomial(3.0, 2.0, 1.5),
        lambda k: np.array([bnb_pmf(np.arange(each + 1)).sum() for each in k]),
        COUNTS,
    ),
    "negative binomial": (lambda: dist.NegativeBinomial2(3.0, 2.0), stats.nbinom(2.0, 0.4).cdf, COUNTS),
    "geometric": (lambda: dist.Geometric(0.3), stats.geom(0.3, loc=-1).cdf, COUNTS),
    "zero-inflated": (
        lambda: dist.ZeroInflatedPoisson(0.2, 2.5),
        lambda k: np.where(k < 0, 0.0, 0.2 + 0.8 * stats.poisson(2.5).cdf(k)),
        COUNTS,
    ),
    "zero-inflated beta-binomial": (
        lambda: dist.ZeroInflatedDistribution(dist.BetaBinomial(2.0, 3.0, 5), gate_logits=0.0),
        lambda k: np.where(k < 0, 0.0, 0.5 + 0.5 * stats.betabinom(5, 2.0, 3.0).cdf(k)),
        COUNTS,
    ),
    "hurdle": (
        lambda: dist.HurdlePoisson(0.2, 2.5),
        lambda k: np.where(
            k < 0, 0.0, 0.2 + 0.8 * np.maximum(stats.poisson(2.5).cdf(k) - np.exp(-2.5), 0) / (1 - np.exp(-2.5))
        ),
        COUNTS,
    ),
    "mixture of counts": (
        lambda: dist.MixtureSameFamily(dist.Categorical(PROBS), dist.Poisson(jnp.array([1.0, 2.0, 5.0]))),
        lambda k: stats.poisson([1.0, 2.0, 5.0]).cdf(np.asarray(k)[:, None]) @ PROBS,
        COUNTS,
    ),
    "own, without a cdf": (lambda: Own(jnp.array(2.5)), stats.poisson(2.5).cdf, COUNTS),
    "ordered classes": (
        lambda: dist.OrderedLogistic(jnp.array(0.4), jnp.array([-1.0, 1.0])),
        lambda k: np.where(k < 0, 0.0, np.where(k >= 2, 1.0, 1 / (1 + np.exp(0.4 - np.where(k < 1, -1.0, 1.0))))),
        COUNTS,
    ),
    "Normal": (lambda: dist.Normal(0.3, 2.0), stats.norm(0.3, 2.0).cdf, REALS),
    "expanded": (lambda: dist.Normal(0.3, 2.0).expand([8]), stats.norm(0.3, 2.0).cdf, REALS),
    "affine": (lambda: affine(dist.Normal(0.0, 1.0), 0.3, 2.0), stats.norm(0.3, 2.0).cdf, REALS),
    "LogNormal": (lambda: dist.LogNormal(0.0, 1.0), stats.lognorm(1.0).cdf, REALS),
    "Gamma": (lambda: dist.Gamma(2.0, 1.5), stats.gamma(2.0, scale=1 / 1.5).cdf, REALS),
    "Beta": (lambda: dist.Beta(2.0, 1.5), stats.beta(2.0, 1.5).cdf, REALS),
    "Student-t": (lambda: dist.StudentT(3.0, 0.3, 2.0), stats.t(3.0, 0.3, 2.0).cdf, REALS),
    "folded": (lambda: dist.FoldedDistribution(dist.Normal(0.7, 1.0)), stats.foldnorm(0.7).cdf, REALS),
    "truncated": (lambda: dist.TruncatedNormal(0.0, 1.0, low=0.0), stats.halfnorm().cdf, REALS),
    "falling": (
        lambda: dist.TransformedDistribution(dist.Gamma(2.0, 1.0), dist.transforms.AffineTransform(1.0, -2.0)),
        lambda y: stats.gamma(2.0).sf((1.0 - y) / 2.0),
        REALS,
    ),
    "mixture": (
        lambda: dist.MixtureGeneral(dist.Categorical(PROBS[:2] / 0.5), [dist.Normal(0.0, 1.0), dist.Laplace(1.0, 2.0)]),
        lambda y: 0.4 * stats.norm.cdf(y) + 0.6 * stats.laplace(1.0, 2.0).cdf(y),
        REALS,
    ),
    "right-censored": (
        lambda: dist.RightCensoredDistribution(dist.Weibull(2.0, 1.5), jnp.arange(8) % 2),
        stats.weibull_min(1.5, scale=2.0).cdf,
        REALS,
    ),
}
"""A distribution of one value, its cdf by SciPy or by hand, and where it is asked for: also outside of the support."""


def bnb_pmf(k: np.ndarray) -> np.ndarray:
    """Beta negative binomial (3, 2, 1.5), by its definition."""
    from scipy.special import betaln, gammaln

    return np.exp(gammaln(1.5 + k) - gammaln(1.5) - gammaln(k + 1.0) + betaln(3.0 + k, 3.5) - betaln(3.0, 2.0))


class Own(dist.Distribution):
    """A Poisson distribution of the user's own that has a mean and no cdf."""

    arg_constraints = {"rate": constraints.positive}  # noqa: RUF012
    support = constraints.nonnegative_integer
    pytree_data_fields = ("rate",)

    def __init__(self, rate: Array, *, validate_args: bool | None = None) -> None:
        self.rate = rate
        super().__init__(jnp.shape(rate), (), validate_args=validate_args)

    mean = variance = property(lambda self: self.rate)

    def log_prob(self, value: Array) -> Array:
        return dist.Poisson(self.rate).log_prob(value)


RARE = (
    "binomial of logits",
    "binomial of nothing",
    "zero-inflated beta-binomial",
    "expanded",
    "beta negative binomial",
)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in RARE)) for name in ONE_VALUE])
def test_the_cdf_is_that_of_scipy(name: str) -> None:
    make, expected, at = ONE_VALUE[name]
    with jax.enable_x64(True), np.errstate(all="ignore"):
        result = cdf_of(make(), jnp.asarray(at))
        # The log beta function of JAX, of beta-binomials, has an error of 1e-6 also in float64.
        np.testing.assert_allclose(result, expected(at), rtol=3e-6 if sums_pmf(make()) else 1e-7, atol=1e-12)
        assert response_of("y", make()).has_cdf


VECTORS: dict[str, tuple[Callable[[], dist.Distribution], Cdf]] = {
    "independent": (
        lambda: dist.Normal(jnp.array([0.0, 1.0]), 2.0).to_event(1),
        lambda y: stats.norm([0, 1], 2).cdf(y),
    ),
    "multivariate Normal": (
        lambda: dist.MultivariateNormal(jnp.array([0.0, 1.0]), COV),
        lambda y: stats.norm([0, 1], np.sqrt(np.diag(COV))).cdf(y),
    ),
    "low rank": (
        lambda: dist.LowRankMultivariateNormal(jnp.zeros(2), jnp.array([[1.0], [2.0]]), jnp.ones(2)),
        lambda y: stats.norm(0, np.sqrt([2.0, 5.0])).cdf(y),
    ),
    "multivariate Student-t": (
        lambda: dist.MultivariateStudentT(4.0, jnp.zeros(2), jnp.linalg.cholesky(COV)),
        lambda y: stats.t(4.0, 0.0, np.sqrt(np.diag(COV))).cdf(y),
    ),
    "Dirichlet": (
        lambda: dist.Dirichlet(jnp.array([2.0, 3.0])),
        lambda y: stats.beta([2.0, 3.0], [3.0, 2.0]).cdf(y),
    ),
    "multinomial": (
        lambda: dist.Multinomial(5, jnp.array([0.3, 0.7])),
        lambda y: stats.binom(5, [0.3, 0.7]).cdf(y),
    ),
    "Dirichlet-multinomial": (
        lambda: dist.DirichletMultinomial(jnp.array([2.0, 3.0]), 5),
        lambda y: stats.betabinom(5, [2.0, 3.0], [3.0, 2.0]).cdf(y),
    ),
    "mixture of vectors": (
        lambda: dist.MixtureSameFamily(
            dist.Categorical(jnp.array([0.4, 0.6])), dist.Normal(jnp.array([[0.0, 1.0], [2.0, 3.0]]), 1.0).to_event(1)
        ),
        lambda y: 0.4 * stats.norm([0.0, 1.0]).cdf(y) + 0.6 * stats.norm([2.0, 3.0]).cdf(y),
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_the_cdf_of_a_vector_is_that_of_its_marginals(name: str) -> None:
    make, expected = VECTORS[name]
    y = np.array([[0.3, 0.7], [0.0, 1.0], [0.9, 0.2]])
    with jax.enable_x64(True):
        np.testing.assert_allclose(cdf_of(make(), jnp.asarray(y)), expected(y), rtol=3e-6 if sums_pmf(make()) else 1e-7)
        assert response_of("y", make()).has_cdf


def test_a_cdf_that_cannot_be_computed_is_not_implemented() -> None:
    for d in (
        dist.Categorical(PROBS),
        dist.VonMises(0.0, 1.0),
        dist.LKJCholesky(2),
        dist.HurdleDistribution(dist.Gamma(1.0, 1.0), gate=0.5),
    ):
        with pytest.raises(NotImplementedError):
            cdf_of(d, jnp.zeros(d.shape()))


def test_which_cdfs_add_up_probabilities() -> None:
    names = {name for name, (make, _, _) in ONE_VALUE.items() if sums_pmf(make())}
    assert names == {"beta-binomial", "beta negative binomial", "zero-inflated beta-binomial", "own, without a cdf"}
    assert [name for name, (make, _) in VECTORS.items() if sums_pmf(make())] == ["Dirichlet-multinomial"]


def test_a_censored_y_is_summarised_by_its_base() -> None:
    base, censored = dist.LogNormal(jnp.array([0.0, 0.5]), 1.0), jnp.array([0, 1])
    y = jnp.array([1.0, 2.0])
    for d in (dist.RightCensoredDistribution(base, censored), dist.LeftCensoredDistribution(base, censored)):
        np.testing.assert_allclose(moments_of(d), (base.mean, base.variance))
        assert values_of(d.mask(jnp.array([True, False]))).shape() == (2,)
        np.testing.assert_allclose(affine(d, 0.0, 2.0).log_prob(2 * y), d.log_prob(y) - jnp.array([np.log(2.0), 0.0]))
    cdf = base.cdf(y)
    low, high = interval_of(dist.RightCensoredDistribution(base, censored), y)
    np.testing.assert_allclose((low, high), (cdf, [cdf[0], 1.0]))
    low, high = interval_of(dist.LeftCensoredDistribution(base, censored), y)
    np.testing.assert_allclose((low, high), ([cdf[0], 0.0], cdf))
    bounds = jnp.stack([y, y + 1], axis=1)
    d = dist.IntervalCensoredDistribution(base, jnp.array([0, 1]), jnp.array([0, 0]))
    np.testing.assert_allclose(interval_of(d, bounds), ([cdf[0], 0.0], base.cdf(y + 1)))
    assert values_of(d).shape() == (2,)
    counts = dist.Poisson(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(
        interval_of(counts, jnp.array([0, 3])), ([0.0, counts.cdf(2.0)[1]], counts.cdf(jnp.array([0, 3])))
    )
