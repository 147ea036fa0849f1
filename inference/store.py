"""Runs on disk: draws, written block by block, and the state from which a run is continued.

A run is a folder: ``run.json`` describes the run, ``*.bin`` are the draws, one file per site or statistic, and
``state.npz`` is the state of the chains after the last finished block. The draws of a block are appended first, then
the state is replaced atomically: whenever a process ends, the folder contains every finished block. It contains no
code.
"""

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .density import Density
from .files import atomic_write
from .fingerprint import digest, log_density_at_random, same_log_density, without_addresses
from .rows import Data, Rows

if sys.platform != "win32":
    import fcntl

VERSION = 1
"""The version of the format of the folder."""
Identity = Mapping[str, str | float]


@contextmanager
def held(path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a folder, which is made if it is missing, so that no other fit writes to it; it is released at the end.

    The lock ends with the process, however that ends. Windows and some network file systems have no such lock; there
    the folder is not protected.

    Raises:
        ValueError: when another fit holds the folder, in this process or another.
    """
    Path(path).mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        yield
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(
                    f"resume: expected a folder that no other fit writes to; another fit is using {path}. Wait for its "
                    f"end, or give another folder."
                ) from error
        yield
    finally:
        os.close(folder)


class Store:
    """A run of chains in a folder: a new one where the folder is empty or missing, else the one in it.

    Args:
        path: the folder.
        identity: the words and numbers that identify the run: model, density, method, data, key.

    Raises:
        ValueError: when the folder contains another run, or other files.
    """

    def __init__(self, path: str | os.PathLike[str], identity: Identity) -> None:
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        self.done = self.num_draws = 0
        self.arrays: list[dict[str, Any]] = []
        self._leaves: list[np.ndarray] = []
        about = self.path / "run.json"
        if about.exists():
            self._open(about, identity)
        elif any(self.path.iterdir()):
            raise ValueError(f"resume: expected an empty folder or one with a run; {self.path} contains other files.")
        else:
            self._identity = dict(identity)

    def _open(self, about: Path, identity: Identity) -> None:
        try:
            saved = json.loads(about.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"resume: {about} is damaged ({error}). Remove the folder to begin again.") from error
        if saved.get("version") != VERSION:
            raise ValueError(
                f"resume: {self.path} has format {saved.get('version')}; this release of flatprior reads {VERSION}."
            )
        for name, now in identity.items():
            if not _same(saved["identity"].get(name), now):
                raise ValueError(
                    f"resume: {self.path} contains a run with another {name}: expected "
                    f"{saved['identity'].get(name)}; got {now}. Give another folder, or remove this one."
                )
        self._identity, self.arrays = saved["identity"], saved["arrays"]
        state = self.path / "state.npz"
        if not state.exists():
            return  # ended before its first block
        try:
            with state.open("rb") as stream, np.load(stream, allow_pickle=False) as leaves:
                self.done, self.num_draws = int(leaves["done"]), int(leaves["kept"])
                self._leaves = [leaves[f"leaf{i}"] for i in range(len(leaves.files) - 2)]
        except (ValueError, OSError, KeyError, EOFError, BadZipFile) as error:
            raise ValueError(f"resume: {state} is damaged ({error}). Remove the folder to begin again.") from error
        for i, array in enumerate(self.arrays):
            size, file = self.num_draws * self._bytes(array), self._file(i)
            if not file.exists() or file.stat().st_size < size:
                raise ValueError(f"resume: {file} is shorter than its run. Remove the folder.")
            os.truncate(file, size)  # the draws of an unfinished block

    def restore(self, template: Any) -> Any:
        """Return the state of the chains, with the structure and the devices of another state."""
        leaves, tree = jax.tree.flatten(template)
        shapes = [_as_numpy(leaf).shape for leaf in leaves]
        if [leaf.shape for leaf in self._leaves] != shapes:
            raise ValueError(f"resume: the state in {self.path} does not fit the method. Remove the folder.")
        return jax.tree.unflatten(tree, [_like(leaf, saved) for leaf, saved in zip(leaves, self._leaves, strict=True)])

    def append(self, draws: Mapping[str, np.ndarray], stats: Mapping[str, np.ndarray], state: Any, done: int) -> None:
        """Append the draws of a block, (chain, draw, ...), and write the state of the chains after `done` steps."""
        named = [("draw", name, value) for name, value in draws.items()]
        named += [("statistic", name, value) for name, value in stats.items()]
        if not self.arrays:
            self.arrays = [
                {"kind": kind, "name": name, "dtype": value.dtype.str, "shape": [value.shape[0], *value.shape[2:]]}
                for kind, name, value in named
            ]
            about = {"version": VERSION, "identity": self._identity, "arrays": self.arrays}
            atomic_write(self.path / "run.json", lambda file: file.write_text(json.dumps(about, indent=1)))
        for i, (_, _, value) in enumerate(named):
            with self._file(i).open("ab") as file:
                file.write(np.ascontiguousarray(np.swapaxes(value, 0, 1)).tobytes())
                file.flush()
                os.fsync(file.fileno())
        self.done, self.num_draws = done, self.num_draws + named[0][2].shape[1]
        leaves = {f"leaf{i}": _as_numpy(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
        numbers = {"done": np.array(done), "kept": np.array(self.num_draws)}
        atomic_write(self.path / "state.npz", lambda file: np.savez(file, allow_pickle=False, **leaves, **numbers))

    def read(self, num_samples: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Return the first draws and statistics, shaped (chain, draw, ...), as views of the files without a copy."""
        read: dict[str, dict[str, np.ndarray]] = {"draw": {}, "statistic": {}}
        for i, array in enumerate(self.arrays):
            chains, *rest = array["shape"]
            whole = np.memmap(self._file(i), np.dtype(array["dtype"]), "r", shape=(self.num_draws, chains, *rest))
            read[array["kind"]][array["name"]] = np.swapaxes(whole[:num_samples], 0, 1)
        return read["draw"], read["statistic"]

    def _file(self, i: int) -> Path:
        return self.path / f"{i:03d}.bin"

    @staticmethod
    def _bytes(array: Mapping[str, Any]) -> int:
        return int(np.prod(array["shape"])) * np.dtype(array["dtype"]).itemsize


def identity(density: Density, data: Data, method: Any, key: Array) -> Identity:
    """Return the identity of a run: everything except the number of draws, which can be increased."""
    name = getattr(density.model, "__qualname__", None) or repr(density.model)
    settings = re.sub(r"num_samples=\d+(, )?", "", repr(method))
    return {
        "model": f"{without_addresses(name)} with {density.structure.latents}",
        "method": without_addresses(settings),
        "x": _in_words(data.x),
        "y": _in_words(data.y),
        **{
            name: _in_words(each)
            for name, each in (("weights", data.weights), ("known", data.known))
            if each is not None
        },
        "key": f"{jax.random.key_impl(key)} {np.asarray(jax.random.key_data(key)).tolist()}",
        "density": log_density_at_random(density.model, data.x, data.y),  # last: it depends on the others
    }


def _same(then: Any, now: str | float) -> bool:
    if isinstance(then, float) and isinstance(now, float):
        return same_log_density(then, now)
    return bool(then == now)


def _in_words(rows: Rows) -> str:
    """Return the types and shapes of a pytree of arrays, and a digest of their values."""
    leaves = jax.tree.leaves(rows)
    shapes = ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in leaves)
    return f"{shapes} {digest(('', leaf) for leaf in leaves)[:16]}"


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _as_numpy(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _like(leaf: Any, saved: np.ndarray) -> Any:
    """Return a saved leaf as an array of the type and on the devices of another."""
    if _is_key(leaf):
        return jax.device_put(
            jax.random.wrap_key_data(jnp.asarray(saved), impl=jax.random.key_impl(leaf)), leaf.sharding
        )
    return jax.device_put(saved.astype(leaf.dtype), leaf.sharding) if isinstance(leaf, jax.Array) else saved
