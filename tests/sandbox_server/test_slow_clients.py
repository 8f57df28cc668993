"""A client that does not read holds up its own cell, within the cell's limits, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlm_api.sandbox.v1 import execute_service_pb2 as pb
from sandbox_server.backlog import MAX_BACKLOG_CHARS, TAKEN_STEP_CHARS, Backlog

from tests.sandbox_server.driver import limits, session

if TYPE_CHECKING:
    from rlm_api.sandbox.v1 import execute_service_pb2_grpc as pb_grpc

LINES = 300
FLOOD = f"for _ in range({LINES}): print('x' * 99_999)"
FLOOD_CHARS = LINES * 100_000
UNDER_WAY_CHARS = FLOOD_CHARS // 2
"""More than gRPC itself takes for a client that does not read."""


def enough(wall_seconds: float) -> pb.Limits:
    return limits(wall_seconds=wall_seconds, output_bytes=1 << 26)


async def let_time_pass(stub: pb_grpc.ExecuteServiceAsyncStub, seconds: float) -> None:
    """Waits for another sandbox that sleeps."""
    assert (await stub.Run(pb.RunRequest(code=f"import time; time.sleep({seconds})"))).result.outcome == pb.OUTCOME_OK


async def test_a_client_that_reads_gets_all_of_a_flood(stub: pb_grpc.ExecuteServiceAsyncStub) -> None:
    async with session(stub) as s:
        cell = await s.run(FLOOD, limits=enough(60))
        assert (cell.outcome, len(cell.stdout)) == ("OK", FLOOD_CHARS)


async def test_a_cell_waits_for_its_client_until_its_time_is_over(stub: pb_grpc.ExecuteServiceAsyncStub) -> None:
    async with session(stub) as s:
        await s.run("kept = 1")
        await s.start(FLOOD, limits=enough(0.5))
        await let_time_pass(stub, 1)
        cell = await s.finish()
        assert (cell.outcome, cell.state) == ("DEADLINE", "RESTORED")
        said = "it took longer than 0.5 s; it waited for the client to take what it had said"
        assert cell.result.error.message == said
        assert len(cell.stdout) == cell.result.usage.output_bytes < UNDER_WAY_CHARS
        assert (await s.run("print(kept)")).stdout == "1\n"


async def test_a_cell_that_waits_for_its_client_can_be_cancelled(stub: pb_grpc.ExecuteServiceAsyncStub) -> None:
    async with session(stub) as s:
        await s.start(FLOOD, limits=enough(60))
        await let_time_pass(stub, 0.5)
        await s.send(cancel_cell=pb.CancelCell())
        cell = await s.finish()
        assert (cell.outcome, cell.state) == ("CANCELLED", "RESTORED")
        assert len(cell.stdout) < UNDER_WAY_CHARS


async def test_the_arguments_of_host_calls_wait_likewise(stub: pb_grpc.ExecuteServiceAsyncStub) -> None:
    code = "import host_calls\nfor _ in range(75): host_calls.host_submit('note', 'x' * 400_000)"
    async with session(stub, {"note": len}) as s:
        await s.start(code, limits=enough(0.5))
        await let_time_pass(stub, 1)
        cell = await s.finish()
        assert cell.outcome == "DEADLINE"
        assert "waited for the client" in cell.result.error.message
        assert len(cell.calls) <= cell.result.usage.host_call_count < 75


async def test_a_cell_that_was_killed_leaves_the_next_one_all_the_room(stub: pb_grpc.ExecuteServiceAsyncStub) -> None:
    async with session(stub) as s:
        for _ in range(4):
            await s.start(FLOOD, limits=enough(60))
            await s.send(cancel_cell=pb.CancelCell())
            assert (await s.finish()).outcome in ("CANCELLED", "OK")
        assert (await s.run(FLOOD, limits=enough(60))).outcome == "OK"


def test_what_is_not_told_of_yet_never_fills_the_backlog() -> None:
    backlog = Backlog()
    backlog.note_said(MAX_BACKLOG_CHARS + 1)
    assert backlog.is_full
    backlog.note_taken(MAX_BACKLOG_CHARS + 1 - TAKEN_STEP_CHARS)
    assert not backlog.is_full
