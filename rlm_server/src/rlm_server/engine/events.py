"""The ordered, bounded stream of a completion's events."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeAlias

from google.protobuf import timestamp_pb2
from rlm_api.rlm.v1 import event_pb2

from rlm_server.engine.reproducible import TextPieces, event_time, without_times

if TYPE_CHECKING:
    from rlm_server.engine.ports import Clock

_CAPACITY = 256

EventKind: TypeAlias = (
    event_pb2.CompletionStarted
    | event_pb2.IterationStarted
    | event_pb2.ModelTextDelta
    | event_pb2.ModelReplyFinished
    | event_pb2.CodeStarted
    | event_pb2.OutputDelta
    | event_pb2.CodeFinished
    | event_pb2.SubcallStarted
    | event_pb2.SubcallFinished
    | event_pb2.Warning
    | event_pb2.UsageUpdated
    | event_pb2.CompletionFinished
    | event_pb2.SandboxRestored
    | event_pb2.Compacted
    | event_pb2.ToolCall
    | event_pb2.ToolCallFinished
)
"""What an event can tell."""

_FIELD_OF_TYPE = {
    field.message_type.full_name: field.name
    for field in event_pb2.Event.DESCRIPTOR.oneofs_by_name["kind"].fields
    if field.message_type is not None
}


class EventStream:
    """Numbers events without gaps and hands them to one reader; writers wait while the reader is behind.

    Args:
        completion_id: is put on each event.
        clock: dates them.
        reproducible: the events depend on what happens alone, not on when; see `reproducible.py`.
    """

    def __init__(self, completion_id: str, clock: Clock, *, reproducible: bool = False) -> None:
        self.completion_id = completion_id
        self._clock = clock
        self._sequence = 0
        self._free_slots = asyncio.Semaphore(_CAPACITY)
        self._queue: asyncio.Queue[tuple[event_pb2.Event, bool] | None] = asyncio.Queue()
        self._error: Exception | None = None
        self._pieces = TextPieces() if reproducible else None

    async def emit(self, node_id: str, kind: EventKind) -> None:
        """Appends an event; waits while the reader is behind."""
        await self._free_slots.acquire()
        # From here on nothing waits: a writer that is cancelled while it waits for a slot leaves no gap.
        to_append: list[tuple[str, EventKind]] = [(node_id, kind)]
        if self._pieces is not None:
            is_delta = isinstance(kind, event_pb2.OutputDelta | event_pb2.ModelTextDelta)
            to_append = [*self._pieces.take(node_id, kind), *([] if is_delta else [(node_id, without_times(kind))])]
        for index, (its_node_id, its_kind) in enumerate(to_append):
            self._append(its_node_id, its_kind, holds_slot=index == 0)
        if not to_append:
            self._free_slots.release()

    def _append(self, node_id: str, kind: EventKind, *, holds_slot: bool) -> None:
        self._sequence += 1
        if self._pieces is not None:
            time = event_time(self._sequence)
        else:
            time = timestamp_pb2.Timestamp()
            time.FromNanoseconds(self._clock.time_nanoseconds())
        event = event_pb2.Event(
            completion_id=self.completion_id, sequence=self._sequence, event_time=time, node_id=node_id
        )
        getattr(event, _FIELD_OF_TYPE[kind.DESCRIPTOR.full_name]).CopyFrom(kind)
        self._queue.put_nowait((event, holds_slot))

    async def warn(self, node_id: str, code: event_pb2.WarningCode.ValueType, message: str) -> None:
        """Appends a warning."""
        await self.emit(node_id, event_pb2.Warning(code=code, message=message))

    def end(self, error: Exception | None = None) -> None:
        """Ends the stream; with an error the reader gets that after the events."""
        for node_id, delta in self._pieces.flush() if self._pieces is not None else []:
            self._append(node_id, delta, holds_slot=False)
        self._error = error
        self._queue.put_nowait(None)

    async def next_event(self) -> event_pb2.Event | None:
        """Returns the next event, or None after the last.

        Raises:
            Exception: the one that the stream was ended with.
        """
        item = await self._queue.get()
        if item is None:
            if self._error is not None:
                raise self._error
            return None
        event, holds_slot = item
        if holds_slot:
            self._free_slots.release()
        return event
