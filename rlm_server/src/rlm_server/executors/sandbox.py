"""Runs code in a sandbox server, through `sandbox.v1.ExecuteService`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from typing import TYPE_CHECKING

import grpc
from rlm_api.sandbox.v1 import execute_service_pb2 as pb

from rlm_server.engine.ports.executors import SandboxOpenError
from rlm_server.engine.ports.inputs import InputValue, StoredBytes, ValueFormat
from rlm_server.engine.reproducible import CLOCK_START_NS
from rlm_server.executors.image_packages import ImagePackages
from rlm_server.executors.sandbox_servers import REST_SECONDS, SandboxServers
from rlm_server.executors.sandbox_session import SandboxSession, describe_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from rlm_server.engine.ports.executors import SessionSpec
    from rlm_server.executors.sandbox_servers import SandboxServer

_log = logging.getLogger(__name__)

_MAX_INLINE_BYTES = 64 * 1024
_BLOB_FORMATS = {
    ValueFormat.TEXT: pb.VALUE_FORMAT_TEXT,
    ValueFormat.JSON: pb.VALUE_FORMAT_JSON,
    ValueFormat.BYTES: pb.VALUE_FORMAT_BYTES,
}


class SandboxExecutor:
    """Sandbox servers, as a `ports.Executor`.

    Args:
        address: `unix:PATH`, `HOST:PORT`, or of several servers `dns:///HOST:PORT` or `ipv4:HOST:PORT,HOST:PORT`.
        image: name of the guest image; empty for the sandbox server's standard one.
    """

    def __init__(self, address: str, image: str = "") -> None:
        self.name = address
        self._image = image
        self._servers = SandboxServers(address)
        self._packages = ImagePackages(self._servers, image)

    async def close(self) -> None:
        """Closes the connections; sessions that are open die."""
        await self._servers.close()

    async def packages(self) -> Sequence[str]:
        """Returns what the image has; see `ports.Executor`."""
        return await self._packages.listed()

    @contextlib.asynccontextmanager
    async def open(self, spec: SessionSpec) -> AsyncIterator[SandboxSession]:
        """Makes a sandbox, which dies when the context is left.

        Raises:
            SandboxOpenError: none can be had.
        """
        server, session = await self._open_anywhere(spec)
        del spec  # the sandbox has its inputs now, which may be large
        server.session_count += 1
        try:
            yield session
        finally:
            server.session_count -= 1
            await session.close()

    async def _open_anywhere(self, spec: SessionSpec) -> tuple[SandboxServer, SandboxSession]:
        """Opens a session on the first server that takes it.

        Raises:
            SandboxOpenError: none does.
        """
        try:
            servers = await self._servers.in_turn()
        except OSError as error:
            raise SandboxOpenError(f"{self.name} cannot be looked up: {error}", may_pass=True) from error
        try:
            return await self._open_on_one_of(servers, spec)
        except SandboxOpenError as error:
            if len(servers) == 1 or not error.may_pass:
                raise
        # As when they are started again one by one: one may be back, and the connection to it not yet.
        await asyncio.sleep(REST_SECONDS)
        return await self._open_on_one_of(servers, spec)

    async def _open_on_one_of(
        self, servers: Sequence[SandboxServer], spec: SessionSpec
    ) -> tuple[SandboxServer, SandboxSession]:
        for server in servers[:-1]:
            try:
                return server, await self._open_on(server, spec)
            except grpc.aio.AioRpcError as error:
                if not (_may_pass(error) or error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED):
                    raise SandboxOpenError(describe_error(error), may_pass=False) from error
                _log.warning("%s takes no sandbox: %s", server.target, describe_error(error))
        try:
            return servers[-1], await self._open_on(servers[-1], spec)
        except grpc.aio.AioRpcError as error:
            raise SandboxOpenError(describe_error(error), may_pass=_may_pass(error)) from error

    async def _open_on(self, server: SandboxServer, spec: SessionSpec) -> SandboxSession:
        make_input = functools.partial(self._input, server)
        try:
            request = await self._request(spec, server)
            return await SandboxSession.open(server.stub, request, spec.on_host_call, make_input)
        except grpc.aio.AioRpcError as error:
            if _may_pass(error):
                server.rest()
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
        # If it is an input that is not found, the server was started again since it got it.
        return await SandboxSession.open(server.stub, await self._request(spec, server), spec.on_host_call, make_input)

    async def _request(self, spec: SessionSpec, server: SandboxServer) -> pb.OpenSession:
        return pb.OpenSession(
            limits=pb.Limits(memory_bytes=spec.memory_bytes),
            inputs=[await self._input(server, one) for one in spec.inputs],
            host_functions=[pb.HostFunction(name=name) for name in spec.host_functions],
            prelude=pb.Prelude(source=spec.prelude.source, setup=spec.prelude.setup),
            seed=_seed(spec),
            image=self._image,
        )

    async def _input(self, server: SandboxServer, one: InputValue) -> pb.Input:
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
        digest = await server.blobs.ensure(value)
        return pb.Input(name=one.name, blob=pb.BlobInput(sha256=digest, format=_BLOB_FORMATS[one.format]))


def _may_pass(error: grpc.aio.AioRpcError) -> bool:
    """Tells whether the server, or the way to it, is what failed, and not what it was asked."""
    # grpc calls a connection that broke in the middle of a message an internal error of its own.
    broke_while_sending = (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "Internal error from Core")
    # A server that shuts down cancels a call that has just come in.
    return error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED) or broke_while_sending


def _seed(spec: SessionSpec) -> pb.Seed | None:
    if spec.seed is None:
        return None if spec.chance_seed is None else pb.Seed(value=spec.chance_seed)
    seed = pb.Seed(value=spec.seed)
    seed.clock_start_time.FromNanoseconds(CLOCK_START_NS)
    return seed
