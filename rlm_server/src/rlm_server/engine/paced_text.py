"""Tells what models say in fewer events than it comes in.

Models send a few characters at a time, a hundred times a second. The first of them are told at once, and what follows
in the next moment is told together when that is over.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import event_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_MOMENT_SECONDS = 0.03
_MAX_HELD_CHARS = 16 * 1024


@dataclass
class _Moment:
    """What a node's model says shortly after it has been told of.

    Args:
        timer: ends it.
        held: what has come and is not told yet.
        telling: tells what came in the moment before.
    """

    timer: asyncio.TimerHandle
    held: event_pb2.ModelTextDelta | None = None
    telling: asyncio.Task[None] | None = None


class PacedText:
    """Holds back text, of each node for itself.

    Args:
        tell: tells of a node's text.
    """

    def __init__(self, tell: Callable[[str, event_pb2.ModelTextDelta], Awaitable[None]]) -> None:
        self._tell = tell
        self._moments: dict[str, _Moment] = {}

    async def add(self, node_id: str, delta: event_pb2.ModelTextDelta) -> None:
        """Tells of the next part of a text, now or in a moment."""
        moment = self._moments.get(node_id)
        if moment is None:
            self._moments[node_id] = _Moment(self._end_later(node_id))
            await self._tell(node_id, delta)
            return
        held = moment.held
        if held is None:
            held = moment.held = event_pb2.ModelTextDelta()
            held.CopyFrom(delta)
        elif (held.iteration, held.reasoning) != (delta.iteration, delta.reasoning):
            await self.flush(node_id)
            await self.add(node_id, delta)
            return
        else:
            held.text += delta.text
        if len(held.text) >= _MAX_HELD_CHARS:
            await self.flush(node_id)

    def holds(self, node_id: str) -> bool:
        """Whether `flush` must be called before something else is told of a node."""
        return node_id in self._moments

    async def flush(self, node_id: str) -> None:
        """Tells what is held back of a node, since something else follows."""
        moment = self._moments[node_id]
        moment.timer.cancel()
        if moment.telling is not None:
            await asyncio.wait({moment.telling})  # which goes on if this is cancelled
            moment.telling.result()
        await self._tell_held(node_id, moment)
        self._moments.pop(node_id, None)

    async def flush_all(self) -> None:
        """Tells all that is held back."""
        for node_id in list(self._moments):
            await self.flush(node_id)

    def drop(self) -> None:
        """Forgets what is held back; nothing is told any more."""
        for moment in self._moments.values():
            moment.timer.cancel()
        self._moments.clear()

    def _end_later(self, node_id: str) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(_MOMENT_SECONDS, self._end, node_id)

    def _end(self, node_id: str) -> None:
        moment = self._moments[node_id]
        if moment.telling is not None and not moment.telling.done():
            moment.timer = self._end_later(node_id)  # whoever takes the events is slow
        elif moment.held is None:
            del self._moments[node_id]
        else:
            moment.telling = asyncio.ensure_future(self._tell_held(node_id, moment))
            moment.timer = self._end_later(node_id)

    async def _tell_held(self, node_id: str, moment: _Moment) -> None:
        held, moment.held = moment.held, None
        if held is not None:
            await self._tell(node_id, held)
