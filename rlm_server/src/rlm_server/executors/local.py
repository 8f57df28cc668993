"""Runs code in the server's own process, on a thread: for development and debugging, without any isolation.

It keeps the contract of sandbox.v1, apart from limits on fuel and memory, which a thread cannot have. Code that does
not stop when it should is left behind on its thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import event_pb2

from rlm_server.engine.ports.executors import SandboxOpenError
from rlm_server.engine.ports.host_calls import HostCall, HostCallError
from rlm_server.engine.ports.inputs import InputValue, StoredBytes, ValueFormat
from rlm_server.engine.ports.sessions import CellResult, FileContent, SandboxError, VariableListing, VariablesState
from rlm_server.executors.local_thread import CellThread, HostFuture
from rlm_server.executors.namespace import Namespace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from rlm_server.engine.limits import CellBounds
    from rlm_server.engine.ports.executors import SessionSpec
    from rlm_server.engine.ports.sessions import OutputHandler

_session_numbers = itertools.count(1)
_LISTING_SECONDS = 10.0


class LocalExecutor:
    """A `ports.Executor` without isolation."""

    name = "local"

    async def packages(self) -> tuple[str, ...]:
        """Returns nothing: what can be imported is what the server happens to have."""
        return ()

    @contextlib.asynccontextmanager
    async def open(self, spec: SessionSpec) -> AsyncIterator[_LocalSession]:
        """Makes a session, which ends when the context is left."""
        session = _LocalSession(spec)
        try:
            await session.reset()
        except Exception as error:
            raise SandboxOpenError(f"the prelude failed: {type(error).__name__}: {error}") from error
        try:
            yield session
        finally:
            session.close()


class _LocalSession:
    def __init__(self, spec: SessionSpec) -> None:
        self._spec = spec
        self._number = next(_session_numbers)
        self._cell_number = 0
        self._namespace = Namespace()
        self._thread: CellThread | None = None
        self._inputs = {one.name: one for one in spec.inputs}
        self._is_unsettled = False
        self._closed = False

    @property
    def is_alive(self) -> bool:
        return not self._closed

    async def reset(self) -> None:
        """Begins afresh: inputs and prelude, nothing else."""
        self._namespace = Namespace()
        inputs = await asyncio.to_thread(lambda: {one.name: _load(one) for one in self._inputs.values()})
        self._namespace.start(inputs, self._spec.prelude, self._spec.host_functions, self._host_call, self._host_submit)

    async def run_cell(self, code: str, bounds: CellBounds, on_output: OutputHandler) -> CellResult:
        self._check_usable()
        self._cell_number += 1
        name = f"<cell {self._cell_number} of session {self._number}>"
        thread = CellThread(self._namespace, name, code, bounds.output_bytes, self._answer)
        self._thread = thread
        try:
            async with asyncio.TaskGroup() as group:
                output = group.create_task(thread.pass_output_on(on_output))
                result = await thread.run(bounds.wall_time_seconds)
                await output
        except BaseException:
            thread.kill()
            self._is_unsettled = True
            raise
        finally:
            self._thread = None
        if result.outcome == event_pb2.CODE_OUTCOME_DEADLINE:
            await self.reset()
        return result

    async def settle(self) -> VariablesState:
        if not self._is_unsettled:
            return VariablesState.KEPT
        await self.reset()
        self._is_unsettled = False
        return VariablesState.LOST

    async def set_inputs(self, inputs: Sequence[InputValue]) -> None:
        self._check_usable()
        values = await asyncio.to_thread(lambda: {one.name: _load(one) for one in inputs})
        self._namespace.variables.update(values)
        self._inputs |= {one.name: one for one in inputs}

    async def read_file(self, path: str, max_bytes: int) -> FileContent:  # noqa: ARG002 - none can be read
        return FileContent(problem="the `local` executor has no scratch directory")

    async def variables(self) -> VariableListing:
        self._check_usable()
        try:
            async with asyncio.timeout(_LISTING_SECONDS):
                return await asyncio.to_thread(self._namespace.describe)
        except TimeoutError:
            return VariableListing((), problem=f"describing them took longer than {_LISTING_SECONDS:g} s")

    def _check_usable(self) -> None:
        if self._closed or self._is_unsettled or self._thread is not None:
            raise SandboxError("the session is closed or busy")

    def close(self) -> None:
        """Kills what runs. The session is of no use any more."""
        self._closed = True
        self._namespace.close()
        if self._thread is not None:
            self._thread.kill()

    def _host_submit(self, function: str, *args: object, **kwargs: object) -> HostFuture:
        """Makes a host call without waiting for its answer, on the cell's thread."""
        if self._thread is None:
            raise RuntimeError("no cell is running")
        return self._thread.host_submit(function, *args, **kwargs)

    def _host_call(self, function: str, *args: object, **kwargs: object) -> object:
        """Makes a host call, on the cell's thread."""
        return self._host_submit(function, *args, **kwargs).result()

    async def _answer(self, function: str, arguments_json: str) -> str:
        """Answers a host call, on the event loop. Values cross as JSON, as they do from a real sandbox."""
        arguments = json.loads(arguments_json)
        try:
            value = await self._spec.on_host_call(HostCall(function, arguments["args"], arguments["kwargs"]))
        except HostCallError as error:
            return json.dumps({"error": [error.type_name, error.message]})
        return json.dumps({"value": value})


def _load(one: InputValue) -> object:
    value = one.value.path.read_bytes() if isinstance(one.value, StoredBytes) else one.value
    if one.format is ValueFormat.BYTES:
        return value
    text = value.decode() if isinstance(value, bytes) else value
    return json.loads(text) if one.format is ValueFormat.JSON else text
