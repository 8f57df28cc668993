"""Ends a guest that has used all of its fuel.

Code takes its fuel without looking whether there is any left (`image.metering`). So somebody else has to look: the host
at each call that the guest makes and when it returns, which makes the outcome exact, and meanwhile the watchdog, which
makes it come soon.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandbox_server.wasm.guest import Guest
    from sandbox_server.wasm.watchdog import Alarm, Watchdog

_UNITS_PER_SECOND = 1e11
"""More than code can use in a second: what was measured is 0.9 to 2.3e10."""

_LEAST_SECONDS = 0.005


class FuelWatch:
    """Looks when the fuel of a guest may have run out, until it is cancelled.

    Args:
        watchdog: has it done at the time.
        guest: the guest.
    """

    def __init__(self, watchdog: Watchdog, guest: Guest) -> None:
        self._watchdog = watchdog
        self._guest = guest
        self._lock = threading.Lock()
        self._alarm: Alarm | None = None
        self._set_alarm()

    def cancel(self) -> None:
        """Looks no more."""
        with self._lock:
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm = None

    def _set_alarm(self) -> None:
        seconds = max(_LEAST_SECONDS, self._guest.fuel_balance / _UNITS_PER_SECOND)
        self._alarm = self._watchdog.set_alarm(seconds, self._look)

    def _look(self) -> None:
        with self._lock:
            if self._alarm is not None and not self._guest.end_if_out_of_fuel():
                self._set_alarm()
