"""What the streams of events of both clients have in common: how one is opened, and continued when it breaks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Generic

from rlm_api.rlm.v1 import completion_service_pb2 as pb

from rlm_client._completion import EventFold, T
from rlm_client._errors import StatusError, StreamEndedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from rlm_api.rlm.v1 import completion_service_pb2_grpc as pb_grpc
    from rlm_api.rlm.v1 import event_pb2

    from rlm_client._directory import SkippedFile
    from rlm_client._resuming import Resuming
    from rlm_client._tool_calls import ToolTasks, ToolThreads


class ContinuedStream(Generic[T]):
    """The events of a completion, on one stream after the other. Subclasses read them."""

    def __init__(
        self,
        stub: pb_grpc.CompletionServiceStub | pb_grpc.CompletionServiceAsyncStub,
        skipped_files: Sequence[SkippedFile],
        resuming: Resuming,
        request: pb.CompleteRequest | pb.WatchCompletionRequest,
        *,
        timeout_seconds: float | None,
        tool_calls: ToolThreads | ToolTasks | None = None,
        read: Callable[[str], T] | None = None,
    ) -> None:
        self._stub: Any = stub
        self._resuming = resuming
        self._request = request
        self._deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        self._tool_calls = tool_calls
        self._fold = EventFold(skipped_files, read)
        self._cancelled = False
        self._call = self._open()
        self.skipped_files = tuple(skipped_files)
        """Files of directories in the context that were left out."""

    @property
    def completion_id(self) -> str:
        """The completion's id; empty before the first event."""
        if isinstance(self._request, pb.WatchCompletionRequest):
            return self._request.completion_id
        return self._fold.completion_id

    @property
    def conversation_id(self) -> str:
        """The conversation that the completion belongs to; empty if there is none, or the first event has not come."""
        return self._fold.conversation_id

    @property
    def resume_count(self) -> int:
        """How often the stream broke and was continued."""
        return self._resuming.count

    def close(self) -> None:
        """Ends the stream and leaves the completion alone: without a client it is cancelled after a grace time."""
        self._cancelled = True
        self._call.cancel()
        self._close_tools()

    def _take(self, event: event_pb2.Event) -> event_pb2.Event:
        """Takes note of an event that has come, and returns it."""
        self._resuming.has_event()
        self._fold.add(event)
        if self._tool_calls is not None:
            self._tool_calls.take(event)
        return event

    def _open(self) -> Any:
        """Returns the call of the stream that begins, or of the next one."""
        timeout = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
        if self._tool_calls is not None:
            return self._stub.CompleteWithTools(self._tool_calls.requests(self._first_of_tools()), timeout=timeout)
        if isinstance(self._request, pb.CompleteRequest) and not self._fold.last_sequence:
            return self._stub.Complete(self._request, timeout=timeout)
        after = self._fold.last_sequence
        if isinstance(self._request, pb.WatchCompletionRequest):
            after = max(after, self._request.after_sequence)
        request = pb.WatchCompletionRequest(completion_id=self.completion_id, after_sequence=after)
        return self._stub.WatchCompletion(request, timeout=timeout)

    def _first_of_tools(self) -> pb.CompleteWithToolsRequest:
        """Returns what a stream begins with on which tools are served."""
        if isinstance(self._request, pb.CompleteRequest) and not self._fold.last_sequence:
            return pb.CompleteWithToolsRequest(start=self._request)
        resume = pb.ResumeTools(completion_id=self.completion_id, after_sequence=self._fold.last_sequence)
        return pb.CompleteWithToolsRequest(resume=resume)

    def _delay_seconds(self, error: StatusError | StreamEndedError) -> float:
        """Returns how long to wait before the stream that broke is continued; raises the error if it is not to be."""
        try:
            delay_seconds = self._resuming.delay_seconds(error, self._fold.last_sequence)
        except (StatusError, StreamEndedError):
            self._close_tools()
            raise
        if self._tool_calls is not None:
            self._tool_calls.end_stream()
        return delay_seconds

    def _close_tools(self) -> None:
        if self._tool_calls is not None:
            self._tool_calls.close()
