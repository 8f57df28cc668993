"""Whatever a client breaks off, and when: the sandbox is free at once, and nothing else is touched."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import pytest
from rlm_api.sandbox.v1 import execute_service_pb2 as pb

from tests.sandbox_server.conftest import Stack, running_server
from tests.sandbox_server.driver import limits, session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sandbox_server.worker.pool import WorkerPool

ENDLESS = "while True: pass"
NEVER = limits(wall_seconds=3000, fuel=10**15)


@pytest.fixture
async def stack() -> AsyncIterator[Stack]:
    """A server of the test's own, so that the test can say that it holds nothing any more."""
    async with running_server() as running:
        yield running


async def nothing_is_held(stack: Stack) -> None:
    """Waits until the service counts no sandbox and its worker holds no session."""
    service = stack.server._binding.drainable  # type: ignore[attr-defined]
    pool: WorkerPool = service._pool
    async with asyncio.timeout(20):
        while service._admission._sessions or any(worker.connection.sessions for worker in pool._workers):
            # Whatever the server still has to do takes it less time than this.
            await stack.stub.GetServerInfo(pb.GetServerInfoRequest())


async def turns(count: int) -> None:
    """Lets the event loop, which is the server's too, go round."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_run_may_be_cancelled_at_any_moment(stack: Stack) -> None:
    for moment in range(60):
        call = stack.stub.Run(pb.RunRequest(code=ENDLESS, limits=NEVER))
        await turns(moment)
        call.cancel()
    await nothing_is_held(stack)
    assert (await stack.stub.Run(pb.RunRequest(code="1"))).stdout == "1\n"


@pytest.mark.parametrize("prelude", ["", ENDLESS])
async def test_a_session_may_be_broken_off_at_any_moment(stack: Stack, prelude: str) -> None:
    for moment in range(60):
        call = stack.stub.Session()
        opened = pb.OpenSession(limits=NEVER, prelude=pb.Prelude(source=prelude))
        await call.write(pb.SessionRequest(open=opened))
        await call.write(pb.SessionRequest(run_cell=pb.RunCell(code=ENDLESS)))
        await turns(moment)
        call.cancel()
    await nothing_is_held(stack)
    assert (await stack.stub.Run(pb.RunRequest(code="1"))).stdout == "1\n"


async def test_a_session_may_be_broken_off_at_any_moment_of_its_close(stack: Stack) -> None:
    for moment in range(60):
        async with session(stack.stub, limits=NEVER) as s:
            await s.send(close=pb.CloseSession())
            await turns(moment)
    await nothing_is_held(stack)
    assert (await stack.stub.Run(pb.RunRequest(code="1"))).stdout == "1\n"


async def test_a_session_may_be_broken_off_while_it_is_restored(stack: Stack) -> None:
    async with session(stack.stub, limits=NEVER) as s:
        await s.run("for i in range(3_000_000): pass")
        await s.run(ENDLESS, limits=limits(fuel=10**8))
        await s.start("print(1)\n" + ENDLESS, cell_id="c")
        await s.receive_kind("output")
        await s.send(cancel_cell=pb.CancelCell(cell_id="c"))
        await turns(50)
    await nothing_is_held(stack)


async def test_a_session_whose_deadline_passes_is_freed(stack: Stack) -> None:
    call = stack.stub.Session(timeout=0.3)
    await call.write(pb.SessionRequest(open=pb.OpenSession(limits=NEVER)))
    await call.write(pb.SessionRequest(run_cell=pb.RunCell(code=ENDLESS)))
    assert isinstance(await call.read(), pb.SessionResponse)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call.read()
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await nothing_is_held(stack)


async def test_a_client_that_does_not_read_may_break_off(stack: Stack) -> None:
    flood = limits(wall_seconds=3000, fuel=10**15, output_bytes=32 << 20)
    async with session(stack.stub, limits=flood) as s:
        await s.start("line = 'x' * 8000 + '\\n'\nfor _ in range(3000): print(line)\n" + ENDLESS)
        await s.receive_kind("output")
    await nothing_is_held(stack)


async def test_breaking_off_leaves_other_sessions_alone(stack: Stack) -> None:
    async with session(stack.stub, {"f": lambda: 1}) as kept:
        await kept.run("x = [1, 2]")
        await kept.start("x.append(f()); print(x)")
        call = await kept.receive_kind("host_call")
        for _ in range(10):
            async with session(stack.stub, limits=NEVER) as broken:
                await broken.start("print(1)\n" + ENDLESS)
                await broken.receive_kind("output")
        await kept.answer(call.call_id, 3)
        cell = await kept.finish()
        assert (cell.outcome, cell.state, cell.stdout) == ("OK", "KEPT", "[1, 2, 3]\n")
