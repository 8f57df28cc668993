"""One sandbox over its stream: cells, their output, and the host calls that come back."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Self

import grpc
from rlm_api.rlm.v1 import event_pb2
from rlm_api.sandbox.v1 import execute_service_pb2 as pb

from rlm_server.engine.limits import to_duration
from rlm_server.engine.ports import (
    CellResult,
    FileContent,
    HostCall,
    HostCallError,
    SandboxError,
    Variable,
    VariableListing,
    VariablesState,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from rlm_api.sandbox.v1.execute_service_pb2_grpc import ExecuteServiceAsyncStub

    from rlm_server.engine.limits import CellBounds
    from rlm_server.engine.ports import InputValue, OutputHandler

_PART_CHARS = 512 * 1024
_LARGE_JSON_CHARS = 1024 * 1024
_OUTGOING_MESSAGES = 8
_DEADLINE_GRACE_SECONDS = 10.0
_SETTLE_SECONDS = 90.0  # a sandbox server may replay a session for a minute
_INPUTS_SECONDS = 120.0
_FILE_SECONDS = 60.0
_MAX_INPUTS_AT_ONCE = 100
_LISTING_CODE = "pass"
_LISTING_SECONDS = 10.0
_LISTED_OUTCOMES = (pb.OUTCOME_OK, pb.OUTCOME_OUTPUT_LIMIT)

_OUTCOMES = {
    pb.Outcome.Value(name): event_pb2.CodeOutcome.Value(f"CODE_{name}")
    for name in pb.Outcome.keys()  # noqa: SIM118 - an enum wrapper is no dict
}
_STREAMS = {
    pb.OUTPUT_STREAM_STDOUT: event_pb2.OUTPUT_STREAM_STDOUT,
    pb.OUTPUT_STREAM_STDERR: event_pb2.OUTPUT_STREAM_STDERR,
}
_STATES = {
    pb.SESSION_STATE_KEPT: VariablesState.KEPT,
    pb.SESSION_STATE_RESTORED: VariablesState.RESTORED,
    pb.SESSION_STATE_RESET: VariablesState.LOST,
}


async def _ignore_output(stream: event_pb2.OutputStream.ValueType, text: str) -> None:
    pass


class _Cell:
    """The cell that runs.

    Attributes:
        is_sent: whether the sandbox server has been told of it.
        is_awaited: whether somebody waits for its result.
    """

    def __init__(self, cell_id: str, on_output: OutputHandler) -> None:
        self.cell_id = cell_id
        self.on_output = on_output
        self.is_sent = False
        self.is_awaited = True
        self.result: asyncio.Future[pb.CellResult] = asyncio.get_running_loop().create_future()

    def abandon(self) -> None:
        """Takes note that nobody waits for it any more, though it may still run."""
        self.is_awaited = False
        self.on_output = _ignore_output

    def finish(self, result: pb.CellResult) -> None:
        """Sets the result, unless the cell has failed before."""
        if not self.result.done():
            self.result.set_result(result)


class _Reading:
    """A file that is being read.

    Args:
        max_bytes: of a larger one nothing is kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._data = bytearray()
        self.content: asyncio.Future[FileContent] = asyncio.get_running_loop().create_future()

    def take(self, chunk: pb.FileChunk) -> None:
        """Takes the next part."""
        if len(self._data) <= self._max_bytes:
            self._data += chunk.data
        if not chunk.last or self.content.done():
            return
        problem = chunk.error
        if not problem and len(self._data) > self._max_bytes:
            problem = f"it has more than {self._max_bytes:,} bytes"
        self.content.set_result(FileContent(b"" if problem else bytes(self._data), problem))


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
        self._on_host_call = on_host_call
        self._make_input = make_input
        # A queue, since gRPC takes one write at a time, and ends the call when a write is cancelled. Its own task for
        # that, if it is given an iterator, writes out a traceback whenever a call is cancelled.
        self._outgoing: asyncio.Queue[pb.SessionRequest] = asyncio.Queue(_OUTGOING_MESSAGES)
        self._call = stub.Session()
        self._tasks: set[asyncio.Task[None]] = set()
        self._host_calls: dict[int, asyncio.Task[None]] = {}
        self._parts: dict[int, list[str]] = {}
        self._cell: _Cell | None = None
        self._cell_count = 0
        self._inputs_set: asyncio.Future[None] | None = None
        self._reading: _Reading | None = None
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
        tasks = [*self._tasks, *self._host_calls.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def is_alive(self) -> bool:
        """Whether the stream is open, as far as is known."""
        return self._failure is None

    async def run_cell(self, code: str, bounds: CellBounds, on_output: OutputHandler) -> CellResult:
        """Runs a cell; see `ports.Session`."""
        limits = pb.Limits(
            fuel=bounds.fuel, wall_time=to_duration(bounds.wall_time_seconds), output_bytes=bounds.output_bytes
        )
        return _to_result(await self._run(pb.RunCell(code=code, limits=limits), bounds.wall_time_seconds, on_output))

    async def variables(self) -> VariableListing:
        """Describes the variables; see `ports.Session`."""
        request = pb.RunCell(
            code=_LISTING_CODE,
            limits=pb.Limits(wall_time=to_duration(_LISTING_SECONDS)),
            variables=pb.VariableQuery(include_all=True, include_inputs=True),
        )
        result = await self._run(request, _LISTING_SECONDS, _ignore_output)
        if result.outcome not in _LISTED_OUTCOMES:
            return VariableListing((), problem=f"{result.error.type}: {result.error.message}")
        found = [Variable(one.name, one.type, one.size, one.preview) for one in result.variables]
        return VariableListing(found, result.variables_omitted_count)

    async def read_file(self, path: str, max_bytes: int) -> FileContent:
        """Reads a file of the scratch directory; see `ports.Session`."""
        self._check_usable()
        reading = self._reading = _Reading(max_bytes)
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
        return _STATES.get(result.state, VariablesState.KEPT)

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
        cell = self._cell = _Cell(str(self._cell_count), on_output)
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
            await self._end_host_calls()

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
            self._fail(SandboxError(describe_error(error)))
        except Exception as error:  # noqa: BLE001 - it is raised where the cell is waited for
            self._fail(error)

    async def _take(self, response: pb.SessionResponse) -> None:
        kind = response.WhichOneof("response")
        cell = self._cell
        if kind == "host_call":
            await self._take_host_call(response.host_call)
        elif kind == "host_call_abandoned":
            self._abandon(response.host_call_abandoned.call_id)
        elif kind == "output" and cell is not None and response.output.cell_id == cell.cell_id:
            await cell.on_output(_STREAMS[response.output.stream], response.output.text)
        elif kind == "cell_finished" and cell is not None and response.cell_finished.cell_id == cell.cell_id:
            cell.finish(response.cell_finished.result)
        elif kind == "inputs_set" and self._inputs_set is not None and not self._inputs_set.done():
            self._inputs_set.set_result(None)
        elif kind == "file_chunk" and self._reading is not None:
            self._reading.take(response.file_chunk)

    async def _take_host_call(self, message: pb.HostCall) -> None:
        parts = self._parts.setdefault(message.call_id, [])
        parts.append(message.arguments_json)
        if message.partial:
            return
        del self._parts[message.call_id]
        # Here and not in the task, so that a call with little to read does not get ahead of one with much.
        call = await _load(message.function, "".join(parts))
        task = asyncio.create_task(self._answer(message.call_id, call))
        self._host_calls[message.call_id] = task
        task.add_done_callback(lambda _: self._host_calls.pop(message.call_id, None))

    def _abandon(self, call_id: int) -> None:
        self._parts.pop(call_id, None)
        task = self._host_calls.get(call_id)
        if task is not None:
            task.cancel()

    async def _answer(self, call_id: int, call: HostCall) -> None:
        try:
            try:
                value_json = await _dump(await self._on_host_call(call))
            except HostCallError as error:
                failure = pb.HostCallError(type=error.type_name, message=error.message)
                await self._send_result(pb.HostCallResult(call_id=call_id, error=failure))
                return
            for start in range(0, len(value_json), _PART_CHARS):
                part = value_json[start : start + _PART_CHARS]
                is_partial = start + _PART_CHARS < len(value_json)
                await self._send_result(pb.HostCallResult(call_id=call_id, value_json=part, partial=is_partial))
        except Exception as error:  # noqa: BLE001 - it is raised where the cell is waited for
            self._fail(error)

    async def _send_result(self, result: pb.HostCallResult) -> None:
        await self._outgoing.put(pb.SessionRequest(host_call_result=result))

    async def _end_host_calls(self) -> None:
        """Ends the calls of a cell that is over, so that nothing of it goes on behind the next one."""
        self._parts.clear()
        tasks = list(self._host_calls.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

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


def describe_error(error: grpc.aio.AioRpcError) -> str:
    """Returns an RPC error as one line."""
    return f"{error.code().name}: {error.details() or 'no details'}"


def _to_result(result: pb.CellResult) -> CellResult:
    after_cell, after_cell_error = None, result.after_cell_error
    if result.after_cell_json:
        try:
            after_cell = json.loads(result.after_cell_json)
        except ValueError as error:
            after_cell_error = f"the sandbox's report is no JSON: {error}"
    return CellResult(
        outcome=_OUTCOMES[result.outcome],
        error_type=result.error.type,
        error_message=result.error.message,
        traceback=result.error.traceback,
        after_cell=after_cell,
        after_cell_error=after_cell_error,
        variables=_STATES.get(result.state, VariablesState.KEPT),
        replayed_cell_count=result.restoration.replayed_cell_count,
        restoration_seconds=result.restoration.wall_time.ToNanoseconds() / 1e9,
        output_dropped_bytes=result.usage.output_dropped_bytes,
        wall_time_seconds=result.usage.wall_time.ToNanoseconds() / 1e9,
        cpu_time_seconds=result.usage.cpu_time.ToNanoseconds() / 1e9,
        fuel=result.usage.fuel,
        memory_bytes=result.usage.memory_bytes,
        files=[(file.path, file.size_bytes) for file in result.files],
        files_omitted_count=result.files_omitted_count,
    )


async def _load(function: str, text: str) -> HostCall:
    loaded = await asyncio.to_thread(json.loads, text) if len(text) > _LARGE_JSON_CHARS else json.loads(text)
    return HostCall(function, loaded["args"], loaded["kwargs"])


async def _dump(value: object) -> str:
    return await asyncio.to_thread(json.dumps, value) if _text_chars(value) > _LARGE_JSON_CHARS else json.dumps(value)


def _text_chars(value: object) -> int:
    """Returns how much text there is in a value that JSON can express."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return sum(map(_text_chars, value))
    if isinstance(value, dict):
        return sum(map(_text_chars, value.values()))
    return 0
