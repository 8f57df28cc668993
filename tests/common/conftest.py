"""A server with the interceptor, and one RPC of each shape whose behaviour the test chooses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from rlm_api.sandbox.v1 import execute_service_pb2 as pb
from rlm_common.interceptor import ErrorInterceptor
from rlm_common.running_calls import RunningCalls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    OnMessage = Callable[[pb.RunRequest, Any], Awaitable[pb.RunResponse]]

SHAPES = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
METHOD = "/test.v1.TestService/"


@dataclass
class Peer:
    """The server's behaviour, and a channel that sends raw bytes.

    Attributes:
        on_message: is called with each request message; what it returns is the response.
    """

    channel: grpc.aio.Channel
    on_message: OnMessage

    async def call(self, shape: str, *messages: bytes) -> list[pb.RunResponse]:
        """Makes a call of a shape with these messages and returns the responses."""
        call = self.start(shape, *messages)
        if shape.endswith("stream"):
            return [response async for response in call]
        return [await call]

    def start(self, shape: str, *messages: bytes) -> Any:
        """Makes a call of a shape with these messages and returns it."""
        method = getattr(self.channel, shape)(METHOD + shape, response_deserializer=pb.RunResponse.FromString)
        return method(_iterate(messages) if shape.startswith("stream") else messages[0])


async def _echo(request: pb.RunRequest, context: Any) -> pb.RunResponse:
    return pb.RunResponse(stdout=request.code)


async def _iterate(messages: tuple[bytes, ...]) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    """A server that behaves as the test says."""

    async def unary_unary(request: Any, context: Any) -> pb.RunResponse:
        return await running.on_message(request, context)

    async def unary_stream(request: Any, context: Any) -> AsyncIterator[pb.RunResponse]:
        yield await running.on_message(request, context)

    async def stream_unary(requests: Any, context: Any) -> pb.RunResponse:
        return [await running.on_message(request, context) async for request in requests][-1]

    async def stream_stream(requests: Any, context: Any) -> AsyncIterator[pb.RunResponse]:
        async for request in requests:
            yield await running.on_message(request, context)

    behaviors = {
        "unary_unary": unary_unary,
        "unary_stream": unary_stream,
        "stream_unary": stream_unary,
        "stream_stream": stream_stream,
    }
    handlers = {
        shape: getattr(grpc, f"{shape}_rpc_method_handler")(
            behavior, pb.RunRequest.FromString, pb.RunResponse.SerializeToString
        )
        for shape, behavior in behaviors.items()
    }
    server = grpc.aio.server(interceptors=[ErrorInterceptor("test.v1", RunningCalls())])
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.v1.TestService", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        running = Peer(channel, _echo)
        yield running
    await server.stop(None)
