"""Drives a `Session` stream as a client would, on the generated stub alone."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import duration_pb2
from rlm_api.sandbox.v1 import execute_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from rlm_api.sandbox.v1 import execute_service_pb2_grpc as pb_grpc


def limits(wall_seconds: float | None = None, **fields: int) -> pb.Limits:
    """Returns limits; the wall time in seconds."""
    wall_time = None
    if wall_seconds is not None:
        wall_time = duration_pb2.Duration()
        wall_time.FromNanoseconds(int(wall_seconds * 1e9))
    return pb.Limits(wall_time=wall_time, **fields)


def outcome(result: pb.CellResult) -> str:
    """Returns how a cell ended, as `OUT_OF_FUEL`."""
    return pb.Outcome.Name(result.outcome).removeprefix("OUTCOME_")


def state(result: pb.CellResult) -> str:
    """Returns what became of the variables, as `RESTORED`."""
    return pb.SessionState.Name(result.state).removeprefix("SESSION_STATE_")


class Cell:
    """What came back for a cell."""

    def __init__(self) -> None:
        self._stdout: list[str] = []
        self._stderr: list[str] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.kinds: list[str] = []
        self.result = pb.CellResult()

    def add_output(self, output: pb.Output) -> None:
        """Takes a part of what it wrote."""
        parts = self._stderr if output.stream == pb.OUTPUT_STREAM_STDERR else self._stdout
        parts.append(output.text)

    @property
    def stdout(self) -> str:
        """What it wrote there."""
        return "".join(self._stdout)

    @property
    def stderr(self) -> str:
        """What it wrote there."""
        return "".join(self._stderr)

    @property
    def outcome(self) -> str:
        """How it ended."""
        return outcome(self.result)

    @property
    def state(self) -> str:
        """What became of the variables."""
        return state(self.result)


class Session:
    """A session stream that is open.

    Args:
        call: the stream.
        functions: serve host calls; each takes the decoded `args` and returns the value.
    """

    def __init__(
        self, call: grpc.aio.StreamStreamCall[pb.SessionRequest, pb.SessionResponse], functions: dict[str, Any]
    ) -> None:
        self.call = call
        self.opened = pb.SessionOpened()
        self._functions = functions

    async def send(self, **message: Any) -> None:
        """Sends a message of one kind."""
        await self.call.write(pb.SessionRequest(**message))

    async def receive(self) -> pb.SessionResponse:
        """Returns the next message.

        Raises:
            grpc.aio.AioRpcError: the stream has ended with an error.
        """
        message = await self.call.read()
        assert isinstance(message, pb.SessionResponse), "the stream has ended"
        return message

    async def receive_kind(self, kind: str) -> Any:
        """Returns the next message, which must be of a kind."""
        message = await self.receive()
        assert message.WhichOneof("response") == kind, message
        return getattr(message, kind)

    async def start(self, code: str, **fields: Any) -> None:
        """Begins a cell."""
        await self.send(run_cell=pb.RunCell(code=code, **fields))

    async def finish(self, cell: Cell | None = None) -> Cell:
        """Serves a cell to its end."""
        cell = cell or Cell()
        while True:
            message = await self.receive()
            kind = str(message.WhichOneof("response"))
            cell.kinds.append(kind)
            if kind == "output":
                cell.add_output(message.output)
            elif kind == "host_call":
                arguments = json.loads(message.host_call.arguments_json)
                cell.calls.append((message.host_call.function, arguments))
                value = self._functions[message.host_call.function](*arguments["args"], **arguments["kwargs"])
                await self.answer(message.host_call.call_id, value)
            elif kind == "cell_finished":
                cell.result = message.cell_finished.result
                return cell

    async def answer(self, call_id: int, value: object) -> None:
        """Answers a host call."""
        await self.send(host_call_result=pb.HostCallResult(call_id=call_id, value_json=json.dumps(value)))

    async def run(self, code: str, **fields: Any) -> Cell:
        """Runs a cell."""
        await self.start(code, **fields)
        return await self.finish()

    async def value(self, expression: str) -> Any:
        """Returns the value of an expression that JSON can carry."""
        cell = await self.run(f"import json; print(json.dumps({expression}))")
        assert cell.outcome == "OK", cell.result.error
        return json.loads(cell.stdout)


@contextlib.asynccontextmanager
async def session(
    stub: pb_grpc.ExecuteServiceAsyncStub,
    functions: dict[str, Callable[..., Any]] | None = None,
    **fields: Any,
) -> AsyncIterator[Session]:
    """Opens a session with the fields of `OpenSession`, and closes it."""
    functions = functions or {}
    call = stub.Session()
    opened = Session(call, functions)
    declared = [pb.HostFunction(name=name, doc=function.__doc__ or "") for name, function in functions.items()]
    with contextlib.suppress(grpc.aio.AioRpcError):  # if it is refused already, reading tells why
        await opened.send(open=pb.OpenSession(host_functions=declared, **fields))
    opened.opened = await opened.receive_kind("opened")
    try:
        yield opened
    finally:
        call.cancel()
