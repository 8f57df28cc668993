"""The sub-calls of one completion that were made before, so that identical ones are made once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable

    from rlm_server.engine.subcalls.outcome import SubcallOutcome


class SubcallCache:
    """Outcomes by what was asked. Calls that are identical to one under way wait for its outcome.

    A failure is given to those that wait for it, and then forgotten, so that the call can be made again.
    """

    def __init__(self) -> None:
        self._outcomes: dict[Hashable, asyncio.Future[SubcallOutcome]] = {}

    def find(self, key: Hashable) -> asyncio.Future[SubcallOutcome] | None:
        """Returns the outcome of an identical call, which may be to come, or None if this is the first."""
        return self._outcomes.get(key)

    def begin(self, key: Hashable) -> asyncio.Future[SubcallOutcome]:
        """Returns where the outcome goes of a call that is being made; `finish` must follow, however it ends."""
        future: asyncio.Future[SubcallOutcome] = asyncio.get_running_loop().create_future()
        self._outcomes[key] = future
        return future

    def finish(self, key: Hashable, future: asyncio.Future[SubcallOutcome], outcome: SubcallOutcome) -> None:
        """Tells the outcome of a call; does nothing if it is known."""
        if future.done():
            return
        if outcome.kind:
            del self._outcomes[key]
        future.set_result(outcome)
