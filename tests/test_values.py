"""Models are values: built again from the same parts they are equal, and from others they are not."""

import jax.numpy as jnp
import numpyro.distributions as dist
import pytest

from flatprior.models import MLP, Bernoulli, Model, Normal, gaussian

PRIORS = {
    "Laplace": lambda a: dist.Laplace(0.0, a),
    "array": lambda a: dist.Normal(jnp.zeros(3), jnp.full(3, a)),
    "StudentT": lambda a: dist.StudentT(a, 0.0, 1.0),
    "mapping": lambda a: {"w*": dist.Laplace(0.0, 1.0), "b*": dist.Cauchy(0.0, a)},
    "mapping of functions": lambda a: {"w*": gaussian(a), "b*": "flat"},
    "transformed": lambda a: dist.TransformedDistribution(dist.Normal(0, 1), dist.transforms.AffineTransform(0.0, a)),
    "mixture": lambda a: dist.MixtureSameFamily(
        dist.Categorical(probs=jnp.array([0.5, 0.5])), dist.Normal(jnp.zeros(2), jnp.array([1.0, a]))
    ),
}


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
def test_models_are_equal_by_the_values_of_their_priors(prior):
    one, same, other = (Model(MLP((4,)), Bernoulli(), prior(a)) for a in (1.5, 1.5, 2.5))
    assert one == same
    assert hash(one) == hash(same)
    assert one != other


def test_observations_are_equal_by_the_value_of_the_prior_of_their_scale():
    assert Normal(dist.HalfNormal(1.0)) == Normal(dist.HalfNormal(1.0))
    assert hash(Normal(dist.HalfNormal(1.0))) == hash(Normal(dist.HalfNormal(1.0)))
    assert Normal(dist.HalfNormal(1.0)) != Normal(dist.HalfNormal(2.0))
    assert Normal(dist.HalfNormal(1.0)) != Normal(dist.HalfCauchy(1.0))
    assert Normal(0.5) == Normal(0.5) != Normal("network")


def test_a_prior_that_was_used_is_the_same():
    used, fresh = (Model(MLP(), Bernoulli(), dist.Categorical(probs=jnp.array([0.2, 0.8]))) for _ in range(2))
    assert used.prior.logits.shape == (2,)  # computed at the first question
    assert used == fresh
    assert hash(used) == hash(fresh)


def test_parts_are_distinguished():
    assert Model(MLP(), Bernoulli()) != Model(MLP((2,)), Bernoulli())
    assert Model(MLP(), Bernoulli(), gaussian(1.0)) == Model(MLP(), Bernoulli())
    assert Model(MLP(), Normal(1.0)) != Normal(1.0)
