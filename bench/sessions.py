"""A client's side of one sandbox session, with as little in it as can be."""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

from rlm_api.sandbox.v1 import execute_service_pb2 as pb

from bench.environment import sandbox_stub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import grpc


class BenchSession:
    """A session that is open.

    Args:
        call: its stream.
    """

    def __init__(self, call: Any) -> None:
        self._call = call

    async def run_cell(self, code: str) -> pb.CellResult:
        """Runs a cell that must succeed. Host calls are answered at once: a number with itself, a list likewise."""
        return (await self.run_timed_cell(code))[0]

    async def run_timed_cell(self, code: str) -> tuple[pb.CellResult, list[float]]:
        """Runs a cell; returns also when each host call came in, by `time.perf_counter`."""
        await self._call.write(pb.SessionRequest(run_cell=pb.RunCell(code=code)))
        times: list[float] = []
        while True:
            response = await self._call.read()
            kind = response.WhichOneof("response")
            if kind == "host_call":
                times.append(time.perf_counter())
                value = json.dumps(json.loads(response.host_call.arguments_json)["args"][0])
                result = pb.HostCallResult(call_id=response.host_call.call_id, value_json=value)
                await self._call.write(pb.SessionRequest(host_call_result=result))
            elif kind == "cell_finished":
                if response.cell_finished.result.outcome != pb.OUTCOME_OK:
                    raise RuntimeError(f"the cell ended with {response}")
                return response.cell_finished.result, times


@contextlib.asynccontextmanager
async def open_session(channel: grpc.aio.Channel, **fields: Any) -> AsyncIterator[BenchSession]:
    """Opens a session until the block ends.

    Args:
        channel: leads to the server.
        fields: of `OpenSession`.
    """
    call = sandbox_stub(channel).Session()
    await call.write(pb.SessionRequest(open=pb.OpenSession(**fields)))
    response = await call.read()
    if not isinstance(response, pb.SessionResponse) or response.WhichOneof("response") != "opened":
        raise RuntimeError(f"no session was opened, but {response} came")
    try:
        yield BenchSession(call)
    finally:
        call.cancel()
