"""What a sandbox is asked to do and what comes of it: the vocabulary of `sandbox.v1`, without gRPC.

Sizes are in bytes, times in seconds.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence  # noqa: TC003 - msgspec reads the annotations when it decodes
from dataclasses import dataclass, field, replace

MIB = 1024 * 1024

STANDARD_IMAGE = "standard"
"""Name of the guest image with the standard library and nothing else."""

_MORE_PATIENCE = 4
_PATIENCE_SECONDS = 10.0


class Outcome(enum.Enum):
    """How a cell ended."""

    OK = enum.auto()
    EXCEPTION = enum.auto()
    OUT_OF_FUEL = enum.auto()
    OUT_OF_MEMORY = enum.auto()
    DEADLINE = enum.auto()
    OUTPUT_LIMIT = enum.auto()
    EXITED = enum.auto()
    CANCELLED = enum.auto()
    TRAP = enum.auto()


class SessionState(enum.Enum):
    """What became of a session's variables when a cell ended."""

    KEPT = enum.auto()
    RESTORED = enum.auto()
    RESET = enum.auto()


class Stream(enum.IntEnum):
    """The file that output was written to, by the number that the guest uses."""

    STDOUT = 1
    STDERR = 2


class ValueFormat(enum.Enum):
    """What an input becomes in Python."""

    TEXT = "text"
    JSON = "json"
    BYTES = "bytes"


@dataclass(frozen=True)
class Limits:
    """Limits of a cell."""

    fuel: int = 100_000_000_000
    memory_bytes: int = 512 * MIB
    wall_time_seconds: float = 60.0
    output_bytes: int = MIB
    scratch_bytes: int = 64 * MIB

    @property
    def reserved_bytes(self) -> int:
        """Most memory that a sandbox with these limits takes: that of the interpreter, and its files."""
        return self.memory_bytes + self.scratch_bytes

    def capped(self, greatest: Limits) -> Limits:
        """Returns the limits, none over the greatest."""
        return Limits(
            fuel=min(self.fuel, greatest.fuel),
            memory_bytes=min(self.memory_bytes, greatest.memory_bytes),
            wall_time_seconds=min(self.wall_time_seconds, greatest.wall_time_seconds),
            output_bytes=min(self.output_bytes, greatest.output_bytes),
            scratch_bytes=min(self.scratch_bytes, greatest.scratch_bytes),
        )

    def patient(self) -> Limits:
        """Returns the limits for doing again what was done within these.

        It takes the same fuel, but may take more time on a machine that is busier now than it was then.
        """
        return replace(self, wall_time_seconds=_MORE_PATIENCE * self.wall_time_seconds + _PATIENCE_SECONDS)


@dataclass(frozen=True)
class FileSource:
    """Bytes in a file."""

    path: str


@dataclass(frozen=True)
class Input:
    """A variable to be set. The value is bytes, or a file with the bytes; text and JSON are UTF-8."""

    name: str
    format: ValueFormat
    source: bytes | FileSource


@dataclass(frozen=True)
class FileInput:
    """A file to be put into the scratch directory. The content is bytes, or a file with the bytes."""

    path: str
    source: bytes | FileSource


@dataclass(frozen=True)
class HostFunction:
    """A function that the client serves.

    Attributes:
        name: what code calls it.
        doc: its docstring.
        schema: JSON Schema of an object with the arguments by name; empty for any arguments.
    """

    name: str
    doc: str = ""
    schema: str = ""


@dataclass(frozen=True)
class SandboxSpec:
    """What a sandbox begins with.

    Attributes:
        limits: defaults of its cells; the limits of memory and files are the sandbox's.
        inputs: variables.
        files: files in the scratch directory.
        host_functions: functions that the client serves.
        prelude: Python source that runs before the inputs are set.
        prelude_setup: Python source that runs in the same module, after they are.
        seed: makes entropy reproducible.
        clock_start_ns: makes the clocks reproducible; nanoseconds since the Unix epoch.
        image: name of the guest image.
    """

    limits: Limits = field(default_factory=Limits)
    inputs: Sequence[Input] = ()
    files: Sequence[FileInput] = ()
    host_functions: Sequence[HostFunction] = ()
    prelude: str = ""
    prelude_setup: str = ""
    seed: int | None = None
    clock_start_ns: int | None = None
    image: str = STANDARD_IMAGE


@dataclass(frozen=True)
class VariableQuery:
    """What a result tells of the variables."""

    include_all: bool = False
    json_values: Sequence[str] = ()
    preview_chars: int = 100
    include_inputs: bool = False


@dataclass(frozen=True)
class Variable:
    """A variable of a session."""

    name: str
    type: str
    size: int
    preview: str = ""
    preview_truncated: bool = False
    json: str | None = None
    json_error: str = ""


@dataclass(frozen=True)
class ExecutionError:
    """The exception or kill that ended a cell."""

    type: str
    message: str
    traceback: str = ""


@dataclass(frozen=True)
class Usage:
    """What a cell cost."""

    fuel: int = 0
    memory_bytes: int = 0
    wall_time_seconds: float = 0.0
    cpu_time_seconds: float = 0.0
    output_bytes: int = 0
    output_dropped_bytes: int = 0
    host_call_count: int = 0
    scratch_bytes: int = 0


@dataclass(frozen=True)
class ScratchFile:
    """A file in the scratch directory."""

    path: str
    size_bytes: int


@dataclass(frozen=True)
class FileContent:
    """What is in a file of the scratch directory, or why that cannot be told."""

    path: str
    data: bytes = b""
    error: str = ""


@dataclass(frozen=True)
class CellResult:
    """How a cell went.

    Attributes:
        completed: whether it came to its end, be it an exception; what a killed cell did is undone.
        files: those in the scratch directory that it wrote or changed, the first of them.
        files_omitted_count: how many more there are.
    """

    outcome: Outcome
    usage: Usage
    completed: bool = True
    error: ExecutionError | None = None
    exit_code: int | None = None
    value_repr: str | None = None
    variables: Sequence[Variable] = ()
    variables_omitted_count: int = 0
    after_cell_json: str = ""
    after_cell_error: str = ""
    files: Sequence[ScratchFile] = ()
    files_omitted_count: int = 0


@dataclass(frozen=True)
class Restoration:
    """How a session was brought back after its cell was killed.

    Attributes:
        state: what became of the variables.
        replayed_cell_count: cells that were run again.
        wall_time_seconds: what it took.
        fuel: what it used.
        not_restored_reason: why earlier variables are lost, if they are.
    """

    state: SessionState = SessionState.KEPT
    replayed_cell_count: int = 0
    wall_time_seconds: float = 0.0
    fuel: int = 0
    not_restored_reason: str = ""
