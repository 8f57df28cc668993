"""Puts a sandbox server together."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from rlm_api.sandbox.v1 import execute_service_pb2_grpc as pb_grpc
from rlm_common.server import GrpcServer, ServiceBinding

from sandbox_server.blobs import BlobCache
from sandbox_server.image.cache import load_or_build_image
from sandbox_server.service.execute_service import ExecuteService
from sandbox_server.session import SandboxFactory
from sandbox_server.wasm.engine import THREAD_STACK_BYTES, GuestEngine
from sandbox_server.wasm.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox_server.settings import Settings

ERROR_DOMAIN = "sandbox.v1"
SERVICE_NAME = "sandbox.v1.ExecuteService"


async def create_server(settings: Settings, progress: Callable[[str], None]) -> GrpcServer:
    """Returns a server that is ready to start.

    Args:
        settings: what it is started with.
        progress: is told, in a line for people, if the image has to be built first.

    Raises:
        ImageBuildError: the image could not be built.
        OSError: the image cache cannot be written.
    """
    image = await asyncio.to_thread(load_or_build_image, settings.cache_directory, progress)
    engine = await asyncio.to_thread(GuestEngine, image.path)
    # Guests run on the stacks of the threads that enter them. The size holds for threads that are started from now on,
    # and is address space, not memory.
    threading.stack_size(THREAD_STACK_BYTES)
    threads = ThreadPoolExecutor(max_workers=settings.max_sessions, thread_name_prefix="sandbox")
    factory = SandboxFactory(engine, Watchdog(), threads)
    service = ExecuteService(settings, factory, BlobCache(settings.max_blob_cache_bytes), image)
    binding = ServiceBinding(
        SERVICE_NAME,
        lambda server: pb_grpc.add_ExecuteServiceServicer_to_server(service, server),
        service,
    )
    return GrpcServer(binding, error_domain=ERROR_DOMAIN, listen=settings.listen)
