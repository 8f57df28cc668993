"""The ordered events of a completion, numbered without gaps."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Protocol, TypeAlias

from rlm_api.rlm.v1 import event_pb2

from rlm_server.engine.paced_text import PacedText
from rlm_server.engine.reproducible import TextPieces, without_times

if TYPE_CHECKING:
    from rlm_server.engine.ports.clock import Clock

EventKind: TypeAlias = (
    event_pb2.AnsweredDirectly
    | event_pb2.CompletionStarted
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
    | event_pb2.FileContent
    | event_pb2.Compacted
    | event_pb2.ToolCall
    | event_pb2.ToolCallFinished
    | event_pb2.Parked
    | event_pb2.Resumed
)
"""What an event can tell."""

_FIELD_OF_TYPE = {
    field.message_type.full_name: field.name
    for field in event_pb2.Event.DESCRIPTOR.oneofs_by_name["kind"].fields
    if field.message_type is not None
}


def make_event(node_id: str, kind: EventKind, clock: Clock) -> event_pb2.Event:
    """Returns an event of now, without completion and number."""
    event = event_pb2.Event(node_id=node_id)
    event.event_time.FromNanoseconds(clock.time_nanoseconds())
    getattr(event, _FIELD_OF_TYPE[kind.DESCRIPTOR.full_name]).CopyFrom(kind)
    return event


class EventSink(Protocol):
    """Where events go."""

    def skips_deltas(self, node_id: str) -> bool:
        """Tells whether what a node says bit by bit has been told before."""

    async def put(self, event: event_pb2.Event) -> None:
        """Completes an event with completion and number, and keeps it; may wait while too many are on their way."""


class EventStream:
    """What the engine tells its events to.

    Args:
        completion_id: the completion's.
        clock: dates them.
        sink: numbers and keeps them.
        reproducible: the events depend on what happens alone, not on when; see `reproducible.py`.
    """

    def __init__(self, completion_id: str, clock: Clock, sink: EventSink, *, reproducible: bool = False) -> None:
        self.completion_id = completion_id
        self._sink = sink
        self._pieces = TextPieces() if reproducible else None
        self._put = functools.partial(_put, sink, clock)
        self._paced = PacedText(self._put)

    async def emit(self, node_id: str, kind: EventKind) -> None:
        """Appends an event."""
        is_delta = isinstance(kind, event_pb2.OutputDelta | event_pb2.ModelTextDelta)
        if is_delta and self._sink.skips_deltas(node_id):
            return
        if self._pieces is None:
            await self._emit_paced(node_id, kind)
            return
        for piece_node_id, piece in self._pieces.take(node_id, kind):
            await self._put(piece_node_id, piece)
        if not is_delta:
            await self._put(node_id, without_times(kind))

    async def last(self, kind: event_pb2.CompletionFinished) -> event_pb2.CompletionFinished:
        """Appends what is still kept back, and returns what the last event is to tell."""
        await self.flush()
        return kind if self._pieces is None else without_times(kind)

    async def flush(self) -> None:
        """Appends what is still kept back."""
        await self._paced.flush_all()
        if self._pieces is not None:
            for node_id, piece in self._pieces.flush():
                await self._put(node_id, piece)

    def close(self) -> None:
        """Forgets what is still kept back: it is told by whoever goes on with the completion, or nobody wants it."""
        self._paced.drop()

    async def warn(self, node_id: str, code: event_pb2.WarningCode.ValueType, message: str) -> None:
        """Appends a warning."""
        await self.emit(node_id, event_pb2.Warning(code=code, message=message))

    async def _emit_paced(self, node_id: str, kind: EventKind) -> None:
        if isinstance(kind, event_pb2.ModelTextDelta):
            await self._paced.add(node_id, kind)
            return
        if self._paced.holds(node_id):
            await self._paced.flush(node_id)
        await self._put(node_id, kind)


async def _put(sink: EventSink, clock: Clock, node_id: str, kind: EventKind) -> None:
    await sink.put(make_event(node_id, kind, clock))
