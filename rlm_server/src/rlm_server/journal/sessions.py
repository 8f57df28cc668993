"""A node's session whose blocks are recorded; those that an earlier run has recorded are not run again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from rlm_server.engine.ports.executors import SandboxOpenError
from rlm_server.engine.ports.sessions import CellResult, SandboxError, VariablesState
from rlm_server.journal.block_output import BlockOutput
from rlm_server.journal.host_calls import LiveCalls
from rlm_server.journal.inputs import encode_inputs, inputs_key
from rlm_server.journal.lasting_sandbox import MOST_CUTS, MOST_LOSSES
from rlm_server.journal.recorder import never, repeats_finished_work
from rlm_server.journal.records import CellRecord, decode_file, encode_file
from rlm_server.journal.repetition import repeat_block
from rlm_server.journal.replay import Block, InputsSet, add_block, diverged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlm_server.engine.limits import CellBounds
    from rlm_server.engine.ports.executors import SessionSpec
    from rlm_server.engine.ports.inputs import InputValue
    from rlm_server.engine.ports.sessions import FileContent, OutputHandler, VariableListing
    from rlm_server.journal.lasting_sandbox import LastingSandbox
    from rlm_server.journal.recorder import Recorder


class JournalMismatchError(Exception):
    """The engine does not do what the journal says it did: another version of the program wrote it."""


class JournaledSession:
    """One node's session, as a `ports.Session`. `JournaledExecutor.open` makes it.

    Args:
        sandbox: where blocks run that are not recorded.
        spec: what is wanted of it.
        recorder: the completion's.
        is_conversation: whether the sandbox is a conversation's.
    """

    def __init__(
        self, sandbox: LastingSandbox, spec: SessionSpec, recorder: Recorder, *, is_conversation: bool
    ) -> None:
        self._sandbox = sandbox
        self._spec = spec
        self._node_id = spec.node_id
        self._recorder = recorder
        self._is_conversation = is_conversation
        self._cell_count = 0
        self._inputs_count = 0
        self._file_count = 0

    @property
    def has_recorded_cells(self) -> bool:
        """Whether an earlier run has recorded a block that has not been asked for yet."""
        return self._recorder.has_recorded(self._key(self._cell_count + 1))

    @property
    def is_alive(self) -> bool:
        """Whether the sandbox can be used: one that died is replaced when it is needed."""
        return True

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
            await repeat_block(record, self._spec, self._recorder, on_output)
        else:
            if repeats_finished_work():
                await never()
            record = await self._run(code, bounds, on_output)
            await self._recorder.record(key, record.encode())
        add_block(self._sandbox.history, Block(record, f"block {self._cell_count}"))
        return record.result

    async def settle(self) -> VariablesState:
        """Kills a block that was cancelled; see `ports.Session`."""
        if self._sandbox.session is None:
            return VariablesState.KEPT
        state = await self._sandbox.session.settle()
        if state is VariablesState.LOST:
            self._sandbox.history = [step for step in self._sandbox.history if isinstance(step, InputsSet)]
        return state

    async def set_inputs(self, inputs: Sequence[InputValue]) -> None:
        """Sets variables; see `ports.Session`."""
        if self._is_conversation:
            # Later completions must make the REPL once more without the engine that runs this one.
            self._inputs_count += 1
            key = inputs_key(self._node_id, self._cell_count, self._inputs_count)
            if await self._recorder.recorded(key) is None:
                await self._recorder.record(key, await asyncio.to_thread(encode_inputs, inputs))
        self._sandbox.history.append(InputsSet(inputs))
        if self._sandbox.session is not None:
            try:
                await self._sandbox.session.set_inputs(inputs)
            except SandboxError as error:
                await self._sandbox.lose(str(error))

    async def read_file(self, path: str, max_bytes: int) -> FileContent:
        """Reads a file, or gives what was recorded of it; see `ports.Session`."""
        self._file_count += 1
        key = f"f/{self._node_id}/{self._file_count}"
        if (data := await self._recorder.recorded(key)) is not None:
            return decode_file(data)
        if repeats_finished_work():
            await never()
        for _ in range(MOST_LOSSES):
            session = await self._sandbox.ready()
            try:
                content = await session.read_file(path, max_bytes)
            except SandboxError as error:
                await self._sandbox.lose(str(error))
            else:
                # Another run may rebuild the sandbox a little differently: a file must not be told half of each.
                await self._recorder.record(key, encode_file(content))
                return content
        raise SandboxError(f"every sandbox is lost while a file is read: {self._sandbox.loss}")

    async def variables(self) -> VariableListing:
        """Describes the variables; see `ports.Session`."""
        return await (await self._sandbox.ready()).variables()

    async def _run(self, code: str, bounds: CellBounds, on_output: OutputHandler) -> CellRecord:
        calls = LiveCalls(self._spec.on_host_call, self._recorder.settled)
        output = BlockOutput(on_output)
        losses = cuts = 0
        try:
            while True:
                try:
                    session = await self._sandbox.ready()
                    self._sandbox.answer_with(calls.answer)
                    result = await session.run_cell(code, bounds, output.take)
                except SandboxOpenError:
                    raise
                except SandboxError as error:
                    # A block that waits for an answer, or got one, is not what killed its sandbox.
                    if calls.has_moved():
                        losses = cuts = 0
                    elif error.was_cut_off:
                        cuts += 1
                    else:
                        losses += 1
                    if losses >= MOST_LOSSES or cuts >= MOST_CUTS:
                        raise SandboxError(f"{error} (the block lost {losses + cuts} sandboxes)") from error
                    await self._sandbox.lose(str(error))
                    calls.begin_again()
                    output.begin_again()
                else:
                    break
        finally:
            self._sandbox.answer_with(None)
            await calls.close()
        if calls.diverged:
            await self._sandbox.warn_diverged(diverged(f"block {self._cell_count}", "made other host calls"))
        return CellRecord(code, bounds, result, output.written, calls.records())

    def _key(self, number: int) -> str:
        return f"c/{self._node_id}/{number}"
