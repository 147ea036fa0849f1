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
from functools import lru_cache, wraps
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


def agreed(size: int, goes_on: bool, is_interrupted: bool) -> tuple[int, bool, bool]:
    """Return the size that the first process wants, whether it goes on, and whether any process is interrupted."""
    if not are_several():
        return size, goes_on, is_interrupted
    wishes = from_all([size, bool(goes_on), bool(is_interrupted)])
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


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether the user has pressed Ctrl-C in the block.

    One process alone is interrupted at once, by a KeyboardInterrupt. Of several each must end at the same place, so the
    first Ctrl-C is only noted; a second one interrupts this process at once.
    """
    pressed = threading.Event()
    if not are_several() or threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: Any) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def others_may_end() -> Iterator[None]:
    """Say that another process has ended, where an exchange with it fails in a block."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not are_several() or not any(word in str(error) for word in ("Gloo", "gloo", "NCCL", "UNAVAILABLE")):
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


def jit(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Compile a function whose results every process can read; see `jax.jit`."""
    compiled = jax.jit(function, **options)

    @wraps(function)
    def call(*args: Any) -> Any:
        return readable(compiled(*args))

    call.eval_shape = compiled.eval_shape  # type: ignore[attr-defined]
    return call
