"""Puts a sandbox server together."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from rlm_api.sandbox.v1 import execute_service_pb2_grpc as pb_grpc
from rlm_common.server import GrpcServer, ServiceBinding

from sandbox_server.blobs import BlobCache
from sandbox_server.cores import available_cores
from sandbox_server.memory_gauge import MemoryGauge
from sandbox_server.memory_guard import default_reserve_bytes
from sandbox_server.service.execute_service import ExecuteService
from sandbox_server.worker.pool import WorkerPool
from sandbox_server.worker.process import WorkerOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox_server.heap import Heap
    from sandbox_server.image.cache import CompiledImage
    from sandbox_server.settings import Settings

ERROR_DOMAIN = "sandbox.v1"
SERVICE_NAME = "sandbox.v1.ExecuteService"

_OVERCOMMIT = 4
"""How many times the memory there is the limits of all sandboxes may come to by default: few come near theirs."""

_SCRATCH_SHARE = 8
"""Which part of the memory that one sandbox may have its files may take, at most."""


async def create_server(settings: Settings, images: Sequence[CompiledImage], heap: Heap | None = None) -> GrpcServer:
    """Returns a server for these images that is ready to start; its worker processes are up.

    Args:
        settings: what it is started with.
        images: what sandboxes can be made of.
        heap: is told when a call has freed what it had.

    Raises:
        WorkerStartError: a worker process did not come up.
    """
    gauge = MemoryGauge(settings.system_root)
    settings = _with_memory_limits(settings, gauge.total_bytes)
    blobs = BlobCache(settings.max_blob_cache_bytes, settings.max_client_blob_bytes)
    options = WorkerOptions(
        images={image.name: image.path for image in images},
        readable_directory=blobs.directory,
        max_sessions=settings.max_sessions,
        worker_count=settings.workers or available_cores(settings.system_root),
        memory_floor_bytes=settings.memory_reserve_bytes // 2,
        system_root=settings.system_root,
    )
    pool = WorkerPool(options)
    try:
        await pool.start()
    except BaseException:
        blobs.close()
        raise
    service = ExecuteService(settings, pool, blobs, images, gauge=gauge, heap=heap)
    binding = ServiceBinding(
        SERVICE_NAME,
        lambda server: pb_grpc.add_ExecuteServiceServicer_to_server(service, server),
        service,
    )
    return GrpcServer(binding, error_domain=ERROR_DOMAIN, listen=settings.listen)


def _with_memory_limits(settings: Settings, available: int) -> Settings:
    """Fills in how much memory there is, and lets no request have more."""
    memory_bytes = settings.max_memory_bytes or _OVERCOMMIT * available
    greatest = min(
        memory_bytes, settings.max_client_memory_bytes or memory_bytes, settings.max_memory_bytes or available
    )
    # So that a sandbox with the greatest limits fits in: the interpreter and its files together.
    scratch_bytes = min(settings.max_limits.scratch_bytes, greatest // _SCRATCH_SHARE)
    limits = dataclasses.replace(
        settings.max_limits,
        memory_bytes=min(settings.max_limits.memory_bytes, greatest - scratch_bytes),
        scratch_bytes=scratch_bytes,
    )
    return dataclasses.replace(
        settings,
        max_memory_bytes=memory_bytes,
        memory_reserve_bytes=settings.memory_reserve_bytes or default_reserve_bytes(available),
        max_limits=limits,
        default_limits=settings.default_limits.capped(limits),
    )
