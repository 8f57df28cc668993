"""A server of `sandbox.v1.ExecuteService` that runs code in this process, and fails as a test wants it to."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from grpc_status import rpc_status
from rlm_api.rlm.v1 import event_pb2
from rlm_api.sandbox.v1 import execute_service_pb2 as pb
from rlm_api.sandbox.v1 import execute_service_pb2_grpc as pb_grpc
from rlm_common.errors import ServiceError, to_status
from rlm_common.server import CHANNEL_OPTIONS
from rlm_server.engine.limits import CellBounds
from rlm_server.engine.ports.executors import Prelude, SessionSpec
from rlm_server.engine.ports.host_calls import HostCall, HostCallError
from rlm_server.engine.ports.inputs import InputValue, StoredBytes, ValueFormat
from rlm_server.engine.ports.sessions import VariablesState
from rlm_server.engine.text import clean
from rlm_server.executors.local import LocalExecutor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_STATES = {VariablesState.KEPT: pb.SESSION_STATE_KEPT, VariablesState.LOST: pb.SESSION_STATE_RESET}


class FakeSandbox(pb_grpc.ExecuteServiceServicer):
    """The service. Its host calls come in parts of `part_chars` characters."""

    def __init__(self, part_chars: int = 512 * 1024) -> None:
        self.part_chars = part_chars
        self.open_sessions = 0
        self.opened: list[pb.OpenSession] = []
        self.uploads: list[str] = []
        self.inputs_set: list[pb.SetInputs] = []
        self.refuse_open: grpc.StatusCode | None = None
        self.refusal = "refused by the test"
        self.break_on_code = ""
        self.cut_on_code = ""
        self.cuts_left = 0
        self.all_closed = asyncio.Event()
        self.session_closed = asyncio.Event()
        self.address = ""
        self.images: list[pb.Image] | None = None
        self.info_count = 0
        self._directory = tempfile.TemporaryDirectory()
        self._blobs: dict[str, StoredBytes] = {}

    async def GetBlob(self, request: pb.GetBlobRequest, context: Any) -> pb.GetBlobResponse:  # noqa: N802
        if request.sha256 not in self._blobs:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such blob")
        return pb.GetBlobResponse(size_bytes=self._blobs[request.sha256].size_bytes)

    async def UploadBlob(self, request_iterator: Any, context: Any) -> pb.UploadBlobResponse:  # noqa: N802
        metadata = (await anext(request_iterator)).metadata
        data = b"".join([request.chunk async for request in request_iterator])
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (metadata.sha256, metadata.size_bytes)
        path = Path(self._directory.name) / metadata.sha256
        await asyncio.to_thread(path.write_bytes, data)
        self._blobs[metadata.sha256] = StoredBytes(path, metadata.sha256, len(data))
        self.uploads.append(metadata.sha256)
        return pb.UploadBlobResponse(sha256=metadata.sha256, size_bytes=len(data))

    async def Session(self, request_iterator: Any, context: Any) -> AsyncIterator[pb.SessionResponse]:  # noqa: N802
        if self.refuse_open is not None:
            await context.abort(self.refuse_open, self.refusal)
        self.open_sessions += 1
        self.all_closed.clear()
        session = _FakeSession(self, request_iterator)
        try:
            async for response in session.run():
                if response is None:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
                elif isinstance(response, ServiceError):
                    await context.abort_with_status(rpc_status.to_status(to_status(response, "sandbox.v1")))
                else:
                    yield response
        finally:
            await session.end()
            self.open_sessions -= 1
            self.session_closed.set()
            if not self.open_sessions:
                self.all_closed.set()

    async def Run(self, request: pb.RunRequest, context: Any) -> pb.RunResponse:  # noqa: N802
        raise NotImplementedError

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Any) -> pb.GetServerInfoResponse:  # noqa: N802
        self.info_count += 1
        if self.images is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not known")
        return pb.GetServerInfoResponse(images=self.images)

    def close(self) -> None:
        """Removes the blobs."""
        self._directory.cleanup()

    def input_value(self, one: pb.Input) -> InputValue:
        """Returns what the local executor takes for an input."""
        if one.WhichOneof("value") == "blob":
            is_json = one.blob.format == pb.VALUE_FORMAT_JSON
            return InputValue(one.name, ValueFormat.JSON if is_json else ValueFormat.TEXT, self._blobs[one.blob.sha256])
        if one.WhichOneof("value") == "json":
            return InputValue(one.name, ValueFormat.JSON, one.json)
        return InputValue(one.name, ValueFormat.TEXT, one.text)


class _FakeSession:
    def __init__(self, sandbox: FakeSandbox, requests: Any) -> None:
        self._sandbox = sandbox
        self._requests = requests
        self._responses: asyncio.Queue[pb.SessionResponse | ServiceError | None] = asyncio.Queue()
        self._calls: dict[int, asyncio.Future[str]] = {}
        self._answers: dict[int, str] = {}
        self._call_count = 0
        self._cell_id = ""
        self._cells: set[asyncio.Task[None]] = set()
        self._serving: asyncio.Task[None] | None = None

    async def run(self) -> AsyncIterator[pb.SessionResponse | ServiceError | None]:
        self._serving = asyncio.create_task(self._serve())
        while not (self._serving.done() and self._responses.empty()):
            yield await self._responses.get()

    async def end(self) -> None:
        tasks = [*self._cells, *([self._serving] if self._serving else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self) -> None:
        opening = (await anext(self._requests)).open
        self._sandbox.opened.append(opening)
        spec = SessionSpec(
            inputs=[self._sandbox.input_value(one) for one in opening.inputs],
            prelude=Prelude(opening.prelude.source, opening.prelude.setup),
            host_functions=[one.name for one in opening.host_functions],
            on_host_call=self._host_call,
        )
        async with LocalExecutor().open(spec) as session:
            await self._responses.put(pb.SessionResponse(opened=pb.SessionOpened(session_id="s")))
            async for request in self._requests:
                if request.WhichOneof("request") == "host_call_result":
                    self._take_result(request.host_call_result)
                elif request.WhichOneof("request") == "run_cell":
                    task = asyncio.create_task(self._run_cell(session, request.run_cell))
                    self._cells.add(task)
                    task.add_done_callback(self._cells.discard)
                elif request.WhichOneof("request") == "cancel_cell":
                    await self._cancel_cell(session, request.cancel_cell.cell_id)
                elif request.WhichOneof("request") == "set_inputs":
                    self._sandbox.inputs_set.append(request.set_inputs)
                    await session.set_inputs([self._sandbox.input_value(one) for one in request.set_inputs.inputs])
                    await self._responses.put(pb.SessionResponse(inputs_set=pb.InputsSet()))

    async def _cancel_cell(self, session: Any, cell_id: str) -> None:
        tasks = list(self._cells)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        state = _STATES[await session.settle()]
        result = pb.CellResult(outcome=pb.OUTCOME_CANCELLED, state=state)
        await self._responses.put(pb.SessionResponse(cell_finished=pb.CellFinished(cell_id=cell_id, result=result)))

    async def _run_cell(self, session: Any, cell: pb.RunCell) -> None:
        if self._sandbox.break_on_code and self._sandbox.break_on_code in cell.code:
            died = ServiceError(grpc.StatusCode.UNAVAILABLE, "WORKER_LOST", "the worker died")
            await self._responses.put(died)
            return
        if self._sandbox.cuts_left and self._sandbox.cut_on_code in cell.code:
            self._sandbox.cuts_left -= 1
            await self._responses.put(None)
            return
        self._cell_id = cell.cell_id

        async def on_output(stream: event_pb2.OutputStream.ValueType, text: str) -> None:
            output = pb.Output(cell_id=cell.cell_id, stream=pb.OutputStream.Value(_name(stream)), text=clean(text))
            await self._responses.put(pb.SessionResponse(output=output))

        limits = cell.limits
        bounds = CellBounds(output_bytes=limits.output_bytes, wall_time_seconds=limits.wall_time.ToMilliseconds() / 1e3)
        done = await session.run_cell(cell.code, bounds, on_output)
        for call_id in self._calls:
            abandoned = pb.HostCallAbandoned(call_id=call_id)
            await self._responses.put(pb.SessionResponse(host_call_abandoned=abandoned))
        self._calls.clear()
        outcome = event_pb2.CodeOutcome.Name(done.outcome).removeprefix("CODE_")
        result = pb.CellResult(
            outcome=pb.Outcome.Value(outcome),
            error=pb.ExecutionError(
                type=done.error_type, message=clean(done.error_message), traceback=clean(done.traceback)
            ),
            after_cell_json=json.dumps(done.after_cell) if done.after_cell is not None else "",
            after_cell_error=done.after_cell_error,
            state=_STATES[done.variables],
        )
        if cell.variables.include_all:
            listing = await session.variables()
            result.variables.extend(
                pb.Variable(name=one.name, type=one.type_name, size=one.size, preview=one.preview)
                for one in listing.variables
            )
        finished = pb.CellFinished(cell_id=cell.cell_id, result=result)
        await self._responses.put(pb.SessionResponse(cell_finished=finished))

    async def _host_call(self, call: HostCall) -> object:
        self._call_count += 1
        call_id = self._call_count
        future = self._calls[call_id] = asyncio.get_running_loop().create_future()
        arguments = json.dumps({"args": call.args, "kwargs": dict(call.kwargs)}, ensure_ascii=False)
        size = self._sandbox.part_chars
        for start in range(0, len(arguments), size):
            message = pb.HostCall(
                call_id=call_id,
                cell_id=self._cell_id,
                function=call.function,
                arguments_json=arguments[start : start + size],
                partial=start + size < len(arguments),
            )
            await self._responses.put(pb.SessionResponse(host_call=message))
        answer = await future
        del self._calls[call_id]
        return json.loads(answer)

    def _take_result(self, result: pb.HostCallResult) -> None:
        future = self._calls.get(result.call_id)
        if future is None or future.done():
            return
        if result.WhichOneof("result") == "error":
            future.set_exception(HostCallError(result.error.type, result.error.message))
            return
        self._answers[result.call_id] = self._answers.get(result.call_id, "") + result.value_json
        if not result.partial:
            future.set_result(self._answers.pop(result.call_id))


def _name(stream: event_pb2.OutputStream.ValueType) -> str:
    return event_pb2.OutputStream.Name(stream)


@contextlib.asynccontextmanager
async def serving(sandbox: FakeSandbox) -> AsyncIterator[str]:
    """Serves a fake sandbox and yields its address."""
    server = grpc.aio.server(options=CHANNEL_OPTIONS)
    pb_grpc.add_ExecuteServiceServicer_to_server(sandbox, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
        sandbox.close()
