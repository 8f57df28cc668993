"""Ends guests on time.

One thread for the whole process sleeps until the next deadline. Nothing ticks: a guest that is to be ended is made to
trap (see `fuel_page.FuelPage.stop`), and the others run on.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


_FEW = 1000
"""Up to so many alarms, cancelled ones stay among them until they are due."""


class Alarm:
    """A deadline that was set. Cancelling it twice, or after it rang, does no harm."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], None]) -> None:
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        """Keeps the alarm from ringing, unless it is ringing already."""
        self.action = None


class Watchdog:
    """Calls actions at given times, on a thread of its own. Actions must be quick and must not raise."""

    def __init__(self) -> None:
        self._alarms: list[tuple[float, int, Alarm]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._clean_at = _FEW
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def set_alarm(self, after_seconds: float, action: Callable[[], None]) -> Alarm:
        """Has `action` called after a time."""
        alarm = Alarm(action)
        due = time.monotonic() + after_seconds
        with self._changed:
            if len(self._alarms) >= self._clean_at:
                self._forget_cancelled()
            is_next = not self._alarms or due < self._alarms[0][0]
            heapq.heappush(self._alarms, (due, next(self._order), alarm))
            if is_next:
                self._changed.notify()
        return alarm

    def close(self) -> None:
        """Ends the thread; alarms do not ring any more."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _forget_cancelled(self) -> None:
        """Frees what would else wait for its time: nearly every alarm is cancelled long before that."""
        self._alarms = [entry for entry in self._alarms if entry[2].action is not None]
        heapq.heapify(self._alarms)
        self._clean_at = max(_FEW, 2 * len(self._alarms))

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                if not self._alarms:
                    self._changed.wait()
                    continue
                due, _, alarm = self._alarms[0]
                wait_seconds = due - time.monotonic()
                if wait_seconds > 0 and alarm.action is not None:
                    self._changed.wait(wait_seconds)
                    continue
                heapq.heappop(self._alarms)
            action = alarm.action
            if action is not None:
                action()
