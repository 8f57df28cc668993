"""The clocks and the entropy that a guest sees: real ones, or reproducible ones."""

from __future__ import annotations

import os
import random
import time
from typing import Protocol


class Clock(Protocol):
    """Tells a guest the time. All values are in nanoseconds."""

    def monotonic_ns(self) -> int:
        """Returns the monotonic clock's reading."""

    def wall_ns(self) -> int:
        """Returns the time since the Unix epoch."""

    def real_wait_ns(self, until_monotonic_ns: int) -> int:
        """Returns how long a guest that sleeps until the given reading has really to wait."""


class RealClock:
    """The host's clocks. The monotonic one starts anew for each guest, so that it tells nothing of the host."""

    def __init__(self) -> None:
        self._start_ns = time.monotonic_ns()

    def monotonic_ns(self) -> int:
        """Returns the time since the guest was made."""
        return time.monotonic_ns() - self._start_ns

    def wall_ns(self) -> int:
        """Returns the time since the Unix epoch."""
        return time.time_ns()

    def real_wait_ns(self, until_monotonic_ns: int) -> int:
        """Returns what is left until the reading."""
        return max(0, until_monotonic_ns - self.monotonic_ns())


class FixedClock:
    """A clock that moves by one microsecond at each reading, and by what a guest sleeps.

    Args:
        start_wall_ns: the first reading of the wall clock.
    """

    _STEP_NS = 1000

    def __init__(self, start_wall_ns: int) -> None:
        self._start_wall_ns = start_wall_ns
        self._elapsed_ns = 0

    def monotonic_ns(self) -> int:
        """Returns the guest's own time."""
        self._elapsed_ns += self._STEP_NS
        return self._elapsed_ns

    def wall_ns(self) -> int:
        """Returns the guest's own time, as a wall clock."""
        return self._start_wall_ns + self.monotonic_ns()

    def real_wait_ns(self, until_monotonic_ns: int) -> int:
        """Moves the clock on; a guest with a clock of its own need not really wait."""
        self._elapsed_ns = max(self._elapsed_ns, until_monotonic_ns)
        return 0


class Entropy:
    """Random bytes for a guest.

    Args:
        seed: makes them reproducible; None takes the operating system's.
    """

    def __init__(self, seed: int | None) -> None:
        self._generator = None if seed is None else random.Random(seed)  # noqa: S311 - reproducible on purpose

    def random_bytes(self, count: int) -> bytes:
        """Returns `count` bytes."""
        return os.urandom(count) if self._generator is None else self._generator.randbytes(count)
