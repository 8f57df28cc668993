"""A sandbox server in this process, with its real workers."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import pytest_asyncio
from rlm_api.sandbox.v1 import execute_service_pb2_grpc as pb_grpc
from rlm_common.server import CHANNEL_OPTIONS, GrpcServer
from sandbox_server.image.cache import default_cache_directory, load_or_build_image, load_or_build_images
from sandbox_server.server import create_server
from sandbox_server.settings import Settings
from sandbox_server.wasm.engine import THREAD_STACK_BYTES, GuestEngine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


class Stack:
    """A server that runs.

    Args:
        server: has started.
        channel: leads to it.
    """

    def __init__(self, server: GrpcServer, channel: grpc.aio.Channel) -> None:
        self.server = server
        self.channel = channel
        self.stub: pb_grpc.ExecuteServiceAsyncStub = pb_grpc.ExecuteServiceStub(channel)


async def make_server(settings: Settings) -> GrpcServer:
    """Makes a server that is ready to start, with the images that its cache has."""
    images = await asyncio.to_thread(load_or_build_images, settings.cache_directory, print)
    return await create_server(settings, images)


@contextlib.asynccontextmanager
async def running_server(**settings: Any) -> AsyncIterator[Stack]:
    """Runs a server with settings of the test's own until the block ends."""
    defaults: dict[str, Any] = {"listen": ("127.0.0.1:0",), "workers": 1}
    server = await make_server(Settings(**(defaults | settings)))
    try:
        await server.start()
        async with grpc.aio.insecure_channel(server.addresses[0], options=CHANNEL_OPTIONS) as channel:
            yield Stack(server, channel)
    finally:
        await server.stop(0)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_server() -> AsyncIterator[Stack]:
    async with running_server(workers=2) as stack:
        yield stack


@pytest.fixture
def stub(shared_server: Stack) -> pb_grpc.ExecuteServiceAsyncStub:
    """The service of a server that tests share: they must not stop it or use up what it has."""
    return shared_server.stub


@pytest.fixture(scope="session")
def engine() -> GuestEngine:
    """Makes guests in this process, without a server."""
    return GuestEngine(load_or_build_image(default_cache_directory(), print).path)


@pytest.fixture
def on_thread() -> Iterator[ThreadPoolExecutor]:
    """A thread with as much stack as guests need."""
    previous = threading.stack_size(THREAD_STACK_BYTES)
    with ThreadPoolExecutor(max_workers=1) as threads:
        threads.submit(int).result()
        threading.stack_size(previous)
        yield threads
