"""Keeps the C library from keeping memory that was freed.

What crosses between a guest and the host takes large buffers for a moment, on whichever thread the guest runs. Left to
itself, glibc learns from the first of them to keep such memory ready, for each thread.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time

# Of `mallopt`, in malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

_LARGE_BYTES = 4 << 20
"""What is larger is given back as soon as it is freed, and so is what is free beyond that at the end of a heap."""

_ARENAS = 4


class Heap:
    """The C library's heap of this process; made before there are threads. Without glibc, it does nothing.

    Args:
        interval_seconds: time from when something was freed until it is given back: that takes a few milliseconds, if
            it lies between other things, so it is not done for every sandbox.
    """

    def __init__(self, interval_seconds: float = 2.0) -> None:
        self._interval_seconds = interval_seconds
        self._freed = threading.Event()
        libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        if libc is None or not (hasattr(libc, "malloc_trim") and hasattr(libc, "mallopt")):
            return
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGE_BYTES)
        libc.mallopt(_M_ARENA_MAX, _ARENAS)
        self._libc = libc

    def start_trimming(self) -> None:
        """Starts a thread that gives memory back some time after something was freed."""
        if hasattr(self, "_libc"):
            threading.Thread(target=self._run, name="heap", daemon=True).start()

    def note_freed(self) -> None:
        """Hears that a sandbox was freed."""
        self._freed.set()

    def _run(self) -> None:
        while True:
            self._freed.wait()
            time.sleep(self._interval_seconds)
            self._freed.clear()
            self._libc.malloc_trim(ctypes.c_size_t(0))
