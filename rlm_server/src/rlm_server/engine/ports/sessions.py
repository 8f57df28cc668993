"""Sandboxes in use: sessions that run blocks of code, and what they tell of them.

SandboxError   a sandbox broke
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from rlm_api.rlm.v1 import event_pb2

    from rlm_server.engine.limits import CellBounds
    from rlm_server.engine.ports.inputs import InputValue


class SandboxError(Exception):
    """A sandbox broke; its session is gone.

    Args:
        message: how.
        was_cut_off: the way to it broke, or its whole server went away, which is hardly the doing of its code.
    """

    def __init__(self, message: str, *, was_cut_off: bool = False) -> None:
        super().__init__(message)
        self.was_cut_off = was_cut_off


class VariablesState(enum.Enum):
    """What became of a session's variables when a block ended."""

    KEPT = enum.auto()
    RESTORED = enum.auto()
    LOST = enum.auto()


@dataclass(frozen=True)
class CellResult:
    """How a block of code went.

    Args:
        outcome: how it ended.
        error_type: the exception's class, or the name of the outcome.
        error_message: the exception's text, or the cause of the kill.
        traceback: what CPython would print.
        after_cell: what the prelude's `after_cell` returned; None if it did not run or failed.
        after_cell_error: why it failed.
        variables: what became of the session's variables.
        replayed_cell_count: with RESTORED, how many blocks were run again for it.
        restoration_seconds: with RESTORED, how long that took.
        output_dropped_bytes: what was written beyond the limit and not passed on.
        wall_time_seconds: how long it took.
        cpu_time_seconds: processor time.
        fuel: what it used, or 0.
        memory_bytes: peak of memory, or 0.
        files: paths and sizes in bytes of the files that it wrote.
        files_omitted_count: how many more it wrote.
    """

    outcome: event_pb2.CodeOutcome.ValueType
    error_type: str = ""
    error_message: str = ""
    traceback: str = ""
    after_cell: object = None
    after_cell_error: str = ""
    variables: VariablesState = VariablesState.KEPT
    replayed_cell_count: int = 0
    restoration_seconds: float = 0.0
    output_dropped_bytes: int = 0
    wall_time_seconds: float = 0.0
    cpu_time_seconds: float = 0.0
    fuel: int = 0
    memory_bytes: int = 0
    files: Sequence[tuple[str, int]] = ()
    files_omitted_count: int = 0


@dataclass(frozen=True)
class Variable:
    """A variable of a session.

    Args:
        name: its name.
        type_name: its class, as `list` or `collections.Counter`.
        size: its `len()`, or -1 if it has none.
        preview: the beginning of its `repr()`.
    """

    name: str
    type_name: str
    size: int
    preview: str


@dataclass(frozen=True)
class VariableListing:
    """The variables of a session.

    Args:
        variables: at most 200 of them.
        omitted_count: how many more there are.
        problem: why they could not be listed; empty if they could.
    """

    variables: Sequence[Variable]
    omitted_count: int = 0
    problem: str = ""


OutputHandler: TypeAlias = "Callable[[event_pb2.OutputStream.ValueType, str], Awaitable[None]]"
"""Gets what a block writes."""


@dataclass(frozen=True)
class FileContent:
    """What is in a file of a session.

    Args:
        data: the whole file.
        problem: why it cannot be had, as that there is none; empty if it can.
    """

    data: bytes = b""
    problem: str = ""


class Session(Protocol):
    """One sandbox; variables live from block to block."""

    @property
    def is_alive(self) -> bool:
        """Whether it can be used, as far as is known."""

    async def run_cell(
        self,
        code: str,
        bounds: CellBounds,
        on_output: OutputHandler,
    ) -> CellResult:
        """Runs a block of code. If it is cancelled, the session can be used again only after `settle`.

        Args:
            code: Python source, at most 1 MiB.
            bounds: what it may use.
            on_output: gets what it writes, as it writes it.

        Raises:
            SandboxError: the sandbox broke.
        """

    async def settle(self) -> VariablesState:
        """Kills the block whose `run_cell` was cancelled, if there is one, and undoes it as far as that can be done.

        Returns:
            What became of the variables that there were before that block.

        Raises:
            SandboxError: the sandbox broke.
        """

    async def set_inputs(self, inputs: Sequence[InputValue]) -> None:
        """Sets variables between blocks. They are there again should the session have to start afresh.

        Raises:
            SandboxError: the sandbox broke, or has no room for them.
        """

    async def read_file(self, path: str, max_bytes: int) -> FileContent:
        """Reads a file that a block has written, between blocks.

        Args:
            path: as in `CellResult.files`.
            max_bytes: a larger one is a problem.

        Raises:
            SandboxError: the sandbox broke.
        """

    async def variables(self) -> VariableListing:
        """Describes the variables between blocks.

        Modules, names that begin with an underscore and what the prelude provides are left out.

        Raises:
            SandboxError: the sandbox broke.
        """
