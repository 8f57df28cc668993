"""A session: a sandbox whose cells are on record, so that it can be rebuilt when one of them had to be killed.

Everything here blocks, and runs on a thread that the caller provides, one call at a time; the answers, `cancel` and
`kill` may come from any thread meanwhile.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox_server.model import CellResult, Restoration, SandboxSpec, SessionState, Usage, VariableQuery
from sandbox_server.opening import SandboxOpenError, ShortOfMemoryError
from sandbox_server.record import CellStep, InputsStep, NotRestorableError, Record
from sandbox_server.sandbox import Sandbox, Workshop
from sandbox_server.tape import Tape
from sandbox_server.wasm.clock import Entropy, FixedClock, RealClock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox_server.backlog import Backlog
    from sandbox_server.events import SandboxListener
    from sandbox_server.model import FileContent, FileInput, Input, Limits


@dataclass(frozen=True)
class SandboxFactory(Workshop):
    """Makes sandboxes.

    Attributes:
        max_record_bytes: most that the record of a session may take; one that grows over it cannot be restored.
        max_replay_seconds: most processor time that cells to be run again may have taken.
    """

    max_record_bytes: int = 64 * 1024 * 1024
    max_replay_seconds: float = 60.0

    def make(self, spec: SandboxSpec, listener: SandboxListener | None, tape: Tape, backlog: Backlog | None) -> Sandbox:
        """Makes a sandbox."""
        return Sandbox(self, spec, listener, tape, backlog)


class Session:
    """One session.

    Args:
        factory: makes its sandboxes.
        spec: what it begins with.
        listener: hears what cells do.
        backlog: counts what it hears, if `note_taken` is told what the client took.
    """

    def __init__(
        self,
        factory: SandboxFactory,
        spec: SandboxSpec,
        listener: SandboxListener | None,
        backlog: Backlog | None = None,
    ) -> None:
        self._factory = factory
        self._spec = spec
        self._listener = listener
        self._backlog = backlog
        clock = RealClock() if spec.clock_start_ns is None else FixedClock(spec.clock_start_ns)
        self._tape = Tape(clock, Entropy(spec.seed), factory.max_record_bytes)
        self._lock = threading.Lock()
        self._sandbox: Sandbox | None = None
        self._is_running = False
        self._killed = False
        self._inputs: dict[str, Input] = {}
        self._files: dict[str, FileInput] = {}
        self._forgotten_count = 0
        self._remember(spec.inputs, spec.files)
        self._record = self._new_record(next_call_id=1)

    def open(self) -> Usage:
        """Makes the sandbox.

        Raises:
            SandboxOpenError: it cannot be made as asked for.
        """
        return self._make(self._spec)

    def set_inputs(self, inputs: Sequence[Input], files: Sequence[FileInput] = ()) -> Usage:
        """Sets variables, and puts files into the scratch directory.

        Raises:
            SandboxOpenError: an input is not what it says, or there is no room for it.
        """
        sandbox = self._live()
        recording = self._tape.record(sandbox.next_call_id)
        try:
            usage = sandbox.set_inputs(inputs, files)
        except SandboxOpenError:
            # Some of them may be set, which no record tells.
            self._record.give_up("inputs that could not be set left it in a state that is not on record")
            raise
        self._record.add(InputsStep(recording, usage, inputs, files))
        self._remember(inputs, files)
        return usage

    def run_cell(self, code: str, limits: Limits, variables: VariableQuery) -> tuple[CellResult, Restoration]:
        """Runs a cell; if it had to be killed, the session is brought back to where it was before.

        Raises:
            ShortOfMemoryError: it could not be, as the machine has no memory for it; nothing can be run any more.
        """
        sandbox = self._live()
        recording = self._tape.record(sandbox.next_call_id)
        self._is_running = True
        try:
            result = sandbox.run_cell(code, limits, variables)
        finally:
            with self._lock:
                self._is_running = False
        if result.completed:
            self._record.add(CellStep(recording, result.usage, code, limits, variables))
        if sandbox.is_alive or self._killed:
            return result, Restoration()
        return result, self._restore(sandbox)

    def run_once(self, code: str, limits: Limits, variables: VariableQuery) -> CellResult:
        """Runs the only cell of a session: one that is killed is not restored."""
        return self._live().run_cell(code, limits, variables)

    def read_file(self, path: str, offset: int, count: int) -> tuple[bytes, int]:
        """Returns a part of a file in the scratch directory, and the size of the whole.

        Raises:
            NoFileError: there is no such file.
        """
        return self._live().read_file(path, offset, count)

    def read_files(self, paths: Sequence[str]) -> list[FileContent]:
        """Returns files of the scratch directory; nothing once the sandbox was killed."""
        return self._live().read_files(paths)

    def answer(self, call_id: int, value_json: str) -> None:
        """Answers a host call with a value. One that comes too late is ignored."""
        sandbox = self._sandbox
        if sandbox is not None:
            sandbox.answer(call_id, value_json)

    def answer_error(self, call_id: int, error_type: str, message: str) -> None:
        """Answers a host call with an exception. One that comes too late is ignored."""
        sandbox = self._sandbox
        if sandbox is not None:
            sandbox.answer_error(call_id, error_type, message)

    def note_taken(self, chars: int) -> None:
        """Hears that the client took some of what cells said."""
        if self._backlog is not None:
            self._backlog.note_taken(chars)
        sandbox = self._sandbox
        if sandbox is not None:
            sandbox.wake()

    def cancel(self) -> None:
        """Kills the running cell, if one runs."""
        with self._lock:
            if self._is_running and self._sandbox is not None:
                self._sandbox.cancel()

    def busy_bytes(self) -> int:
        """Returns how much memory the session has if it may take more now, or 0."""
        sandbox = self._sandbox
        return 0 if sandbox is None else sandbox.busy_bytes()

    def end_short_of_memory(self, memory_bytes: int) -> None:
        """Kills what runs, as the machine has no memory for what it has."""
        with self._lock:
            if self._sandbox is not None:
                self._sandbox.end_short_of_memory(memory_bytes)

    def kill(self) -> None:
        """Ends the session: what runs is killed now, and nothing runs any more. `close` must follow."""
        with self._lock:
            self._killed = True
            if self._sandbox is not None:
                self._sandbox.cancel()

    def close(self) -> None:
        """Frees everything. Nothing may be running."""
        with self._lock:  # `kill` may come at the same time
            sandbox, self._sandbox = self._sandbox, None
        if sandbox is not None:
            sandbox.close()

    def _live(self) -> Sandbox:
        if self._sandbox is None:
            raise RuntimeError("the session is not open")
        return self._sandbox

    def _new_record(self, next_call_id: int) -> Record:
        opening = self._tape.record(next_call_id)
        return Record(self._factory.max_record_bytes, self._factory.max_replay_seconds, opening)

    def _make_again(self) -> Usage:
        return self._make(dataclasses.replace(self._spec, limits=self._spec.limits.patient()))

    def _make(self, spec: SandboxSpec) -> Usage:
        sandbox = self._factory.make(spec, self._listener, self._tape, self._backlog)
        with self._lock:
            self._sandbox = sandbox
            if self._killed:
                sandbox.cancel()
        return sandbox.open()

    def _remember(self, inputs: Sequence[Input], files: Sequence[FileInput]) -> None:
        """Notes what a fresh sandbox of this session begins with. If that gets too much, the oldest is forgotten."""
        for one in inputs:
            self._inputs[one.name] = one
        for file in files:
            self._files[file.path] = file
        for kept in (self._inputs, self._files):
            size = sum(len(item.source) for item in kept.values() if isinstance(item.source, bytes))
            while size > self._factory.max_record_bytes:
                oldest = kept.pop(next(iter(kept)))
                size -= len(oldest.source) if isinstance(oldest.source, bytes) else 0
                self._forgotten_count += 1

    def _restore(self, dead: Sandbox) -> Restoration:
        start = time.monotonic()
        next_call_id = dead.next_call_id
        self.close()
        try:
            fuel = self._replay()
        except NotRestorableError as error:
            if self._killed:
                return Restoration()
            return self._reset(str(error), next_call_id, start)
        self._live().next_call_id = next_call_id
        return Restoration(SessionState.RESTORED, self._record.cell_count, time.monotonic() - start, fuel)

    def _replay(self) -> int:
        """Does again all that is on record; returns the fuel that it used."""
        self._record.check()
        self._tape.replay(self._record.opening)
        try:
            fuel = self._make_again().fuel
        except SandboxOpenError as error:
            raise NotRestorableError(f"opening the sandbox again failed: {error.message}") from None
        sandbox = self._live()
        for step in self._record.steps:
            self._tape.replay(step.recording)
            sandbox.next_call_id = step.recording.first_call_id
            used = step.do(sandbox)
            if used != step.usage.fuel:
                raise NotRestorableError(
                    f"running its cells again went another way: {used} units of fuel where there had been "
                    f"{step.usage.fuel}"
                )
            fuel += used
        return fuel

    def _reset(self, reason: str, next_call_id: int, start: float) -> Restoration:
        self.close()
        self._spec = dataclasses.replace(
            self._spec, inputs=tuple(self._inputs.values()), files=tuple(self._files.values())
        )
        self._record = self._new_record(next_call_id)
        try:
            fuel = self._make_again().fuel
        except ShortOfMemoryError:
            raise
        except SandboxOpenError as error:
            # It could be made once, so the machine is in trouble, not the request.
            raise RuntimeError(f"the session could not be made again: {error}") from error
        self._live().next_call_id = next_call_id
        if self._forgotten_count:
            reason += f"; {self._forgotten_count} inputs that had been given to it are lost too, as they were too large"
        return Restoration(
            state=SessionState.RESET,
            wall_time_seconds=time.monotonic() - start,
            fuel=fuel,
            not_restored_reason=reason,
        )
