"""A gRPC server with health, reflection and graceful draining (grpc.health.v1, grpc.reflection.v1)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from rlm_common.addresses import with_port
from rlm_common.interceptor import ErrorInterceptor
from rlm_common.running_calls import RunningCalls

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rlm_common.stop_signals import StopSignals

_log = logging.getLogger(__name__)

MAX_RECEIVED_MESSAGE_BYTES = 16 * 1024 * 1024
"""Largest message that the servers and clients take. The servers themselves send at most about 1 MiB."""

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_RECEIVED_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_RECEIVED_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)
"""Options for channels to these servers."""

_SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    *CHANNEL_OPTIONS,
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


_NEVER_SECONDS = 10 * 365 * 24 * 3600.0
"""A grace time that does not end."""


class Drainable(Protocol):
    """What a service does when its server shuts down."""

    def start_draining(self, grace_seconds: float) -> None:
        """Refuses new work from now on, and tells running work that it has `grace_seconds` left."""

    async def close(self) -> None:
        """Frees everything; no RPC runs any more."""


@dataclass(frozen=True)
class ServiceBinding:
    """A service and how to add it to a server.

    Args:
        full_name: the service's name with its package, as `sandbox.v1.ExecuteService`.
        add_to_server: adds the servicer to a server.
        drainable: the servicer's side of draining.
    """

    full_name: str
    add_to_server: Callable[[grpc.aio.Server], None]
    drainable: Drainable


class GrpcServer:
    """A gRPC server that serves one service, with health and reflection.

    Args:
        binding: the service.
        error_domain: domain of its errors, as `sandbox.v1`.
        listen: addresses, each `HOST:PORT` or `unix:PATH`; port 0 takes a free one.
    """

    def __init__(self, binding: ServiceBinding, *, error_domain: str, listen: Sequence[str]) -> None:
        self._binding = binding
        # Whoever watches the health or keeps the reflection open does so until the end.
        self._running_calls = RunningCalls((health.SERVICE_NAME, reflection.SERVICE_NAME))
        interceptor = ErrorInterceptor(error_domain, self._running_calls)
        self._server = grpc.aio.server(interceptors=[interceptor], options=_SERVER_OPTIONS)
        self._health = health.aio.HealthServicer()
        self._status = health_pb2.HealthCheckResponse.SERVING
        binding.add_to_server(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (binding.full_name, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        self._listen = list(listen)
        self._stopping: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self.addresses: list[str] = []
        """The addresses that are listened on, with real ports, once the server has started."""

    async def start(self) -> None:
        """Begins to serve.

        Raises:
            OSError: an address cannot be listened on.
        """
        for address in self._listen:
            try:
                port = self._server.add_insecure_port(address)
            except RuntimeError as error:
                raise OSError(f"cannot listen on {address}: is another server there?") from error
            self.addresses.append(with_port(address, port))
        await self._server.start()
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        await self._health.set(self._binding.full_name, self._status)

    async def set_serving(self, is_serving: bool) -> None:
        """Says by the service's health whether it can do its work at present.

        The health of the server as a whole stays as it is: it lives, and there is no need to start it again.
        """
        responses = health_pb2.HealthCheckResponse
        self._status = responses.SERVING if is_serving else responses.NOT_SERVING
        await self._health.set(self._binding.full_name, self._status)

    async def stop(self, grace_seconds: float) -> None:
        """Drains: takes no new work, lets running RPCs finish within the grace time, then cancels them."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(grace_seconds))
        await asyncio.shield(self._stopping)

    async def _stop(self, grace_seconds: float) -> None:
        await self._health.enter_graceful_shutdown()
        self._binding.drainable.start_draining(grace_seconds)
        # The grace time is kept here, and never by gRPC: where that of one `stop` of grpc.aio ends while another one
        # completes, it uses the server that the other has freed, which is a segmentation fault (grpcio 1.85.1).
        stopping = asyncio.create_task(self._server.stop(_NEVER_SECONDS))
        finishing = asyncio.create_task(self._running_calls.wait_until_none_is_left())
        hurrying = asyncio.create_task(self._hurry.wait())
        ends = {stopping, finishing, hurrying}
        await asyncio.wait(ends, timeout=grace_seconds, return_when=asyncio.FIRST_COMPLETED)
        finishing.cancel()
        hurrying.cancel()
        await self._server.stop(None)
        await stopping
        await self._binding.drainable.close()

    async def serve_until_signal(self, grace_seconds: float, signals: StopSignals) -> None:
        """Serves until SIGTERM or SIGINT, then drains; a second signal ends the grace time at once.

        Args:
            grace_seconds: how long running RPCs may go on.
            signals: made before the server was.
        """
        signals.hold()
        received = await signals.next()
        _log.info("%s: draining for up to %g s", received.name, grace_seconds)
        stopping = asyncio.create_task(self.stop(grace_seconds))
        again = asyncio.create_task(signals.next())
        await asyncio.wait({stopping, again}, return_when=asyncio.FIRST_COMPLETED)
        if again.done():
            _log.info("second signal: stopping now")
            self._hurry.set()
        again.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await again
        await stopping
