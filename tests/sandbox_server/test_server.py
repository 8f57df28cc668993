"""The server around the service: health, reflection, admission, draining, and freeing what a client leaves behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from rlm_api.sandbox.v1 import execute_service_pb2 as pb
from rlm_api.sandbox.v1 import execute_service_pb2_grpc as pb_grpc

from tests.sandbox_server.conftest import Stack, running_server
from tests.sandbox_server.driver import limits, session
from tests.support.statuses import assert_status, says_when_to_retry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SERVICE = "sandbox.v1.ExecuteService"
LOOP = "print('it runs', flush=True)\nwhile True: pass"


async def all_sandboxes_are_gone(stack: Stack) -> None:
    """Waits until the service counts no sandbox any more: with room for one, a second is admitted."""
    while True:
        try:
            await stack.stub.Run(pb.RunRequest(code="x = 1"))
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
        else:
            return


async def test_health_is_told_for_the_server_and_the_service(shared_server: Stack) -> None:
    stub = health_pb2_grpc.HealthStub(shared_server.channel)
    for service in ("", SERVICE):
        response = await stub.Check(health_pb2.HealthCheckRequest(service=service))
        assert response.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_lists_the_service_with_its_methods(shared_server: Stack) -> None:
    def ask() -> Any:
        with grpc.insecure_channel(shared_server.server.addresses[0]) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            return list(database.get_services()), database.FindFileContainingSymbol(SERVICE)

    services, file = await asyncio.to_thread(ask)
    assert {SERVICE, "grpc.health.v1.Health"} <= set(services)
    assert [method.name for method in file.service[0].method] == [
        *("Run", "Session", "UploadBlob", "GetBlob", "GetServerInfo")
    ]


async def test_the_server_describes_itself(shared_server: Stack) -> None:
    info = await shared_server.stub.GetServerInfo(pb.GetServerInfoRequest())
    told = await shared_server.stub.Run(pb.RunRequest(code="import platform; print(platform.python_version())"))
    assert told.stdout.strip() == info.python_version
    assert [image.name for image in info.images] == ["standard"]
    assert len(info.images[0].digest) == 64
    assert info.max_sessions == 256


async def test_the_server_tells_how_many_sandboxes_live() -> None:
    async with running_server() as stack:

        async def count() -> int:
            return (await stack.stub.GetServerInfo(pb.GetServerInfoRequest())).session_count

        assert await count() == 0
        async with session(stack.stub), session(stack.stub):
            assert await count() == 2
        async with asyncio.timeout(10):
            while await count():  # their streams have just ended
                pass


async def test_more_sandboxes_than_there_may_be_are_refused_with_a_time_to_retry() -> None:
    async with running_server(max_sessions=1) as stack, session(stack.stub):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stack.stub.Run(pb.RunRequest(code="x = 1"))
        code = grpc.StatusCode.RESOURCE_EXHAUSTED
        assert_status(error.value, code, "TOO_MANY_SESSIONS", domain="sandbox.v1", limit="1")
        assert says_when_to_retry(error.value)


async def test_a_run_whose_deadline_passes_frees_its_sandbox() -> None:
    async with running_server(max_sessions=1) as stack:
        request = pb.RunRequest(code="import time; time.sleep(1000)", limits=limits(wall_seconds=2000))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stack.stub.Run(request, timeout=0.3)
        assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        async with asyncio.timeout(20):
            await all_sandboxes_are_gone(stack)


@pytest.mark.parametrize(
    "code", [LOOP, "print('it runs', flush=True)\nimport time; time.sleep(10 ** 6)", "print('it runs'); f()"]
)
async def test_a_stream_that_breaks_frees_its_sandbox_whatever_it_does(code: str) -> None:
    async with running_server(max_sessions=1) as stack:
        async with session(stack.stub, {"f": str}) as s:
            await s.start(code, limits=limits(wall_seconds=1000))
            await s.receive_kind("output")
        async with asyncio.timeout(20):
            await all_sandboxes_are_gone(stack)


async def test_a_client_whose_connection_is_gone_frees_its_sandbox() -> None:
    async with running_server(max_sessions=1) as stack:
        async with grpc.aio.insecure_channel(stack.server.addresses[0]) as channel:
            stub: pb_grpc.ExecuteServiceAsyncStub = pb_grpc.ExecuteServiceStub(channel)
            call = stub.Session()
            await call.write(pb.SessionRequest(open=pb.OpenSession()))
            await call.read()
            await call.write(pb.SessionRequest(run_cell=pb.RunCell(code=LOOP)))
            await call.read()
        async with asyncio.timeout(20):
            await all_sandboxes_are_gone(stack)


async def test_a_draining_server_tells_its_sessions_and_lets_them_finish() -> None:
    async with running_server() as stack, session(stack.stub, {"f": lambda: 1}) as s:
        await s.start("print(f())")
        call = await s.receive_kind("host_call")
        stopping = asyncio.create_task(stack.server.stop(30))
        assert (await s.receive_kind("draining")).grace.seconds == 30
        await s.answer(call.call_id, "late")
        assert (await s.finish()).stdout == "late\n"
        await s.send(close=pb.CloseSession())
        async with asyncio.timeout(20):
            await stopping


async def test_a_server_that_is_told_to_stop_at_once_kills_what_runs() -> None:
    async with running_server() as stack, session(stack.stub) as s:
        await s.start(LOOP)
        await s.receive_kind("output")
        async with asyncio.timeout(20):
            await stack.server.stop(0)


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A server as users start it, and its address."""
    address = f"unix:{tmp_path / 'sandbox.sock'}"
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sandbox_server", "serve", "--listen", address, "--workers", "1"),
        stderr=asyncio.subprocess.PIPE,
    )
    assert started.stderr is not None
    while b"listens on" not in (line := await started.stderr.readline()):
        assert line, "the server has ended"
    yield started, address
    if started.returncode is None:
        started.kill()
        await started.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_the_server_in_order_and_leaves_no_socket(
    process: tuple[asyncio.subprocess.Process, str], number: signal.Signals, tmp_path: Path
) -> None:
    started, address = process
    async with grpc.aio.insecure_channel(address) as channel:
        stub: pb_grpc.ExecuteServiceAsyncStub = pb_grpc.ExecuteServiceStub(channel)
        async with session(stub, {"f": lambda: 1}) as s:
            await s.start("print(f())")
            call = await s.receive_kind("host_call")
            started.send_signal(number)
            await s.receive_kind("draining")
            await s.answer(call.call_id, 2)
            assert (await s.finish()).stdout == "2\n"
    assert await asyncio.wait_for(started.wait(), 20) == 0
    assert await asyncio.to_thread(os.listdir, tmp_path) == []
