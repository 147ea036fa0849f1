"""A file is whole or absent."""

import pytest

from flatprior.inference.files import atomic_write


def test_the_file_is_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "fit.v2.nc"
    for content in ("one", "two"):
        assert atomic_write(path, lambda file, content=content: file.write_text(content)) == path
        assert path.read_text() == content
    assert list(tmp_path.iterdir()) == [path]


def test_the_temporary_name_has_the_same_suffix(tmp_path):
    names = []
    atomic_write(tmp_path / "a.png", lambda file: (names.append(file.name), file.touch()))
    assert names == ["a.partial.png"]


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("whole")

    def fail(file):
        file.write_text("ha")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic_write(path, fail)
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("a.json", "whole")]
