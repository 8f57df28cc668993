"""What every server of the project has: addresses, health, reflection, draining, signals."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from rlm_common.server import CHANNEL_OPTIONS, MAX_RECEIVED_MESSAGE_BYTES, GrpcServer, ServiceBinding

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SERVICE = "test.v1.TestService"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
GRACE_SECONDS = 60.0
WAIT_SECONDS = 10


class Service:
    """A service with one RPC, which answers when the test lets it."""

    def __init__(self) -> None:
        self.runs, self.may_end, self.is_cancelled = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.drains = asyncio.Event()
        self.told: list[object] = []

    async def wait(self, request: bytes, context: Any) -> bytes:
        self.runs.set()
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.is_cancelled.set()
            raise
        self.told.append("answered")
        return request

    def start_draining(self, grace_seconds: float) -> None:
        self.told.append(grace_seconds)
        self.drains.set()

    async def close(self) -> None:
        self.told.append("closed")

    def server(self, *listen: str) -> GrpcServer:
        handler = grpc.method_handlers_generic_handler(
            SERVICE, {"Wait": grpc.unary_unary_rpc_method_handler(self.wait)}
        )
        binding = ServiceBinding(SERVICE, lambda server: server.add_generic_rpc_handlers([handler]), self)
        return GrpcServer(binding, error_domain="test.v1", listen=listen or ("127.0.0.1:0",))


@pytest.fixture
async def service() -> Service:
    return Service()


@pytest.fixture
async def server(service: Service) -> AsyncIterator[GrpcServer]:
    running = service.server()
    await running.start()
    yield running
    await running.stop(0)


@pytest.fixture
async def channel(server: GrpcServer) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(server.addresses[0], options=CHANNEL_OPTIONS) as connected:
        yield connected


def wait(channel: grpc.aio.Channel, request: bytes = b"x") -> Any:
    return channel.unary_unary(f"/{SERVICE}/Wait")(request)


async def health(channel: grpc.aio.Channel, service: str) -> int:
    response = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    return response.status


async def test_the_server_and_its_service_are_healthy_and_others_unknown(channel: grpc.aio.Channel) -> None:
    assert await health(channel, "") == SERVING
    assert await health(channel, SERVICE) == SERVING
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await health(channel, "test.v1.OtherService")
    assert error.value.code() == grpc.StatusCode.NOT_FOUND


async def test_whoever_watches_the_health_learns_when_the_service_cannot_work_and_when_it_can_again(
    server: GrpcServer, channel: grpc.aio.Channel
) -> None:
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
    assert (await watch.read()).status == SERVING
    await server.set_serving(False)
    assert (await watch.read()).status == NOT_SERVING
    assert await health(channel, "") == SERVING
    await server.set_serving(True)
    assert (await watch.read()).status == SERVING
    watch.cancel()


async def test_a_service_that_cannot_work_before_the_start_is_not_healthy_after_it(service: Service) -> None:
    server = service.server()
    await server.set_serving(False)
    await server.start()
    async with grpc.aio.insecure_channel(server.addresses[0]) as channel:
        assert await health(channel, SERVICE) == NOT_SERVING
    await server.stop(0)


async def test_reflection_lists_the_service_health_and_itself(channel: grpc.aio.Channel) -> None:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request]))
    names = {one.name for one in (await call.read()).list_services_response.service}
    assert names == {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


async def test_it_tells_the_addresses_that_it_really_listens_on(service: Service, tmp_path: Path) -> None:
    server = service.server("127.0.0.1:0", f"unix:{tmp_path}/socket", "[::1]:0")
    await server.start()
    assert server.addresses[1] == f"unix:{tmp_path}/socket"
    assert not any(address.endswith(":0") for address in server.addresses)
    for address in server.addresses:
        async with grpc.aio.insecure_channel(address) as channel:
            assert await health(channel, "") == SERVING
    await server.stop(0)


async def test_an_address_in_use_is_an_os_error_that_names_it(server: GrpcServer, service: Service) -> None:
    second = Service().server(server.addresses[0])
    with pytest.raises(OSError, match=f"cannot listen on {server.addresses[0]}: is another server there"):
        await second.start()
    await second.stop(0)


async def test_a_message_that_is_too_large_is_refused_and_harms_nothing(
    service: Service, channel: grpc.aio.Channel
) -> None:
    service.may_end.set()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await wait(channel, bytes(MAX_RECEIVED_MESSAGE_BYTES + 1))
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await wait(channel) == b"x"


async def test_stopping_lets_what_runs_finish_and_frees_everything_afterwards(
    service: Service, server: GrpcServer, channel: grpc.aio.Channel
) -> None:
    call = wait(channel)
    await asyncio.wait_for(service.runs.wait(), WAIT_SECONDS)
    stopping = asyncio.create_task(server.stop(GRACE_SECONDS))
    await asyncio.wait_for(service.drains.wait(), WAIT_SECONDS)
    service.may_end.set()
    assert await call == b"x"
    await asyncio.wait_for(stopping, WAIT_SECONDS)
    assert service.told == [GRACE_SECONDS, "answered", "closed"]


async def test_what_runs_beyond_the_grace_time_is_cancelled(
    service: Service, server: GrpcServer, channel: grpc.aio.Channel
) -> None:
    call = wait(channel)
    await asyncio.wait_for(service.runs.wait(), WAIT_SECONDS)
    await server.stop(0.1)
    assert await call.code() == grpc.StatusCode.UNAVAILABLE
    await asyncio.wait_for(service.is_cancelled.wait(), WAIT_SECONDS)


@pytest.mark.parametrize("end", ["answered", "cancelled", "deadline"])
async def test_the_grace_time_ends_with_the_last_call_however_that_ends(
    service: Service, server: GrpcServer, channel: grpc.aio.Channel, end: str
) -> None:
    timeout = 0.2 if end == "deadline" else None
    call = channel.unary_unary(f"/{SERVICE}/Wait")(b"x", timeout=timeout)
    await asyncio.wait_for(service.runs.wait(), WAIT_SECONDS)
    stopping = asyncio.create_task(server.stop(GRACE_SECONDS))
    if end == "answered":
        service.may_end.set()
    elif end == "cancelled":
        call.cancel()
    await asyncio.wait_for(stopping, WAIT_SECONDS)
    await call.code()


async def test_who_watches_the_health_is_told_of_the_end_and_does_not_delay_it(
    server: GrpcServer, channel: grpc.aio.Channel
) -> None:
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
    await reflection.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    await reflection.read()
    assert (await watch.read()).status == SERVING
    stopping = asyncio.create_task(server.stop(GRACE_SECONDS))
    assert (await watch.read()).status == NOT_SERVING
    await asyncio.wait_for(stopping, WAIT_SECONDS)
    assert await watch.code() == grpc.StatusCode.UNAVAILABLE
    assert await reflection.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_server_may_be_stopped_twice_and_without_a_start(service: Service) -> None:
    server = service.server()
    await asyncio.gather(server.stop(0), server.stop(0))
    assert service.told == [0, "closed"]


SCRIPT = """
import asyncio, sys
from rlm_common.logs import configure_logging
from rlm_common.stop_signals import StopSignals
from tests.common.test_server import Service

async def tell(service):
    await service.runs.wait()
    print("runs", flush=True)

async def main():
    configure_logging()
    signals = StopSignals()
    service = Service()
    server = service.server()
    await server.start()
    print(server.addresses[0], flush=True)
    telling = asyncio.create_task(tell(service))
    await server.serve_until_signal(60, signals)
    print("stopped", flush=True)

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def serving_process() -> AsyncIterator[tuple[asyncio.subprocess.Process, grpc.aio.Channel]]:
    pipe = asyncio.subprocess.PIPE
    arguments = [sys.executable, "-c", textwrap.dedent(SCRIPT)]
    process = await asyncio.create_subprocess_exec(*arguments, stdout=pipe, stderr=pipe)
    assert process.stdout is not None
    try:
        address = (await asyncio.wait_for(process.stdout.readline(), WAIT_SECONDS)).decode().strip()
        async with grpc.aio.insecure_channel(address) as channel:
            yield process, channel
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_an_idle_server_at_once(number: signal.Signals) -> None:
    async with serving_process() as (process, channel):
        assert await health(channel, SERVICE) == SERVING
        process.send_signal(number)
        output, errors = await asyncio.wait_for(process.communicate(), WAIT_SECONDS)
    assert (process.returncode, output) == (0, b"stopped\n")
    assert f"{number.name}: draining for up to 60 s".encode() in errors


async def test_a_second_signal_ends_the_grace_time() -> None:
    async with serving_process() as (process, channel):
        assert process.stderr is not None
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert (await watch.read()).status == SERVING
        call = wait(channel)
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), WAIT_SECONDS) == b"runs\n"
        process.send_signal(signal.SIGTERM)
        assert (await watch.read()).status == NOT_SERVING
        process.send_signal(signal.SIGTERM)
        _, errors = await asyncio.wait_for(process.communicate(), WAIT_SECONDS)
        assert await call.code() == grpc.StatusCode.UNAVAILABLE
    assert process.returncode == 0
    assert b"second signal: stopping now" in errors
