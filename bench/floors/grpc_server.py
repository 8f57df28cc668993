"""A gRPC server that does nothing: what a call costs before anything of ours is in it.

Methods of the service `bench.Floor`: `Empty` (unary, empty messages), `Echo` (bidirectional, empty messages), `Hash`
(client streaming; takes the messages of an upload and does nothing but hash them).
"""

from __future__ import annotations

import asyncio
import hashlib
import signal
import sys
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import empty_pb2
from rlm_api.sandbox.v1 import execute_service_pb2 as pb
from rlm_common.addresses import with_port
from rlm_common.server import CHANNEL_OPTIONS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

SERVICE = "bench.Floor"

_Context = grpc.aio.ServicerContext[Any, Any]


async def _empty(_request: empty_pb2.Empty, _context: _Context) -> empty_pb2.Empty:
    return empty_pb2.Empty()


async def _echo(requests: AsyncIterator[empty_pb2.Empty], _context: _Context) -> AsyncIterator[empty_pb2.Empty]:
    async for request in requests:
        yield request


async def _hash(requests: AsyncIterator[pb.UploadBlobRequest], _context: _Context) -> pb.UploadBlobResponse:
    digest = hashlib.sha256()
    size_bytes = 0
    async for request in requests:
        digest.update(request.chunk)
        size_bytes += len(request.chunk)
    return pb.UploadBlobResponse(sha256=digest.hexdigest(), size_bytes=size_bytes)


async def _serve(listen: Sequence[str]) -> None:
    empty: dict[str, Any] = {
        "request_deserializer": empty_pb2.Empty.FromString,
        "response_serializer": empty_pb2.Empty.SerializeToString,
    }
    handlers = {
        "Empty": grpc.unary_unary_rpc_method_handler(_empty, **empty),
        "Echo": grpc.stream_stream_rpc_method_handler(_echo, **empty),
        "Hash": grpc.stream_unary_rpc_method_handler(
            _hash,
            request_deserializer=pb.UploadBlobRequest.FromString,
            response_serializer=pb.UploadBlobResponse.SerializeToString,
        ),
    }
    server = grpc.aio.server(options=CHANNEL_OPTIONS)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    addresses = [with_port(address, server.add_insecure_port(address)) for address in listen]
    await server.start()
    print(f"floor listens on {', '.join(addresses)}", file=sys.stderr, flush=True)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1:]))
