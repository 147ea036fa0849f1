"""The shapes that annotations state are checked wherever the tests call the library."""

import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from flatprior.inference import fit
from flatprior.models import Bernoulli


def test_another_shape_than_the_annotation_states_is_an_error() -> None:
    with pytest.raises(TypeCheckError, match="eta"):
        Bernoulli()(jnp.zeros((3, 1, 1)))


def test_more_outputs_than_an_observation_has_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"Bernoulli: expected 1 outputs per row, eta of shape \(3, 1\); got \(3, 2\)"):
        Bernoulli()(jnp.zeros((3, 2)))


def test_a_function_that_states_no_shape_is_itself() -> None:
    assert not hasattr(fit, "__wrapped__")
