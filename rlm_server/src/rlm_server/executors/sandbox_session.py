"""One sandbox over its stream: cells, their output, and the host calls that come back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

import grpc
from rlm_api.sandbox.v1 import execute_service_pb2 as pb

from rlm_server.engine.limits import to_duration
from rlm_server.engine.ports.sessions import SandboxError, Variable, VariableListing, VariablesState
from rlm_server.executors.cell_result import STREAMS, to_result, variables_state
from rlm_server.executors.session_host_calls import HostCalls
from rlm_server.executors.session_work import Cell, Reading, ignore_output

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from rlm_api.sandbox.v1.execute_service_pb2_grpc import ExecuteServiceAsyncStub

    from rlm_server.engine.limits import CellBounds
    from rlm_server.engine.ports.host_calls import HostCall
    from rlm_server.engine.ports.inputs import InputValue
    from rlm_server.engine.ports.sessions import CellResult, FileContent, OutputHandler

_OUTGOING_MESSAGES = 8
_DEADLINE_GRACE_SECONDS = 10.0
_SETTLE_SECONDS = 90.0  # a sandbox server may replay a session for a minute
_INPUTS_SECONDS = 120.0
_FILE_SECONDS = 60.0
_MAX_INPUTS_AT_ONCE = 100
_LISTING_CODE = "pass"
_DETAILS_KEY = "grpc-status-details-bin"
_LISTING_SECONDS = 10.0
_LISTED_OUTCOMES = (pb.OUTCOME_OK, pb.OUTCOME_OUTPUT_LIMIT)


class SandboxSession:
    """A session, as a `ports.Session`. `open` makes it, `close` ends it.

    Its tasks read from the stream, write to it, and answer host calls; `close` ends them all. When one of them fails,
    the cell that runs fails with it.
    """

    def __init__(
        self,
        stub: ExecuteServiceAsyncStub,
        on_host_call: Callable[[HostCall], Awaitable[object]],
        make_input: Callable[[InputValue], Awaitable[pb.Input]],
    ) -> None:
        self._make_input = make_input
        # A queue, since gRPC takes one write at a time, and ends the call when a write is cancelled. Its own task for
        # that, if it is given an iterator, writes out a traceback whenever a call is cancelled.
        self._outgoing: asyncio.Queue[pb.SessionRequest] = asyncio.Queue(_OUTGOING_MESSAGES)
        self._call = stub.Session()
        self._tasks: set[asyncio.Task[None]] = set()
        self._host_calls = HostCalls(on_host_call)
        self._cell: Cell | None = None
        self._cell_count = 0
        self._inputs_set: asyncio.Future[None] | None = None
        self._reading: Reading | None = None
        self._failure: Exception | None = None

    @classmethod
    async def open(
        cls,
        stub: ExecuteServiceAsyncStub,
        request: pb.OpenSession,
        on_host_call: Callable[[HostCall], Awaitable[object]],
        make_input: Callable[[InputValue], Awaitable[pb.Input]],
    ) -> Self:
        """Opens a session.

        Args:
            stub: the sandbox server's.
            request: describes the sandbox.
            on_host_call: answers host calls.
            make_input: returns the message of a variable, after what it needs is on the server.

        Raises:
            grpc.aio.AioRpcError: the server refuses it or is not there.
        """
        session = cls(stub, on_host_call, make_input)
        session._spawn(session._write())
        try:
            await session._outgoing.put(pb.SessionRequest(open=request))
            session._check_opened(await session._call.read())
        except BaseException:
            await session.close()
            raise
        session._spawn(session._read())
        return session

    def _check_opened(self, first: object) -> None:
        if not isinstance(first, pb.SessionResponse) or first.WhichOneof("response") != "opened":
            raise SandboxError("the sandbox server did not open the session")

    async def close(self) -> None:
        """Ends the session at once; the sandbox dies with the stream."""
        self._call.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(self._host_calls.end(), *tasks, return_exceptions=True)

    @property
    def is_alive(self) -> bool:
        """Whether the stream is open, as far as is known."""
        return self._failure is None

    async def run_cell(self, code: str, bounds: CellBounds, on_output: OutputHandler) -> CellResult:
        """Runs a cell; see `ports.Session`."""
        limits = pb.Limits(
            fuel=bounds.fuel, wall_time=to_duration(bounds.wall_time_seconds), output_bytes=bounds.output_bytes
        )
        return to_result(await self._run(pb.RunCell(code=code, limits=limits), bounds.wall_time_seconds, on_output))

    async def variables(self) -> VariableListing:
        """Describes the variables; see `ports.Session`."""
        request = pb.RunCell(
            code=_LISTING_CODE,
            limits=pb.Limits(wall_time=to_duration(_LISTING_SECONDS)),
            variables=pb.VariableQuery(include_all=True, include_inputs=True),
        )
        result = await self._run(request, _LISTING_SECONDS, ignore_output)
        if result.outcome not in _LISTED_OUTCOMES:
            return VariableListing((), problem=f"{result.error.type}: {result.error.message}")
        found = [Variable(one.name, one.type, one.size, one.preview) for one in result.variables]
        return VariableListing(found, result.variables_omitted_count)

    async def read_file(self, path: str, max_bytes: int) -> FileContent:
        """Reads a file of the scratch directory; see `ports.Session`."""
        self._check_usable()
        reading = self._reading = Reading(max_bytes)
        try:
            async with asyncio.timeout(_FILE_SECONDS):
                await self._outgoing.put(pb.SessionRequest(read_file=pb.ReadFile(path=path)))
                return await reading.content
        except TimeoutError:
            raise self._give_up(f"the sandbox server did not send a file within {_FILE_SECONDS:g} s") from None
        except asyncio.CancelledError:
            self._give_up("reading a file was broken off")
            raise

    async def settle(self) -> VariablesState:
        """Kills the cell whose `run_cell` was cancelled; see `ports.Session`."""
        if self._failure is not None:
            raise self._failure
        cell = self._cell
        if cell is None:
            return VariablesState.KEPT
        cell.is_awaited = True
        try:
            async with asyncio.timeout(_SETTLE_SECONDS):
                cancel_cell = pb.CancelCell(cell_id=cell.cell_id)
                await self._outgoing.put(pb.SessionRequest(cancel_cell=cancel_cell))
                result = await cell.result
        except TimeoutError:
            raise self._give_up("the sandbox server did not end a block that was cancelled") from None
        self._cell = None
        return variables_state(result)

    async def set_inputs(self, inputs: Sequence[InputValue]) -> None:
        """Sets variables; see `ports.Session`."""
        self._check_usable()
        try:
            async with asyncio.timeout(_INPUTS_SECONDS):
                messages = [await self._make_input(one) for one in inputs]
                for start in range(0, len(messages), _MAX_INPUTS_AT_ONCE):
                    self._inputs_set = asyncio.get_running_loop().create_future()
                    set_inputs = pb.SetInputs(inputs=messages[start : start + _MAX_INPUTS_AT_ONCE])
                    await self._outgoing.put(pb.SessionRequest(set_inputs=set_inputs))
                    await self._inputs_set
        except TimeoutError:
            raise self._give_up(f"the sandbox server did not set variables within {_INPUTS_SECONDS:g} s") from None
        except grpc.aio.AioRpcError as error:
            raise SandboxError(describe_error(error)) from error
        except asyncio.CancelledError:
            self._give_up("setting variables was broken off")
            raise

    async def _run(self, request: pb.RunCell, seconds: float, on_output: OutputHandler) -> pb.CellResult:
        self._check_usable()
        self._cell_count += 1
        cell = self._cell = Cell(str(self._cell_count), on_output)
        request.cell_id = cell.cell_id
        try:
            # The server keeps the time. It is not trusted to: a lost connection must not hang a completion.
            async with asyncio.timeout(seconds + _DEADLINE_GRACE_SECONDS):
                await self._outgoing.put(pb.SessionRequest(run_cell=request))
                cell.is_sent = True
                return await asyncio.shield(cell.result)  # of which `settle` needs the result after a cancel
        except TimeoutError:
            raise self._give_up("the sandbox server did not end a block when its time was up") from None
        except asyncio.CancelledError:
            if cell.is_sent:
                cell.abandon()
            raise
        finally:
            if cell.is_awaited:
                self._cell = None
            await self._host_calls.end()

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._cell is not None:
            raise SandboxError("a block runs in the session already, or was cancelled and not settled")

    def _give_up(self, message: str) -> SandboxError:
        """Makes the session unusable; returns the error that says why."""
        error = SandboxError(message)
        self._fail(error)
        return error

    async def _write(self) -> None:
        try:
            while True:
                await self._call.write(await self._outgoing.get())
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the stream has ended, and whoever reads from it is told why
        except Exception as error:  # noqa: BLE001 - it is raised where the cell is waited for
            self._fail(error)

    async def _read(self) -> None:
        try:
            while isinstance(response := await self._call.read(), pb.SessionResponse):
                await self._take(response)
            self._fail(SandboxError("the sandbox server has ended the session"))
        except grpc.aio.AioRpcError as error:
            self._fail(SandboxError(describe_error(error), was_cut_off=_was_cut_off(error)))
        except Exception as error:  # noqa: BLE001 - it is raised where the cell is waited for
            self._fail(error)

    async def _take(self, response: pb.SessionResponse) -> None:
        kind = response.WhichOneof("response")
        cell = self._cell
        if kind == "host_call":
            await self._host_calls.take(response.host_call, self._send_result, self._fail)
        elif kind == "host_call_abandoned":
            self._host_calls.abandon(response.host_call_abandoned.call_id)
        elif kind == "output" and cell is not None and response.output.cell_id == cell.cell_id:
            await cell.on_output(STREAMS[response.output.stream], response.output.text)
        elif kind == "cell_finished" and cell is not None and response.cell_finished.cell_id == cell.cell_id:
            cell.finish(response.cell_finished.result)
        elif kind == "inputs_set" and self._inputs_set is not None and not self._inputs_set.done():
            self._inputs_set.set_result(None)
        elif kind == "file_chunk" and self._reading is not None:
            self._reading.take(response.file_chunk)

    async def _send_result(self, result: pb.HostCallResult) -> None:
        await self._outgoing.put(pb.SessionRequest(host_call_result=result))

    def _fail(self, error: Exception) -> None:
        self._failure = self._failure or error
        if self._cell is not None and self._cell.is_awaited and not self._cell.result.done():
            self._cell.result.set_exception(self._failure)
        if self._inputs_set is not None and not self._inputs_set.done():
            self._inputs_set.set_exception(self._failure)
        if self._reading is not None and not self._reading.content.done():
            self._reading.content.set_exception(self._failure)

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _was_cut_off(error: grpc.aio.AioRpcError) -> bool:
    """Tells whether a stream broke, and its server did not end it: that says why."""
    return all(key != _DETAILS_KEY for key, _ in error.trailing_metadata() or ())


def describe_error(error: grpc.aio.AioRpcError) -> str:
    """Returns an RPC error as one line."""
    return f"{error.code().name}: {error.details() or 'no details'}"
