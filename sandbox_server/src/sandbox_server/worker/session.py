"""A session in a worker process, as the event loop sees it: opened, used and closed, killable at any moment."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from sandbox_server.opening import SandboxOpenError, ShortOfMemoryError
from sandbox_server.sandbox_files import NoFileError
from sandbox_server.worker import protocol as wire
from sandbox_server.worker.connection import WorkerConnection, WorkerLostError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox_server.events import SandboxListener
    from sandbox_server.model import (
        CellResult,
        FileInput,
        Input,
        Limits,
        Restoration,
        SandboxSpec,
        Usage,
        VariableQuery,
    )

_Answer = TypeVar("_Answer", bound=wire.FromWorker)


class WorkerFailedError(Exception):
    """A worker failed at what it was asked, for no fault of the request; the message has its traceback."""


class WorkerSession:
    """One session. Its coroutines are called one at a time; `kill`, `cancel` and the answers at any time.

    All coroutines raise `WorkerLostError` if the process that holds the session dies.

    Args:
        connection: leads to the process that holds the session.
        spec: what the session begins with.
        listener: hears what cells do, on the event loop; None for the session of a single `run_once`.
    """

    def __init__(self, connection: WorkerConnection, spec: SandboxSpec, listener: SandboxListener | None) -> None:
        self._connection = connection
        self._spec = spec
        self._listener = listener
        self._number = connection.add(self)
        self._pending: asyncio.Future[wire.FromWorker] | None = None
        self._is_open = False
        self._was_killed = False

    async def open(self) -> Usage:
        """Makes the sandbox.

        Raises:
            SandboxOpenError: it cannot be made as asked for.
        """
        self._is_open = True
        return (await self._ask(wire.Open(self._number, self._spec), wire.Opened)).usage

    async def set_inputs(self, inputs: Sequence[Input], files: Sequence[FileInput] = ()) -> Usage:
        """Sets variables and puts files in; that is done again should the session be reset.

        Raises:
            SandboxOpenError: an input is not what it says, or there is no room for it.
        """
        return (await self._ask(wire.SetInputs(self._number, inputs, files), wire.InputsSet)).usage

    async def read_file(self, path: str, offset: int, count: int) -> tuple[bytes, int]:
        """Returns a part of a file in the scratch directory, and the size of the whole.

        Raises:
            NoFileError: there is no such file.
        """
        part = await self._ask(wire.ReadFile(self._number, path, offset, count), wire.FilePart)
        if part.error:
            raise NoFileError(part.error)
        return part.data, part.size_bytes

    async def run_cell(self, code: str, limits: Limits, variables: VariableQuery) -> tuple[CellResult, Restoration]:
        """Runs a cell; if it had to be killed, the session is brought back to where it was before."""
        finished = await self._ask(wire.RunCell(self._number, code, limits, variables), wire.CellFinished)
        return finished.result, finished.restoration

    async def run_once(self, code: str, variables: VariableQuery, output_files: Sequence[str] = ()) -> wire.RunFinished:
        """Opens the session, runs its only cell, and closes it; returns what came of it.

        Args:
            code: Python source.
            variables: what is to be told of the variables afterwards.
            output_files: files of the scratch directory that are wanted.

        Raises:
            SandboxOpenError: the sandbox cannot be made as asked for.
        """
        return await self._ask(wire.Run(self._number, self._spec, code, variables, output_files), wire.RunFinished)

    def answer(self, call_id: int, value_json: str) -> None:
        """Answers a host call with a value."""
        self._tell(wire.Answer(self._number, call_id, value_json))

    def answer_error(self, call_id: int, error_type: str, message: str) -> None:
        """Answers a host call with an exception."""
        self._tell(wire.AnswerError(self._number, call_id, error_type, message))

    def note_taken(self, chars: int) -> None:
        """Hears that the client took some of what cells said."""
        self._tell(wire.Taken(self._number, chars))

    def cancel(self) -> None:
        """Kills the running cell."""
        self._tell(wire.Cancel(self._number))

    def kill(self) -> None:
        """Ends the session: what runs is killed now, and nothing runs any more. `close` must follow."""
        if not self._was_killed:
            self._was_killed = True
            self._tell(wire.Kill(self._number))

    async def close(self) -> None:
        """Frees the sandbox once its thread has left it, even if the caller is cancelled meanwhile."""
        if not self._is_open and (self._pending is None or self._pending.done()):
            self._connection.sessions.pop(self._number, None)  # nothing runs: as after `run_once`, which closes itself
            return
        await asyncio.shield(asyncio.ensure_future(self._close()))

    async def _close(self) -> None:
        if self._pending is not None:
            if not self._pending.done():
                self.kill()
            await asyncio.wait([self._pending])
        try:
            if self._is_open:
                self._is_open = False
                await self._ask(wire.Close(self._number), wire.Closed)
        except WorkerLostError:
            pass  # so is the sandbox
        finally:
            self._connection.sessions.pop(self._number, None)

    def take(self, message: wire.FromWorker) -> None:
        """Takes a message that the session in the worker sent."""
        if isinstance(message, wire.Output):
            if self._listener is not None:
                self._listener.on_output(message.output, message.text)
        elif isinstance(message, wire.HostCall):
            if self._listener is not None:
                self._listener.on_host_call(message.call_id, message.function, message.arguments_json)
        elif self._pending is not None and not self._pending.done():
            self._pending.set_result(message)

    def lose(self, error: WorkerLostError) -> None:
        """Hears that the worker is gone, and the session with it."""
        if self._pending is not None and not self._pending.done():
            self._pending.set_exception(error)
            self._pending.exception()  # it is seen, even if nobody waits any more

    def _tell(self, message: wire.ToWorker) -> None:
        if self._connection.loss is None:
            self._connection.send(message)

    async def _ask(self, message: wire.ToWorker, answer_type: type[_Answer]) -> _Answer:
        """Sends a message and waits for its answer. If the caller is cancelled, what runs is killed."""
        self._connection.send(message)
        self._pending = asyncio.get_running_loop().create_future()
        try:
            answer = await asyncio.shield(self._pending)
        except asyncio.CancelledError:
            self.kill()
            raise
        if isinstance(answer, wire.Refused):
            if answer.is_short_of_memory:
                raise ShortOfMemoryError(answer.message)
            raise SandboxOpenError(answer.field, answer.message)
        if isinstance(answer, wire.Failed):
            raise WorkerFailedError(answer.message)
        if not isinstance(answer, answer_type):
            raise WorkerFailedError(f"the worker answered {type(answer).__name__}, not {answer_type.__name__}")
        return answer
