"""Who may take more memory, and when: guests wait while the machine has none to spare."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox_server.memory_gauge import MemoryGauge

_LEAST_STEP_BYTES = 1 << 20
_GREATEST_STEP_BYTES = 32 << 20

_PATIENCE_SECONDS = 0.25
"""How long a guest waits for what others give back; by then `memory_guard` has ended the largest of them."""

_PAUSE_SECONDS = 0.005


class MemoryAllowance:
    """Lets guests have memory as long as enough of it is free. They may ask on any thread.

    Args:
        gauge: tells what is free.
        floor_bytes: what is left free.
        process_count: how many processes have such an allowance, and may ask at the same time.
    """

    def __init__(self, gauge: MemoryGauge, floor_bytes: int, process_count: int) -> None:
        self._gauge = gauge
        self._floor_bytes = floor_bytes
        # What all processes were let have and do not use yet is half of the floor at most.
        step_bytes = floor_bytes // (2 * process_count)
        self.step_bytes = min(max(step_bytes, _LEAST_STEP_BYTES), _GREATEST_STEP_BYTES)
        """The most that may be asked for at a time."""
        self._credit_bytes = 0
        self._lock = threading.Lock()

    def take(self, size_bytes: int, is_over: Callable[[], bool]) -> bool:
        """Waits until the memory may be used, which must be done next.

        Args:
            size_bytes: how much, at most `step_bytes`.
            is_over: whether it is not needed any more.

        Returns:
            Whether it may; not if it took too long, or is over.
        """
        deadline: float | None = None
        while not self._take_now(size_bytes):
            now = time.monotonic()
            deadline = deadline or now + _PATIENCE_SECONDS
            if now >= deadline or is_over():
                return False
            time.sleep(_PAUSE_SECONDS)
        return True

    def _take_now(self, size_bytes: int) -> bool:
        with self._lock:
            if self._credit_bytes < size_bytes:
                if self._gauge.free_bytes() < self._floor_bytes + self.step_bytes:
                    return False
                self._credit_bytes = self.step_bytes
            self._credit_bytes -= size_bytes
            return True
