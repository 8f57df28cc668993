"""What the server and a worker process say to each other, over a socket pair: length-prefixed MessagePack.

The server trusts a worker no further than it must: what comes from one is decoded by type, and bounded in size.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence  # noqa: TC003 - msgspec reads the annotations when it decodes

import msgspec

from sandbox_server.model import (  # noqa: TC001 - likewise
    CellResult,
    FileContent,
    FileInput,
    Input,
    Limits,
    Restoration,
    SandboxSpec,
    Usage,
    VariableQuery,
)

HEADER = struct.Struct("<I")

MAX_MESSAGE_BYTES = 1 << 30
"""A longer message is a broken stream."""


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    session: int


class Open(_Message, frozen=True, array_like=True, tag=True):
    """Opens a session; answered by `Opened` or `Refused`."""

    spec: SandboxSpec


class Run(_Message, frozen=True, array_like=True, tag=True):
    """Runs one cell in a session of its own; answered by `RunFinished` or `Refused`, and then the session is gone."""

    spec: SandboxSpec
    code: str
    variables: VariableQuery
    output_files: Sequence[str] = ()


class RunCell(_Message, frozen=True, array_like=True, tag=True):
    """Runs a cell; answered by `CellFinished`."""

    code: str
    limits: Limits
    variables: VariableQuery


class SetInputs(_Message, frozen=True, array_like=True, tag=True):
    """Sets variables and puts files into the scratch directory; answered by `InputsSet` or `Refused`."""

    inputs: Sequence[Input]
    files: Sequence[FileInput] = ()


class ReadFile(_Message, frozen=True, array_like=True, tag=True):
    """Asks for a part of a file in the scratch directory; answered by `FilePart`."""

    path: str
    offset: int
    count: int


class Answer(_Message, frozen=True, array_like=True, tag=True):
    """Answers a host call with a value."""

    call_id: int
    value_json: str


class AnswerError(_Message, frozen=True, array_like=True, tag=True):
    """Answers a host call with an exception."""

    call_id: int
    error_type: str
    message: str


class Taken(_Message, frozen=True, array_like=True, tag=True):
    """The client took some of what the session's cells said, counted as `backlog.Backlog` does."""

    chars: int


class Cancel(_Message, frozen=True, array_like=True, tag=True):
    """Kills the running cell."""


class Kill(_Message, frozen=True, array_like=True, tag=True):
    """Kills what runs; nothing runs in the session any more."""


class Close(_Message, frozen=True, array_like=True, tag=True):
    """Ends the session once nothing runs in it; answered by `Closed`."""


class Relieve(_Message, frozen=True, array_like=True, tag=True):
    """Ends what runs in the session that has the most memory, of those that may take more; answered by `Relieved`."""


class Relieved(_Message, frozen=True, array_like=True, tag=True):
    """That is done; for session 0.

    Attributes:
        memory_bytes: what the session had; 0 if there was none.
    """

    memory_bytes: int


class Ready(_Message, frozen=True, array_like=True, tag=True):
    """The worker takes work; sent once, for session 0.

    Attributes:
        walls: what of the operating system's walls is up, as `seccomp`.
    """

    walls: Sequence[str]


class Opened(_Message, frozen=True, array_like=True, tag=True):
    """The session is open."""

    usage: Usage


class InputsSet(_Message, frozen=True, array_like=True, tag=True):
    """The variables and files are set."""

    usage: Usage


class FilePart(_Message, frozen=True, array_like=True, tag=True):
    """A part of a file.

    Attributes:
        data: the part.
        size_bytes: of the whole file.
        error: why there is none; empty if there is.
    """

    data: bytes
    size_bytes: int
    error: str = ""


class Refused(_Message, frozen=True, array_like=True, tag=True):
    """What was asked cannot be done: a `SandboxOpenError`.

    Attributes:
        field: what is at fault.
        message: what is wrong with it.
        is_short_of_memory: nothing is, but the machine has no memory.
    """

    field: str
    message: str
    is_short_of_memory: bool = False


class Failed(_Message, frozen=True, array_like=True, tag=True):
    """What was asked could not be done, for no fault of the request; the message is for the log."""

    message: str


class Output(_Message, frozen=True, array_like=True, tag=True):
    """The cell wrote text."""

    output: int
    text: str


class HostCall(_Message, frozen=True, array_like=True, tag=True):
    """The cell called a host function."""

    call_id: int
    function: str
    arguments_json: str


class CellFinished(_Message, frozen=True, array_like=True, tag=True):
    """The cell is over."""

    result: CellResult
    restoration: Restoration


class RunFinished(_Message, frozen=True, array_like=True, tag=True):
    """The cell of a `Run` is over, and its session with it."""

    result: CellResult
    stdout: str
    stderr: str
    files: Sequence[FileContent] = ()


class Closed(_Message, frozen=True, array_like=True, tag=True):
    """The session is gone and its memory is free."""


ToWorker = Open | Run | RunCell | SetInputs | ReadFile | Answer | AnswerError | Taken | Cancel | Kill | Close | Relieve
FromWorker = (
    Ready
    | Opened
    | InputsSet
    | FilePart
    | Refused
    | Failed
    | Output
    | HostCall
    | CellFinished
    | RunFinished
    | Closed
    | Relieved
)

to_worker_decoder = msgspec.msgpack.Decoder(ToWorker)
from_worker_decoder = msgspec.msgpack.Decoder(FromWorker)
_encoder = msgspec.msgpack.Encoder()


def encode(message: ToWorker | FromWorker) -> bytearray:
    """Returns a message as it is sent."""
    buffer = bytearray(HEADER.size)
    _encoder.encode_into(message, buffer, HEADER.size)
    HEADER.pack_into(buffer, 0, len(buffer) - HEADER.size)
    return buffer
