"""Runs code in a sandbox server, through `sandbox.v1.ExecuteService`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import grpc
from rlm_api.sandbox.v1 import execute_service_pb2 as pb
from rlm_api.sandbox.v1 import execute_service_pb2_grpc as pb_grpc
from rlm_common.server import CHANNEL_OPTIONS

from rlm_server.engine.ports import InputValue, SandboxOpenError, StoredBytes, ValueFormat
from rlm_server.engine.reproducible import CLOCK_START_NS
from rlm_server.executors.blobs import BlobUploader
from rlm_server.executors.image_packages import ImagePackages
from rlm_server.executors.sandbox_session import SandboxSession, describe_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from rlm_server.engine.ports import SessionSpec

_RECONNECT_OPTIONS = (
    # A sandbox server that died is back within a second; gRPC's own patience is for servers far away.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)

_MAX_INLINE_BYTES = 64 * 1024
_BLOB_FORMATS = {
    ValueFormat.TEXT: pb.VALUE_FORMAT_TEXT,
    ValueFormat.JSON: pb.VALUE_FORMAT_JSON,
    ValueFormat.BYTES: pb.VALUE_FORMAT_BYTES,
}


class SandboxExecutor:
    """A sandbox server, as a `ports.Executor`.

    Args:
        address: `unix:PATH`, `dns:///HOST:PORT` or `HOST:PORT`.
        image: name of the guest image; empty for the sandbox server's standard one.
    """

    def __init__(self, address: str, image: str = "") -> None:
        self.name = address
        self._image = image
        self._channel = grpc.aio.insecure_channel(address, options=(*CHANNEL_OPTIONS, *_RECONNECT_OPTIONS))
        self._stub: pb_grpc.ExecuteServiceAsyncStub = pb_grpc.ExecuteServiceStub(self._channel)
        self._blobs = BlobUploader(self._stub)
        self._packages = ImagePackages(self._stub, image)

    async def close(self) -> None:
        """Closes the connection; sessions that are open die."""
        await self._channel.close()

    async def packages(self) -> Sequence[str]:
        """Returns what the image has; see `ports.Executor`."""
        return await self._packages.listed()

    @contextlib.asynccontextmanager
    async def open(self, spec: SessionSpec) -> AsyncIterator[SandboxSession]:
        """Makes a sandbox, which dies when the context is left.

        Raises:
            SandboxOpenError: none can be had.
        """
        try:
            request = await self._request(spec)
            session = await SandboxSession.open(self._stub, request, spec.on_host_call, self._input)
        except grpc.aio.AioRpcError as error:
            raise SandboxOpenError(describe_error(error), may_pass=_may_pass(error)) from error
        try:
            yield session
        finally:
            await session.close()

    async def _request(self, spec: SessionSpec) -> pb.OpenSession:
        return pb.OpenSession(
            limits=pb.Limits(memory_bytes=spec.memory_bytes),
            inputs=[await self._input(one) for one in spec.inputs],
            host_functions=[pb.HostFunction(name=name) for name in spec.host_functions],
            prelude=pb.Prelude(source=spec.prelude.source, setup=spec.prelude.setup),
            seed=_seed(spec),
            image=self._image,
        )

    async def _input(self, one: InputValue) -> pb.Input:
        if isinstance(one.value, StoredBytes):
            value: bytes | StoredBytes = one.value
        elif isinstance(one.value, bytes):
            if len(one.value) <= _MAX_INLINE_BYTES:
                return pb.Input(name=one.name, data=one.value)
            value = one.value
        elif len(one.value) <= _MAX_INLINE_BYTES // 4:
            if one.format is ValueFormat.JSON:
                return pb.Input(name=one.name, json=one.value)
            return pb.Input(name=one.name, text=one.value)
        else:
            value = one.value.encode()
        digest = await self._blobs.ensure(value)
        return pb.Input(name=one.name, blob=pb.BlobInput(sha256=digest, format=_BLOB_FORMATS[one.format]))


def _may_pass(error: grpc.aio.AioRpcError) -> bool:
    """Tells whether the server, or the way to it, is what failed, and not what it was asked."""
    # grpc calls a connection that broke in the middle of a message an internal error of its own.
    broke_while_sending = (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "Internal error from Core")
    return error.code() is grpc.StatusCode.UNAVAILABLE or broke_while_sending


def _seed(spec: SessionSpec) -> pb.Seed | None:
    if spec.seed is None:
        return None if spec.chance_seed is None else pb.Seed(value=spec.chance_seed)
    seed = pb.Seed(value=spec.seed)
    seed.clock_start_time.FromNanoseconds(CLOCK_START_NS)
    return seed
