"""Files that are complete or absent, whenever a process ends."""

import os
from collections.abc import Callable
from pathlib import Path


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
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    try:
        write(partial)
        with partial.open("r+b") as file:
            os.fsync(file.fileno())
        return partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
