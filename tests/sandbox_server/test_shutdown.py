"""The end of a server: what still runs is let finish, what is new is refused, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import threading
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rlm_api.sandbox.v1 import execute_service_pb2 as pb
from rlm_api.sandbox.v1 import execute_service_pb2_grpc as pb_grpc
from rlm_common.server import CHANNEL_OPTIONS
from sandbox_server.image.cache import default_cache_directory, load_or_build_image
from sandbox_server.settings import Settings
from sandbox_server.worker.pool import WorkerPool
from sandbox_server.worker.process import WorkerOptions, WorkerStartError

from tests.sandbox_server.conftest import Stack, make_server, running_server
from tests.sandbox_server.driver import limits, session

SERVICE = "sandbox.v1.ExecuteService"
HOUR = 3600.0


def open_files() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())


async def test_a_draining_server_is_not_healthy_and_refuses_what_is_new() -> None:
    async with running_server() as stack, session(stack.stub, {"f": lambda: 1}) as held:
        watch = health_pb2_grpc.HealthStub(stack.channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        await held.start("print('answer', f())")
        call = await held.receive_kind("host_call")
        stopping = asyncio.create_task(stack.server.stop(HOUR))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        assert (await held.receive_kind("draining")).grace.seconds == HOUR
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stack.stub.Run(pb.RunRequest(code="1"))
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE
        await held.answer(call.call_id, 42)
        assert (await held.finish()).stdout == "answer 42\n"
        await held.send(close=pb.CloseSession())
        assert await held.call.read() is grpc.aio.EOF
        async with asyncio.timeout(30):
            await stopping


async def test_a_session_that_is_not_closed_within_the_grace_is_ended() -> None:
    async with running_server() as stack, session(stack.stub) as held:
        async with asyncio.timeout(30):
            await stack.server.stop(0.1)
        await held.receive_kind("draining")
        with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
            await held.receive()


async def test_it_serves_on_several_addresses_and_takes_the_file_of_a_unix_socket_away(tmp_path: Path) -> None:
    path = tmp_path / "sandbox.sock"
    async with running_server(listen=(f"unix:{path}", "127.0.0.1:0")) as stack:
        assert path.is_socket()
        assert not stack.server.addresses[1].endswith(":0")
        for address in stack.server.addresses:
            async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
                stub: pb_grpc.ExecuteServiceAsyncStub = pb_grpc.ExecuteServiceStub(channel)
                assert (await stub.Run(pb.RunRequest(code="1"))).stdout == "1\n"
    assert not path.exists()


async def test_a_server_whose_address_is_in_use_can_be_stopped(shared_server: Stack) -> None:
    second = await make_server(Settings(listen=tuple(shared_server.server.addresses), workers=1))
    with pytest.raises(OSError, match="cannot listen"):
        await second.start()
    await second.stop(0)
    await second.stop(0)


async def test_threads_tasks_files_and_uploads_are_gone_with_the_server() -> None:
    async with running_server():
        pass  # what a process loads once is loaded now
    gc.collect()
    threads, tasks, files = threading.active_count(), len(asyncio.all_tasks()), open_files()
    for _ in range(3):
        async with running_server() as stack:
            async with session(stack.stub) as s:
                await s.run("x = 1")
            with pytest.raises(grpc.aio.AioRpcError):
                await stack.stub.Run(pb.RunRequest(code="while True: pass"), timeout=0.05)
            async with session(stack.stub) as s:
                await s.start("print(1)\nwhile True: pass", limits=limits(wall_seconds=HOUR))
                await s.receive_kind("output")
            uploads = stack.server._binding.drainable._blobs.directory  # type: ignore[attr-defined]
            assert uploads.exists()
        assert not uploads.exists()
    gc.collect()
    assert threading.active_count() == threads
    assert len(asyncio.all_tasks()) == tasks
    assert open_files() <= files + 2  # the event engine of gRPC opens one or another of its own


async def test_if_a_worker_does_not_come_up_the_others_are_ended(tmp_path: Path) -> None:
    image = load_or_build_image(default_cache_directory(), print)
    broken = tmp_path / "broken.cwasm"
    with image.path.open("rb") as file:
        broken.write_bytes(file.read(1000))
    tasks = len(asyncio.all_tasks())
    pool = WorkerPool(WorkerOptions({"standard": broken}, tmp_path, 1, worker_count=2))
    with pytest.raises(WorkerStartError, match="a sandbox worker did not come up: it ended with code 1"):
        await pool.start()
    assert pool.pids == []
    assert len(asyncio.all_tasks()) == tasks
