"""Calls of host functions: from the code in the sandbox to the client and back."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING

from rlm_api.sandbox.v1 import execute_service_pb2 as pb

from bench.environment import TRANSPORTS, Environment
from bench.measure import Plan, Subject, interleave, timed
from bench.results import PartResult, Row, Target
from bench.sessions import open_session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bench.sessions import BenchSession

NAME = "host-calls"

_AGAINST_EMPTY_CALL = Target(3.0)

_PRELUDE = """
__all__ = ["gather"]

def gather(items):
    return [call.result() for call in [host_submit("f", item) for item in items]]
"""


async def run(environment: Environment) -> PartResult:
    """Measures calls one by one, many under way at once, and a batch, against an empty call."""
    server = await environment.sandbox()
    count = 20 if environment.quick else 1000
    subjects = {}
    async with contextlib.AsyncExitStack() as stack:
        for transport in TRANSPORTS:
            calls = await environment.floor_calls(transport)
            session = await stack.enter_async_context(
                open_session(
                    server.channels[transport],
                    host_functions=[pb.HostFunction(name="f")],
                    prelude=pb.Prelude(source=_PRELUDE),
                )
            )
            subjects["empty", transport] = Subject("empty gRPC call", timed(calls.empty), transport, block=count // 4)
            subjects["echo", transport] = Subject(
                "echo on a gRPC stream", timed(calls.echo), transport, block=count // 4
            )
            subjects["single", transport] = Subject("host call, one by one", _one_by_one(session, count), transport)
            for name, code in (("at once", f"r = gather(range({count}))"), ("batch", f"r = f(list(range({count})))")):
                subjects[name, transport] = Subject(
                    f"host calls, {count} {name}, each", _each(session, code, count), transport
                )
        plan = Plan(rounds=2) if environment.quick else Plan(rounds=12, warm_up=1)
        series = dict(zip(subjects, await interleave(list(subjects.values()), plan), strict=True))

    rows = [
        Row(series["single", transport], series["empty", transport], _AGAINST_EMPTY_CALL) for transport in TRANSPORTS
    ]
    rows += [Row(series["single", transport], series["echo", transport]) for transport in TRANSPORTS]
    rows += [
        Row(series[name, transport], series["empty", transport])
        for name in ("at once", "batch")
        for transport in TRANSPORTS
    ]
    return PartResult(NAME, "Host call: sandbox to client and back", rows)


def _one_by_one(session: BenchSession, count: int) -> Callable[[], Awaitable[list[float]]]:
    """Returns a sampler of the times from one call's arrival at the client to the next one's."""

    async def sample() -> list[float]:
        _, times = await session.run_timed_cell(f"for i in range({count}): f(i)")
        return [later - earlier for earlier, later in itertools.pairwise(times)]

    return sample


def _each(session: BenchSession, code: str, count: int) -> Callable[[], Awaitable[float]]:
    whole = timed(lambda: session.run_cell(code))

    async def sample() -> float:
        return await whole() / count

    return sample
