"""The servicer of sandbox.v1.ExecuteService."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import grpc
from rlm_api.sandbox.v1 import execute_service_pb2 as pb
from rlm_api.sandbox.v1 import execute_service_pb2_grpc as pb_grpc
from rlm_common.errors import Violations, invalid_field

from sandbox_server.admission import Admission, Quota
from sandbox_server.blobs import BlobCacheFullError, DigestMismatchError
from sandbox_server.memory_guard import MemoryGuard
from sandbox_server.model import Restoration
from sandbox_server.opening import SandboxOpenError
from sandbox_server.service.field_checks import check_sha256
from sandbox_server.service.identity import client_of
from sandbox_server.service.live_session import LiveSession, open_error
from sandbox_server.service.messages import to_duration, to_limits, to_result
from sandbox_server.service.refusals import blob_cache_full, draining, refusals
from sandbox_server.service.validation import MAX_CHUNK_BYTES, RequestReader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from sandbox_server.admission import Grant
    from sandbox_server.blobs import Blob, BlobCache
    from sandbox_server.heap import Heap
    from sandbox_server.image.cache import CompiledImage
    from sandbox_server.memory_gauge import MemoryGauge
    from sandbox_server.settings import Settings
    from sandbox_server.worker.pool import WorkerPool

_log = logging.getLogger(__name__)

_Context = grpc.aio.ServicerContext[Any, Any]


class ExecuteService(pb_grpc.ExecuteServiceServicer):
    """Runs code in sandboxes. See the comments in proto/sandbox/v1/execute_service.proto for each RPC.

    Args:
        settings: limits.
        pool: has the sandboxes; the service ends it.
        blobs: uploaded inputs.
        images: those of the pool, the standard one first.
        gauge: tells how much memory is free.
        heap: is told when a call has freed what it had.
    """

    def __init__(
        self,
        settings: Settings,
        pool: WorkerPool,
        blobs: BlobCache,
        images: Sequence[CompiledImage],
        *,
        gauge: MemoryGauge,
        heap: Heap | None = None,
    ) -> None:
        self._heap = heap
        self._settings = settings
        self._pool = pool
        self._blobs = blobs
        self._images = images
        self._reader = RequestReader(
            blobs, settings.default_limits, settings.max_limits, [image.name for image in images]
        )
        self._gauge = gauge
        guard = MemoryGuard(gauge, settings.memory_reserve_bytes, pool.relieve)
        self._watch = asyncio.create_task(guard.watch())
        self._watch.add_done_callback(_report_failure)
        self._admission = Admission(
            Quota(settings.max_sessions, settings.max_memory_bytes),
            Quota(settings.max_client_sessions, settings.max_client_memory_bytes),
            guard,
        )
        self._sessions: set[LiveSession] = set()
        self._draining = False

    async def Run(self, request: pb.RunRequest, context: _Context) -> pb.RunResponse:
        """Executes one piece of code in a fresh sandbox."""
        with self._admitted(context) as grant, contextlib.ExitStack() as held:
            spec, query, blobs = self._reader.read_run(request)
            grant.reserve_memory(spec.limits.reserved_bytes)
            _hold(blobs, held)
            session = await self._pool.session(spec, None)
            context.add_done_callback(lambda _: session.kill())  # type: ignore[arg-type] # the stubs want a class
            try:
                finished = await session.run_once(request.code, query, tuple(request.output_files))
            except SandboxOpenError as error:
                raise open_error(error) from None
            finally:
                await session.close()
        return pb.RunResponse(
            stdout=finished.stdout,
            stderr=finished.stderr,
            result=to_result(finished.result, Restoration()),
            files=[pb.FileContent(path=file.path, data=file.data, error=file.error) for file in finished.files],
        )

    async def Session(
        self, request_iterator: AsyncIterator[pb.SessionRequest], context: _Context
    ) -> AsyncIterator[pb.SessionResponse]:
        """Holds a sandbox for as long as the stream is open."""
        with self._admitted(context) as grant, contextlib.ExitStack() as held:
            session = LiveSession(uuid.uuid4().hex, self._pool, self._reader, grant, lambda blobs: _hold(blobs, held))
            self._sessions.add(session)
            # A stream that is blocked in writing does not see its cancellation; the sandbox must.
            context.add_done_callback(lambda _: session.kill())  # type: ignore[arg-type] # the stubs want a class
            reading = asyncio.create_task(session.serve(request_iterator))
            try:
                async for message in session.messages():
                    yield message
            finally:
                reading.cancel()
                self._sessions.discard(session)
                await session.close()

    async def UploadBlob(
        self, request_iterator: AsyncIterator[pb.UploadBlobRequest], context: _Context
    ) -> pb.UploadBlobResponse:
        """Stores bytes in the cache."""
        self._refuse_if_draining()
        metadata = await self._read_metadata(request_iterator)
        present = self._blobs.get(metadata.sha256)
        if present is not None:
            return pb.UploadBlobResponse(sha256=metadata.sha256, size_bytes=present.size_bytes, already_present=True)
        try:
            with self._blobs.upload(metadata.sha256, metadata.size_bytes, client_of(context)) as upload:
                async for request in request_iterator:
                    if request.WhichOneof("part") != "chunk" or len(request.chunk) > MAX_CHUNK_BYTES:
                        raise invalid_field("chunk", f"must be set, and at most {MAX_CHUNK_BYTES} bytes")
                    if upload.received_bytes + len(request.chunk) > metadata.size_bytes:
                        raise invalid_field(
                            "metadata.size_bytes", "is less than the bytes that came; announce them all"
                        )
                    await asyncio.to_thread(upload.write, request.chunk)
                if upload.received_bytes != metadata.size_bytes:
                    message = f"is {metadata.size_bytes}, but {upload.received_bytes} bytes came"
                    raise invalid_field("metadata.size_bytes", message)
                await asyncio.to_thread(upload.finish)
        except BlobCacheFullError as error:
            raise blob_cache_full(error, metadata.size_bytes) from None
        except DigestMismatchError as error:
            raise invalid_field(
                "metadata.sha256",
                f"{error}; upload them again",
                reason="DIGEST_MISMATCH",
                metadata={"expected": metadata.sha256, "actual": error.actual},
            ) from None
        return pb.UploadBlobResponse(sha256=metadata.sha256, size_bytes=metadata.size_bytes)

    async def GetBlob(self, request: pb.GetBlobRequest, context: _Context) -> pb.GetBlobResponse:
        """Tells whether the cache holds a blob."""
        violations = Violations()
        check_sha256(request.sha256, "sha256", violations)
        violations.raise_if_any()
        return pb.GetBlobResponse(size_bytes=self._reader.find_blob(request.sha256).size_bytes)

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: _Context) -> pb.GetServerInfoResponse:
        """Describes the server."""
        return pb.GetServerInfoResponse(
            server_version=version("sandbox-server"),
            python_version=self._images[0].python_version,
            images=[pb.Image(name=one.name, digest=one.digest, packages=one.packages) for one in self._images],
            default_limits=to_limits(self._settings.default_limits),
            max_limits=to_limits(self._settings.max_limits),
            max_sessions=self._settings.max_sessions,
            max_blob_cache_bytes=self._settings.max_blob_cache_bytes,
            session_count=self._admission.session_count,
        )

    def start_draining(self, grace_seconds: float) -> None:
        """Refuses new work and tells open sessions."""
        self._draining = True
        for session in self._sessions:
            session.outbox.put(pb.SessionResponse(draining=pb.Draining(grace=to_duration(grace_seconds))))

    async def close(self) -> None:
        """Ends the workers and frees the cache; sessions are gone by now."""
        self._watch.cancel()
        await asyncio.gather(self._watch, return_exceptions=True)
        self._gauge.close()
        await self._pool.close()
        self._blobs.close()

    @contextlib.contextmanager
    def _admitted(self, context: _Context) -> Iterator[Grant]:
        """Counts a sandbox against the limits."""
        self._refuse_if_draining()
        try:
            with refusals(), self._admission.admit(client_of(context)) as grant:
                yield grant
        finally:
            if self._heap is not None:
                self._heap.note_freed()

    def _refuse_if_draining(self) -> None:
        if self._draining:
            raise draining()

    async def _read_metadata(self, requests: AsyncIterator[pb.UploadBlobRequest]) -> pb.BlobMetadata:
        first = await anext(aiter(requests), None)
        if first is None or not first.HasField("metadata"):
            raise invalid_field("metadata", "the first message must carry `metadata`")
        violations = Violations()
        check_sha256(first.metadata.sha256, "metadata.sha256", violations)
        violations.check(first.metadata.size_bytes >= 0, "metadata.size_bytes", "must not be negative")
        violations.raise_if_any()
        return first.metadata


def _report_failure(watch: asyncio.Task[None]) -> None:
    if not watch.cancelled():
        _log.error("memory is not watched any more", exc_info=watch.exception())


def _hold(blobs: list[Blob], held: contextlib.ExitStack) -> None:
    """Keeps blobs in the cache until `held` is closed."""
    for blob in blobs:
        blob.users += 1
        held.callback(_release, blob)


def _release(blob: Blob) -> None:
    blob.users -= 1
