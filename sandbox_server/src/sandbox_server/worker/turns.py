"""Lets threads work in the order in which they came, a few at a time."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Turns:
    """Turns that are taken in order.

    Many short jobs that run at the same time all end late; one after the other, most end early, and none later. A job
    that is long must not keep the others: when one has waited for `patience_seconds`, it takes the turn of the job that
    has had its turn the longest, which goes on beside it.

    Args:
        at_once: how many have their turn at the same time.
        patience_seconds: how long one waits at most.
    """

    def __init__(self, at_once: int, patience_seconds: float) -> None:
        self._free = at_once
        self._patience_seconds = patience_seconds
        self._lock = threading.Lock()
        self._holders: OrderedDict[object, None] = OrderedDict()
        self._waiting: deque[_Waiter] = deque()

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Waits for a turn, and has it as long as the context lasts."""
        holder = self._take()
        try:
            yield
        finally:
            self._give_back(holder)

    def _take(self) -> object:
        with self._lock:
            if self._free:
                self._free -= 1
                holder = object()
                self._holders[holder] = None
                return holder
            waiter = _Waiter()
            self._waiting.append(waiter)
        if not waiter.admitted.acquire(timeout=self._patience_seconds):
            with self._lock:
                if waiter in self._waiting:  # else it was admitted just now
                    self._waiting.remove(waiter)
                    self._holders.popitem(last=False)
                    self._holders[waiter] = None
        return waiter

    def _give_back(self, holder: object) -> None:
        with self._lock:
            if holder not in self._holders:
                return  # another has taken it over
            del self._holders[holder]
            if self._waiting:
                waiter = self._waiting.popleft()
                self._holders[waiter] = None
                waiter.admitted.release()
            else:
                self._free += 1


class _Waiter:
    """One that waits; its lock is held until it is admitted."""

    def __init__(self) -> None:
        self.admitted = threading.Lock()
        self.admitted.acquire()
