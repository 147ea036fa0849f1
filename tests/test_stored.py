"""Rows that stay on disk, or with another library: fits, scores and messages are those of rows in memory."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose
from tqdm.auto import tqdm

from flatprior.inference import (
    MAP,
    MLE,
    NUTS,
    SGMCMC,
    Ensemble,
    Fit,
    Variational,
    blocks,
    chunks,
    compare,
    cross_validate,
    explain,
    fit,
    mapped,
    rows_of,
    standardize,
    stored,
)
from flatprior.inference.criticism import calibration
from flatprior.inference.labels import labelled
from flatprior.inference.methods import batches, prior_path
from flatprior.inference.methods.batches import Batches
from flatprior.inference.methods.descent import split_validation
from flatprior.inference.methods.orders import order_of
from flatprior.inference.methods.representative import representative
from flatprior.inference.reasons import Code
from flatprior.inference.rows import Data
from flatprior.models import MLP, Categorical, Model, Normal, gaussian

from .tables import some_by_default

NUM_ROWS = 1_000
MODEL = Model(MLP([8]), Normal(0.3), gaussian(1.0))
BY_BATCHES = MAP(batch_size=64, num_steps=100, polish=False)
APPROXIMATIONS: dict[str, Any] = {
    "SGMCMC": SGMCMC(num_warmup=50, num_samples=8, thinning=9, num_chains=2, batch_size=64, start=BY_BATCHES),
    "Variational": Variational(num_steps=50, num_samples=20, batch_size=64, start=BY_BATCHES),
}
OnDisk = Callable[[np.ndarray], np.memmap]


class Foreign:
    """An array of another library, which has a shape, a type, and rows by slices and by increasing indices, as HDF5."""

    def __init__(self, values: np.ndarray) -> None:
        self._values, self.shape, self.dtype = values, values.shape, values.dtype
        self.rows_read = 0

    def __getitem__(self, rows: Any) -> np.ndarray:
        if not isinstance(rows, slice):
            assert (np.diff(rows) > 0).all()
        self.rows_read += len(self._values[rows])
        return self._values[rows]


class Table:
    """An Arrow table, as far as rows are concerned."""

    def __init__(self, columns: dict[str, np.ndarray]) -> None:
        self._columns = columns
        self.column_names, self.num_rows = list(columns), len(next(iter(columns.values())))
        self.nbytes = sum(column.nbytes for column in columns.values())
        kinds = {name: SimpleNamespace(to_pandas_dtype=lambda c=column: c.dtype) for name, column in columns.items()}
        self.schema = [SimpleNamespace(type=kinds[name]) for name in columns]
        nulls = {name: int(np.isnan(column).sum()) for name, column in columns.items()}
        self.columns = [SimpleNamespace(null_count=count) for count in nulls.values()]

    def slice(self, offset: int, length: int) -> "Table":
        return Table({name: column[offset : offset + length] for name, column in self._columns.items()})

    def take(self, rows: np.ndarray) -> "Table":
        return Table({name: column[rows] for name, column in self._columns.items()})

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.column_stack(list(self._columns.values()))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays of a few kilobytes are not read whole, and parts have some hundred rows."""
    monkeypatch.setattr(stored, "READ_BYTES", 2_000)
    monkeypatch.setattr(stored, "PART_BYTES", 5_000)


@pytest.fixture
def on_disk(tmp_path: Path) -> OnDisk:
    """Return a function that writes an array to disk, and returns it as a memory map."""

    def write(values: np.ndarray) -> np.memmap:
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.npy"
        np.save(file, values)
        return np.load(file, mmap_mode="r")  # type: ignore[no-any-return]

    return write


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(NUM_ROWS, 4)).astype(np.float32)
    return x, (np.sin(x).sum(axis=1) + 0.3 * rng.normal(size=NUM_ROWS)).astype(np.float32)


@pytest.fixture(scope="module")
def in_memory(rows: tuple[np.ndarray, np.ndarray]) -> Fit:
    return fit(MODEL, BY_BATCHES, *rows, key=0)


def assert_same(one: Fit, other: Fit) -> None:
    assert all((one.draws[site] == other.draws[site]).all() for site in one.draws)
    assert (one.stats["loss"] == other.stats["loss"]).all()
    assert str(one) == str(other)
    assert one.rows == other.rows


class TestFits:
    @pytest.mark.parametrize("kind", ["memory map", "foreign"])
    def test_a_fit_by_batches_has_the_bits_of_one_in_memory(
        self, rows: tuple[np.ndarray, np.ndarray], in_memory: Fit, on_disk: OnDisk, kind: str
    ) -> None:
        x, y = rows
        far: Any = on_disk(x) if kind == "memory map" else Foreign(x)
        assert_same(fit(MODEL, BY_BATCHES, far, on_disk(y), key=0), in_memory)

    @pytest.mark.parametrize("when", ["always", "later", "at first"])
    def test_pages_that_are_missing_are_read_by_threads(
        self,
        rows: tuple[np.ndarray, np.ndarray],
        in_memory: Fit,
        on_disk: OnDisk,
        monkeypatch: pytest.MonkeyPatch,
        when: str,
    ) -> None:
        """And steps read them themselves again when none are missing, with the same bits."""
        calls, kinds = [], []
        monkeypatch.setattr(blocks, "BLOCK_SECONDS", 1e-9)  # steps one by one
        monkeypatch.setattr(batches, "JUDGED_ROWS", 0)
        monkeypatch.setattr(batches, "CLEAN_PARTS", 2)
        are_missed = {"always": lambda: True, "later": lambda: len(calls) > 5, "at first": lambda: len(calls) < 5}[when]
        monkeypatch.setattr(mapped.Misses, "since", lambda self: (calls.append(1), 1_000 * are_missed())[1])
        parts = Batches.parts

        def noted(self: Batches, begin: int, end: int) -> Iterator[Any]:
            for part in parts(self, begin, end):
                kinds.append(part.data.num_rows == NUM_ROWS)
                yield part

        monkeypatch.setattr(Batches, "parts", noted)
        assert_same(fit(MODEL, BY_BATCHES, *map(on_disk, rows), key=0), in_memory)
        assert kinds[0] == (when == "later")
        assert kinds[-1] == (when == "at first")
        assert False in kinds

    def test_rows_in_a_memory_map_are_those_of_the_device(
        self, rows: tuple[np.ndarray, np.ndarray], on_disk: OnDisk
    ) -> None:
        device = jax.devices("cpu")[0]
        x, y = (stored.stored(on_disk(each)) for each in rows)
        there = mapped.on_cpu(Data(x, y), device)
        assert there is not None
        assert there.x.unsafe_buffer_pointer() == x.source.ctypes.data
        with_copy = mapped.on_cpu(Data(x, rows[1]), device)
        assert with_copy is not None
        assert (with_copy.y == rows[1]).all()
        for other in (x.astype(np.float16), x.take(np.arange(9)), stored.stored(Foreign(rows[0])), rows[0]):
            assert mapped.on_cpu(Data(other, rows[1][: len(other)]), device) is None

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "method",
        [
            Ensemble(BY_BATCHES, num_members=3),
            MLE(batch_size=64, num_steps=100, polish=False, validation_fraction=0.1),
            MAP(batch_size=64, num_steps=100, num_restarts=2, polish=False),
        ],
        ids=["Ensemble", "MLE with validation rows", "MAP with restarts"],
    )
    def test_other_methods_by_batches(self, rows: tuple[np.ndarray, np.ndarray], on_disk: OnDisk, method: Any) -> None:
        x, y = rows
        assert_same(fit(MODEL, method, on_disk(x), on_disk(y), key=0), fit(MODEL, method, x, y, key=0))

    @pytest.mark.parametrize("name", some_by_default(APPROXIMATIONS, "Variational"))
    def test_approximations_by_batches_have_the_bits_of_rows_in_memory(
        self, rows: tuple[np.ndarray, np.ndarray], on_disk: OnDisk, name: str
    ) -> None:
        (x, y), method = rows, APPROXIMATIONS[name]
        near, far = (fit(MODEL, method, *each, key=0) for each in (rows, (on_disk(x), on_disk(y))))
        assert all((near.draws[site] == far.draws[site]).all() for site in near.draws)
        assert str(near) == str(far)

    @pytest.mark.slow
    def test_a_method_that_needs_all_rows_reads_them(
        self, rows: tuple[np.ndarray, np.ndarray], on_disk: OnDisk
    ) -> None:
        x, y = rows
        method = NUTS(num_warmup=5, num_samples=4, num_chains=1, start=None)
        near, far = (fit(MODEL, method, each, y, key=0) for each in (x, on_disk(x)))
        assert all((near.draws[site] == far.draws[site]).all() for site in near.draws)

    def test_a_table_of_arrow_is_read_in_parts_and_has_names(
        self, rows: tuple[np.ndarray, np.ndarray], in_memory: Fit
    ) -> None:
        x, y = rows
        table = Table({name: x[:, i] for i, name in enumerate("abcd")})
        result = fit(MODEL, BY_BATCHES, table, y, key=0)
        assert_same(result, in_memory)
        assert result.layout.columns == ("a", "b", "c", "d")
        assert (result.predict(table.slice(0, 20)).mean == in_memory.predict(x[:20]).mean).all()
        with pytest.raises(ValueError, match=r"^x: expected the columns \['a', 'b', 'c', 'd'\], in this order"):
            result.predict(Table({name: x[:, i] for i, name in enumerate("abdc")}))

    def test_rows_that_do_not_fit_in_memory_are_refused_by_name(
        self, rows: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stored, "free_memory", lambda: 30_000.0)  # x has 16,000 bytes
        x, y = Foreign(rows[0]), rows[1]
        with pytest.raises(ValueError, match=r"^NUTS: expected rows of at most half of the free memory, 2.79e-05 GiB"):
            fit(MODEL, NUTS(), x, y, key=0)
        with pytest.raises(ValueError, match=r"^prior_path: expected rows of at most half of the free memory"):
            prior_path(MODEL, x, y, key=0)
        assert fit(MODEL, BY_BATCHES, x, y, key=0).rows

    def test_validation_rows_are_bounded_in_bytes(
        self, rows: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("flatprior.inference.methods.descent.READ_BYTES", 1_000)  # a row has 20 bytes
        data = Data(stored.stored(Foreign(rows[0])), rows[1])
        settings = MAP(batch_size=100, validation_fraction=0.5)
        fitted, validation = split_validation(settings, jax.random.key(0), data)
        assert validation is not None
        assert (fitted.num_rows, validation.num_rows) == (950, 50)

    @pytest.mark.parametrize("where", some_by_default(["memory", "disk"], "disk"))
    def test_rows_without_y_and_weights_of_rows(
        self, rows: tuple[np.ndarray, np.ndarray], on_disk: OnDisk, where: str
    ) -> None:
        x, y = rows
        gaps = np.where(np.arange(NUM_ROWS) % 10 == 3, np.nan, y)
        weights = np.where(np.arange(NUM_ROWS) % 7 == 2, 0.0, 2.0)
        near, far = (
            fit(MODEL, BY_BATCHES, *each, weights=weights, key=0)
            for each in ((x, gaps), (on_disk(x), on_disk(gaps) if where == "disk" else gaps))
        )
        assert_same(far, near)
        assert far.was_fitted_to(on_disk(x), on_disk(gaps), weights)
        assert far.counts == near.counts
        assert far.counts is not None
        assert far.counts.unlabelled == 100

    def test_labels_that_are_missing_on_disk_are_those_in_memory(self, on_disk: OnDisk) -> None:
        rng = np.random.default_rng(1)
        pairs = rng.normal(size=(NUM_ROWS, 2)).astype(np.float32)
        pairs[rng.random(pairs.shape) < 0.3] = np.nan
        classes = np.where(rng.random(NUM_ROWS) < 0.2, np.nan, rng.integers(0, 3, NUM_ROWS)).astype(np.float32)
        x = np.ones((NUM_ROWS, 1))
        for y in (pairs, classes):
            near, far = labelled(x, y), labelled(x, on_disk(y))
            assert far.counts == near.counts
            np.testing.assert_array_equal(far.known, near.known)
            np.testing.assert_array_equal(far.kept, near.kept)
            assert far.y.dtype == near.y.dtype
            np.testing.assert_array_equal(np.asarray(far.y), near.y)
            np.testing.assert_array_equal(np.asarray(far.scored[1]), near.scored[1])

    def test_narrow_types_stay_narrow(self, rows: tuple[np.ndarray, np.ndarray]) -> None:
        images = Foreign(np.arange(NUM_ROWS * 4, dtype=np.uint8).reshape(NUM_ROWS, 4))
        data = Data(stored.stored(images))
        assert data.take(np.array([5, 3])).x.dtype == np.uint8
        assert data.few().num_rows == 1
        assert images.rows_read == 3

    def test_every_row_of_an_epoch_is_in_one_batch(self, on_disk: OnDisk) -> None:
        x = on_disk(np.tile(np.arange(600, dtype=np.float32)[:, None], 3))
        key = jax.random.key(3)
        with Batches(Data(stored.stored(x)), 60, 20, key, lambda data: data) as batches:
            parts = [batches[number].x[:, 0] for number in range(-(-20 // batches.num_steps))]
        assert len(parts) > 1
        read = np.concatenate(parts)
        for epoch in range(2):
            assert (read[epoch * 600 : (epoch + 1) * 600] == order_of(key, epoch, 600)).all()

    def test_the_end_is_judged_by_rows_that_stand_for_all(self, rows: tuple[np.ndarray, np.ndarray]) -> None:
        x, _ = rows
        labels = (x[:, 0] > 0).astype(int)
        x = x + 2 * np.sign(x) * (np.arange(4) == 0)
        model = Model(MLP(), Categorical(2), gaussian(1.0))
        method = MLE(batch_size=100, num_steps=200)
        assert fit(model, method, Foreign(x), labels, key=0).status.codes == (Code.SEPARABLE,)
        labels[517] = 1 - labels[517]  # one row in a thousand is on the other side
        assert Code.SEPARABLE not in fit(model, method, Foreign(x), labels, key=0).status.codes

    def test_all_restarts_pay_for_the_judgement_of_the_best(
        self, rows: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        efforts, effort = [], MAP.effort
        monkeypatch.setattr(
            MAP, "effort", lambda self, *args: (efforts.append(self.num_restarts), effort(self, *args))[1]
        )
        x, y = rows
        fit(MODEL, MAP(batch_size=64, num_steps=2, num_restarts=3, polish=False), Foreign(x), y, key=0)
        assert set(efforts) == {3}

    def test_the_rows_that_stand_for_all_have_their_log_likelihood(
        self, rows: tuple[np.ndarray, np.ndarray], in_memory: Fit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("flatprior.inference.methods.representative.SPACED_ROWS", 300)
        monkeypatch.setattr("flatprior.inference.methods.representative.EXTREME_ROWS", 20)
        x, y = rows
        data = Data(stored.stored(Foreign(x)), y)
        u = {site: value[0, 0] for site, value in in_memory.draws.items()}
        surface = BY_BATCHES.surface(in_memory.density, data)
        some = representative(surface, u, data)
        each = in_memory.log_likelihood(x, y)[0, 0]
        assert some.total_weight == pytest.approx(NUM_ROWS)
        assert {each.min(), each.max()} <= set(in_memory.log_likelihood(some.x, some.y)[0, 0])
        middle = np.sort(each)[20:-20]
        error = NUM_ROWS * middle.std() / np.sqrt(300)
        assert float(surface.log_likelihood(u, some).sum()) == pytest.approx(each.sum(), abs=4 * error)

    def test_a_bar_is_shown_unless_it_is_not_wanted(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stored, "tqdm", lambda **settings: tqdm(**{**settings, "delay": 0, "mininterval": 0}))
        for are_shown in (True, False):
            with stored.bars(are_shown=are_shown):
                for _ in stored.in_parts(stored.stored(Foreign(np.zeros((2_000, 4)))), "checking x"):
                    pass
            assert ("checking x" in capsys.readouterr().err) == are_shown


class TestOtherFunctions:
    def test_units_are_those_of_all_rows(self, rows: tuple[np.ndarray, np.ndarray], on_disk: OnDisk) -> None:
        x, y = 3 + 20 * rows[0], 1_000 * rows[1]
        near, far = standardize(MODEL, x, y), standardize(MODEL, on_disk(x), on_disk(y))
        for one, other in ((near.x[0], far.x[0]), (near.y[0][1], far.y[0][1])):
            assert one is not None
            assert other is not None
            assert_allclose(other.mean, one.mean, rtol=1e-6)
            assert_allclose(other.sd, one.sd, rtol=1e-6)

    @pytest.mark.slow
    def test_explain_reads_the_rows(self, rows: tuple[np.ndarray, np.ndarray], on_disk: OnDisk) -> None:
        x, y = rows
        assert str(explain(MODEL, on_disk(x), y)) == str(explain(MODEL, x, y))


class TestMessages:
    def test_a_value_that_is_not_finite_is_named_with_its_row(self, rows: tuple[np.ndarray, np.ndarray]) -> None:
        x, y = rows
        x = x.copy()
        x[777, 2] = np.nan
        with pytest.raises(ValueError, match=r"^x, row 777, column 2: expected finite numbers; got nan"):
            fit(MODEL, BY_BATCHES, Foreign(x), y, key=0)

    def test_labels_integers_and_missing_values(self, rows: tuple[np.ndarray, np.ndarray]) -> None:
        x, y = rows
        labels = np.zeros(NUM_ROWS, np.int64)
        labels[888] = 3
        model = Model(MLP(), Categorical(3), gaussian(1.0))
        with pytest.raises(ValueError, match=r"^y, row 888: expected an integer from 0 to 2; got 3"):
            fit(model, BY_BATCHES, Foreign(x), Foreign(labels), key=0)
        large = np.zeros((NUM_ROWS, 1), np.int64)
        large[905] = 2**40
        with pytest.raises(ValueError, match=r"^x, row 905, column 0: expected integers from"):
            fit(MODEL, BY_BATCHES, Foreign(large), y, key=0)
        items = [
            (row, np.float32(value if i != 612 else np.inf)) for i, (row, value) in enumerate(zip(x, y, strict=True))
        ]
        with pytest.raises(ValueError, match=r"^y, row 612: expected finite numbers; got inf"):
            fit(MODEL, BY_BATCHES, *rows_of(items), key=0)

    def test_scales_of_columns(self, rows: tuple[np.ndarray, np.ndarray]) -> None:
        x, y = rows
        with pytest.raises(ValueError, match=r"^x, column 1: expected \|mean\| < "):
            fit(MODEL, BY_BATCHES, Foreign(x + np.float32(1e5) * (np.arange(4) == 1)), y, key=0)
        huge = x.copy()
        huge[951, 3] = 1e30
        with pytest.raises(ValueError, match=r"^x, row 951, column 3: expected numbers up to 1.8e\+19"):
            fit(MODEL, BY_BATCHES, Foreign(huge), y, key=0)

    def test_arrays_that_are_no_numbers(self, rows: tuple[np.ndarray, np.ndarray]) -> None:
        with pytest.raises(TypeError, match=r"^x: expected numbers; got <U20"):
            fit(MODEL, BY_BATCHES, Foreign(np.full((NUM_ROWS, 1), "a" * 20)), rows[1], key=0)


class TestScores:
    def test_predictions_and_scores_are_those_in_memory(
        self, rows: tuple[np.ndarray, np.ndarray], in_memory: Fit, on_disk: OnDisk
    ) -> None:
        x, y = rows
        near, far = in_memory.predict(x), in_memory.predict(on_disk(x))
        assert (near.mean == far.mean).all()
        assert (near.log_prob(y) == far.log_prob(on_disk(y))).all()
        assert (in_memory.log_likelihood(x, y) == in_memory.log_likelihood(Foreign(x), on_disk(y))).all()
        assert in_memory.was_fitted_to(Foreign(x), on_disk(y))
        changed = x.copy()
        changed[333, 1] += 1e-3
        assert not in_memory.was_fitted_to(Foreign(changed), y)

    def test_predictions_part_by_part(self, rows: tuple[np.ndarray, np.ndarray], in_memory: Fit) -> None:
        x, _ = rows
        whole, mean = in_memory.predict(x).mean, np.zeros(NUM_ROWS)
        for some, part in in_memory.predict(Foreign(x)).parts(600):
            mean[some] = part.mean
        assert_allclose(mean, whole, rtol=1e-5, atol=1e-6)
        with pytest.raises(ValueError, match=r"^parts: expected a positive integer as num_rows; got 0"):
            next(in_memory.predict(x).parts(0))

    def test_results_on_disk_are_those_in_memory(
        self, rows: tuple[np.ndarray, np.ndarray], in_memory: Fit, tmp_path: Path
    ) -> None:
        x, _ = rows
        near, far = in_memory.predict(x), in_memory.predict(Foreign(x), out=tmp_path / "results")
        assert isinstance(far.mean, np.memmap)
        assert not list((tmp_path / "results").glob("*partial*"))
        assert (np.load(tmp_path / "results" / "mean.npy") == near.mean).all()
        assert (np.load(tmp_path / "results" / "variance.npy") == far.variance).all()
        assert (far.quantile([0.1, 0.9]) == near.quantile([0.1, 0.9])).all()
        assert np.load(tmp_path / "results" / "quantile.npy").shape == (NUM_ROWS, 2)

    def test_a_result_on_disk_is_complete_or_absent(
        self, rows: tuple[np.ndarray, np.ndarray], in_memory: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(chunks, "WORKING_BYTES", 100_000)
        x = rows[0].copy()
        predicted = in_memory.predict(Foreign(x), out=tmp_path)
        before = np.array(predicted.mean)
        monkeypatch.setattr(
            Foreign, "__getitem__", lambda self, rows: self._values[rows] if rows.start < 500 else 1 / 0
        )
        with pytest.raises(ZeroDivisionError):
            assert len(predicted.mean)
        assert [path.name for path in sorted(tmp_path.iterdir())] == ["mean.npy", "variance.npy"]
        assert (np.load(tmp_path / "mean.npy") == before).all()

    @pytest.mark.slow
    def test_functions_of_fits(self, rows: tuple[np.ndarray, np.ndarray], in_memory: Fit, on_disk: OnDisk) -> None:
        x, y = rows
        assert str(compare({"MAP": in_memory}, on_disk(x), y)) == str(compare({"MAP": in_memory}, x, y))
        assert str(calibration(in_memory, on_disk(x), y)) == str(calibration(in_memory, x, y))
        near, far = (
            cross_validate({"MAP": (MODEL, BY_BATCHES)}, each, y, num_folds=2, key=0, progress=False)
            for each in (x, on_disk(x))
        )
        columns = ["elpd", "rmse"]
        assert (near.to_dataframe()[columns] == far.to_dataframe()[columns]).all(axis=None)


class Items:
    """A data set of items, which fetches several together."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.x, self.y, self.fetched = x, y, 0

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        return self.x[number], self.y[number]

    def __getitems__(self, numbers: list[int]) -> list[tuple[np.ndarray, np.ndarray]]:
        self.fetched += len(numbers)
        return [self[number] for number in numbers]


class Source:
    """A source of batches, which counts how often it is read from its beginning."""

    def __init__(self, x: np.ndarray, y: np.ndarray, size: int = 70) -> None:
        self.x, self.y, self.size, self.passes = x, y, size, 0

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        self.passes += 1
        for start in range(0, len(self.x), self.size):
            rows = slice(start, start + self.size)
            yield self.x[rows], self.y[rows]


class TestSources:
    @pytest.mark.parametrize("kind", ["items", "pairs"])
    def test_items_have_the_fit_of_arrays(self, rows: tuple[np.ndarray, np.ndarray], in_memory: Fit, kind: str) -> None:
        x, y = rows_of(Items(*rows) if kind == "items" else list(zip(*rows, strict=True)))
        result = fit(MODEL, BY_BATCHES, x, y, key=0)
        assert_same(result, in_memory)
        assert (result.predict(x).log_prob(y) == in_memory.predict(rows[0]).log_prob(rows[1])).all()

    def test_x_and_y_are_fetched_together(self, rows: tuple[np.ndarray, np.ndarray]) -> None:
        items = Items(*rows)
        x, y = rows_of(items)
        Data(x, y).take(np.arange(10))
        assert items.fetched == 10

    def test_every_epoch_of_a_source_is_one_pass(self, rows: tuple[np.ndarray, np.ndarray]) -> None:
        source = Source(*rows)
        x, y = rows_of(source, num_rows=NUM_ROWS)
        before = source.passes
        seen = []
        with Batches(Data(x, y), 50, 60, jax.random.key(0), lambda data: data) as batches:
            for number in range(-(-60 // batches.num_steps)):
                seen.append(batches[number])
        assert source.passes == before + 3  # 60 batches of 50 rows are three epochs
        read = np.concatenate([part.y for part in seen])[: 3 * NUM_ROWS]
        for epoch in np.split(read, 3):
            assert (np.sort(epoch) == np.sort(rows[1])).all()
            assert not (epoch == rows[1]).all()
        first = [tuple(row) for row in np.concatenate([part.x for part in seen])[:200]]
        assert {tuple(row) for row in rows[0][:300]} >= set(first)  # within a window, which has 5,000 bytes

    def test_a_source_is_fitted_and_scored(self, rows: tuple[np.ndarray, np.ndarray], in_memory: Fit) -> None:
        x, y = rows_of(Source(*rows), num_rows=NUM_ROWS)
        result = fit(MODEL, BY_BATCHES, x, y, key=0)
        assert result.rows == in_memory.rows
        near, far = (each.predict(rows[0]).log_prob(rows[1]).mean() for each in (in_memory, result))
        assert far == pytest.approx(near, abs=0.1)
        assert (result.predict(x).log_prob(y) == result.predict(rows[0]).log_prob(rows[1])).all()

    @pytest.mark.parametrize("kind", ["items", "batches"])
    @pytest.mark.slow
    def test_values_of_y_may_be_missing(self, rows: tuple[np.ndarray, np.ndarray], kind: str) -> None:
        x, y = rows
        gaps = np.where(np.arange(NUM_ROWS) % 10 == 3, np.float32(np.nan), y)
        source = Source(x, gaps)
        far = rows_of(Items(x, gaps)) if kind == "items" else rows_of(source, num_rows=NUM_ROWS)
        near, result = (fit(MODEL, BY_BATCHES, *each, key=0) for each in ((x, gaps), far))
        assert result.counts == near.counts
        assert result.rows == near.rows
        if kind == "items":
            assert_same(result, near)
        assert str(compare({"MAP": result}, *far)) == str(compare({"MAP": result}, x, gaps))
        with pytest.raises(ValueError, match=r"^y: expected labels in some rows; got only missing values, 1000 of"):
            fit(MODEL, BY_BATCHES, *rows_of(Items(x, np.full_like(y, np.nan))), key=0)

    def test_labels_are_searched_once_and_whole_numbers_are_classes(self) -> None:
        classes = np.where(np.arange(NUM_ROWS) % 5 == 1, np.nan, np.arange(NUM_ROWS) % 3)
        source = Source(np.ones((NUM_ROWS, 1)), classes)
        x, y = rows_of(source, num_rows=NUM_ROWS)
        labelled(x, y)
        before = source.passes
        given = labelled(x, y)
        assert source.passes - before < before  # not to find labels again
        assert given.y.dtype == np.int64
        np.testing.assert_array_equal(given.kept, np.flatnonzero(np.isfinite(classes)))

    def test_parts_of_y_are_those_of_whole_rows(self, rows: tuple[np.ndarray, np.ndarray]) -> None:
        """Since x is read with it: 5,000 bytes are 250 rows of 20."""
        _, y = rows_of(Items(*rows))
        assert [len(part) for _, part in stored.in_parts(y)] == [250] * 4

    def test_sources_that_are_none(self, rows: tuple[np.ndarray, np.ndarray]) -> None:
        with pytest.raises(TypeError, match=r"^rows_of: expected an item to be a pair \(x, y\); got 1.0"):
            rows_of([1.0, 2.0])
        with pytest.raises(TypeError, match=r"^rows_of: expected a data set with a length"):
            rows_of(iter([rows]), num_rows=NUM_ROWS)
        with pytest.raises(
            ValueError, match=r"^rows_of: expected num_rows, the number of rows in the source; got None"
        ):
            rows_of(Source(*rows))
        with pytest.raises(ValueError, match=r"^rows_of: expected items \(x, y\); got an empty data set"):
            rows_of([])
        x, y = rows_of(Source(*rows), num_rows=NUM_ROWS + 5)
        with pytest.raises(ValueError, match=r"^rows_of: expected 1005 rows in the source, as num_rows says; got 1000"):
            fit(MODEL, BY_BATCHES, x, y, key=0)
