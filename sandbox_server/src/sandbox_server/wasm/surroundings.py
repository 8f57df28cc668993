"""What a guest may learn from outside, apart from what it is sent."""

from __future__ import annotations

from typing import Protocol

from sandbox_server.wasm.clock import Clock


class Surroundings(Clock, Protocol):
    """Clocks and entropy."""

    def random_bytes(self, count: int) -> bytes:
        """Returns `count` random bytes."""
