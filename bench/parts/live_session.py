"""A cell in a session that is open already."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from bench.environment import TRANSPORTS, Environment
from bench.measure import Plan, Subject, interleave, timed
from bench.parts.fresh_run import CODES
from bench.results import PartResult, Row, Target
from bench.sessions import open_session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bench.sessions import BenchSession

NAME = "live-session"

_AGAINST_EMPTY_CALL = Target(3.0)


async def run(environment: Environment) -> PartResult:
    """Measures a cell against an empty call, an echo on a stream, and the same cell in bare wasmtime."""
    server = await environment.sandbox()
    bare = await environment.bare()

    async def bare_cell() -> float:
        return (await bare.ask("cell", code="x = 1"))["seconds"]

    subjects = {("bare", ""): Subject("bare wasmtime, `x = 1`", bare_cell)}
    async with contextlib.AsyncExitStack() as stack:
        for transport in TRANSPORTS:
            calls = await environment.floor_calls(transport)
            subjects["empty", transport] = Subject("empty gRPC call", timed(calls.empty), transport)
            subjects["echo", transport] = Subject("echo on a gRPC stream", timed(calls.echo), transport)
            session = await stack.enter_async_context(open_session(server.channels[transport]))
            for name, code in CODES.items():
                subjects[name, transport] = Subject(f"live cell, `{name}`", timed(_cell(session, code)), transport)
        plan = Plan(rounds=2, block=5) if environment.quick else Plan(rounds=60, block=25, warm_up=100)
        series = dict(zip(subjects, await interleave(list(subjects.values()), plan), strict=True))

    rows = [
        Row(series[name, transport], series["empty", transport], _AGAINST_EMPTY_CALL)
        for name in CODES
        for transport in TRANSPORTS
    ]
    rows += [Row(series["x = 1", transport], series["echo", transport]) for transport in TRANSPORTS]
    rows += [Row(series["x = 1", transport], series["bare", ""]) for transport in TRANSPORTS]
    return PartResult(NAME, "Cell in a live session", rows)


def _cell(session: BenchSession, code: str) -> Callable[[], Awaitable[object]]:
    return lambda: session.run_cell(code)
