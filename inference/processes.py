"""Several processes that fit together: what they agree on, and what each can read.

After `jax.distributed.initialize` every process runs the same script, and its compiled programs run on the devices of
all. Programs that communicate wait for each other, so every process must call the same ones in the same order: what
depends on a clock, a key press or the rows of one process is agreed on first. With one process nothing is exchanged.
"""

import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec


def are_several() -> bool:
    """Return whether several processes fit together."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Return whether this is the process that writes files and shows progress."""
    return jax.process_index() == 0


def from_all(value: Any) -> list[Any]:
    """Return the value of each process, one that JSON can write, in the order of the processes."""
    return [json.loads(text) for text in _bytes_of_all(json.dumps(value).encode())] if are_several() else [value]


def rows_of_all(own: np.ndarray) -> np.ndarray:
    """Return the rows of all processes, one after the other; own ones where those of others have another type."""
    if not are_several():
        return own
    kinds = from_all([own.dtype.str, own.shape[1:]])
    parts = _bytes_of_all(np.ascontiguousarray(own).tobytes())
    if any(kind != kinds[0] for kind in kinds):
        return own
    return np.concatenate([np.frombuffer(part, own.dtype).reshape(-1, *own.shape[1:]) for part in parts])


def _bytes_of_all(own: bytes) -> list[bytes]:
    from jax.experimental import multihost_utils  # imported late: one process never needs it

    flat = np.frombuffer(own, np.uint8)  # as bytes, so that no bit changes
    lengths = np.asarray(multihost_utils.process_allgather(np.array([flat.size], np.int32))).ravel()
    every = np.asarray(multihost_utils.process_allgather(np.pad(flat, (0, max(1, lengths.max()) - flat.size))))
    return [each[:length].tobytes() for each, length in zip(every, lengths, strict=True)]


def of_first(read: Callable[[], tuple[Mapping[str, np.ndarray], Any]]) -> tuple[Mapping[str, np.ndarray], Any]:
    """Return what the first process reads: named arrays, and what JSON can write."""
    if not are_several():
        return read()
    from jax.experimental import multihost_utils

    with raised_by_all():
        own, words = read() if is_first() else ({}, None)
    shapes, words = from_all([[[name, array.dtype.str, array.shape] for name, array in own.items()], words])[0]
    arrays = {}
    for name, dtype, shape in shapes:
        array = own.get(name, np.empty(shape, dtype))
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)  # as bytes, so that no bit changes
        flat = np.asarray(multihost_utils.broadcast_one_to_all(flat)) if flat.size else flat
        arrays[name] = flat.view(dtype).reshape(shape)
    return arrays, words


def agreed(size: int, goes_on: bool) -> tuple[int, bool, bool]:
    """Return the size that the first process wants, whether it goes on, and whether any process is interrupted."""
    if not are_several():
        return size, goes_on, False
    wishes = from_all([size, bool(goes_on), _PRESSED.is_set()])
    return wishes[0][0], wishes[0][1], any(wish[2] for wish in wishes)


@contextmanager
def raised_by_all() -> Iterator[None]:
    """Raise an error of one process in a block on every process, with the same words."""
    if not are_several():
        yield
        return
    own: Exception | None = None
    try:
        yield
    except Exception as error:  # whatever it is: the others must not wait for this process
        own = error
    errors = from_all(None if own is None else [type(own).__name__, str(own)])
    failed = [i for i, error in enumerate(errors) if error is not None]
    if not failed:
        return
    kind, words = errors[failed[0]]
    where = "" if all(error == errors[0] for error in errors) else f"Process {failed[0]}: "
    raise {"TypeError": TypeError, "ValueError": ValueError}.get(kind, RuntimeError)(f"{where}{words}") from own


_PRESSED = threading.Event()
"""Whether the user has pressed Ctrl-C in a fit of several processes."""


@contextmanager
def interrupts_noted() -> Iterator[None]:
    """Only note the first Ctrl-C in a block that several processes run, since each must end it at the same place.

    A second one interrupts this process at once, as the first does where there is one process, or in another thread
    than the main one.
    """
    if not are_several() or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: Any) -> None:
        _PRESSED.set()
        signal.signal(signal.SIGINT, before)

    _PRESSED.clear()
    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        _PRESSED.clear()


@contextmanager
def others_may_end() -> Iterator[None]:
    """Say that another process has ended, where an exchange with it fails in a block."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:  # the latter where a result is read
        if not are_several() or not any(word in str(error) for word in ("Gloo", "NCCL", "UNAVAILABLE")):
            raise
        raise RuntimeError(
            f"Process {jax.process_index()} of {jax.process_count()}: an exchange with the other processes failed, so "
            f"one of them has ended or cannot be reached. Start all of them again; with resume=folder the fit goes on "
            f"from its last block."
        ) from error


def readable(tree: Any) -> Any:
    """Return arrays that this process can read: those that are spread over processes are gathered, on every device."""
    return jax.tree.map(_readable, tree)


def _readable(leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array) or isinstance(leaf, jax.core.Tracer):
        return leaf
    if leaf.is_fully_addressable or leaf.is_fully_replicated:
        return leaf
    assert isinstance(leaf.sharding, NamedSharding)
    return _gather(NamedSharding(leaf.sharding.mesh, PartitionSpec()))(leaf)


@lru_cache(maxsize=16)
def _gather(everywhere: NamedSharding) -> Callable[..., Any]:
    return jax.jit(lambda array: array, out_shardings=everywhere)


class jit:  # noqa: N801  # it stands for `jax.jit`
    """A compiled function whose results every process can read; see `jax.jit`."""

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        self._compiled = jax.jit(function, **options)
        self.eval_shape: Callable[..., Any] = self._compiled.eval_shape

    def __call__(self, *args: Any) -> Any:
        return readable(self._compiled(*args))
