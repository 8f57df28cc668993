"""Makes code on a thread stop, and nothing else on that thread."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")


MAX_KILLS = 10
"""How often code is told to stop that does not."""


class CellKilled(BaseException):
    """Is raised in code that must stop."""


class KillableRegion:
    """The part of a thread's work that may be killed; it is entered once.

    The exception that kills can be raised between any two instructions of the thread. So it is sent only while the
    thread is inside, and what was sent but not yet raised is taken back when it leaves. Sending and leaving exclude
    each other.
    """

    def __init__(self) -> None:
        # A lock of which the owner may take more: the exception can be raised right after it was taken.
        self._lock = threading.RLock()
        self._inside: int | None = None
        self._has_left = False
        self._is_safe = False
        self._kill_count = 0

    def run(self, function: Callable[[], _T]) -> _T:
        """Calls the function and returns what it returns.

        Raises:
            CellKilled: it was killed, before or meanwhile, whatever the function made of that.
            BaseException: what the function raises.
        """
        try:
            return self._run(function, MAX_KILLS)
        finally:
            if self._kill_count:
                raise CellKilled

    def kill(self) -> bool:
        """Stops what runs inside, as far as a thread can be made to, or will run there.

        It may have to be called again: code can catch the exception, and Python drops what is raised in a finalizer.

        Returns:
            Whether `run` raises `CellKilled`. If not, the thread has left before.
        """
        with self._lock:
            if not self._has_left and self._kill_count < MAX_KILLS:
                self._kill_count += 1
                if self._inside is not None:
                    _send(self._inside, CellKilled)
            return self._kill_count > 0

    def _run(self, function: Callable[[], _T], levels: int) -> _T:
        """Leaves on each of the levels, since each kill can interrupt one that leaves."""
        try:
            if levels:
                return self._run(function, levels - 1)
            self._enter()
            return function()
        finally:
            self._leave()

    def _enter(self) -> None:
        with self._lock:
            if self._kill_count:
                raise CellKilled
            self._inside = threading.get_ident()

    def _leave(self) -> None:
        if self._is_safe:
            return
        self._lock.acquire()
        self._inside, self._has_left = None, True
        _send(threading.get_ident(), None)
        self._is_safe = True  # from here on nothing is raised any more
        # The lock was taken more than once if taking it was interrupted.
        with contextlib.suppress(RuntimeError):
            while True:
                self._lock.release()


def _send(thread: int, exception: type[BaseException] | None) -> None:
    """Has the thread raise the exception as soon as it runs Python code; None takes back what is not yet raised."""
    sent = None if exception is None else ctypes.py_object(exception)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), sent)
