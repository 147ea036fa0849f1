"""Threads: each has its own stack of NumPyro's effect handlers.

NumPyro has one stack of effect handlers for the whole process, ``numpyro.primitives._PYRO_STACK``: a thread that traces
a model sees the handlers of all others. `separate_handlers` replaces it, once, when this library is imported. Nothing
else that is traced is shared by threads: JAX traces in several threads, its settings (`jax.enable_x64`) are those of a
thread, and compiled programs run side by side.

A lock around whatever traces a model would protect only the places that remember it, and not the code of a user.
"""

import sys
import threading
from collections.abc import Iterable, MutableSequence
from typing import Any

from numpyro import primitives

from .internals import STACK


class ThreadLocalList(MutableSequence[Any]):
    """A list of which each thread has its own, empty at first.

    Args:
        items: the items of the list of the present thread.
    """

    def __init__(self, items: Iterable[Any] = ()) -> None:
        self._threads = threading.local()
        self._items.extend(items)

    @property
    def _items(self) -> list[Any]:
        """The list of the present thread."""
        items: list[Any] = self._threads.__dict__.setdefault("items", [])
        return items

    def __getitem__(self, index: Any) -> Any:
        return self._items[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._items[index] = value

    def __delitem__(self, index: Any) -> None:
        del self._items[index]

    def __len__(self) -> int:
        return len(self._items)

    def insert(self, index: int, value: Any) -> None:
        """Insert an item before an index."""
        self._items.insert(index, value)


def separate_handlers() -> None:
    """Give each thread its own stack of NumPyro's effect handlers.

    Raises:
        ImportError: when NumPyro has no stack of this name, as threads would then share it in silence.
    """
    shared = getattr(primitives, STACK, None)
    if isinstance(shared, ThreadLocalList):
        return
    if not isinstance(shared, list):
        raise ImportError(
            f"Expected numpyro.primitives.{STACK} to be a list, the stack of effect handlers; got {shared!r}. This "
            f"release of NumPyro is not supported."
        )
    separate = ThreadLocalList(shared)
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", {})
        if names.get(STACK) is shared:
            names[STACK] = separate
