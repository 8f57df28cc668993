"""A server that runs short of memory ends what takes it, and lets everything else be."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import grpc
import pytest
from rlm_api.sandbox.v1 import execute_service_pb2 as pb

from tests.sandbox_server.conftest import Stack, running_server
from tests.sandbox_server.driver import limits, session
from tests.sandbox_server.test_memory_gauge import GIB, MIB, machine
from tests.support.statuses import assert_status, says_when_to_retry

if TYPE_CHECKING:
    from pathlib import Path

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
PATIENT = limits(wall_seconds=600, fuel=10**14)


def busy_with(mib: int) -> str:
    return f"held = bytearray({mib} << 20)\nprint('it runs')\nwhile True: pass"


def plenty(root: Path) -> None:
    machine(root, 8 * GIB, 6 * GIB)


def short(root: Path) -> None:
    machine(root, 8 * GIB, 100 * MIB)


async def end_the_largest(stack: Stack) -> int:
    service = stack.server._binding.drainable  # type: ignore[attr-defined]
    ended_bytes: int = await service._pool.relieve()
    return ended_bytes


async def test_the_cell_that_computes_with_the_most_memory_is_ended_and_costs_its_session_nothing_else(
    tmp_path: Path,
) -> None:
    plenty(tmp_path)
    async with (
        running_server(system_root=tmp_path) as stack,
        session(stack.stub, {"ask": str}) as waiting,
        session(stack.stub) as idle,
        session(stack.stub) as hungry,
    ):
        await waiting.start("held = bytearray(300 << 20)\nprint(ask('?'))")
        call = await waiting.receive_kind("host_call")
        await idle.run("held = bytearray(300 << 20)")
        await hungry.run("before = ['kept']")
        await hungry.start(busy_with(200), limits=PATIENT)
        await hungry.receive_kind("output")
        short(tmp_path)
        cell = await hungry.finish()
        assert (cell.outcome, cell.state) == ("OUT_OF_MEMORY", "RESTORED")
        assert cell.result.error.message.startswith("the machine ran short of memory, and this sandbox, with 2")
        plenty(tmp_path)
        assert (await hungry.run("print(before)")).stdout == "['kept']\n"
        assert (await idle.run("print(len(held) >> 20)")).stdout == "300\n"
        await waiting.answer(call.call_id, "an answer")
        assert (await waiting.finish()).stdout == "an answer\n"


async def test_of_two_that_compute_the_larger_is_ended(tmp_path: Path) -> None:
    plenty(tmp_path)
    async with (
        running_server(system_root=tmp_path) as stack,
        session(stack.stub) as small,
        session(stack.stub) as large,
    ):
        for one, mib in ((large, 150), (small, 50)):
            await one.start(busy_with(mib), limits=PATIENT)
            await one.receive_kind("output")
        assert 150 * MIB < await end_the_largest(stack) < 300 * MIB
        assert (await large.finish()).outcome == "OUT_OF_MEMORY"
        await small.send(cancel_cell=pb.CancelCell())
        assert (await small.finish()).outcome == "CANCELLED"
        assert await end_the_largest(stack) == 0, "nothing runs any more"


async def test_new_sandboxes_are_refused_until_there_is_memory_again(tmp_path: Path) -> None:
    short(tmp_path)
    async with running_server(system_root=tmp_path) as stack:
        for attempt in (stack.stub.Run(pb.RunRequest(code="1")), session(stack.stub).__aenter__()):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await attempt
            free = str(100 * MIB)
            assert_status(error.value, EXHAUSTED, "MEMORY_EXHAUSTED", domain="sandbox.v1", free_bytes=free)
            assert says_when_to_retry(error.value)
        plenty(tmp_path)
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):  # it has not looked yet
                assert (await stack.stub.Run(pb.RunRequest(code="1"))).stdout == "1\n"
                break


async def test_a_session_that_is_being_opened_is_told_to_try_later(tmp_path: Path) -> None:
    plenty(tmp_path)
    async with running_server(system_root=tmp_path) as stack:
        call = stack.stub.Session()
        prelude = pb.Prelude(source="held = bytearray(200 << 20)\nwhile True: pass")
        await call.write(pb.SessionRequest(open=pb.OpenSession(prelude=prelude, limits=PATIENT)))
        while not await end_the_largest(stack):
            pass
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call.read()
        assert_status(error.value, EXHAUSTED, "MEMORY_EXHAUSTED", domain="sandbox.v1")
        assert says_when_to_retry(error.value)


async def test_the_operator_says_how_much_is_left_free(tmp_path: Path) -> None:
    machine(tmp_path, 8 * GIB, 3 * GIB)
    async with running_server(system_root=tmp_path, memory_reserve_bytes=2 * GIB) as stack:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stack.stub.Run(pb.RunRequest(code="1"))
        assert_status(error.value, EXHAUSTED, "MEMORY_EXHAUSTED", domain="sandbox.v1", free_bytes=str(3 * GIB))
