"""Compiled code, kept between runs in the user's cache folder."""

import os
import sys
from pathlib import Path

MOST_BYTES = 512 * 1024**2
"""The size up to which the folder grows; then the files that were not used for longest are removed."""
LEAST_SECONDS = 0.01
"""Programs that compile faster are not kept."""


def cache_folder() -> Path:
    """Return the folder for compiled code: below XDG_CACHE_HOME, or where the platform has caches."""
    if given := os.environ.get("XDG_CACHE_HOME"):
        base = Path(given)
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif os.name == "nt":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path.home() / ".cache"
    return base / "flatprior" / "compiled"


def keep_compiled() -> None:
    """Let JAX keep compiled programs in the user's cache folder, unless it already has a folder.

    A folder that cannot be written is no error: programs are then compiled in each run.
    """
    import jax

    if jax.config.jax_compilation_cache_dir:
        return
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        prune(folder)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)
    jax.config.update("jax_traceback_in_locations_limit", 0)  # programs that are found need not know their lines


def prune(folder: Path, most: int = MOST_BYTES) -> None:
    """Remove the files that were not used for longest until those that are left have at most half of a size.

    Nothing is removed from a folder that is smaller than this size. JAX can do this itself only with another package.
    """
    files = {path: path.stat() for path in folder.iterdir() if path.is_file()}
    size = sum(file.st_size for file in files.values())
    if size <= most:
        return
    for path, file in sorted(files.items(), key=lambda item: max(item[1].st_atime, item[1].st_mtime)):
        path.unlink(missing_ok=True)
        size -= file.st_size
        if size <= most / 2:
            return
