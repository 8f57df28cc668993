"""The system's clock."""

from __future__ import annotations

import time


class SystemClock:
    """The system's clock, as a `ports.Clock`."""

    def monotonic_seconds(self) -> float:
        """Returns a time that only grows, for durations."""
        return time.monotonic()

    def time_nanoseconds(self) -> int:
        """Returns the nanoseconds since the epoch, for events."""
        return time.time_ns()
