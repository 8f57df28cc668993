"""The record of a session: what was done in it, so that it can be done again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sandbox_server.opening import SandboxOpenError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox_server.model import FileInput, Input, Limits, Usage, VariableQuery
    from sandbox_server.sandbox import Sandbox
    from sandbox_server.tape import Recording


class NotRestorableError(Exception):
    """A session cannot be rebuilt; the message says why."""


@dataclass(frozen=True)
class InputsStep:
    """Variables were set, and files put into the scratch directory."""

    recording: Recording
    usage: Usage
    inputs: Sequence[Input]
    files: Sequence[FileInput] = ()

    @property
    def size_bytes(self) -> int:
        """About how much memory it takes."""
        sources = [one.source for one in self.inputs] + [one.source for one in self.files]
        return self.recording.size_bytes + sum(len(source) for source in sources if isinstance(source, bytes))

    def do(self, sandbox: Sandbox) -> int:
        """Sets them again; returns the fuel that it used."""
        try:
            return sandbox.set_inputs(self.inputs, self.files).fuel
        except SandboxOpenError as error:
            raise NotRestorableError(f"setting inputs again failed: {error.message}") from None


@dataclass(frozen=True)
class CellStep:
    """A cell ran."""

    recording: Recording
    usage: Usage
    code: str
    limits: Limits
    variables: VariableQuery

    @property
    def size_bytes(self) -> int:
        """About how much memory it takes."""
        return self.recording.size_bytes + len(self.code)

    def do(self, sandbox: Sandbox) -> int:
        """Runs it again; returns the fuel that it used."""
        result = sandbox.run_cell(self.code, self.limits.patient(), self.variables)
        if not result.completed:
            message = result.error.message if result.error else result.outcome.name
            raise NotRestorableError(f"running its cells again failed: {message}")
        return result.usage.fuel


@dataclass
class Record:
    """All that was done in a session since it was opened.

    Attributes:
        max_bytes: most that it may take.
        max_replay_seconds: most processor time that it may have taken to do.
        opening: what the guest was told while the sandbox was opened.
        steps: what followed.
    """

    max_bytes: int
    max_replay_seconds: float
    opening: Recording
    steps: list[InputsStep | CellStep] = field(default_factory=list)
    _size_bytes: int = 0
    _cpu_time_seconds: float = 0.0
    _problem: str = ""

    @property
    def cell_count(self) -> int:
        """How many cells are on record."""
        return sum(isinstance(step, CellStep) for step in self.steps)

    def add(self, step: InputsStep | CellStep) -> None:
        """Puts a step on record, unless the record is given up."""
        if self._problem:
            return
        self._size_bytes += step.size_bytes
        self._cpu_time_seconds += step.usage.cpu_time_seconds
        self.steps.append(step)
        if not step.recording.is_whole or self._size_bytes > self.max_bytes:
            self.give_up(f"its record of host answers, inputs and clock readings grew over {self.max_bytes} bytes")
        elif self._cpu_time_seconds > self.max_replay_seconds:
            self.give_up(
                f"its cells took more than the {self.max_replay_seconds:g} s of processor time that a replay may"
            )

    def give_up(self, problem: str) -> None:
        """Frees the record: the session cannot be rebuilt from it any more."""
        self._problem = problem
        self.steps.clear()

    def check(self) -> None:
        """Does nothing if the session can be rebuilt.

        Raises:
            NotRestorableError: it cannot.
        """
        if self._problem:
            raise NotRestorableError(self._problem)
        if not self.opening.is_whole:
            raise NotRestorableError("opening it read more of clocks and entropy than is recorded")
