"""What y is: for each kind of y, what its `Response` answers, against values written by hand."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import Array
from numpyro.distributions import constraints
from scipy.special import expit, log_softmax

from flatprior import models
from flatprior.inference import Fit, fit, predictive
from flatprior.inference.checks import check_problem
from flatprior.inference.contract import check_model
from flatprior.inference.kinds import response_of
from flatprior.inference.methods import MLE
from flatprior.inference.response import Response
from flatprior.models import Categorical, CategoricalSequence

ETA = np.array([[0.2, -1.0, 0.5], [1.0, 0.0, -2.0]], np.float32)
"""Logits of three classes in two rows."""
ROWS = np.stack([ETA, -ETA, 2 * ETA, 0 * ETA], axis=1)
"""Logits of four tokens in two rows."""


class Ordinal(dist.Distribution):
    """A distribution of the user's own: a class from 0 to 3 that is a number as well, with mean and cdf."""

    loss: ClassVar[str] = "ordinal loss"
    arg_constraints: ClassVar = {"probs": constraints.simplex}
    support = constraints.integer_interval(0, 3)
    pytree_data_fields = ("probs",)

    def __init__(self, probs: Array, *, validate_args: bool | None = None) -> None:
        self.probs = probs
        super().__init__(jnp.shape(probs)[:-1], (), validate_args=validate_args)

    @property
    def mean(self) -> Array:
        return self.probs @ jnp.arange(4.0)

    @property
    def variance(self) -> Array:
        return self.probs @ jnp.arange(4.0) ** 2 - self.mean**2

    def log_prob(self, value: Array) -> Array:
        value, probs = jnp.broadcast_arrays(jnp.asarray(value)[..., None], self.probs)
        return jnp.log(jnp.take_along_axis(probs, value[..., :1].astype(int), axis=-1)[..., 0])

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        return dist.Categorical(probs=self.probs).sample(key, sample_shape)

    def cdf(self, value: Array) -> Array:
        return jnp.where(jnp.arange(4) <= value[..., None], self.probs, 0.0).sum(axis=-1)


class Grades(Ordinal):
    """The same, whose classes are names: it has neither mean nor cdf."""

    mean = variance = dist.Distribution.mean
    cdf = dist.Distribution.cdf


PROBS = np.array([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]], np.float32)


def mixture() -> dist.Distribution:
    return dist.MixtureSameFamily(dist.Categorical(logits=ETA), dist.Logistic(ETA, 1.0))


class Answers(NamedTuple):
    """What is known of a distribution by hand."""

    kind: str
    family: str
    missing: set[str]
    num_classes: int | None = None
    padding: int | None = None
    event_shape: tuple[int, ...] = ()
    is_discrete: bool = True
    is_class: bool = False
    is_name: bool = False


CLASSES: dict[str, Any] = {"is_class": True, "is_name": True}
CASES: dict[str, tuple[Callable[[], dist.Distribution], Answers]] = {
    "Bernoulli": (
        lambda: dist.Bernoulli(logits=ETA[:, 0]),
        Answers("binary", "Bernoulli", {"cdf", "quantile", "crps"}, 2, **CLASSES),
    ),
    "Bernoulli of probabilities": (
        lambda: dist.Bernoulli(probs=jnp.array([0.2, 0.7])),
        Answers("binary", "Bernoulli", {"cdf", "quantile", "crps"}, 2, **CLASSES),
    ),
    "Categorical": (
        lambda: dist.Categorical(logits=ETA),
        Answers("classes", "Categorical", {"mean", "variance", "cdf", "quantile", "crps"}, 3, **CLASSES),
    ),
    "Categorical of probabilities": (
        lambda: dist.Categorical(probs=PROBS),
        Answers("classes", "Categorical", {"mean", "variance", "cdf", "quantile", "crps"}, 4, **CLASSES),
    ),
    "ordinal, the user's own": (
        lambda: Ordinal(PROBS),
        Answers("classes", "Ordinal", {"crps"}, 4, is_class=True),
    ),
    "grades, the user's own": (
        lambda: Grades(PROBS),
        Answers("classes", "Grades", {"mean", "variance", "cdf", "quantile", "crps"}, 4, **CLASSES),
    ),
    "tokens with padding": (
        lambda: observed(CategoricalSequence(3, padding=-7), ROWS),
        Answers("tokens", "Tokens", {"mean", "variance", "cdf", "quantile", "crps", "mode"}, 3, -7, (4,)),
    ),
    "tokens without padding": (
        lambda: dist.Categorical(logits=ROWS).to_event(1),
        Answers("tokens", "Categorical", {"mean", "variance", "cdf", "quantile", "crps", "mode"}, 3, None, (4,)),
    ),
    "Poisson": (lambda: dist.Poisson(jnp.ones(2)), Answers("counts", "Poisson", {"probs"})),
    "Binomial": (
        lambda: dist.Binomial(5, logits=ETA[:, 0]),
        Answers("counts", "Binomial", {"probs"}),
    ),
    "a vector of 0 and 1": (
        lambda: dist.Bernoulli(logits=ETA).to_event(1),
        Answers("counts", "Bernoulli", {"probs", "mode"}, event_shape=(3,)),
    ),
    "Normal": (lambda: dist.Normal(ETA[:, 0], 1.0), Answers("numbers", "Normal", {"probs", "mode"}, is_discrete=False)),
    "Normal, masked": (
        lambda: dist.Normal(ETA[:, 0], 1.0).mask(False),
        Answers("numbers", "Normal", {"probs", "mode"}, is_discrete=False),
    ),
    "Normal, expanded": (
        lambda: dist.Normal(0.0, 1.0).expand([2]),
        Answers("numbers", "Normal", {"probs", "mode"}, is_discrete=False),
    ),
    "StudentT": (
        lambda: dist.StudentT(4.0, ETA[:, 0], 1.0),
        Answers("numbers", "StudentT", {"probs", "mode"}, is_discrete=False),
    ),
    "Normal, transformed": (
        lambda: dist.TransformedDistribution(dist.Normal(jnp.zeros(2), 1.0), dist.transforms.AffineTransform(1.0, 2.0)),
        Answers("numbers", "TransformedDistribution", {"probs", "mean", "variance", "mode"}, is_discrete=False),
    ),
    "MultivariateNormal": (
        lambda: dist.MultivariateNormal(ETA, jnp.eye(3)),
        Answers("numbers", "MultivariateNormal", {"probs", "mode"}, event_shape=(3,), is_discrete=False),
    ),
    "OrderedLogistic": (
        lambda: dist.OrderedLogistic(ETA[:, 0], jnp.array([-1.0, 1.0])),
        Answers("classes", "OrderedLogistic", {"mean", "variance", "crps"}, 3, **CLASSES),
    ),
    "interval-censored": (
        lambda: dist.IntervalCensoredDistribution(dist.Weibull(jnp.ones(2), 1.5), jnp.zeros(2), jnp.zeros(2)),
        Answers(
            "numbers",
            "IntervalCensoredDistribution",
            {"probs", "mode", "crps"},
            event_shape=(2,),
            is_discrete=False,
        ),
    ),
    "right-censored": (
        lambda: dist.RightCensoredDistribution(dist.Weibull(jnp.ones(2), 1.5), jnp.array([0, 1])),
        Answers("numbers", "RightCensoredDistribution", {"probs", "mode", "crps"}, is_discrete=False),
    ),
    "ordered classes": (
        lambda: models.Ordinal(3, 2.0).distribution(jnp.asarray(ETA[:, :1]), {}),
        Answers("classes", "OrdinalLogistic", {"mean", "variance", "crps"}, 3, **CLASSES),
    ),
    "bounds": (
        lambda: models.Censored(models.Weibull(1.5)).distribution(jnp.asarray(ETA[:, :1]), {}),
        Answers("numbers", "censored Weibull", {"probs", "mode"}, is_discrete=False),
    ),
    "independent numbers": (
        lambda: observed(models.Independent(models.Normal(0.5), 3), ETA),
        Answers("numbers", "Normal", {"probs", "mode"}, event_shape=(3,), is_discrete=False),
    ),
    "correlated numbers": (
        lambda: observed(models.MultivariateNormal(3), ETA),
        Answers("numbers", "MultivariateNormal", {"probs", "mode"}, event_shape=(3,), is_discrete=False),
    ),
    "share": (
        lambda: models.Beta(5.0).distribution(jnp.asarray(ETA[:, :1]), {}),
        Answers("numbers", "OpenBeta", {"probs", "mode"}, is_discrete=False),
    ),
    "mixture": (mixture, Answers("numbers", "mixture of 3 Logistic", {"probs", "mode"}, is_discrete=False)),
}
every_case = pytest.mark.parametrize("name", CASES)


def observed(observation: Any, eta: np.ndarray) -> dist.Distribution:
    """The distribution of y that an observation makes of outputs."""
    with numpyro.handlers.seed(rng_seed=0):
        return numpyro.handlers.trace(observation).get_trace(jnp.asarray(eta))["y"]["fn"]


def response(name: str) -> Response:
    return response_of("y", CASES[name][0]())


@every_case
def test_it_answers_what_is_known_by_hand(name: str) -> None:
    its, answers = response(name), CASES[name][1]
    assert {field: getattr(its, field) for field in answers._fields if field != "missing"} == {
        field: value for field, value in answers._asdict().items() if field != "missing"
    }
    assert set(its.missing) == answers.missing
    assert its.site == "y"
    assert all(reason.endswith(".") for reason in its.missing.values())
    for summary, reason in its.missing.items():
        with pytest.raises(NotImplementedError, match=f"^{summary}: ") as raised:
            its.expect(summary)
        assert str(raised.value).endswith(reason)


@every_case
def test_it_is_a_value(name: str) -> None:
    its = response(name)
    assert its == response(name)
    assert hash(its) == hash(response(name))
    assert its != replace(its, site="target")
    assert [other for other in CASES if response(other) == its] in ([name], *SAME)


SAME = (
    ["Bernoulli", "Bernoulli of probabilities"],
    ["Normal", "Normal, masked", "Normal, expanded"],
    ["MultivariateNormal", "correlated numbers"],
)


@every_case
def test_it_is_read_from_shapes_alone(name: str) -> None:
    """As in the abstract trace of a model, whose values are gone when it is over."""
    traced: list[dist.Distribution] = []
    jax.eval_shape(lambda: traced.append(CASES[name][0]()))
    assert response_of("y", traced[0]) == response(name)


BY_LOGITS = {
    "Bernoulli": np.stack([np.zeros(2), ETA[:, 0]], axis=-1),
    "Categorical": ETA,
    "tokens with padding": ROWS,
    "tokens without padding": ROWS,
}
BY_PROBS = {
    "ordered classes": np.diff(expit(np.array([-np.inf, -1.0, 1.0, np.inf]) - ETA[:, :1])),
    "OrderedLogistic": np.diff(expit(np.array([-np.inf, -1.0, 1.0, np.inf]) - ETA[:, :1])),
    "Bernoulli of probabilities": np.array([[0.8, 0.2], [0.3, 0.7]]),
    "Categorical of probabilities": PROBS,
    "ordinal, the user's own": PROBS,
    "grades, the user's own": PROBS,
}


@every_case
def test_log_probabilities_of_classes_and_logits(name: str) -> None:
    its, d = response(name), CASES[name][0]()
    if name in BY_LOGITS:
        expected = BY_LOGITS[name]
        np.testing.assert_allclose(its.class_log_probs(d), log_softmax(expected, axis=-1), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(its.logits(d), expected.reshape(-1, expected.shape[-1]), rtol=1e-6)
        return
    assert its.logits(d) is None, "it has no such parameter, or no classes"
    if name in BY_PROBS:
        np.testing.assert_allclose(np.exp(its.class_log_probs(d)), BY_PROBS[name], rtol=1e-5)
    else:
        with pytest.raises(NotImplementedError, match="probs: y can be"):
            its.class_log_probs(d)


def test_labels_symbols_and_padding() -> None:
    classes, tokens = response("Categorical"), response("tokens with padding")
    soft = np.array([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3]])
    np.testing.assert_array_equal(classes.labels(soft), [1, 0])
    np.testing.assert_array_equal(classes.labels([2, 0]), [2, 0])
    np.testing.assert_array_equal(response("MultivariateNormal").labels(ETA), ETA)
    y = np.array([[0, 2, -7, -7], [-7, 1, 1, 0]])
    np.testing.assert_array_equal(tokens.is_known(y), y >= 0)
    np.testing.assert_array_equal(tokens.labels(y), y)
    num_classes, values, counts = tokens.symbols(y)
    assert num_classes == 3
    np.testing.assert_array_equal(values, [0, 2, 1, 1, 0])
    np.testing.assert_array_equal(counts, [2, 3])
    num_classes, values, counts = classes.symbols([2, 0, 1])
    assert num_classes == 3
    assert response("Poisson").symbols([2, 0, 1]) is None
    assert classes.count_tokens([2, 0, 1]) is None
    np.testing.assert_array_equal(tokens.count_tokens(y), [2, 3])
    np.testing.assert_array_equal(values, [2, 0, 1])
    np.testing.assert_array_equal(counts, [1, 1, 1])


def test_soft_labels_are_those_of_classes() -> None:
    """In the fit their distribution is another; without y it is that of the classes."""

    def model(x: Array, y: Array | None = None) -> None:
        w = numpyro.sample("w", dist.Normal(jnp.zeros((2, 3)), 1.0).to_event(2))
        Categorical(3)(x @ w, y)

    x, soft = np.ones((4, 2), np.float32), np.full((4, 3), 1 / 3, np.float32)
    result = check_model(model, x, soft).response
    assert result == check_model(model, x, np.zeros(4, np.int32)).response
    assert result.kind == "classes"
    result.check(soft)
    with pytest.raises(ValueError, match="y, row 0: expected probabilities that sum to 1"):
        result.check(2 * soft)


GOOD_AND_BAD: dict[str, tuple[Any, Any, str]] = {
    "Bernoulli": (
        [0, 1],
        [1, 2],
        r"y, row 1: expected 0 or 1; got 2; the values of y are \[1, 2\]. Number the classes",
    ),
    "Categorical": ([0, 2], [0, 3], "expected an integer from 0 to 2; .* There are 4 classes in y"),
    "tokens with padding": (
        [[0, 1, 2, -7], [-7] * 4],
        [[0, 1, 2, -7], [0, 1, -1, -1]],
        r"y, row 1, column 2: expected a token, from 0 to 2, or -7 for padding; got -1. "
        r"Write y = np.where\(y < 0, -7, y\)",
    ),
    "tokens without padding": ([[0, 1, 2, 2]], [[0, 1, 2, -1]], "y, row 0, column 3: expected an integer from 0 to 2"),
    "Poisson": ([0, 9], [0, -1], "y, row 1: expected a value in IntegerNonnegative.*; got -1"),
    "share": ([0.5, 0.1], [0.5, 1.0], "y, row 1: expected a number between 0 and 1; got 1.0"),
    "ordered classes": ([0, 2], [0, 3], "expected an integer from 0 to 2; .* There are 4 classes in y"),
    "bounds": (
        [[1.0, 1.0], [0.0, np.inf]],
        [[1.0, 1.0], [2.0, 1.0]],
        "y, row 1: expected a lower bound up to the upper",
    ),
    "Binomial": ([0, 5], [0, 6], r"y, row 1: expected an integer from 0 to \[?5\]?; got 6"),
    "Normal": ([0.0, -1.0], [0.0, np.inf], "y, row 1: expected a finite number; got inf"),
}


@pytest.mark.parametrize("name", GOOD_AND_BAD)
def test_values_that_y_cannot_have_raise(name: str) -> None:
    good, bad, match = GOOD_AND_BAD[name]
    response(name).check(np.asarray(good))
    with pytest.raises(ValueError, match=match):
        response(name).check(np.asarray(bad))


def test_padding_alone_is_nothing_to_fit() -> None:
    tokens = response("tokens with padding")
    tokens.check_not_all_padding(np.array([[-7, 0, -7, -7]]))
    with pytest.raises(ValueError, match="expected tokens to fit; got only padding, -7"):
        tokens.check_not_all_padding(np.full((2, 4), -7))
    response("Normal").check_not_all_padding(np.zeros(2))


MISMATCHES: dict[tuple[str, str], tuple[str, str] | None] = {
    ("Normal", "StudentT"): None,
    ("Bernoulli", "Categorical of probabilities"): ("2 classes", "4 classes"),
    ("Normal", "Poisson"): ("a density of y", "a probability of y"),
    ("Poisson", "Bernoulli"): ("no classes", "2 classes"),
    ("Categorical", "tokens with padding"): ("3 classes", "3 kinds of tokens"),
    ("Normal", "MultivariateNormal"): ("a y of shape () per row", "a y of shape (3,) per row"),
}


@pytest.mark.parametrize("names", MISMATCHES)
def test_what_keeps_two_from_being_compared(names: tuple[str, str]) -> None:
    one, other = map(response, names)
    result = one.mismatch(other)
    assert (None if result is None else result[:2]) == MISMATCHES[names]
    assert one.mismatch(one) is None
    assert result is None or result[2].endswith(".")
    site = one.mismatch(replace(one, site="target"))
    assert site is not None
    assert site[:2] == ("the observed site 'y'", "the observed site 'target'")


def test_expect_class_gives_their_number_or_raises() -> None:
    assert response("Bernoulli").expect_class("compress") == 2
    for name in ("Normal", "Poisson", "tokens with padding"):
        with pytest.raises(TypeError, match="compress: expected y to be a class; it can be"):
            response(name).expect_class("compress")


def test_a_distribution_of_the_users_own_is_predicted() -> None:
    """By what it states alone: probabilities, mean, and cdf."""

    def model(x: Array, y: Array | None = None) -> None:
        w = numpyro.sample("w", dist.Normal(0.0, 1.0))
        with numpyro.plate("row", len(x)):
            numpyro.sample("y", Ordinal(jax.nn.softmax(w * x[:, :1] * jnp.arange(4.0))), obs=y)

    x = np.linspace(-1, 1, 20, dtype=np.float32)[:, None]
    y = np.clip(np.round(2 * x[:, 0] + 1.5 + np.sin(7 * x[:, 0])), 0, 3).astype(int)
    result = fit(model, MLE(num_steps=50, polish=False), x, y, key=0, progress=False).predict(x)
    assert isinstance(result, predictive.Predictive)
    assert result.num_classes == 4
    np.testing.assert_allclose(result.probs.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(result.mean, result.probs @ np.arange(4.0), rtol=1e-5)
    np.testing.assert_allclose(result.cdf(np.ones(20)), result.probs[:, :2].sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(result.component_means[0], result.mean, rtol=1e-5)
    np.testing.assert_array_equal(result.mode, result.probs.argmax(axis=1))
    np.testing.assert_array_equal(result.quantile(0.5), (result.probs.cumsum(axis=1) < 0.5).sum(axis=1))


class WithoutSample(dist.Distribution):
    """A distribution of the user's own that has a density, and nothing else."""

    arg_constraints: ClassVar = {"loc": constraints.real}
    support = constraints.real
    pytree_data_fields = ("loc",)

    def __init__(self, loc: Array, *, validate_args: bool | None = None) -> None:
        self.loc = loc
        super().__init__(jnp.shape(loc), (), validate_args=validate_args)

    def log_prob(self, value: Array) -> Array:
        return -jnp.square(value - self.loc) - np.log(np.pi) / 2


class WithoutDensity(WithoutSample):
    """The same without its density."""

    log_prob = dist.Distribution.log_prob


LINES: dict[str, Callable[[Array], dist.Distribution]] = {
    "without sample": WithoutSample,
    "half Student-t": lambda loc: dist.TruncatedDistribution(dist.StudentT(3.0, loc, 1.0), low=0.0),
    "vector": lambda loc: dist.Normal(loc[:, None] * jnp.ones(2), 1.0).to_event(1),
    "half Student-t of censored": lambda loc: dist.LeftCensoredDistribution(
        dist.TruncatedDistribution(dist.StudentT(3.0, loc, 1.0), low=0.0), censored=jnp.zeros(loc.shape)
    ),
    "without density": WithoutDensity,
}
GAPS: dict[tuple[str, str], tuple[type[Exception], str]] = {
    ("without sample", "mean"): (NotImplementedError, "mean: WithoutSample has no mean and variance; use sample"),
    ("without sample", "sample"): (NotImplementedError, r"WithoutSample\.sample is not implemented\. Implement it"),
    ("half Student-t", "mean"): (NotImplementedError, "mean: LeftTruncatedDistribution has no mean"),
    ("half Student-t", "sample"): (
        ImportError,
        r"NumPyro computes StudentT\.icdf by another package: .*tensorflow_prob",
    ),
    ("without sample", "std"): (NotImplementedError, "std: WithoutSample has no mean and variance; use sample"),
    ("without sample", "interval"): (NotImplementedError, "interval: WithoutSample has no cdf"),
    ("vector", "mode"): (NotImplementedError, "mode: y is continuous, and its density over draws may have many maxima"),
    ("half Student-t of censored", "mean"): (NotImplementedError, "mean: LeftCensoredDistribution has no mean"),
}
"""(distribution of y, summary) -> the error of what it does not have."""


def line_of(name: str) -> Callable[..., None]:
    def model(x: Array, y: Array | None = None) -> None:
        w = numpyro.sample("w", dist.Normal(0.0, 1.0))
        with numpyro.plate("row", len(x)):
            numpyro.sample("y", LINES[name](w * x), obs=y)

    return model


@pytest.mark.parametrize(("name", "asked"), GAPS)
def test_what_a_distribution_does_not_have_is_named(name: str, asked: str) -> None:
    x = np.linspace(0.5, 2.0, 4, dtype=np.float32)
    y = np.stack([x, x + 1], axis=1) if name == "vector" else x
    density, _ = check_problem(line_of(name), x, y)
    result = predictive.Predictive(density, {"w": jnp.array([1.0])}, x)
    asks = {
        "mean": lambda: result.mean,
        "std": lambda: result.std,
        "interval": lambda: result.interval(),
        "mode": lambda: result.mode,
        "cdf": lambda: result.cdf(y),
        "quantile": lambda: result.quantile(0.5),
        "sample": lambda: result.sample(0),
    }
    exception, match = GAPS[name, asked]
    with pytest.raises(exception, match=match):
        asks[asked]()


def test_a_density_that_is_not_implemented_is_named() -> None:
    x = np.linspace(0.5, 2.0, 4)
    with pytest.raises(NotImplementedError, match=r"WithoutDensity\.log_prob is not implemented\. Implement it"):
        check_problem(line_of("without density"), x, x)


def test_a_latent_support_without_coordinates_is_named() -> None:
    def model(x: Array, y: Array | None = None) -> None:
        w = numpyro.sample("w", dist.ProjectedNormal(jnp.ones(3)))
        with numpyro.plate("row", len(x)):
            numpyro.sample("y", dist.Normal(w[0] * x, 1.0), obs=y)

    with pytest.raises(
        ValueError, match=r"Latent site 'w': expected a support that is mapped to real numbers; got Sphere"
    ):
        check_problem(model, np.ones(4), np.ones(4))


@pytest.mark.parametrize("name", ["without sample", pytest.param("half Student-t", marks=pytest.mark.slow)])
def test_a_fit_whose_y_cannot_be_drawn_is_saved(name: str, tmp_path: Path) -> None:
    x, model = np.linspace(0.5, 2.0, 4), line_of(name)
    result = fit(model, MLE(num_steps=2, polish=False), x, x, key=0, progress=False)
    again = Fit.load(result.save(tmp_path / "fit.nc"), model)
    np.testing.assert_array_equal(again.log_likelihood(x, x), result.log_likelihood(x, x))
