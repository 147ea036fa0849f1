"""Runs on disk: what was computed, written as a run goes, and the state from which it is continued.

A run is a folder: ``run.json`` describes the run, and each other file is replaced as a whole or only appended to.

- ``descent.npz`` is the state of an optimiser or, once it has ended, its result; see `Checkpoint`.
- ``*.bin`` are the draws of chains, one file per site or statistic, and ``state.npz`` is the state of the chains after
  the last of them. Draws are appended first, then the state is replaced.
- ``outcome.npz`` is the result of a method without chains. That of chains is computed from their draws.

The files of a part of a method, such as the descent by which chains find their starting points, have the name of the
part in front. So whenever a process ends, the folder is that of a run that can be continued. It contains no code.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array

from .checkpoint import Checkpoint, leaves_of
from .density import Density
from .devices import Spread, row_axes
from .files import atomic_write
from .fingerprint import (
    digest,
    key_in_words,
    log_density_at_random,
    same_log_density,
    settings_in_words,
    without_addresses,
)
from .method import ARRAYS, Outcome
from .processes import is_first, of_first
from .rows import Data, Rows
from .status import Status
from .stored import is_stored

if sys.platform != "win32":
    import fcntl

VERSION = 2
"""The version of the format of the folder."""
DENSITY_ROWS = 256
"""The largest number of rows at which the density of a model is compared with that of a run."""
Identity = Mapping[str, str | float]


@contextmanager
def held(path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a folder, which is made if it is missing, so that no other fit writes to it; it is released at the end.

    The lock ends with the process, however that ends. Windows and some network file systems have no such lock; there
    the folder is not protected.

    Raises:
        ValueError: when another fit holds the folder, in this process or another.
    """
    if is_first():
        Path(path).mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32" or not is_first():
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
    """A run in a folder: a new one where the folder is empty or missing, else the one in it.

    Of several processes only the first reads and writes the folder; the others get from it what it has read.

    Args:
        path: the folder.
        identity: the words and numbers that identify the run: model, density, method, data, key.

    Raises:
        ValueError: when the folder contains another run, or other files.
    """

    def __init__(self, path: str | os.PathLike[str], identity: Identity) -> None:
        self.path, self.part = Path(path), ""
        self._identity = dict(identity)
        self._state = self.checkpoint("state")
        self._leaves, (self.done, self.num_draws, self.arrays) = of_first(self._begin)

    def _begin(self) -> tuple[Mapping[str, np.ndarray], tuple[int, int, list[dict[str, Any]]]]:
        """Return the state of the chains, how many steps and draws there are, and what arrays; none in a new folder."""
        self.path.mkdir(parents=True, exist_ok=True)
        about, others = self.path / "run.json", [file.name for file in self.path.iterdir()]
        if about.exists():
            return self._open(about)
        if set(others) - {"run.partial.json"}:  # of a process that ended as it began
            raise ValueError(f"resume: expected an empty folder or one with a run; {self.path} contains other files.")
        self._describe([])
        return {}, (0, 0, [])

    def _open(self, about: Path) -> tuple[Mapping[str, np.ndarray], tuple[int, int, list[dict[str, Any]]]]:
        try:
            saved = json.loads(about.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"resume: {about} is damaged ({error}). Remove the folder to begin again.") from error
        if saved.get("version") != VERSION:
            raise ValueError(
                f"resume: {self.path} has format {saved.get('version')}; this release of flatprior reads {VERSION}."
            )
        for name in dict.fromkeys([*self._identity, *saved["identity"]]):
            then, now = saved["identity"].get(name), self._identity.get(name)
            if not _same(then, now):
                raise ValueError(
                    f"resume: {self.path} contains a run with another {name}: expected {then}; got {now}. Give another "
                    f"folder, or remove this one.{_why(name, then, now)}"
                )
        self._identity = saved["identity"]
        leaves, state = self._state.read_here()
        if state is None:  # ended before its first draws
            return {}, (0, 0, saved["arrays"])
        for i, array in enumerate(saved["arrays"]):
            size, file = state["kept"] * self._bytes(array), self._file(i)
            if not file.exists() or file.stat().st_size < size:
                raise ValueError(f"resume: {file} is shorter than its run. Remove the folder.")
            os.truncate(file, size)  # the draws of an unfinished block
        return leaves, (state["done"], state["kept"], saved["arrays"])

    def within(self, part: str) -> "Store":
        """Return the same store for a part of the method, whose checkpoints have names of their own."""
        inner = copy(self)
        inner.part = f"{self.part}{part}-"
        return inner

    def checkpoint(self, name: str) -> Checkpoint:
        """Return a checkpoint of this part of the method, by its name."""
        return Checkpoint(self.path / f"{self.part}{name}.npz")

    def outcome(self, method: Any, run: Callable[[], Outcome]) -> Outcome:
        """Return the outcome of a method, from disk or, if it has not finished, by running it.

        Args:
            method: the method, with all settings.
            run: a function that returns the outcome, which is then on disk unless it was interrupted.
        """
        checkpoint, settings = self.checkpoint("outcome"), settings_in_words(method)
        saved = checkpoint.read()
        if saved is not None and saved.about["settings"] == settings:
            return _outcome_from(saved.arrays, saved.about)
        outcome = run()
        if not outcome.status.is_interrupted:
            checkpoint.write(*_as_contents(outcome, {"settings": settings}))
        return outcome

    def restore(self, template: Any) -> Any:
        """Return the state of the chains, with the structure and the devices of another state."""
        return self._state.restore(template, self._leaves)

    @property
    def is_due(self) -> bool:
        """Whether enough time has passed since the last draws were written; see `Checkpoint`."""
        return self._state.is_due

    def append(
        self,
        draws: Mapping[str, np.ndarray],
        stats: Mapping[str, np.ndarray],
        state: Any,
        done: int,
        *,
        first: int,
    ) -> None:
        """Write draws, (chain, draw, ...), behind the `first` ones, and the state of the chains after `done` steps."""
        named = [("draw", name, value) for name, value in draws.items()]
        named += [("statistic", name, value) for name, value in stats.items()]
        if not self.arrays:
            self.arrays = [
                {"kind": kind, "name": name, "dtype": value.dtype.str, "shape": [value.shape[0], *value.shape[2:]]}
                for kind, name, value in named
            ]
            self._describe(self.arrays)
        with self._state.timed():
            for i, (_, _, value) in enumerate(named if is_first() else []):
                with self._file(i).open("ab") as file:
                    file.truncate(first * self._bytes(self.arrays[i]))  # what an interrupted write has left
                    file.write(np.ascontiguousarray(np.swapaxes(value, 0, 1)).tobytes())
                    file.flush()
                    os.fsync(file.fileno())
            kept = first + named[0][2].shape[1]
            self._state.write(leaves_of(state), {"done": done, "kept": kept})
        self.done, self.num_draws = done, kept

    def _describe(self, arrays: list[dict[str, Any]]) -> None:
        if not is_first():
            return
        about = {"version": VERSION, "identity": self._identity, "arrays": arrays}
        atomic_write(self.path / "run.json", lambda file: file.write_text(json.dumps(about, indent=1)))

    def read(self, num_samples: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Return the first draws and statistics, shaped (chain, draw, ...), as views of the files without a copy.

        Other processes than the first have them in memory.
        """
        arrays, _ = of_first(lambda: (self._views(num_samples), None))
        draws, stats = (
            {each["name"]: arrays[f"{kind}/{each['name']}"] for each in self.arrays if each["kind"] == kind}
            for kind in ("draw", "statistic")
        )
        return draws, stats

    def _views(self, num_samples: int) -> dict[str, np.ndarray]:
        """Return the views by kind and name."""
        views = {}
        for i, array in enumerate(self.arrays):
            chains, *rest = array["shape"]
            whole = np.memmap(self._file(i), np.dtype(array["dtype"]), "r", shape=(self.num_draws, chains, *rest))
            views[f"{array['kind']}/{array['name']}"] = np.swapaxes(whole[:num_samples], 0, 1)
        return views

    def _file(self, i: int) -> Path:
        return self.path / f"{i:03d}.bin"

    @staticmethod
    def _bytes(array: Mapping[str, Any]) -> int:
        return int(np.prod(array["shape"])) * np.dtype(array["dtype"]).itemsize


def identity(density: Density, data: Data, method: Any, key: Array, rows: str) -> Identity:
    """Return the identity of a run: everything except the settings in which it can be continued (`Method.growing`).

    Args:
        density: the density.
        data: n rows.
        method: the method.
        key: the key of the run.
        rows: a digest of the rows, which stands for those that are not in memory.
    """
    name = getattr(density.model, "__qualname__", None) or repr(density.model)
    spread, every = Spread.of(data), max(1, -(-data.num_rows // DENSITY_ROWS))
    some = data.take(np.arange(0, data.num_rows, every))
    return {
        "model": f"{without_addresses(name)} with {density.structure.latents}",
        **settings_in_words(method, without=method.growing),
        "x": _in_words(data.x),
        "y": _in_words(data.y),
        **{
            name: _in_words(each)
            for name, each in (("weights", data.weights), ("known", data.known))
            if each is not None
        },
        **({"rows": rows} if data.is_stored or spread else {}),
        **({"shards": str(spread.num_shards)} if spread else {}),
        **({"draws_dtype": density.draws_dtype} if density.draws_dtype else {}),
        "key": key_in_words(key),
        "density": log_density_at_random(density.model, some.x, some.y),  # last: it depends on the others
    }


def _why(name: str, then: Any, now: Any) -> str:
    """Return why a setting cannot be changed, where that is not obvious."""
    without = [re.sub(r"\bnum_steps=\d+", "", str(words)) for words in (then, now)]
    if name != "method" or without[0] != without[1]:
        return ""
    return (
        " num_steps can be increased only with an optimizer of your own and without validation rows: the learning rate "
        "of the default is annealed over num_steps, and validation rows are scored after each hundredth of them."
    )


def _same(then: Any, now: Any) -> bool:
    if isinstance(then, float) and isinstance(now, float):
        return same_log_density(then, now)
    return bool(then == now)


def _in_words(rows: Rows) -> str:
    """Return the types and shapes of a pytree of arrays, and a digest of their values where all are in memory."""
    leaves = jax.tree.leaves(rows)
    shapes = ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in leaves)
    if is_stored(rows) or any(isinstance(leaf, Array) and row_axes(leaf) for leaf in leaves):
        return shapes
    return f"{shapes} {digest(('', leaf) for leaf in leaves)[:16]}"


def _as_contents(outcome: Outcome, about: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays of an outcome, each without the axes along which it repeats, and the rest as JSON."""
    arrays, shapes = {}, {}
    for kind in ARRAYS:
        for name, value in getattr(outcome, kind).items():
            array = np.asarray(value)
            repeats = [slice(0, 1) if stride == 0 else slice(None) for stride in array.strides]
            arrays[f"{kind}/{name}"], shapes[f"{kind}/{name}"] = array[tuple(repeats)], list(array.shape)
    rest = {"shapes": shapes, "status": outcome.status.to_json(), "log_evidence": outcome.log_evidence}
    return arrays, {**about, **rest}


def _outcome_from(arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> Outcome:
    """Return the outcome of which `_as_contents` gave the contents."""
    parts: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in ARRAYS}
    for path, array in arrays.items():
        kind, _, name = path.partition("/")
        shape = tuple(about["shapes"][path])
        parts[kind][name] = array if array.shape == shape else np.broadcast_to(array, shape)
    return Outcome(status=Status.from_json(about["status"]), log_evidence=about["log_evidence"], **parts)
