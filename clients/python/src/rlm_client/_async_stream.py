"""A stream of events. `_sync_stream.py` is its twin: keep the two alike. `_continued_stream.py` serves both."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import grpc
from rlm_api.rlm.v1 import completion_service_pb2 as pb

from rlm_client._completion import Completion, T
from rlm_client._continued_stream import ContinuedStream
from rlm_client._errors import CallCancelledError, StatusError, StreamEndedError, from_rpc_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType
    from typing import Any, Self

    from rlm_api.rlm.v1 import event_pb2

_CANCEL_SECONDS = 2.0


class AsyncEventStream(ContinuedStream[T]):
    """The events of a completion, as they happen. A stream that breaks is continued by itself.

    Leaving its `async with` block cancels a completion that still runs, unless it is detached or only watched.
    """

    _cancelling: asyncio.Task[None] | None = None

    def __aiter__(self) -> AsyncIterator[event_pb2.Event]:
        return self

    async def __anext__(self) -> event_pb2.Event:
        """Waits for the next event.

        Raises:
            StopAsyncIteration: the last event, `finished`, has come before.
            CompletionParkedError: the last event was `parked`: the completion waits to be resumed.
            StatusError: the call failed.
            StreamEndedError: the server broke off.
        """
        while True:
            try:
                return await self._next()
            except (StatusError, StreamEndedError) as error:
                if self._cancelled:
                    raise
                await asyncio.sleep(self._delay_seconds(error))
                self._call = self._open()

    def _open(self) -> Any:
        call = super()._open()
        self._responses: AsyncIterator[Any] = aiter(call)
        return call

    async def _next(self) -> event_pb2.Event:
        try:
            response = await anext(self._responses)
        except StopAsyncIteration:
            if self._fold.has_ended:
                self._close_tools()
            self._fold.completion()
            raise
        except asyncio.CancelledError:
            # gRPC raises this both when the task was cancelled and when the call was; only the first is the task's.
            task = asyncio.current_task()
            if not self._cancelled or (task is not None and task.cancelling()):
                raise
            raise CallCancelledError(grpc.StatusCode.CANCELLED, "the stream was cancelled by this client") from None
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        return self._take(response.event)

    async def result(self) -> Completion[T]:
        """Waits for the end, passing over events that have not been taken, and returns what the completion came to.

        Raises:
            CompletionParkedError: it waits to be resumed.
            StatusError: the call failed.
            StreamEndedError: the server broke off.
        """
        if not self._fold.has_ended:
            async for _ in self:
                pass
        return self._fold.completion()

    def cancel(self) -> None:
        """Cancels the completion; the next event raises `CallCancelledError`."""
        if self.completion_id and not self._fold.has_ended and self._cancelling is None:
            request = pb.CancelCompletionRequest(completion_id=self.completion_id)
            self._cancelling = asyncio.create_task(self._tell_cancelled(request))
        self.close()

    async def _tell_cancelled(self, request: pb.CancelCompletionRequest) -> None:
        with contextlib.suppress(grpc.RpcError):
            await self._stub.CancelCompletion(request, timeout=_CANCEL_SECONDS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(self._request, pb.CompleteRequest) and not self._request.detached:
            self.cancel()
        else:
            self.close()
        if self._cancelling is not None:
            await asyncio.wait({self._cancelling})
