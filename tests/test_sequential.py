"""The prequential code: each block costs what a fit of the rows before it says."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from scipy.special import betaln
from scipy.stats import beta
from sklearn.linear_model import LogisticRegression

from flatprior.inference import MAP, MLE, Code, Reason, Status, fit
from flatprior.inference.density import Density
from flatprior.inference.information import code_length, prequential
from flatprior.inference.method import Outcome
from flatprior.inference.rows import Data
from flatprior.models import MLP, Bernoulli, Categorical, Model, Normal, gaussian

SPREAD = 1.5
MODEL = Model(MLP(), Bernoulli(), gaussian(SPREAD))
CONSTANT = np.zeros((40, 1))


@pytest.mark.parametrize(("observation", "kind"), [(Bernoulli(), "binary"), (Categorical(3), "classes")])
@pytest.mark.slow
def test_it_is_the_cost_of_each_block_by_another_library(
    observation: Any, kind: str, data_sets: dict[str, Any]
) -> None:
    """Logistic and softmax regression by scikit-learn, with the same penalty on the intercept as on the slopes."""
    x, y = data_sets[kind]
    fitted = prequential(Model(MLP(), observation, gaussian(SPREAD)), MAP(), x, y, key=0, ends=(12, 20, 40))
    num_classes = fitted.bits[0]  # the first block: log2 K
    np.testing.assert_allclose(fitted.bits[:12], num_classes)
    with_one = np.column_stack([x, np.ones(len(x))])
    expected = [12 * num_classes]
    for start, end in ((12, 20), (20, 40)):
        other = LogisticRegression(C=SPREAD**2, fit_intercept=False, tol=1e-10, max_iter=10_000)
        log_probs = other.fit(with_one[:start], y[:start]).predict_log_proba(with_one[start:end])
        expected.append(-log_probs[np.arange(end - start), y[start:end]].sum() / math.log(2))
    np.testing.assert_allclose(fitted.block_bits, expected, rtol=1e-4)
    assert fitted.total == pytest.approx(sum(expected), rel=1e-4)
    assert [status.level for status in fitted.statuses] == ["ok", "ok"]
    labels = fit(Model(MLP(), observation, gaussian(SPREAD)), MAP(num_steps=2, polish=False), x, y, key=0)
    result = code_length(labels, x, y)
    assert (fitted.uniform, fitted.base_rate) == (result.uniform, result.base_rate)


@pytest.mark.slow
def test_maximum_likelihood_of_a_coin_costs_the_frequencies_so_far() -> None:
    y = np.tile([1, 0, 1, 1], 10)
    fitted = prequential(Model(MLP(), Bernoulli()), MLE(), CONSTANT, y, key=0, num_blocks=4)
    assert fitted.ends == (5, 10, 20, 40)
    for start, end in ((5, 10), (10, 20), (20, 40)):
        p = y[:start].mean()
        np.testing.assert_allclose(fitted.bits[start:end], -np.log2(np.where(y[start:end] == 1, p, 1 - p)), rtol=1e-4)


@pytest.mark.slow
def test_a_class_that_the_prefix_lacks_costs_what_it_costs_and_the_status_says_why() -> None:
    y = np.array([0, 1] * 10 + [2] * 20)
    fitted = prequential(Model(MLP(), Categorical(3)), MLE(), CONSTANT, y, key=0, ends=[10, 20, 40])
    assert fitted.statuses[-1].level == "failed"
    assert fitted.block_bits[-1] > 100
    assert fitted.total > fitted.uniform
    assert "Fit of the first 20 rows: failed: There is no maximum: class 2 occurs in none" in str(fitted)
    prior = prequential(Model(MLP(), Categorical(3), gaussian(1.0)), MAP(), CONSTANT, y, key=0, ends=[10, 20, 40])
    assert prior.block_bits[-1] < fitted.block_bits[-1]


@dataclass(frozen=True)
class Exact:
    """Draws that are the quantiles of the posterior of a coin under a uniform prior: the mean of them is exact."""

    name: ClassVar = "Exact"
    leaves_out: ClassVar = "It leaves out nothing."
    kind: ClassVar = "approximation"
    streams: ClassVar = False

    def run(self, density: Density, data: Data, *, key: Any, progress: bool) -> Outcome:
        ones, n = int(data.y.sum()), len(data.y)
        draws = beta(1 + ones, 1 + n - ones).ppf((np.arange(4000) + 0.5) / 4000)
        return Outcome({"p": draws[None].astype(np.float32)}, Status())


def test_one_row_per_block_and_the_exact_posterior_give_the_evidence() -> None:
    """But for the first row, for which a coin under a uniform prior predicts 1/2 as the uniform code does."""

    def coin(x: jax.Array, y: jax.Array | None = None) -> None:
        p = numpyro.sample("p", dist.Uniform(0.0, 1.0))
        numpyro.sample("y", dist.Bernoulli(probs=p * jnp.ones(len(x))), obs=y)

    y = np.array([1, 1, 0, 1, 1, 1, 0, 1])
    fitted = prequential(coin, Exact(), CONSTANT[:8], y, key=0, ends=range(1, 9))
    assert fitted.total == pytest.approx(-betaln(1 + y.sum(), 1 + (1 - y).sum()) / math.log(2), abs=1e-3)


@pytest.mark.slow
def test_the_same_key_gives_the_same_bits_and_frames_are_rows(data_sets: dict[str, Any]) -> None:
    x, y = data_sets["binary"]
    model = Model(MLP((2,)), Bernoulli(), gaussian(1.0))
    method = MAP(num_steps=20, batch_size=5, polish=False)
    one = prequential(model, method, x, y, key=3, num_blocks=3)
    again = prequential(
        model, method, pd.DataFrame(x, columns=["a", "b"]), pd.Series(y), key=jax.random.key(3), num_blocks=3
    )
    np.testing.assert_array_equal(one.bits, again.bits)
    assert (prequential(model, method, x, y, key=4, num_blocks=3).bits != one.bits).any()


@pytest.mark.slow
def test_the_table_has_one_row_per_block() -> None:
    fitted = prequential(MODEL, MAP(num_steps=5, polish=False), CONSTANT, np.arange(40) % 2, key=0, ends=[8, 20, 40])
    table = fitted.to_dataframe()
    assert table["fitted"].tolist() == [0, 8, 20]
    assert table["coded"].tolist() == [8, 12, 20]
    assert table["bits"].sum() == pytest.approx(fitted.total)
    np.testing.assert_allclose(
        table["bits_per_row"], [fitted.bits[:8].mean(), fitted.bits[8:20].mean(), fitted.bits[20:].mean()]
    )
    assert table["status"].tolist() == ["no fit", *(status.level for status in fitted.statuses)]
    assert str(fitted).split()[:3] == ["block", "fitted", "coded"]
    assert prequential(MODEL, MAP(), CONSTANT, np.arange(40) % 2, key=0, num_blocks=1).total == 40


ENDS = {3: (10, 20, 40), 7: (1, 2, 3, 5, 10, 20, 40)}


@pytest.mark.parametrize("num_blocks", ENDS)
def test_blocks_double(num_blocks: int) -> None:
    from flatprior.inference.information.sequential import _doubling_ends

    assert _doubling_ends(num_blocks, 40) == ENDS[num_blocks]
    for num_rows in (1, 2, 3, 5, 31, 32, 33):
        most = 1 + (num_rows - 1).bit_length()
        assert _doubling_ends(most, num_rows)[0] == 1
        with pytest.raises(ValueError, match=f"num_blocks from 1 to {most} for {num_rows} rows"):
            _doubling_ends(most + 1, num_rows)


BAD: dict[str, tuple[Any, Any, Any, type[Exception], str]] = {
    # observation, y, number of blocks or their ends
    "y is a number": (Normal(1.0), np.ones(40), 3, ValueError, r"expected y to be a class.*code_length\(fit, x\[k:\]"),
    "soft labels": (Categorical(2), np.full((40, 2), 0.5), 3, ValueError, r"expected one label per row.*got \(40, 2\)"),
    "another class": (Bernoulli(), np.arange(40), 3, ValueError, "y, row 2: expected 0 or 1; got 2"),
    "no blocks": (Bernoulli(), np.ones(40), 0, ValueError, "expected a positive integer as num_blocks; got 0"),
    "too many": (Bernoulli(), np.ones(40), 8, ValueError, "expected num_blocks from 1 to 7 for 40 rows; got 8"),
    "short": (
        Bernoulli(),
        np.ones(40),
        [10, 20],
        ValueError,
        r"ends that ascend to the number of rows, 40; got \[10, 20\]",
    ),
    "too long": (Bernoulli(), np.ones(40), [10, 41], ValueError, "to the number of rows, 40"),
    "not ascending": (Bernoulli(), np.ones(40), [20, 10, 40], ValueError, "ascend to the number of rows"),
    "from 0": (Bernoulli(), np.ones(40), [0, 40], ValueError, "ascend to the number of rows"),
    "none": (Bernoulli(), np.ones(40), [], ValueError, "ascend to the number of rows"),
    "half a row": (Bernoulli(), np.ones(40), [10.5, 40], TypeError, "integer"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_raises(name: str) -> None:
    observation, y, blocks, error, message = BAD[name]
    options: dict[str, Any] = {"num_blocks" if isinstance(blocks, int) else "ends": blocks}
    with pytest.raises(error, match=message):
        prequential(Model(MLP(), observation), MLE(num_steps=5), CONSTANT, y, key=0, **options)


def test_an_error_names_the_prefix() -> None:
    x = np.concatenate([1e6 + np.array([0.0, 1.0] * 4), np.arange(32) * 1e6])[:, None]
    with pytest.raises(ValueError, match="cannot be distinguished") as error:
        prequential(MODEL, MLE(num_steps=5), x, np.arange(40) % 2, key=0, ends=[8, 40])
    assert error.value.__notes__ == ["Raised by the fit of the first 8 rows."]


@dataclass(frozen=True)
class Interrupted:
    """A method whose run was ended by Ctrl-C."""

    name: ClassVar = "Interrupted"
    kind: ClassVar = "point"
    streams: ClassVar = False

    def run(self, density: Density, data: Data, *, key: Any, progress: bool) -> Outcome:
        draws = {site: np.zeros((1, 1, *shape), np.float32) for site, shape in density.structure.latents.items()}
        return Outcome(draws, Status((), (Reason.of(Code.INTERRUPTED, done=1, total=2, unit="steps"),)))


def test_an_interrupt_ends_it() -> None:
    with pytest.raises(KeyboardInterrupt):
        prequential(MODEL, Interrupted(), CONSTANT, np.arange(40) % 2, key=0)
