"""Keeps the machine, or the container, from running out of memory, in which case the kernel would kill at random.

The limits of all sandboxes may add up to more than there is, as few come near theirs. So what is free is looked at: the
more often, the less there is. If it gets little, no new sandboxes are taken; if it gets very little, the cell that has
the most is ended.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from sandbox_server.cores import available_cores
from sandbox_server.model import MIB

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sandbox_server.memory_gauge import MemoryGauge

_log = logging.getLogger(__name__)

_RESERVE_PART = 20
_LEAST_RESERVE_BYTES = 128 * MIB
_GREATEST_RESERVE_BYTES = 1024 * MIB

_BYTES_PER_SECOND = 4 * 1024 * MIB
"""More than code can make its own of memory in a second, on one core."""

_SHORTEST_PAUSE_SECONDS = 0.01
_LONGEST_PAUSE_SECONDS = 0.5

_RELIEF_SECONDS = 0.05
"""How long after the end of a cell it is seen what that brought."""


def default_reserve_bytes(total_bytes: int) -> int:
    """Returns how much is to be left free: a twentieth of the whole, but 128 MiB to 1 GiB."""
    return min(max(total_bytes // _RESERVE_PART, _LEAST_RESERVE_BYTES), _GREATEST_RESERVE_BYTES)


class MemoryGuard:
    """Watches the memory that is free.

    Args:
        gauge: tells how much it is.
        reserve_bytes: with less than this, a cell is ended; with less than twice this, no new sandboxes are taken.
        relieve: ends the cell that has the most memory and returns how much it had, or 0 if none runs.
    """

    def __init__(self, gauge: MemoryGauge, reserve_bytes: int, relieve: Callable[[], Awaitable[int]]) -> None:
        self._gauge = gauge
        self._relieve = relieve
        self._speed = _BYTES_PER_SECOND * available_cores()
        self.reserve_bytes = reserve_bytes
        self.free_bytes = gauge.free_bytes()

    @property
    def is_short(self) -> bool:
        """Whether no new sandboxes are to be taken."""
        return self.free_bytes < 2 * self.reserve_bytes

    async def watch(self) -> None:
        """Watches until it is cancelled."""
        helpless = False
        while True:
            self.free_bytes = self._gauge.free_bytes()
            if self.free_bytes >= self.reserve_bytes:
                helpless = False
                pause_seconds = (self.free_bytes - self.reserve_bytes) / self._speed
                await asyncio.sleep(min(max(pause_seconds, _SHORTEST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS))
                continue
            ended_bytes = await self._relieve()
            if ended_bytes:
                _log.warning(
                    "%d MiB of memory are free, less than %d: the cell that had the most, %d MiB, is ended",
                    self.free_bytes // MIB,
                    self.reserve_bytes // MIB,
                    ended_bytes // MIB,
                )
            elif not helpless:
                helpless = True
                _log.warning(
                    "%d MiB of memory are free, less than %d, and no cell runs that could be ended",
                    self.free_bytes // MIB,
                    self.reserve_bytes // MIB,
                )
            await asyncio.sleep(_RELIEF_SECONDS)
