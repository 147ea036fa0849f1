"""What has been found about rows on disk, remembered while their files are unchanged.

A file is known by the device, the number, the size and the times of the file that is mapped into memory, not by its
name. Only memory maps that are open for reading are remembered, of files on file systems that change the time of a file
when it is written to through a memory map, and which have not been changed for a minute: until the system has written a
page to disk, further changes of it need not show in the time. Arrays in memory, and those of other libraries, are
checked each time.
"""

import os
import time
from collections import OrderedDict
from collections.abc import Hashable
from pathlib import Path
from threading import Lock
from typing import Any

import jax
import numpy as np

from .stored import Stored

SETTLED = 60.0
"""The seconds without a change after which a file is trusted to show the next change in its time. Linux writes changed
pages to disk after 35 seconds at most, and then notes the next change of each."""
FILE_SYSTEMS = {"ext4", "xfs"}
"""The file systems that note changes through memory maps, and of which a mapped file shows device and number."""
LARGEST = 256
"""The number of things that are remembered."""
_FOUND: OrderedDict[Hashable, Any] = OrderedDict()
_LOCK = Lock()


class Remembered:
    """What has been found about some rows, if it is known.

    Args:
        what: what is asked, with all that the answer depends on beside the rows.
        rows: a pytree of rows.
        also_here: remember it for these very objects as well, which are those of one call, whatever they are read from.
    """

    def __init__(self, what: Hashable, rows: Any, *, also_here: bool = False) -> None:
        self._what, self._leaves = what, jax.tree.leaves(rows)
        is_here = also_here and all(isinstance(leaf, Stored) and _view(leaf) is not None for leaf in self._leaves)
        self._here = self._leaves[0].found if is_here else None
        self._key = self._identity()
        with _LOCK:
            self.value: Any = _FOUND.get(self._key) if self._key is not None else None
            if self._key in _FOUND:
                _FOUND.move_to_end(self._key)
        if self.value is None and self._here is not None:
            self.value = self._here.get((what, *map(_view, self._leaves)))

    def keep(self, value: Any) -> None:
        """Remember what has been found, if no file has changed since the object was made."""
        if self._here is not None:
            self._here[self._what, *map(_view, self._leaves)] = value
        if self._key is None or self._key != self._identity():
            return
        with _LOCK:
            _FOUND[self._key] = value
            while len(_FOUND) > LARGEST:
                _FOUND.popitem(last=False)

    def _identity(self) -> Hashable | None:
        parts = [identity(leaf) for leaf in self._leaves]
        return None if None in parts else (self._what, *parts)


def identity(leaf: Any) -> Hashable | None:
    """Return what tells the values of rows on disk from any others; None where nothing does."""
    if not isinstance(leaf, Stored) or _view(leaf) is None:
        return None
    source = leaf.source
    if not isinstance(source, np.memmap) or source.mode != "r" or source.filename is None:
        return None
    mapped = _mapped(source.ctypes.data)
    if mapped is None:
        return None
    device, number, offset, system = mapped
    try:
        about = os.stat(source.filename)
    except OSError:
        return None
    is_that = (os.major(about.st_dev), os.minor(about.st_dev), about.st_ino) == (*device, number)
    changed = max(about.st_mtime, about.st_ctime)
    if not is_that or system not in FILE_SYSTEMS or not 0 <= changed <= time.time() - SETTLED:
        return None
    times = about.st_size, about.st_mtime_ns, about.st_ctime_ns
    return device, number, times, offset, source.shape, source.strides, source.dtype.str, _view(leaf)


def _view(leaf: Stored) -> Hashable | None:
    """Return how all rows of a source are seen; None where some are left out, or numbers are replaced."""
    return leaf.dtype.str if leaf.chosen is None and leaf.fill is None else None


def _mapped(address: int) -> tuple[tuple[int, int], int, int, str] | None:
    """Return device and number of the file at an address, the place in it, and the file system; None if unknown."""
    try:
        with open("/proc/self/maps") as regions:  # there may be tens of thousands, of compiled programs
            for line in regions:
                bounds, _, offset, device, number = line.split()[:5]
                start, stop = (int(each, 16) for each in bounds.split("-"))
                if start <= address < stop:
                    major, minor = (int(each, 16) for each in device.split(":"))
                    place = int(offset, 16) + address - start
                    return (major, minor), int(number), place, _file_system(major, minor)
    except (OSError, ValueError):  # not Linux
        return None
    return None


def _file_system(major: int, minor: int) -> str:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        if words[2] == f"{major}:{minor}":
            return words[words.index("-") + 1]
    return ""
