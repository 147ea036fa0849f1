"""What is remembered of rows on disk, and what is not: nothing that may have changed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flatprior.inference import remembered, stored
from flatprior.inference.checks import check_labelled
from flatprior.inference.digests import digest_of_rows
from flatprior.inference.labels import labelled
from flatprior.inference.remembered import Remembered, identity
from flatprior.models import MLP, Model, Normal, gaussian

MODEL = Model(MLP(), Normal(0.3), gaussian(1.0))
X = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
Y = X.sum(axis=1)


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small arrays stay on disk, and their files are trusted at once."""
    monkeypatch.setattr(stored, "READ_BYTES", 1_000)
    monkeypatch.setattr(stored, "PART_BYTES", 2_000)
    monkeypatch.setattr(remembered, "SETTLED", -1.0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", X)
    if identity(stored.stored(np.load(tmp_path / "x.npy", mmap_mode="r"))) is None:
        pytest.skip("The files of tests are on a file system of which nothing is remembered.")
    return tmp_path / "x.npy"


@pytest.fixture
def rows_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of rows that are read, call by call."""
    counts: list[int] = []
    read = stored.Stored.__getitem__

    def counted(self: stored.Stored, rows: Any) -> np.ndarray:
        found = read(self, rows)
        counts.append(len(found))
        return found

    monkeypatch.setattr(stored.Stored, "__getitem__", counted)
    return counts


def opened(file: Path, mode: Any = "r") -> np.memmap:
    return np.load(file, mmap_mode=mode)  # type: ignore[no-any-return]


def checked(x: Any) -> str:
    """Return the digest of rows that are checked as in a fit."""
    _, data = check_labelled(MODEL, labelled(x, Y))
    return digest_of_rows(data.x, data.y)


class Foreign:
    """An array of another library, of which nothing is known."""

    shape, dtype = X.shape, X.dtype

    def __getitem__(self, rows: Any) -> np.ndarray:
        return X[rows]


def test_one_pass_finds_the_digest_and_checks_the_values(rows_read: list[int]) -> None:
    assert checked(Foreign()) == digest_of_rows(X, Y)
    once = sum(rows_read)
    assert once <= 2 * len(X) + 3 * len(Y)  # the check and a sample; of y also the search for missing labels
    assert checked(Foreign()) == digest_of_rows(X, Y)
    assert sum(rows_read) == 2 * once  # nothing is remembered of it


def test_a_file_is_read_once(file: Path, rows_read: list[int]) -> None:
    first = checked(opened(file))
    sampled = sum(rows_read) - len(X)
    rows_read.clear()
    assert checked(opened(file)) == first == digest_of_rows(X, Y)
    assert sum(rows_read) == sampled


def test_a_file_that_has_changed_is_checked_again(file: Path) -> None:
    checked(opened(file))
    changed = opened(file, "r+")
    changed[123, 2] = np.nan
    changed.flush()
    with pytest.raises(ValueError, match=r"^x, row 123, column 2: expected finite numbers; got nan"):
        checked(opened(file))
    changed[123, 2] = 1.5
    changed.flush()
    again = X.copy()
    again[123, 2] = 1.5
    assert checked(opened(file)) == digest_of_rows(again, Y)


def test_what_may_change_has_no_identity(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = identity(stored.stored(opened(file)))
    assert whole == identity(stored.stored(opened(file)))
    assert identity(stored.stored(opened(file)[100:])) != whole
    assert identity(stored.stored(opened(file)).astype(np.float64)) != whole
    assert identity(stored.stored(opened(file)).take(np.arange(20))) is None
    assert identity(stored.stored(opened(file, "r+"))) is None
    assert identity(stored.stored(opened(file, "c"))) is None
    assert identity(stored.Stored(X, X.dtype)) is None
    before = stored.stored(opened(file))
    np.save(file.with_name("other.npy"), X + 1)
    file.with_name("other.npy").replace(file)
    assert identity(before) is None  # the file with this name is another one than that in memory
    assert identity(stored.stored(opened(file))) not in (None, whole)
    monkeypatch.setattr(remembered, "SETTLED", 60.0)
    assert identity(stored.stored(opened(file))) is None  # it has just been written


def test_a_file_that_changes_meanwhile_is_not_remembered(file: Path) -> None:
    known = Remembered("what", stored.stored(opened(file)))
    changed = opened(file, "r+")
    changed[0] = 0
    changed.flush()
    known.keep(True)
    assert Remembered("what", stored.stored(opened(file))).value is None
