"""Files that are complete or absent, whenever a process ends."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np


def atomic_write(path: str | os.PathLike[str], write: Callable[[Path], object]) -> Path:
    """Write a file under a temporary name in its folder, and rename it when it is complete and on disk.

    An existing file is replaced atomically. When `write` raises, the temporary file is removed, and an existing file
    is unchanged.

    Args:
        path: the file.
        write: a function that writes the whole content to a given path, which has the suffix of `path`.

    Returns:
        The path of the file.
    """
    path = Path(path)
    partial = _partial(path)
    try:
        write(partial)
        with partial.open("r+b") as file:
            os.fsync(file.fileno())
        return partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


class ArrayFiles:
    """Arrays that are filled on disk, in a folder: a file has its name when its array is complete, and no other exists.

    Args:
        folder: the folder; None is memory.
        names: the names of the arrays, in their order.
    """

    def __init__(self, folder: Path | None, names: Sequence[str]) -> None:
        self._paths = [] if folder is None else [folder / f"{name}.npy" for name in names]

    def empty(self, number: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Return an array that is to be filled, by its number."""
        if not self._paths:
            return np.empty(shape, dtype)
        self._paths[number].parent.mkdir(parents=True, exist_ok=True)
        return np.lib.format.open_memmap(_partial(self._paths[number]), mode="w+", dtype=dtype, shape=shape)

    def complete(self, filled: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the arrays, those on disk as memory maps of the files with their names, which replace older ones."""
        if not self._paths:
            return list(filled)
        for array, path in zip(filled, self._paths, strict=True):
            assert isinstance(array, np.memmap)
            array.flush()
            _partial(path).replace(path)
        return [np.load(path, mmap_mode="r") for path in self._paths]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for path in self._paths:
            _partial(path).unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.stem}.partial{path.suffix}")
