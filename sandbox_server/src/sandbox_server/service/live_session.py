"""One `Session` stream: takes the client's messages in order, keeps to the session's states."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import grpc
from rlm_api.sandbox.v1 import execute_service_pb2 as pb
from rlm_common.errors import ServiceError, Violations, invalid_field

from sandbox_server.opening import SandboxOpenError, ShortOfMemoryError
from sandbox_server.sandbox_files import NoFileError
from sandbox_server.service.field_checks import check_code, check_path, read_query
from sandbox_server.service.messages import to_limits, to_result, to_usage
from sandbox_server.service.outbox import Outbox
from sandbox_server.service.refusals import short_of_memory
from sandbox_server.service.validation import MAX_CELL_ID_CHARS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sandbox_server.admission import Grant
    from sandbox_server.blobs import Blob
    from sandbox_server.model import Limits
    from sandbox_server.service.validation import RequestReader
    from sandbox_server.worker.pool import WorkerPool
    from sandbox_server.worker.session import WorkerSession

_MAX_ANSWER_CHARS = 256 * 1024 * 1024

_CHECKED_ON_THREAD_CHARS = 256 * 1024

_READ_BYTES = 1024 * 1024
"""How much of a file the worker is asked for at a time."""

_FILE_CHUNK_BYTES = 64 * 1024


class LiveSession:
    """A session that is open.

    Args:
        session_id: its name in logs.
        pool: has the sandbox.
        reader: reads requests.
        grant: what the session may have.
        hold: keeps blobs in the cache while the session may need them.
    """

    def __init__(
        self,
        session_id: str,
        pool: WorkerPool,
        reader: RequestReader,
        grant: Grant,
        hold: Callable[[list[Blob]], None],
    ) -> None:
        self.outbox = Outbox()
        self._session_id = session_id
        self._pool = pool
        self._reader = reader
        self._grant = grant
        self._hold = hold
        self._session: WorkerSession | None = None
        self._limits: Limits | None = None
        self._cell: asyncio.Task[None] | None = None
        self._cell_id = ""
        self._seen_call_id = 0
        self._open_calls: dict[int, list[str]] = {}

    async def serve(self, requests: AsyncIterator[pb.SessionRequest]) -> None:
        """Takes messages until the client closes, then closes the outbox; errors end the stream through it."""
        try:
            async for request in requests:
                if request.HasField("close"):
                    break
                await self._take(request)
            if self._cell is not None:
                await self._cell
        except Exception as error:  # noqa: BLE001 - the stream raises it, where it is mapped and logged
            self.outbox.close(error)
        else:
            opened = self._session is not None
            self.outbox.close(None if opened else invalid_field("open", "the first message must be `open`"))

    def messages(self) -> AsyncIterator[pb.SessionResponse]:
        """Yields what is for the client, until the session's end.

        Raises:
            Exception: what the stream is to end with.
        """
        return self.outbox.messages(self._on_taken)

    def kill(self) -> None:
        """Kills what runs, at once."""
        if self._session is not None:
            self._session.kill()

    async def close(self) -> None:
        """Frees everything."""
        if self._cell is not None:
            self._cell.cancel()
        if self._session is not None:
            # Which knows this. What does not hold itself is freed at once, and not by a collection of garbage.
            session, self._session = self._session, None
            await session.close()

    def on_output(self, output: int, text: str) -> None:
        """Hears output."""
        self.outbox.on_output(output, text)

    def on_host_call(self, call_id: int, function: str, arguments_json: str) -> None:
        """Hears a host call."""
        self._open_calls[call_id] = []
        self._seen_call_id = call_id
        self.outbox.on_host_call(call_id, function, arguments_json)

    def _on_taken(self, chars: int) -> None:
        if self._session is not None:
            self._session.note_taken(chars)

    async def _take(self, request: pb.SessionRequest) -> None:
        kind = request.WhichOneof("request")
        if kind is None:
            raise invalid_field("request", "is empty or of a kind that this server does not know")
        if (kind == "open") != (self._session is None):
            if kind == "open":
                raise _wrong_state("open", "the session is open already")
            raise invalid_field("open", f"the first message must be `open`, not `{kind}`")
        if kind == "open":
            await self._open(request.open)
        elif kind == "run_cell":
            await self._run_cell(request.run_cell)
        elif kind == "host_call_result":
            await self._answer(request.host_call_result)
        elif kind == "cancel_cell":
            if self._is_running and request.cancel_cell.cell_id == self._cell_id:
                self._opened.cancel()
        elif kind == "set_inputs":
            await self._set_inputs(request.set_inputs)
        else:
            await self._read_file(request.read_file)

    @property
    def _opened(self) -> WorkerSession:
        if self._session is None:
            raise RuntimeError("the session is not open")
        return self._session

    @property
    def _is_running(self) -> bool:
        return self._cell is not None and not self._cell.done()

    async def _open(self, request: pb.OpenSession) -> None:
        spec, blobs = self._reader.read_open(request)
        self._grant.reserve_memory(spec.limits.reserved_bytes)
        self._hold(blobs)
        self._limits = spec.limits
        self._session = await self._pool.session(spec, self)
        try:
            usage = await self._session.open()
        except SandboxOpenError as error:
            raise open_error(error, "open.") from None
        opened = pb.SessionOpened(session_id=self._session_id, limits=to_limits(spec.limits), usage=to_usage(usage))
        self.outbox.put(pb.SessionResponse(opened=opened))

    async def _run_cell(self, request: pb.RunCell) -> None:
        if self._is_running:
            raise _wrong_state("run_cell", "a cell is running; wait for its `cell_finished`")
        violations = Violations()
        violations.check(
            len(request.cell_id) <= MAX_CELL_ID_CHARS,
            "run_cell.cell_id",
            f"must be at most {MAX_CELL_ID_CHARS} characters",
        )
        check_code(request.code, "run_cell.code", violations)
        if self._limits is None:
            raise RuntimeError("the session has no limits")
        limits = self._reader.read_limits(request.limits, "run_cell.limits", self._limits, violations)
        query = read_query(request.variables, "run_cell.variables", violations)
        violations.raise_if_any()
        await self.outbox.wait_until_drained()
        self._cell_id = self.outbox.cell_id = request.cell_id

        async def run() -> None:
            try:
                result, restoration = await self._opened.run_cell(request.code, limits, query)
            except ShortOfMemoryError as error:
                self.outbox.close(short_of_memory(f"the session is lost: {error.message}", lost=True))
                return
            except Exception as error:  # noqa: BLE001 - the stream raises it
                self.outbox.close(error)
                return
            for call_id in sorted(self._open_calls.keys() - self.outbox.take_back_host_calls()):
                self.outbox.put(pb.SessionResponse(host_call_abandoned=pb.HostCallAbandoned(call_id=call_id)))
            self._open_calls.clear()
            finished = pb.CellFinished(cell_id=request.cell_id, result=to_result(result, restoration))
            self.outbox.put(pb.SessionResponse(cell_finished=finished))

        self._cell = asyncio.create_task(run())

    async def _answer(self, request: pb.HostCallResult) -> None:
        parts = self._open_calls.get(request.call_id)
        if parts is None:
            if 0 < request.call_id <= self._seen_call_id:
                return  # abandoned while the answer was on its way, or answered twice
            raise _wrong_state("host_call_result", f"there was no host call {request.call_id}")
        kind = request.WhichOneof("result")
        if kind is None:
            raise invalid_field("host_call_result.result", "is empty; set value_json or error")
        if kind == "error":
            del self._open_calls[request.call_id]
            self._opened.answer_error(request.call_id, request.error.type, request.error.message)
            return
        parts.append(request.value_json)
        if sum(map(len, parts)) > _MAX_ANSWER_CHARS:
            raise invalid_field("host_call_result.value_json", f"must be at most {_MAX_ANSWER_CHARS} characters in all")
        if not request.partial:
            del self._open_calls[request.call_id]
            value = await _checked_json(parts, "host_call_result.value_json")
            self._opened.answer(request.call_id, value)

    async def _set_inputs(self, request: pb.SetInputs) -> None:
        if self._is_running:
            raise _wrong_state("set_inputs", "a cell is running; wait for its `cell_finished`")
        violations = Violations()
        given = bool(request.inputs or request.files)
        violations.check(given, "set_inputs.inputs", "must have at least 1 element, or `files` must")
        inputs, blobs = self._reader.read_inputs(request.inputs, "set_inputs.inputs", violations)
        files, file_blobs = self._reader.read_files(request.files, "set_inputs.files", violations)
        violations.raise_if_any()
        self._hold(blobs + file_blobs)
        try:
            usage = await self._opened.set_inputs(inputs, files)
        except SandboxOpenError as error:
            raise open_error(error, "set_inputs.") from None
        self.outbox.put(pb.SessionResponse(inputs_set=pb.InputsSet(usage=to_usage(usage))))

    async def _read_file(self, request: pb.ReadFile) -> None:
        if self._is_running:
            raise _wrong_state("read_file", "a cell is running; wait for its `cell_finished`")
        violations = Violations()
        check_path(request.path, "read_file.path", violations)
        violations.raise_if_any()
        position, last = 0, False
        while not last:
            await self.outbox.wait_until_drained()
            try:
                data, size_bytes = await self._opened.read_file(request.path, position, _READ_BYTES)
            except NoFileError as error:
                self._put_chunk(pb.FileChunk(path=request.path, last=True, error=str(error)))
                return
            position += len(data)
            last = position >= size_bytes
            starts = range(0, max(1, len(data)), _FILE_CHUNK_BYTES)
            for start in starts:
                part = data[start : start + _FILE_CHUNK_BYTES]
                is_last = last and start == starts[-1]
                self._put_chunk(pb.FileChunk(path=request.path, data=part, last=is_last))

    def _put_chunk(self, chunk: pb.FileChunk) -> None:
        self.outbox.put(pb.SessionResponse(file_chunk=chunk))


def open_error(error: SandboxOpenError, prefix: str = "") -> ServiceError:
    """Returns the status for a sandbox that cannot be made as asked for."""
    if isinstance(error, ShortOfMemoryError):
        return short_of_memory(error.message)
    return invalid_field(f"{prefix}{error.field}", error.message)


async def _checked_json(parts: list[str], path: str) -> str:
    """Returns JSON that is what it says: it becomes a part of what the guest is told."""
    text = "".join(parts)
    try:
        if len(text) > _CHECKED_ON_THREAD_CHARS:
            await asyncio.to_thread(json.loads, text)
        else:
            json.loads(text)
    except (ValueError, RecursionError) as error:
        raise invalid_field(path, f"is not JSON: {error}") from None
    return text


def _wrong_state(message_name: str, reason: str) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.FAILED_PRECONDITION,
        "WRONG_STATE",
        f"`{message_name}` cannot be taken now: {reason}",
        metadata={"message": message_name},
    )
