"""A `ports.Executor` whose sandboxes may die: what they did is recorded, and done again in another."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import logging
import time
from typing import TYPE_CHECKING, cast

from rlm_api.rlm.v1 import event_pb2

from rlm_server.engine.limits import to_duration
from rlm_server.engine.ports import (
    CellResult,
    HostCall,
    HostCallError,
    SandboxError,
    SandboxOpenError,
    SessionSpec,
    VariablesState,
)
from rlm_server.engine.run import ROOT_NODE_ID
from rlm_server.journal.host_calls import LiveCalls
from rlm_server.journal.inputs import encode_inputs, inputs_key
from rlm_server.journal.recorder import context_of_repeated_work, never, repeats_finished_work
from rlm_server.journal.records import CellRecord, decode_file, encode_file
from rlm_server.journal.replay import Block, InputsSet, Step, add_block, diverged, replay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from rlm_server.engine.kept_repl import KeptRepl
    from rlm_server.engine.limits import CellBounds
    from rlm_server.engine.ports import Executor, FileContent, InputValue, OutputHandler, Session, VariableListing
    from rlm_server.engine.turns import Answering
    from rlm_server.journal.recorder import Recorder

_log = logging.getLogger(__name__)

_MOST_LOSSES_OF_ONE_CELL = 3
_REPEAT_SECONDS = 60.0
_FIRST_RETRY_SECONDS = 0.1
_GREATEST_RETRY_SECONDS = 2.0
_UNTOLD_SECONDS = 1.0
"""How long it is waited for a sandbox before that is told: servers that are started anew are back by then."""


class JournalMismatchError(Exception):
    """The engine does not do what the journal says it did: another version of the program wrote it."""


class JournaledExecutor:
    """Makes sandboxes for one completion that outlive the servers they are on.

    Args:
        executor: makes the real ones.
        recorder: the completion's.
        patience_seconds: how long to look for a sandbox in place of one that died.
        park: ends the run, as no sandbox is found in that time; gets the reason.
        repl: the conversation's, which makes the root's sandbox, if the completion belongs to one.
    """

    def __init__(
        self,
        executor: Executor,
        recorder: Recorder,
        *,
        patience_seconds: float,
        park: Callable[[str], None],
        repl: KeptRepl | None = None,
    ) -> None:
        self._executor = executor
        self._recorder = recorder
        self._patience_seconds = patience_seconds
        self._park = park
        self._repl = repl

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return self._executor.name

    async def packages(self) -> Sequence[str]:
        """Returns what its sandboxes have; see `ports.Executor`."""
        return await self._executor.packages()

    @contextlib.asynccontextmanager
    async def open(self, spec: SessionSpec) -> AsyncIterator[JournaledSession]:
        """Makes a sandbox; see `ports.Executor`.

        For a node that has recorded blocks there is none until the first block that is not recorded.
        """
        spec = self._with_seed(spec)
        repl = self._repl if spec.node_id == ROOT_NODE_ID else None
        session = JournaledSession(
            self._executor,
            spec,
            self._recorder,
            patience_seconds=self._patience_seconds,
            park=self._park,
            repl=repl,
        )
        try:
            if not session.has_recorded_cells and not repeats_finished_work():
                await session.open()
            yield session
        finally:
            await session.close()

    def _with_seed(self, spec: SessionSpec) -> SessionSpec:
        """Returns a specification whose sandboxes all draw the same random numbers, which nobody can foretell."""
        if spec.seed is not None:
            return spec
        return dataclasses.replace(spec, chance_seed=chance_seed(self._recorder.completion_id, spec.node_id))


def chance_seed(completion_id: str, node_id: str) -> int:
    """Returns what makes all sandboxes of a node draw the same random numbers."""
    name = f"{completion_id}/{node_id}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


class JournaledSession:
    """One node's sandbox, as a `ports.Session`. `JournaledExecutor.open` makes it."""

    def __init__(
        self,
        executor: Executor,
        spec: SessionSpec,
        recorder: Recorder,
        *,
        patience_seconds: float,
        park: Callable[[str], None],
        repl: KeptRepl | None,
    ) -> None:
        self._executor = executor if repl is None else repl
        self._repl = repl
        self._spec = spec
        self._node_id = spec.node_id
        self._recorder = recorder
        self._patience_seconds = patience_seconds
        self._park = park
        self._cell_count = 0
        self._inputs_count = 0
        self._file_count = 0
        self._history: list[Step] = []
        self._answering: Answering | None = None
        self._inner: Session | None = None
        self._closing: AbstractAsyncContextManager[Session] | None = None
        self._loss = ""

    @property
    def has_recorded_cells(self) -> bool:
        """Whether an earlier run has recorded a block that has not been asked for yet."""
        return self._recorder.has_recorded(self._key(self._cell_count + 1))

    @property
    def is_alive(self) -> bool:
        """Whether the sandbox can be used: one that died is replaced when it is needed."""
        return True

    async def open(self) -> None:
        """Makes the real sandbox.

        Raises:
            SandboxOpenError: there is none.
        """
        start_seconds = time.monotonic()
        deadline = start_seconds + self._patience_seconds
        delay_seconds = _FIRST_RETRY_SECONDS
        has_told = False
        while True:
            opening = self._executor.open(dataclasses.replace(self._spec, on_host_call=self._on_host_call))
            try:
                self._inner = await opening.__aenter__()
            except SandboxOpenError as error:
                has_work_to_lose = bool(self._loss or self._history)
                if not (has_work_to_lose or (error.may_pass and self._is_patient)):
                    raise
                is_over = time.monotonic() > deadline
                if not has_told and (is_over or time.monotonic() - start_seconds > _UNTOLD_SECONDS):
                    has_told = True
                    await self._tell_wait(error)
                if is_over:
                    self._park(_none_can_be_had(self._executor, error))
                    await never()
                await asyncio.sleep(delay_seconds)
                delay_seconds = min(delay_seconds * 2, _GREATEST_RETRY_SECONDS)
            else:
                self._closing = opening
                return

    @property
    def _is_patient(self) -> bool:
        """Whether it is waited for a sandbox in which nothing has been done yet.

        Without patience a completion that has not begun is refused, and not parked.
        """
        is_first = self._node_id == ROOT_NODE_ID and not self._recorder.is_repetition
        return bool(self._patience_seconds) or not is_first

    async def _tell_wait(self, error: SandboxOpenError) -> None:
        if self._spec.on_wait is not None:
            await self._spec.on_wait()
        message = f"{_none_can_be_had(self._executor, error)}; waiting up to {self._patience_seconds:g} s for one"
        await self._recorder.tell(
            self._node_id, event_pb2.Warning(code=event_pb2.WARNING_CODE_SANDBOX_AWAITED, message=message)
        )

    async def close(self) -> None:
        """Frees the real sandbox."""
        self._inner = None
        if self._closing is not None:
            closing, self._closing = self._closing, None
            await closing.__aexit__(None, None, None)

    async def run_cell(self, code: str, bounds: CellBounds, on_output: OutputHandler) -> CellResult:
        """Runs a block, or gives its recorded result; see `ports.Session`."""
        self._cell_count += 1
        key = self._key(self._cell_count)
        if (data := await self._recorder.recorded(key)) is not None:
            record = CellRecord.decode(data)
            if record.code != code:
                raise JournalMismatchError(
                    f"block {self._cell_count} of node {self._node_id} is not the one in the journal"
                )
            await self._repeat(record, on_output)
        else:
            if repeats_finished_work():
                await never()
            record = await self._run(code, bounds, on_output)
            await self._recorder.record(key, record.encode())
        add_block(self._history, Block(record, f"block {self._cell_count}"))
        return record.result

    async def settle(self) -> VariablesState:
        """Kills a block that was cancelled; see `ports.Session`."""
        if self._inner is None:
            return VariablesState.KEPT
        state = await self._inner.settle()
        if state is VariablesState.LOST:
            self._history = [step for step in self._history if isinstance(step, InputsSet)]
        return state

    async def set_inputs(self, inputs: Sequence[InputValue]) -> None:
        """Sets variables; see `ports.Session`."""
        if self._repl is not None:
            # Later completions must make the REPL once more without the engine that runs this one.
            self._inputs_count += 1
            key = inputs_key(self._node_id, self._cell_count, self._inputs_count)
            if await self._recorder.recorded(key) is None:
                await self._recorder.record(key, await asyncio.to_thread(encode_inputs, inputs))
        self._history.append(InputsSet(inputs))
        if self._inner is not None:
            try:
                await self._inner.set_inputs(inputs)
            except SandboxError as error:
                await self._lose(str(error))

    async def read_file(self, path: str, max_bytes: int) -> FileContent:
        """Reads a file, or gives what was recorded of it; see `ports.Session`."""
        self._file_count += 1
        key = f"f/{self._node_id}/{self._file_count}"
        if (data := await self._recorder.recorded(key)) is not None:
            return decode_file(data)
        if repeats_finished_work():
            await never()
        for _ in range(_MOST_LOSSES_OF_ONE_CELL):
            session = await self._ready()
            try:
                content = await session.read_file(path, max_bytes)
            except SandboxError as error:
                await self._lose(str(error))
            else:
                # Another run may rebuild the sandbox a little differently: a file must not be told half of each.
                await self._recorder.record(key, encode_file(content))
                return content
        raise SandboxError(f"every sandbox is lost while a file is read: {self._loss}")

    async def variables(self) -> VariableListing:
        """Describes the variables; see `ports.Session`."""
        return await (await self._ready()).variables()

    # --- a block that is not recorded

    async def _run(self, code: str, bounds: CellBounds, on_output: OutputHandler) -> CellRecord:
        calls = LiveCalls(self._spec.on_host_call)
        output = _Output(on_output)
        losses = 0
        try:
            while True:
                try:
                    session = await self._ready()
                    self._answering = calls.answer
                    result = await session.run_cell(code, bounds, output.take)
                except SandboxOpenError:
                    raise
                except SandboxError as error:
                    # A block that waits for an answer, or got one, is not what killed its sandbox.
                    losses = 0 if calls.has_moved() else losses + 1
                    if losses >= _MOST_LOSSES_OF_ONE_CELL:
                        raise SandboxError(f"{error} (the block lost {losses} sandboxes)") from error
                    await self._lose(str(error))
                    calls.begin_again()
                    output.begin_again()
                else:
                    break
        finally:
            self._answering = None
            await calls.close()
        if calls.diverged:
            await self._warn_diverged(diverged(f"block {self._cell_count}", "made other host calls"))
        return CellRecord(code, bounds, result, output.written, calls.records())

    async def _lose(self, cause: str) -> None:
        _log.warning(
            "node %s of completion %s lost its sandbox: %s", self._node_id, self._recorder.completion_id, cause
        )
        self._loss = cause
        with contextlib.suppress(SandboxError):
            await self.close()

    async def _ready(self) -> Session:
        """Returns the real sandbox in the state that the recorded blocks leave it in."""
        for _ in range(_MOST_LOSSES_OF_ONE_CELL):
            if self._inner is not None:
                break
            start_seconds = time.monotonic()
            try:
                await self.open()
                cell_count = await self._replay()
            except SandboxOpenError:
                raise
            except SandboxError as error:
                await self._lose(str(error))
                continue
            await self._recorder.tell(
                self._node_id,
                event_pb2.SandboxRestored(
                    cause=self._loss or "the server that had it has gone",
                    replayed_cell_count=cell_count,
                    wall_time=to_duration(time.monotonic() - start_seconds),
                ),
            )
            self._loss = ""
        if self._inner is not None:
            return self._inner
        raise SandboxError(f"every sandbox is lost while it is rebuilt: {self._loss}")

    async def _replay(self) -> int:
        """Runs the recorded blocks in a new sandbox, with the answers that they got; returns their number."""
        if self._inner is None:
            raise SandboxError("there is no sandbox")
        restoration = None if self._repl is None else self._repl.take_restoration()
        replayed = await replay(self._inner, self._history, self._answer_with)
        problems, count = replayed.problems, replayed.cell_count
        if restoration is not None:
            problems, count = [*restoration.problems, *problems], restoration.cell_count + count
        for problem in problems:
            await self._warn_diverged(problem)
        return count

    async def _warn_diverged(self, message: str) -> None:
        warning = event_pb2.Warning(code=event_pb2.WARNING_CODE_REPLAY_DIVERGED, message=message)
        await self._recorder.tell(self._node_id, warning)

    def _answer_with(self, answering: Answering | None) -> None:
        self._answering = answering

    # --- a block that is recorded

    async def _repeat(self, record: CellRecord, on_output: OutputHandler) -> None:
        """Lets the engine go through a block once more, without a sandbox: its sub-calls, then its output."""
        context = context_of_repeated_work()
        given: list[asyncio.Task[object]] = []
        abandoned: list[asyncio.Task[object]] = []
        by_position: dict[int, asyncio.Task[object]] = {}
        for one in record.calls:
            waited_for = [task for position, task in by_position.items() if position < one.asked_after]
            await asyncio.gather(*waited_for, return_exceptions=True)
            task = asyncio.get_running_loop().create_task(_answer(self._spec, one.call), context=context)
            if one.given is None:
                abandoned.append(task)
            else:
                given.append(task)
                by_position[one.given] = task
        try:
            if given:
                done, late = await asyncio.wait(given, timeout=_REPEAT_SECONDS)
                for task in done:
                    task.result()
                if late:
                    _log.error("node %s of %s: a sub-call does not end", self._node_id, self._recorder.completion_id)
            if abandoned:
                await self._recorder.until_quiet()
        finally:
            for task in (*given, *abandoned):
                task.cancel()
            await asyncio.gather(*given, *abandoned, return_exceptions=True)
        with self._recorder.repeating(self._node_id):
            for stream, text in record.output:
                await on_output(cast("event_pb2.OutputStream.ValueType", stream), text)

    # ---

    async def _on_host_call(self, call: HostCall) -> object:
        if self._answering is None:
            raise HostCallError("bad_call", "no block is running")
        return await self._answering(call)

    def _key(self, number: int) -> str:
        return f"c/{self._node_id}/{number}"


class _Output:
    """What a block writes. What it wrote in a sandbox that died is not passed on again.

    Args:
        on_output: gets it; None if nobody does.
    """

    def __init__(self, on_output: OutputHandler | None) -> None:
        self._on_output = on_output
        self.written: list[tuple[int, str]] = []
        self._to_skip: dict[int, int] = {}

    def begin_again(self) -> None:
        """Takes note that the block is begun once more."""
        self._to_skip = {}
        for stream, text in self.written:
            self._to_skip[stream] = self._to_skip.get(stream, 0) + len(text)

    async def take(self, stream: event_pb2.OutputStream.ValueType, text: str) -> None:
        """Takes the next part."""
        skipped = min(self._to_skip.get(stream, 0), len(text))
        if skipped:
            self._to_skip[stream] -= skipped
            text = text[skipped:]
        if text:
            self.written.append((stream, text))
            if self._on_output is not None:
                await self._on_output(stream, text)


def _none_can_be_had(executor: Executor, error: SandboxOpenError) -> str:
    return f"no sandbox can be had from {executor.name}: {error}"


async def _answer(spec: SessionSpec, call: HostCall) -> object:
    with contextlib.suppress(HostCallError):
        return await spec.on_host_call(call)
    return None
