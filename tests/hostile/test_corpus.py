"""Each hostile program ends as it must, on time, and neither its own session nor any other suffers."""

from __future__ import annotations

import asyncio
import json
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from rlm_api.sandbox.v1 import execute_service_pb2 as pb

from tests.hostile.corpus import CORPUS, FAMILIES
from tests.sandbox_server.conftest import Stack, running_server
from tests.sandbox_server.driver import Cell, Session, limits, session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.hostile.programs import Program

WALL_SECONDS = 0.7
PATIENCE_SECONDS = 30  # for what ends otherwise, however busy the machine is
LIMITS = limits(
    wall_seconds=WALL_SECONDS, fuel=10**13, memory_bytes=128 << 20, output_bytes=64 << 10, scratch_bytes=4 << 20
)
PRELUDE = pb.Prelude(
    source="""
__all__ = ["FINAL"]
answer = None
def FINAL(value):
    global answer
    answer = value
def after_cell():
    return {"answer": answer}
"""
)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server() -> AsyncIterator[Stack]:
    async with running_server(workers=2) as stack:
        yield stack


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def witness(server: Stack) -> AsyncIterator[Session]:
    """A session that lives through it all, and that nothing may change."""
    async with session(server.stub) as s:
        await s.run("values = list(range(1000))\ntotal = sum(values)")
        yield s


async def run(server: Stack, hostile: Program) -> tuple[Cell, Cell]:
    """Runs a program in a session of its own; returns how it ended, and how the next cell did."""
    async with session(server.stub, {"ask": str}, limits=LIMITS, prelude=PRELUDE) as s:
        await s.run("before = ['kept']")
        must_be_killed = "DEADLINE" in hostile.outcomes
        await s.start(hostile.code, limits=None if must_be_killed else limits(wall_seconds=PATIENCE_SECONDS))
        cell = Cell()
        while True:
            message = await s.receive()
            kind = message.WhichOneof("response")
            if kind == "output":
                cell.add_output(message.output)
            elif kind == "host_call":
                assert hostile.calls_host, "it reached the client"
            elif kind == "cell_finished":
                cell.result = message.cell_finished.result
                break
        return cell, await s.run("print(before)")


def check(hostile: Program, cell: Cell) -> None:
    """Checks the end of a program."""
    assert cell.outcome in hostile.outcomes, (cell.outcome, cell.result.error, cell.stdout[:200])
    assert hostile.says in cell.stdout + cell.result.error.message, (cell.stdout[:500], cell.result.error)
    assert "FOUND" not in cell.stdout
    assert len(cell.stdout.encode()) <= 64 << 10
    if cell.outcome == "DEADLINE":
        assert cell.result.usage.wall_time.ToMilliseconds() < (WALL_SECONDS + 1) * 1000


def test_the_corpus_is_large_and_says_what_each_program_is_after() -> None:
    assert len(CORPUS) >= 120
    assert len(CORPUS) == sum(map(len, FAMILIES.values())), "two programs have one name"
    assert all(hostile.tries for hostile in CORPUS.values())


@pytest.mark.parametrize("name", CORPUS)
async def test_it_ends_as_it_must(server: Stack, witness: Session, name: str) -> None:
    hostile = CORPUS[name]
    cell, after = await run(server, hostile)
    check(hostile, cell)
    if cell.result.state != pb.SESSION_STATE_KEPT:
        # What was killed is undone.
        assert cell.state == "RESTORED", cell.result.restoration
        assert (after.outcome, after.stdout) == ("OK", "['kept']\n")
    elif name.startswith(("cpu", "blocking", "memory", "output", "recursion", "outside", "files")):
        assert (after.outcome, after.stdout) == ("OK", "['kept']\n")
    assert (await witness.run("print(total == sum(values), len(values))")).stdout == "True 1000\n"


async def test_what_an_application_provides_is_put_back_after_each_cell(server: Stack) -> None:
    async with session(server.stub, prelude=PRELUDE) as s:
        await s.run("FINAL = lambda value: print('forged')")
        cell = await s.run("FINAL('real')")
        assert (cell.stdout, json.loads(cell.result.after_cell_json)) == ("", {"answer": "real"})


async def test_all_of_them_at_once_leave_the_server_as_it_was(server: Stack, witness: Session) -> None:
    await all_at_once(server, witness, seconds=0)


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_a_minute_of_all_of_them_leaves_the_server_as_it_was(server: Stack, witness: Session) -> None:
    await all_at_once(server, witness, seconds=60)


async def all_at_once(server: Stack, witness: Session, *, seconds: float) -> None:
    """Runs all programs, eight at a time and in random order, again and again until the time is over."""
    names = [*CORPUS]
    chance = random.Random(1)
    chance.shuffle(names)
    gate = asyncio.Semaphore(8)
    lost: list[str] = []

    async def one(name: str) -> None:
        async with gate:
            cell, _ = await run(server, CORPUS[name])
            # With eight at once a program may be out of time before it gets to where it is stopped otherwise.
            if cell.outcome not in {*CORPUS[name].outcomes, "DEADLINE"}:
                lost.append(f"{name}: {cell.outcome}")

    await asyncio.gather(*(one(name) for name in names[:20]))  # whatever is made once is made now
    pids = server.server._binding.drainable._pool.pids  # type: ignore[attr-defined]
    end = time.monotonic() + seconds
    await asyncio.gather(*(one(name) for name in names))
    while time.monotonic() < end:
        chance.shuffle(names)
        await asyncio.gather(*(one(name) for name in names))
    assert lost == []
    assert server.server._binding.drainable._pool.pids == pids, "a worker died"  # type: ignore[attr-defined]
    assert (await witness.run("print(total == sum(values), len(values))")).stdout == "True 1000\n"
    assert (await server.stub.Run(pb.RunRequest(code="print(1)"))).stdout == "1\n"
    for pid in pids:
        used = footprint(pid)
        assert used["Private_Dirty"] < 100 << 10, "sandboxes, or the stacks of their threads, are not given back"
        assert used["Threads"] < 20
        assert used["FDs"] < 20


def footprint(pid: int) -> dict[str, int]:
    """Returns what a process has, memory in KiB."""
    process = Path(f"/proc/{pid}")
    lines = (process / "smaps_rollup").read_text().splitlines() + (process / "status").read_text().splitlines()
    fields = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    numbers = {name: int(fields[name][0]) for name in ("Private_Dirty", "Threads")}
    return numbers | {"FDs": len(list((process / "fd").iterdir()))}
