"""Warnings that code can cause as fast as it runs: the first few of a block are told, the others are counted."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING

from rlm_server.engine.text import count

if TYPE_CHECKING:
    from rlm_api.rlm.v1 import event_pb2

    from rlm_server.engine.events import EventStream

_MAX_TOLD = 5
"""Warnings of one code that are told while a block runs."""


class BlockWarnings:
    """Warnings about what the block of one node asks.

    Args:
        events: where they are told.
        node_id: the node's.
    """

    def __init__(self, events: EventStream, node_id: str) -> None:
        self._events = events
        self._node_id = node_id
        self._counts: collections.Counter[event_pb2.WarningCode.ValueType] = collections.Counter()

    async def warn(self, code: event_pb2.WarningCode.ValueType, message: str) -> None:
        """Tells a warning, or counts it."""
        self._counts[code] += 1
        if self._counts[code] <= _MAX_TOLD:
            await self._events.warn(self._node_id, code, message)

    async def end_block(self) -> None:
        """Tells how many were counted only; a block is over."""
        counts = list(self._counts.items())
        self._counts.clear()
        for code, number in counts:
            if number > _MAX_TOLD:
                more = count(number - _MAX_TOLD, "more warning")
                await self._events.warn(self._node_id, code, f"there would have been {more} like this of the block")
