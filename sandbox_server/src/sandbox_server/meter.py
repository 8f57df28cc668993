"""Measures what work in a sandbox takes."""

from __future__ import annotations

import time

from sandbox_server.model import Usage


class Meter:
    """Measures time from its making on. Processor time is that of the thread."""

    def __init__(self) -> None:
        self._wall = time.monotonic()
        self._cpu = time.thread_time()

    def usage(self, fuel: int, memory_bytes: int) -> Usage:
        """Returns the times so far, with fuel and memory that were measured elsewhere."""
        return Usage(
            fuel=fuel,
            memory_bytes=memory_bytes,
            wall_time_seconds=time.monotonic() - self._wall,
            cpu_time_seconds=time.thread_time() - self._cpu,
        )
