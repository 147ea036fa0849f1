"""Images: a small convolutional network as a classifier, in three classes and in ten."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy.special import log_softmax
from scipy.stats import norm
from sklearn.datasets import load_digits

from flatprior.inference import MAP, MLE, Conditional, Fit, Laplace, compare, explain, fit, flat, log_density
from flatprior.models import Categorical, Lift, Model, gaussian
from flatprior.models.architectures import CNN

SCALE = 0.8


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    data = load_digits()
    return (data.images - data.images.mean()) / data.images.std(), data.target


@cache
def model_of(num_classes: int) -> Model:
    network = CNN((8, 8), (4, 6), num_classes=num_classes, rngs=nnx.Rngs(0))
    return Model(Lift(network), Categorical(num_classes), gaussian(SCALE))


@pytest.fixture(scope="module")
def fitted(digits: Any) -> Callable[[int], Fit]:
    """Number of classes -> a fit by batches of 32 to those of the first 1,200 rows that are of these classes.

    By MLE to ten of them; three are separable, and have none.
    """

    @cache
    def find(num_classes: int) -> Fit:
        x, y = (part[:1200][digits[1][:1200] < num_classes] for part in digits)
        method = (MLE if num_classes == 10 else MAP)(num_steps=600, batch_size=32, polish=False)
        return fit(model_of(num_classes), method, x, y, key=0, progress=False)

    return find


def outputs(network: CNN, x: Any) -> jax.Array:
    return jax.jit(lambda x: network(x))(jnp.asarray(x, jnp.float32))


SHAPES: dict[str, tuple[tuple[int, ...], int]] = {
    # image_shape, inputs of the head of a network with 4 and 6 channels
    "digits": ((8, 8), 2 * 2 * 6),
    "odd sides": ((7, 5), 2 * 2 * 6),
    "three channels": ((8, 12, 3), 2 * 3 * 6),
    "one channel, stated": ((9, 9, 1), 3 * 3 * 6),
}


@pytest.mark.parametrize("name", SHAPES)
def test_it_takes_images_of_any_shape(name: str) -> None:
    shape, inputs = SHAPES[name]
    network = CNN(shape, (4, 6), num_classes=5, rngs=nnx.Rngs(0))
    assert network.head.kernel.shape == (inputs, 5)
    x = np.random.default_rng(0).normal(size=(3, *shape))
    eta = outputs(network, x)
    assert eta.shape == (3, 5)
    np.testing.assert_allclose(outputs(network, x[1:2]), eta[1:2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SHAPES)
def test_its_convolutions_are_those_of_xla(name: str) -> None:
    shape, _ = SHAPES[name]
    network = CNN(shape, (4, 6), num_classes=5, rngs=nnx.Rngs(1))
    x = np.random.default_rng(0).normal(size=(3, *shape))
    here = outputs(network, x)
    for layer in network.convolutions:
        layer.conv_general_dilated = jax.lax.conv_general_dilated
    np.testing.assert_allclose(here, outputs(network, x), rtol=1e-5, atol=1e-6)


def test_an_image_that_is_moved_moves_what_the_convolutions_see() -> None:
    """By as many pixels as the strides multiply to, away from the edges: so the maps of a shifted image are shifted."""
    network = CNN((16, 16), (4, 6), num_classes=3, rngs=nnx.Rngs(0))
    image = np.zeros((2, 16, 16, 1), np.float32)
    image[0, 4:8, 4:8, 0] = np.random.default_rng(0).normal(size=(4, 4))
    image[1] = np.roll(image[0], (4, 4), axis=(0, 1))
    h = jnp.asarray(image)
    for layer in network.convolutions:
        h = jax.nn.silu(layer(h))
    np.testing.assert_allclose(h[1], np.roll(h[0], (1, 1), axis=(0, 1)), rtol=1e-5, atol=1e-6)
    assert np.abs(h[0]).max() > 0.01


@pytest.mark.parametrize(("num_classes", "least"), [(10, 0.85), (3, 0.9)])
@pytest.mark.slow
def test_a_few_batches_teach_it_to_read(num_classes: int, least: float, fitted: Any, digits: Any) -> None:
    """Chance is right in one row of `num_classes`."""
    fitted_model = fitted(num_classes)
    x, y = (part[1200:][digits[1][1200:] < num_classes] for part in digits)
    assert fitted_model.predict(x).probs.shape == (len(y), num_classes)
    assert fitted_model.status
    table = compare({"fit": fitted_model}, x, y).to_dataframe()
    assert table.loc["fit", "accuracy"] > least
    assert table.loc["fit", "elpd"] > np.log(1 / num_classes) / 2


@pytest.mark.slow
def test_its_density_is_softmax_cross_entropy_and_a_normal_prior(fitted: Any, digits: Any, x64: None) -> None:
    x, y = (part[:100].astype(float) if part.ndim > 1 else part[:100] for part in digits)
    model = model_of(10)
    weights = {site: jnp.asarray(value[0, 0], float) for site, value in fitted(10).draws.items()}
    logits = model.network.rebuild(weights)(jnp.asarray(x))
    loss = float(optax.softmax_cross_entropy_with_integer_labels(logits, y).sum())
    penalty = -sum(norm.logpdf(value, 0, SCALE).sum() for value in weights.values())
    scipys = -log_softmax(np.asarray(logits), axis=1)[np.arange(100), y].sum()
    np.testing.assert_allclose(loss, scipys, rtol=1e-6)
    np.testing.assert_allclose(-log_density(model, weights, x, y), loss + penalty, rtol=1e-6)
    np.testing.assert_allclose(-log_density(flat(model), weights, x, y), loss, rtol=1e-6)
    result = explain(model, x, y, at=weights)
    assert result.terms[0].name == "softmax cross-entropy"
    np.testing.assert_allclose([result.loss, result.penalty], [loss, penalty], rtol=1e-6)


@pytest.mark.slow
def test_the_head_alone_can_have_a_posterior(digits: Any) -> None:
    """The convolutions stay where the base put them, and the head spreads."""
    x, y = (part[:150][digits[1][:150] < 3] for part in digits)
    quick = MAP(num_steps=200, polish=False)
    method = Conditional(base=quick, sites=("head.*",), method=Laplace(base=quick, num_samples=50))
    fitted_model = fit(model_of(3), method, x, y, key=0, progress=False)
    assert fitted_model.kind == "approximation"
    for site, value in fitted_model.draws.items():
        assert (np.ptp(value, axis=(0, 1)) > 0).all() == site.startswith("head."), site
    probs = fitted_model.predict(x).probs
    np.testing.assert_allclose(probs.sum(axis=1), 1, rtol=1e-5)
    assert (probs.argmax(axis=1) == y).mean() > 0.9


def test_images_of_another_shape_are_reported() -> None:
    network = CNN((8, 8), (4,), num_classes=3, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"CNN: expected images of shape \(8, 8\); got \(8, 9\)"):
        network(jnp.zeros((2, 8, 9)))
    with pytest.raises(ValueError, match=r"CNN: expected \(height, width\) or .*; got \(64,\)"):
        CNN((64,), (4,), num_classes=3, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"CNN: expected images of shape \(8, 8\); got \(64,\)") as error:
        fit(Model(Lift(network), Categorical(3)), MAP(), np.zeros((3, 64)), np.arange(3), key=0)
    assert any("model(x, y)" in note for note in error.value.__notes__)
