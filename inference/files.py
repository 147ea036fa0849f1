"""Files that are whole or absent, whatever moment a process ends at."""

import os
from collections.abc import Callable
from pathlib import Path


def atomic_write(path: str | os.PathLike[str], write: Callable[[Path], object]) -> Path:
    """Write a file under a temporary name beside it, and rename it when it is whole and on the disk.

    An existing file is replaced in one step. When `write` raises, the temporary file is removed and an existing file
    stays as it was.

    Args:
        path: the file.
        write: writes the whole content to the path that it is given, which has the suffix of `path`.

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
