"""How long after its time a cell is over, whatever it does; and what is left of a sandbox, or a worker, is freed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import duration_pb2
from rlm_api.sandbox.v1 import execute_service_pb2 as pb

from bench.environment import Environment, sandbox_stub
from bench.measure import Plan, Subject, interleave
from bench.results import PartResult, Row, Target
from bench.usage import family

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rlm_api.sandbox.v1 import execute_service_pb2_grpc as sandbox_grpc

NAME = "stopping"

_LIMIT_SECONDS = 0.05
_ON_TIME = Target(0.1, absolute=True)
_BACK = Target(1.0, absolute=True)

PROGRAMS = {
    "a loop": "while True: pass",
    "a loop that catches everything": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "sleeping": "import time; time.sleep(10**6)",
    "`select`": "import select; select.select([], [], [], 10**6)",
    "`asyncio.sleep`": "import asyncio; asyncio.run(asyncio.sleep(10**6))",
    "a host call that nobody answers": "ask()",
    "one long C function (a power)": "7 ** 10**8",
    "one long C function (`sum`)": "sum(range(10**12))",
    "one long C function (a regular expression)": "import re; re.match(r'(a+)+$', 'a' * 50 + 'b')",
    "one long C function (`sqlite3`)": "import sqlite3; sqlite3.connect(':memory:').execute("
    "'with recursive c(x) as (select 1 union all select x + 1 from c) select count(*) from c').fetchall()",
    "writing files": "f = open('x', 'wb')\nwhile True: f.seek(0); f.write(bytes(10**6))",
    "lengthening a file": "import os\nopen('x', 'w').close()\n"
    "while True: os.truncate('x', 6 * 10**7); os.truncate('x', 0)",
    "output": "while True: print('x' * 10**4)",
}


async def _run_once_it_is_back(stub: sandbox_grpc.ExecuteServiceAsyncStub) -> None:
    """Runs a cell; one that met the worker in its last moment is to be tried again, as the server says."""
    while True:
        try:
            await stub.Run(pb.RunRequest(code="1"))
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
        else:
            return


async def run(environment: Environment) -> PartResult:
    """Measures the time from the limit to the end, from a cancel to the end, and from a break to a free sandbox."""
    plan = Plan(rounds=1) if environment.quick else Plan(rounds=20, block=2)
    async with contextlib.AsyncExitStack() as stack:
        server = await environment.start_sandbox(stack, NAME, "--max-sessions", "1", "--workers", "1")
        stopper = _Stopper(server.channels["unix"])
        subjects = [Subject(f"over time: {name}", stopper.over_time(code)) for name, code in PROGRAMS.items()]
        cancelled = ("a loop", "sleeping", "a host call that nobody answers", "one long C function (a power)")
        subjects += [Subject(f"cancelled: {name}", stopper.cancelled(PROGRAMS[name])) for name in cancelled]
        subjects += [Subject(f"stream broken: {name}", stopper.broken(PROGRAMS[name])) for name in cancelled]
        series = await interleave(subjects, plan)

        async def kill_worker() -> float:
            async with contextlib.AsyncExitStack() as own:
                fresh = await environment.start_sandbox(own, "killing", "--workers", "1")
                worker = family(fresh.child.pid)[1]
                start = time.perf_counter()
                os.kill(worker, signal.SIGKILL)
                while worker in family(fresh.child.pid):  # noqa: ASYNC110 - nothing tells of its end but the list
                    await asyncio.sleep(0.001)
                await _run_once_it_is_back(sandbox_stub(fresh.channels["unix"]))
                return time.perf_counter() - start

        kills = Plan(rounds=1, warm_up=0) if environment.quick else Plan(rounds=10, warm_up=0)
        [killed] = await interleave([Subject("worker killed, until the next `Run` is done", kill_worker)], kills)
    rows = [Row(one, target=_ON_TIME) for one in series] + [Row(killed, target=_BACK)]
    worst = max(max(one.samples) for one in series)
    count = sum(len(one.samples) for one in series)
    own = sorted(seconds * 1e3 for seconds in stopper.own_seconds)
    middle, nearly_all = own[len(own) // 2], own[len(own) * 99 // 100]
    told = (
        f"{middle:.1f} ms after their limit (median); 99 in 100 within {nearly_all:.1f} ms, all within {own[-1]:.1f} ms"
    )
    notes = [
        f"The slowest of all {count} stops took {worst * 1e3:.1f} ms for the client.",
        f"By the sandbox's own clock, {len(own)} cells were over {told}.",
    ]
    return PartResult(NAME, "Stopped on time", rows, notes)


class _Stopper:
    """Runs cells that do not end by themselves, on a server that holds one sandbox at a time."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = sandbox_stub(channel)
        self.own_seconds: list[float] = []
        """By how much cells were over their limit, by the sandbox's own clock."""

    def over_time(self, code: str) -> Callable[[], Awaitable[float]]:
        """Returns a sampler of the time by which a cell is over its limit when the client hears of its end."""

        async def sample() -> float:
            limit = duration_pb2.Duration()
            limit.FromNanoseconds(int(_LIMIT_SECONDS * 1e9))
            call = await self._open()
            start = time.perf_counter()
            await call.write(_cell(code, pb.Limits(wall_time=limit, fuel=10**14, output_bytes=1 << 26)))
            finished = await _finish(call)
            elapsed = time.perf_counter() - start
            call.cancel()
            if finished.outcome != pb.OUTCOME_DEADLINE:
                raise RuntimeError(f"{code} ended with {finished}")
            self.own_seconds.append(finished.usage.wall_time.ToNanoseconds() / 1e9 - _LIMIT_SECONDS)
            return elapsed - _LIMIT_SECONDS - finished.restoration.wall_time.ToNanoseconds() / 1e9

        return sample

    def cancelled(self, code: str) -> Callable[[], Awaitable[float]]:
        """Returns a sampler of the time from `cancel_cell` to the cell's end."""

        async def sample() -> float:
            call = await self._start(code)
            start = time.perf_counter()
            await call.write(pb.SessionRequest(cancel_cell=pb.CancelCell()))
            finished = await _finish(call)
            elapsed = time.perf_counter() - start
            call.cancel()
            return elapsed - finished.restoration.wall_time.ToNanoseconds() / 1e9

        return sample

    def broken(self, code: str) -> Callable[[], Awaitable[float]]:
        """Returns a sampler of the time from the break of a stream until another has the sandbox's place."""

        async def sample() -> float:
            call = await self._start(code)
            start = time.perf_counter()
            call.cancel()
            other = await self._open()
            elapsed = time.perf_counter() - start
            other.cancel()
            return elapsed

        return sample

    async def _start(self, code: str) -> Any:
        call = await self._open()
        await call.write(_cell(f"print('it runs', flush=True)\n{code}", pb.Limits(fuel=10**14)))
        await call.read()
        return call

    async def _open(self) -> Any:
        """Opens a session as soon as there is a place for one."""
        opening = pb.OpenSession(host_functions=[pb.HostFunction(name="ask")])
        while True:
            call = self._stub.Session()
            try:
                await call.write(pb.SessionRequest(open=opening))
                response = await call.read()
            except grpc.aio.AioRpcError as error:
                # A write to a stream that is refused just then fails as INTERNAL.
                if error.code() not in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL):
                    raise
                continue
            if isinstance(response, pb.SessionResponse):
                return call


def _cell(code: str, limits: pb.Limits) -> pb.SessionRequest:
    return pb.SessionRequest(run_cell=pb.RunCell(code=code, limits=limits))


async def _finish(call: Any) -> pb.CellResult:
    while True:
        response = await call.read()
        if response.HasField("cell_finished"):
            result: pb.CellResult = response.cell_finished.result
            return result
