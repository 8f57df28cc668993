"""Gives back the stack that deep recursion in a sandbox leaves behind on its thread."""

from __future__ import annotations

import ctypes
import sys
import threading
from ctypes import byref, c_size_t, c_void_p

_KEPT_BYTES = 512 * 1024
"""What a thread keeps at the upper end of its stack: more than it uses between two jobs."""

_MADV_DONTNEED = 4
_ATTRIBUTE_BYTES = 256
"""More than the size of `pthread_attr_t`, which is 56 in glibc on 64-bit machines."""

_bounds = threading.local()


def release_unused_stack() -> None:
    """Gives back all of the calling thread's stack but its upper end. Does nothing where there is no glibc.

    To be called near the start of a thread, where little of its stack is in use.
    """
    if sys.platform != "linux":
        return
    libc = _libc
    if not hasattr(_bounds, "low"):
        _bounds.low, _bounds.size = _find_bounds(libc)
    if _bounds.size > _KEPT_BYTES:
        libc.madvise(c_void_p(_bounds.low), c_size_t(_bounds.size - _KEPT_BYTES), _MADV_DONTNEED)


def _find_bounds(libc: ctypes.CDLL) -> tuple[int, int]:
    """Returns the lowest address of the calling thread's stack and its size, (0, 0) if they cannot be had."""
    if not hasattr(libc, "pthread_getattr_np"):
        return 0, 0
    attributes = ctypes.create_string_buffer(_ATTRIBUTE_BYTES)
    libc.pthread_self.restype = c_void_p
    if libc.pthread_getattr_np(c_void_p(libc.pthread_self()), attributes) != 0:
        return 0, 0
    low, size = c_void_p(), c_size_t()
    libc.pthread_attr_getstack(attributes, byref(low), byref(size))
    libc.pthread_attr_destroy(attributes)
    return int(low.value or 0), int(size.value)


_libc = ctypes.CDLL(None)
