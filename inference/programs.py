"""The one cache of compiled programs."""

from collections.abc import Callable
from functools import lru_cache
from threading import Lock
from typing import Any

from .density import Density
from .rows import Data, signature

PROGRAMS = 48
"""How many sets of compiled programs are kept: those of some 16 fits, each of which has two or three. On the CPU one
takes up to 500 mappings of memory, and a Linux process that is past its 65,530 dies: a sweep over a hundred models must
not keep them all."""

_BUILDING = Lock()


def program[P](build: Callable[..., P], density: Density, data: Data, *settings: Any) -> P:
    """The programs that ``build(density, *settings)`` makes, one set for each shape of data: made once.

    Args:
        build: a class whose attributes are compiled functions.
        density: what they evaluate.
        data: rows whose shapes they are compiled for.
        settings: what else they depend on, and nothing that they do not depend on: each set compiles anew.
    """
    with _BUILDING:  # `lru_cache` alone would build one set for each of several threads, to be compiled several times
        return _program(build, density, settings, signature(data))


@lru_cache(maxsize=PROGRAMS)
def _program(build: Callable[..., Any], density: Density, settings: tuple[Any, ...], shapes: Any) -> Any:
    return build(density, *settings)
