"""Completions whose replies the demo model is told beforehand, and when their events came in."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_api.rlm.v1 import event_pb2, limits_pb2

from bench.environment import rlm_stub

if TYPE_CHECKING:
    from collections.abc import Sequence

    import grpc


class TimedEvents:
    """The events of one completion, each with the time at which it came in, by `time.perf_counter`.

    Args:
        start: when the call was made.
    """

    def __init__(self, start: float) -> None:
        self.start = start
        self._events: list[tuple[float, event_pb2.Event]] = []

    def add(self, event: event_pb2.Event) -> None:
        """Adds one that came in now."""
        self._events.append((time.perf_counter(), event))

    def times_of(self, kind: str) -> list[float]:
        """Returns when the events of a kind came in."""
        return [at for at, event in self._events if event.WhichOneof("kind") == kind]

    def server_times_of(self, kind: str) -> list[float]:
        """Returns when the events of a kind happened, in seconds, by the server's clock."""
        return [event.event_time.ToNanoseconds() / 1e9 for _, event in self._events if event.WhichOneof("kind") == kind]

    def of(self, kind: str) -> list[Any]:
        """Returns what the events of a kind tell."""
        return [getattr(event, kind) for _, event in self._events if event.WhichOneof("kind") == kind]


async def complete(channel: grpc.aio.Channel, replies: Sequence[str], context: pb.ContextPart) -> TimedEvents:
    """Runs a completion in which the model gives these replies, and then ends it.

    Raises:
        RuntimeError: it does not go as it should.
    """
    dictation = "\n".join(f"<reply>\n{reply}\n</reply>" for reply in [*replies, "FINAL(done)"])
    request = pb.CompleteRequest(
        query=dictation, contexts=[context], limits=limits_pb2.Limits(max_iterations=len(replies) + 1)
    )
    events = TimedEvents(time.perf_counter())
    async for response in rlm_stub(channel).Complete(request):
        events.add(response.event)
    finished = events.of("finished")[0]
    if finished.answer != "done" or finished.partial:
        raise RuntimeError(f"the completion ended with {finished}")
    return events
