"""A fresh sandbox with one cell, over gRPC."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlm_api.sandbox.v1 import execute_service_pb2 as pb

from bench.environment import TRANSPORTS, Environment, sandbox_stub
from bench.measure import Plan, Subject, interleave, timed
from bench.results import PartResult, Row, Target

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import grpc

NAME = "fresh-run"

CODES = {"x = 1": "x = 1", "print": "print('hello')"}

_AGAINST_BARE = Target(2.5)


async def run(environment: Environment) -> PartResult:
    """Measures `Run` against bare wasmtime, an empty call, and the start of a native interpreter."""
    server = await environment.sandbox()
    bare = await environment.bare()

    def sampler(do: str, **arguments: str) -> Callable[[], Awaitable[float]]:
        async def sample() -> float:
            return (await bare.ask(do, **arguments))["seconds"]

        return sample

    subjects = {
        ("bare", name): Subject(f"bare wasmtime, `{name}`", sampler("fresh", code=CODES[name])) for name in CODES
    }
    subjects["python", ""] = Subject("native `python3 -I -c pass`", sampler("python"), block=2)
    for transport in TRANSPORTS:
        calls = await environment.floor_calls(transport)
        subjects["empty", transport] = Subject("empty gRPC call", timed(calls.empty), transport)
        for name, code in CODES.items():
            call = timed(runner(server.channels[transport], code))
            subjects[name, transport] = Subject(f"fresh `Run`, `{name}`", call, transport)
    plan = Plan(rounds=2, block=2) if environment.quick else Plan(rounds=60, block=10, warm_up=30)
    series = dict(zip(subjects, await interleave(list(subjects.values()), plan), strict=True))

    rows = [
        Row(series[name, transport], series["bare", name], _AGAINST_BARE) for name in CODES for transport in TRANSPORTS
    ]
    rows += [Row(series["x = 1", transport], series["empty", transport]) for transport in TRANSPORTS]
    rows += [Row(series["x = 1", transport], series["python", ""]) for transport in TRANSPORTS]
    notes = []
    for transport in TRANSPORTS:
        least = series["bare", "x = 1"].median + series["empty", transport].median
        beyond = series["x = 1", transport].median - least
        notes.append(
            f"{transport}: bare wasmtime and an empty call together take {least * 1e3:.2f} ms; `Run` takes "
            f"{beyond * 1e3:.2f} ms more."
        )
    return PartResult(NAME, "Fresh `Run`: a new CPython, one cell, gone again", rows, notes)


def runner(channel: grpc.aio.Channel, code: str) -> Callable[[], Awaitable[None]]:
    """Returns a coroutine function that runs code in a fresh sandbox."""
    stub = sandbox_stub(channel)
    request = pb.RunRequest(code=code)

    async def call() -> None:
        response = await stub.Run(request)
        if response.result.outcome != pb.OUTCOME_OK:
            raise RuntimeError(f"the run ended with {response}")

    return call
