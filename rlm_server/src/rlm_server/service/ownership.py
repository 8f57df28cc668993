"""Which server runs a completion: each keeps the leases of its own, and takes over those whose servers are gone."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlm_server.journal.store import Journal
    from rlm_server.service.admission import Admission
    from rlm_server.service.running import RunningCompletions

_log = logging.getLogger(__name__)

_BEATS_IN_LEASE = 4
_LOOKS_IN_LEASE = 6


class Ownership:
    """Keeps this server's completions its own, and finds those that are nobody's.

    Args:
        journal: has the leases.
        running: the completions that run here.
        admission: lets those go on here that are taken over.
        lease_seconds: how long a completion stays a server's that says nothing.
    """

    def __init__(
        self, journal: Journal, running: RunningCompletions, admission: Admission, lease_seconds: float
    ) -> None:
        self._journal = journal
        self._running = running
        self._admission = admission
        self._lease_seconds = lease_seconds

    async def keep(self) -> None:
        """Keeps the leases, for ever. Without this for a lease's time, another server takes the completions over."""
        period_seconds = self._lease_seconds / _BEATS_IN_LEASE
        while True:
            started = time.monotonic()
            running = self._running.epochs
            alive = await self._journal.heartbeat(running, self._running.feeds.watched_elsewhere)
            for completion_id, epoch in running.items():
                self._running.take_note(completion_id, epoch, alive.get(completion_id))
            await asyncio.sleep(max(0.0, period_seconds - (time.monotonic() - started)))

    async def take_over(self) -> None:
        """Looks for completions whose servers are gone, and goes on with them, for ever."""
        while True:
            if self._admission.free_places > 0:
                for stored in await self._journal.take_abandoned(
                    self._admission.free_places, but_not=list(self._running.epochs)
                ):
                    try:
                        await self._admission.take_over(stored)
                    except Exception:  # noqa: BLE001 - the others are not to wait
                        # Its lease runs out again, and whoever looks then tries again.
                        _log.exception("completion %s cannot be taken over now", stored.completion_id)
            await asyncio.sleep(self._lease_seconds / _LOOKS_IN_LEASE)
