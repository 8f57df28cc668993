"""The interceptor that turns exceptions of handlers into statuses; no traceback ever reaches a caller."""

from __future__ import annotations

import contextlib
import inspect
import logging
import uuid
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from rlm_common.errors import ServiceError, invalid_field, to_status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from rlm_common.running_calls import RunningCalls

_Context = grpc.aio.ServicerContext[Any, Any]

_log = logging.getLogger(__name__)


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Maps `ServiceError` to its status, and any other exception to INTERNAL with an id under which it was logged.

    Args:
        domain: the `ErrorInfo` domain of this server's services, as `sandbox.v1`.
        running_calls: is told of every RPC.
    """

    def __init__(self, domain: str, running_calls: RunningCalls) -> None:
        self._domain = domain
        self._running_calls = running_calls

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wraps the handler of a call, whichever of the four shapes it has."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = str(handler_call_details.method)
        # gRPC answers a message that its deserializer rejects with an exception's text and no details, so messages are
        # decoded here.
        decode = handler.request_deserializer or _keep
        behavior: Any = handler.stream_stream or handler.stream_unary or handler.unary_stream or handler.unary_unary

        def call(request: Any, context: _Context) -> Any:
            self._running_calls.add(method, context)
            decoded = _decode_all(request, decode) if handler.request_streaming else _decode(request, decode)
            return behavior(decoded, context)

        if handler.response_streaming:
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            return make(self._streaming(call, method), None, handler.response_serializer)
        make = (
            grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler
        )
        return make(self._unary(call, method), None, handler.response_serializer)

    def _unary(self, behavior: Any, method: str) -> Any:
        async def call(request: Any, context: _Context) -> Any:
            try:
                return await behavior(request, context)
            except Exception as error:  # noqa: BLE001 - the outermost frame of a call
                await self._abort(error, context, method)

        return call

    def _streaming(self, behavior: Any, method: str) -> Any:
        async def call(request: Any, context: _Context) -> AsyncIterator[Any]:
            try:
                responses = behavior(request, context)
                if inspect.iscoroutine(responses):
                    await responses  # it writes to the context, as the health service does
                    return
                async with contextlib.aclosing(responses):
                    async for response in responses:
                        yield response
            except Exception as error:  # noqa: BLE001 - the outermost frame of a call
                await self._abort(error, context, method)

        return call

    async def _abort(self, error: Exception, context: _Context, method: str) -> None:
        if isinstance(error, grpc.aio.AbortError):
            raise error
        if not isinstance(error, ServiceError):
            request_id = uuid.uuid4().hex
            _log.error("%s failed, request id %s", method, request_id, exc_info=error)
            error = ServiceError(
                grpc.StatusCode.INTERNAL,
                "INTERNAL",
                f"internal error; the server's log has the cause under request id {request_id}",
                metadata={"request_id": request_id},
            )
        await context.abort_with_status(rpc_status.to_status(to_status(error, self._domain)))


def _keep(message: bytes) -> bytes:
    return message


def _decode(message: bytes, decode: Callable[[bytes], Any]) -> Any:
    try:
        return decode(message)
    except DecodeError:
        raise invalid_field(
            "request", "is no message of the type that the RPC takes, or has a string that is not valid UTF-8"
        ) from None


async def _decode_all(messages: AsyncIterator[bytes], decode: Callable[[bytes], Any]) -> AsyncIterator[Any]:
    async for message in messages:
        yield _decode(message, decode)
