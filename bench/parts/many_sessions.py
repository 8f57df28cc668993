"""A thousand sessions that are alive at once."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

from rlm_api.sandbox.v1 import execute_service_pb2 as pb

from bench.environment import open_channel, sandbox_stub
from bench.measure import Series
from bench.results import PartResult, Row
from bench.usage import family, pss_bytes

if TYPE_CHECKING:
    import grpc

    from bench.environment import Environment

NAME = "many-sessions"

_CHANNELS = 8
_WANTED_BYTES = 3_000_000_000
_OPENING_AT_ONCE = 32
_CELL = """
state = [f"item {number}" for number in range(1000)]
answer = ask(len(state))
state.append(answer)
print(len(state), state[-1])
"""


class _Session:
    """One session's stream.

    Args:
        channel: leads to the server.
        number: what its host call is answered with.
    """

    def __init__(self, channel: grpc.aio.Channel, number: int) -> None:
        self._call: Any = sandbox_stub(channel).Session()
        self._number = number
        self._call_id = 0

    async def run_to_host_call(self) -> None:
        """Opens the session and runs its cell until that waits for the host."""
        function = pb.HostFunction(name="ask")
        await self._call.write(pb.SessionRequest(open=pb.OpenSession(host_functions=[function])))
        await self._call.write(pb.SessionRequest(run_cell=pb.RunCell(code=_CELL)))
        while True:
            response = await self._call.read()
            if not isinstance(response, pb.SessionResponse) or response.WhichOneof("response") == "cell_finished":
                raise RuntimeError(f"session {self._number} ended with {response}")
            if response.WhichOneof("response") == "host_call":
                self._call_id = response.host_call.call_id
                return

    async def finish(self) -> None:
        """Answers the host call and waits for the end of the cell."""
        answer = pb.HostCallResult(call_id=self._call_id, value_json=str(self._number))
        await self._call.write(pb.SessionRequest(host_call_result=answer))
        text = ""
        while True:
            response = await self._call.read()
            if response.WhichOneof("response") == "output":
                text += response.output.text
            elif response.WhichOneof("response") == "cell_finished":
                break
        if response.cell_finished.result.outcome != pb.OUTCOME_OK or text != f"1001 {self._number}\n":
            raise RuntimeError(f"session {self._number} ended with {text!r} and {response}")

    def close(self) -> None:
        """Ends the stream."""
        self._call.cancel()


async def run(environment: Environment) -> PartResult:
    """Opens the sessions, waits until each is in a host call, looks at the memory, and lets them finish."""
    count = 20 if environment.quick else 1000
    limits = ("--max-sessions", str(count), "--max-memory-mib", str(1 << 20))
    async with contextlib.AsyncExitStack() as stack:
        server = await environment.start_sandbox(stack, "many-sessions", *limits)
        channels = [await open_channel(stack, server.addresses["unix"]) for _ in range(_CHANNELS)]
        sessions = [_Session(channels[number % _CHANNELS], number) for number in range(count)]
        for session in sessions:
            stack.callback(session.close)
        before = _memory(server.child.pid)
        turns = asyncio.Semaphore(_OPENING_AT_ONCE)

        async def begin(session: _Session) -> None:
            async with turns:
                await session.run_to_host_call()

        start = time.perf_counter()
        await asyncio.gather(*map(begin, sessions))
        begun = time.perf_counter()
        blocked = _memory(server.child.pid)
        looked = time.perf_counter()
        await asyncio.gather(*(session.finish() for session in sessions))
        finished = time.perf_counter()

    rows = [
        Row(Series("until all are in a host call", "unix", rounds=[[begun - start]])),
        Row(Series("until all have finished", "unix", rounds=[[finished - looked]])),
    ]
    verdict = "met" if blocked < _WANTED_BYTES else "NOT met"
    each = (blocked - before) / count
    note = (
        f"{count} sessions, each with a thousand texts and in a host call: {blocked / 1e9:.2f} GB (sum of PSS of the "
        f"server and its workers), {each / 1e6:.2f} MB for each; wanted for 1000: under {_WANTED_BYTES / 1e9:g} GB, "
        f"{verdict}. All {count} finished, each with its own answer."
    )
    details = {"sessions": count, "pss_bytes": blocked, "pss_bytes_before": before}
    return PartResult(NAME, "Many sessions at once", rows, [note], details)


def _memory(pid: int) -> int:
    return sum(map(pss_bytes, family(pid)))
