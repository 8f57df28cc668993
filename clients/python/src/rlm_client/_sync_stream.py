"""A stream of events. `_async_stream.py` is its twin: keep the two alike. `_continued_stream.py` serves both."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import grpc
from rlm_api.rlm.v1 import completion_service_pb2 as pb

from rlm_client._completion import Completion, T
from rlm_client._continued_stream import ContinuedStream
from rlm_client._errors import StatusError, StreamEndedError, from_rpc_error

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    from rlm_api.rlm.v1 import event_pb2


_CANCEL_SECONDS = 2.0


class EventStream(ContinuedStream[T]):
    """The events of a completion, as they happen. A stream that breaks is continued by itself.

    Leaving its `with` block cancels a completion that still runs, unless it is detached or only watched.
    """

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
        return self._take(response.event)

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

    def cancel(self) -> None:
        """Cancels the completion; the next event raises `CallCancelledError`. Any thread may call this."""
        self._cancelled = True
        if self.completion_id and not self._fold.has_ended:
            with contextlib.suppress(grpc.RpcError):
                request = pb.CancelCompletionRequest(completion_id=self.completion_id)
                self._stub.CancelCompletion(request, timeout=_CANCEL_SECONDS)
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(self._request, pb.CompleteRequest) and not self._request.detached:
            self.cancel()
        else:
            self.close()
