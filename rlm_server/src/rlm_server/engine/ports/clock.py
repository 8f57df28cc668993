"""The clock."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Tells the time."""

    def monotonic_seconds(self) -> float:
        """Returns a time that only grows, for durations."""

    def time_nanoseconds(self) -> int:
        """Returns the nanoseconds since the epoch, for events."""
