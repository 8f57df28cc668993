"""The interceptor that turns exceptions of handlers into statuses; no traceback ever reaches a caller."""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING, Any

import grpc
from grpc_status import rpc_status

from rlm_common.errors import ServiceError, to_status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

_log = logging.getLogger(__name__)


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Maps `ServiceError` to its status, and any other exception to INTERNAL with an id under which it was logged.

    Args:
        domain: the `ErrorInfo` domain of this server's services, as `sandbox.v1`.
    """

    def __init__(self, domain: str) -> None:
        self._domain = domain

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
        if handler.response_streaming:
            streaming = self._streaming(handler.stream_stream or handler.unary_stream, method)
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            return make(streaming, handler.request_deserializer, handler.response_serializer)
        unary = self._unary(handler.stream_unary or handler.unary_unary, method)
        make = (
            grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler
        )
        return make(unary, handler.request_deserializer, handler.response_serializer)

    def _unary(self, behavior: Any, method: str) -> Any:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            try:
                return await behavior(request, context)
            except Exception as error:  # noqa: BLE001 - the outermost frame of a call
                await self._abort(error, context, method)

        return call

    def _streaming(self, behavior: Any, method: str) -> Any:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            responses = behavior(request, context)
            try:
                async for response in responses:
                    yield response
            except Exception as error:  # noqa: BLE001 - the outermost frame of a call
                await self._abort(error, context, method)
            finally:
                await responses.aclose()

        return call

    async def _abort(self, error: Exception, context: grpc.aio.ServicerContext[Any, Any], method: str) -> None:
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
