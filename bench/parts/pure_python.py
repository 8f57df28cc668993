"""Programs of pure Python in a sandbox, against the native interpreter."""

from __future__ import annotations

import contextlib
import math
import platform
from typing import TYPE_CHECKING

from bench.measure import Plan, Series, Subject, interleave
from bench.native import NativePrograms
from bench.programs import PROGRAMS
from bench.results import PartResult, Row, Target
from bench.sessions import open_session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rlm_api.sandbox.v1 import execute_service_pb2 as pb

    from bench.environment import Environment
    from bench.sessions import BenchSession

NAME = "pure-python"

_TARGET = Target(2.0)
_FEW = ("loop", "json_loads")
"""What `--quick` runs."""


async def run(environment: Environment) -> PartResult:
    """Measures each program in a session of its own, in turns with a native interpreter; all by processor time."""
    server = await environment.sandbox()
    names = list(_FEW) if environment.quick else list(PROGRAMS)
    subjects = []
    async with contextlib.AsyncExitStack() as stack:
        native = await stack.enter_async_context(NativePrograms(PROGRAMS))
        for name in names:
            session = await stack.enter_async_context(open_session(server.channels["unix"]))
            await session.run_cell(PROGRAMS[name])
            subjects += [
                Subject(f"`{name}`", _in_sandbox(session)),
                Subject("native", lambda name=name: native.run(name)),  # type: ignore[misc]
            ]
        plan = Plan(rounds=1, warm_up=0) if environment.quick else Plan(rounds=7)
        series = await interleave(subjects, plan)
    rows = [Row(sandbox, floor) for sandbox, floor in zip(series[::2], series[1::2], strict=True)]
    rows.append(_mean_of(rows))
    note = (
        f"Native is the CPython {platform.python_version()} that runs the servers; in the sandbox runs CPython 3.14. "
        "The last row is the geometric mean of the others, round by round."
    )
    details = {"python": platform.python_version()}
    return PartResult(NAME, "Programs of pure Python, processor time", rows, [note], details)


def _mean_of(rows: list[Row]) -> Row:
    def mean(all_series: list[Series], name: str) -> Series:
        rounds = zip(*(series.round_medians for series in all_series), strict=True)
        return Series(name, rounds=[[math.exp(sum(map(math.log, times)) / len(times))] for times in rounds])

    floors = [row.floor for row in rows if row.floor is not None]
    return Row(mean([row.subject for row in rows], "geometric mean"), mean(floors, "native"), _TARGET)


def _in_sandbox(session: BenchSession) -> Callable[[], Awaitable[float]]:
    async def sample() -> float:
        result: pb.CellResult = await session.run_cell("run() and None")
        return result.usage.cpu_time.ToNanoseconds() / 1e9

    return sample
