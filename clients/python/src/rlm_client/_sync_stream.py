"""A stream of events. `_async_stream.py` is its twin: keep the two alike."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Generic

import grpc
from rlm_api.rlm.v1 import completion_service_pb2 as pb

from rlm_client._completion import Completion, EventFold, T
from rlm_client._errors import StatusError, StreamEndedError, from_rpc_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType
    from typing import Any, Self

    from rlm_api.rlm.v1 import completion_service_pb2_grpc as pb_grpc
    from rlm_api.rlm.v1 import event_pb2

    from rlm_client._directory import SkippedFile
    from rlm_client._resuming import Resuming
    from rlm_client._tool_calls import ToolThreads

_CANCEL_SECONDS = 2.0


class EventStream(Generic[T]):
    """The events of a completion, as they happen. A stream that breaks is continued by itself.

    Leaving its `with` block cancels a completion that still runs, unless it is detached or only watched.
    """

    def __init__(
        self,
        stub: pb_grpc.CompletionServiceStub,
        skipped_files: Sequence[SkippedFile],
        resuming: Resuming,
        request: pb.CompleteRequest | pb.WatchCompletionRequest,
        *,
        timeout_seconds: float | None,
        tool_calls: ToolThreads | None = None,
        read: Callable[[str], T] | None = None,
    ) -> None:
        self._stub = stub
        self._resuming = resuming
        self._request = request
        self._deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        self._tool_calls = tool_calls
        self._fold = EventFold(skipped_files, read)
        self._cancelled = False
        self._call: Any = self._open()
        self.skipped_files = tuple(skipped_files)
        """Files of directories in the context that were left out."""

    @property
    def completion_id(self) -> str:
        """The completion's id; empty before the first event."""
        if isinstance(self._request, pb.WatchCompletionRequest):
            return self._request.completion_id
        return self._fold.completion_id

    @property
    def resume_count(self) -> int:
        """How often the stream broke and was continued."""
        return self._resuming.count

    def __iter__(self) -> Iterator[event_pb2.Event]:
        return self

    def __next__(self) -> event_pb2.Event:
        """Waits for the next event.

        Raises:
            StopIteration: the last event, `finished`, has come before.
            CompletionParkedError: the last event was `parked`: the completion waits to be resumed.
            StatusError: the call failed.
            StreamEndedError: the server broke off.
        """
        while True:
            try:
                return self._next()
            except (StatusError, StreamEndedError) as error:
                if self._cancelled:
                    raise
                time.sleep(self._delay_seconds(error))
                self._call = self._open()

    def _next(self) -> event_pb2.Event:
        try:
            response = next(self._call)
        except StopIteration:
            if self._fold.has_ended:
                self._close_tools()
            self._fold.completion()
            raise
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        self._resuming.has_event()
        self._fold.add(response.event)
        if self._tool_calls is not None:
            self._tool_calls.take(response.event)
        event: event_pb2.Event = response.event
        return event

    def _open(self) -> Any:
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

    def result(self) -> Completion[T]:
        """Waits for the end, passing over events that have not been taken, and returns what the completion came to.

        Raises:
            CompletionParkedError: it waits to be resumed.
            StatusError: the call failed.
            StreamEndedError: the server broke off.
        """
        if not self._fold.has_ended:
            for _ in self:
                pass
        return self._fold.completion()

    @property
    def conversation_id(self) -> str:
        """The conversation that the completion belongs to; empty if there is none, or the first event has not come."""
        return self._fold.conversation_id

    def cancel(self) -> None:
        """Cancels the completion; the next event raises `CallCancelledError`. Any thread may call this."""
        self._cancelled = True
        if self.completion_id and not self._fold.has_ended:
            with contextlib.suppress(grpc.RpcError):
                request = pb.CancelCompletionRequest(completion_id=self.completion_id)
                self._stub.CancelCompletion(request, timeout=_CANCEL_SECONDS)
        self.close()

    def close(self) -> None:
        """Ends the stream and leaves the completion alone: without a client it is cancelled after a grace time."""
        self._cancelled = True
        self._call.cancel()
        self._close_tools()

    def _close_tools(self) -> None:
        if self._tool_calls is not None:
            self._tool_calls.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(self._request, pb.CompleteRequest) and not self._request.detached:
            self.cancel()
        else:
            self.close()
