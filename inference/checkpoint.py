"""Checkpoints: the state or the result of a run in one file, which is complete whenever the process ends."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple
from zipfile import BadZipFile

import jax
import jax.numpy as jnp
import numpy as np

from .files import atomic_write
from .processes import from_all, is_first, of_first, readable

INTERVAL = 5.0
"""The shortest time between two writes of the state of a run, in seconds."""
SHARE = 0.02
"""The largest share of a run that writing its state may take."""


class Contents(NamedTuple):
    """The contents of a checkpoint."""

    arrays: dict[str, np.ndarray]
    about: Any
    """Numbers and words, as JSON has them."""


class Checkpoint:
    """A file with named arrays, numbers and words, which is replaced as a whole. It contains no code.

    A state is written when it `is_due`: at most every 5 seconds, and so rarely that writing takes at most 2% of the
    run. A process that is killed loses the block that it was computing, and what it had computed since the last write:
    at most 5 seconds or 50 times as long as a write takes, whichever is longer. Draws of chains follow the same rule,
    except that at most 256 MiB of them are held.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written, self._cost = perf_counter(), 0.0

    @property
    def is_due(self) -> bool:
        """Whether enough time has passed since the last write."""
        return bool(from_all(perf_counter() - self._written >= max(INTERVAL, self._cost / SHARE))[0])

    def write(self, arrays: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        """Replace the file, atomically; of several processes the first does it."""
        if not is_first():
            return
        with self.timed():
            self._write(arrays, about)

    def _write(self, arrays: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        numbered = {f"array{i}": np.asarray(array) for i, array in enumerate(arrays.values())}
        text = json.dumps({"names": list(arrays), "about": about}).encode()
        words = np.frombuffer(text, np.uint8)
        atomic_write(self.path, lambda file: np.savez(file, allow_pickle=False, about=words, **numbered))

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Measure how long a write takes, of this file and of others that are written with it."""
        started = perf_counter()
        yield
        self._written = perf_counter()
        self._cost = self._written - started

    def read(self) -> Contents | None:
        """Return what was written; None where nothing was.

        Raises:
            ValueError: when the file is damaged.
        """
        arrays, about = of_first(self.read_here)
        return Contents(dict(arrays), about) if about is not None else None

    def read_here(self) -> Contents:
        """Return what was written, in the process that wrote it; nothing about what was not written."""
        if not self.path.exists():
            return Contents({}, None)
        try:
            with self.path.open("rb") as stream, np.load(stream, allow_pickle=False) as saved:
                words = json.loads(saved["about"].tobytes())
                arrays = {name: saved[f"array{i}"] for i, name in enumerate(words["names"])}
        except (ValueError, OSError, KeyError, EOFError, BadZipFile) as error:
            raise ValueError(f"resume: {self.path} is damaged ({error}). Remove the folder to begin again.") from error
        return Contents(arrays, words["about"])

    def restore(self, template: Any, arrays: Mapping[str, np.ndarray]) -> Any:
        """Return the pytree of which `leaves_of` gave arrays, with the structure and the devices of another.

        Raises:
            ValueError: when it has other shapes.
        """
        leaves, tree = jax.tree.flatten(template)
        saved = [arrays.get(f"leaf{i}", np.empty(0)) for i in range(len(leaves))]
        if [leaf.shape for leaf in saved] != [_as_numpy(leaf).shape for leaf in leaves]:
            raise ValueError(f"resume: the state in {self.path} does not fit the method. Remove the folder.")
        return jax.tree.unflatten(tree, [_like(leaf, each) for leaf, each in zip(leaves, saved, strict=True)])


def leaves_of(state: Any) -> dict[str, np.ndarray]:
    """Return the leaves of a pytree of arrays and keys by name, for a checkpoint."""
    return {f"leaf{i}": _as_numpy(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _as_numpy(leaf: Any) -> np.ndarray:
    return np.asarray(readable(jax.random.key_data(leaf) if _is_key(leaf) else leaf))


def _like(leaf: Any, saved: np.ndarray) -> Any:
    """Return a saved leaf as an array of the type and on the devices of another."""
    if not isinstance(leaf, jax.Array):
        return saved
    if _is_key(leaf):
        return jax.random.wrap_key_data(jax.device_put(saved, leaf.sharding), impl=jax.random.key_impl(leaf))
    # NumPy reads types that it does not know, such as bfloat16, as bytes.
    typed = saved.view(leaf.dtype) if saved.dtype.kind == "V" else saved.astype(leaf.dtype)
    return jax.device_put(typed, leaf.sharding)
