"""What the engine needs from the outside: models that reply, sandboxes that run code, a clock.

ModelError             a call to a model failed for good
SandboxError           a sandbox broke
└── SandboxOpenError   a sandbox could not be had at all
HostCallError          an answer to a host call that raises in the sandbox
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias

from rlm_server.engine.images import text_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from rlm_api.rlm.v1 import event_pb2

    from rlm_server.engine.images import Content, Image
    from rlm_server.engine.limits import CellBounds


class Clock(Protocol):
    """Tells the time."""

    def monotonic_seconds(self) -> float:
        """Returns a time that only grows, for durations."""

    def time_nanoseconds(self) -> int:
        """Returns the nanoseconds since the epoch, for events."""


# --- models


class ModelErrorKind(enum.StrEnum):
    """Why a call to a model failed."""

    AUTH = "auth"
    QUOTA = "quota"
    OVERLOADED = "overloaded"
    CONTEXT_TOO_LONG = "context_too_long"
    CONTENT_FILTER = "content_filter"
    BAD_REQUEST = "bad_request"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"


class ModelError(Exception):
    """A call to a model that failed for good.

    Args:
        kind: why.
        message: what happened and how to mend it, for people.
    """

    def __init__(self, kind: ModelErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


@dataclass(frozen=True)
class Message:
    """One message of a conversation.

    Args:
        role: `system`, `user` or `assistant`.
        content: its text.
        parts: texts and pictures in order, which take the place of `content`, where a user shows pictures.
    """

    role: str
    content: str
    parts: tuple[str | Image, ...] = ()

    @classmethod
    def from_user(cls, content: Content) -> Self:
        """Makes a user's message of text, or of texts and pictures."""
        return cls("user", text_of(content), () if isinstance(content, str) else content)


@dataclass(frozen=True)
class Sampling:
    """What is passed to the models' endpoint; None leaves it to the endpoint."""

    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None
    reasoning_effort: str | None = None
    seed: int | None = None

    def or_else(self, defaults: Sampling) -> Sampling:
        """Returns the same with defaults in place of what is None."""
        return Sampling(**(vars(defaults) | {name: value for name, value in vars(self).items() if value is not None}))


@dataclass(frozen=True)
class ModelRequest:
    """One call to a model. `node_id` is that of the node that makes it, one call after the other."""

    model: str
    messages: Sequence[Message]
    sampling: Sampling = field(default_factory=Sampling)
    node_id: str = ""


@dataclass(frozen=True)
class TokenCounts:
    """Tokens of one call; cached ones are part of the input, reasoning is part of the output.

    `cost_microdollars` is the cost that the endpoint itself reported, in millionths of a US dollar, if it did.
    """

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0
    cost_microdollars: float | None = None


@dataclass(frozen=True)
class TextPart:
    """The next part of a reply, or of the reasoning before it."""

    text: str
    reasoning: bool = False


@dataclass(frozen=True)
class ReplyEnd:
    """The end of a reply.

    Args:
        stop_reason: what the endpoint gave, as `stop` or `length`.
        tokens: what it reported, or None if it reported nothing.
        model: the model that gave the reply, if it is another than the one that was asked.
    """

    stop_reason: str
    tokens: TokenCounts | None
    model: str = ""


@dataclass(frozen=True)
class CallRepeated:
    """A call failed and is made again. Text that came of it before is void.

    Args:
        kind: why it failed.
        message: what happened and what is done now, for people.
        model: the model that is asked now, if it is another than before.
        reply_had_begun: some of the reply had come, so the failed call may have cost something.
    """

    kind: ModelErrorKind
    message: str
    model: str = ""
    reply_had_begun: bool = False


@dataclass(frozen=True)
class Price:
    """What a model costs, in US dollars for a million tokens, which is millionths of a dollar for a token.

    Args:
        input: tokens sent.
        output: tokens made, reasoning included.
        cached_input: tokens sent that the endpoint had cached. None means the price of the others.
    """

    input: float
    output: float
    cached_input: float | None = None


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model.

    Args:
        name: what requests and code call it.
        window_tokens: how many tokens messages and reply may have together, or None if it is not known.
        max_output_tokens: the limit of one reply where a request gives none, or None if there is none.
        price: what it costs, or None if it is not known.
        fallbacks: the models that are asked when it fails, in order.
        takes_images: whether it can be shown pictures, as far as is known.
    """

    name: str
    window_tokens: int | None = None
    max_output_tokens: int | None = None
    price: Price | None = None
    fallbacks: tuple[str, ...] = ()
    takes_images: bool = True


class ModelClient(Protocol):
    """Calls models."""

    def info(self, model: str) -> ModelInfo:
        """Returns what is known of a model."""

    def stream(self, request: ModelRequest) -> AsyncGenerator[TextPart | CallRepeated | ReplyEnd, None]:
        """Yields a reply as it comes in, a `ReplyEnd` last. Cancelling it ends the call at once.

        Raises:
            ModelError: the call failed for good.
        """


# --- sandboxes


class SandboxError(Exception):
    """A sandbox broke; its session is gone."""


class SandboxOpenError(SandboxError):
    """A sandbox could not be had: none can be reached, or it refuses more work.

    Args:
        message: why, for people.
        may_pass: whether it is worth trying again soon, as no sandbox server could be reached.
    """

    def __init__(self, message: str, *, may_pass: bool = False) -> None:
        super().__init__(message)
        self.may_pass = may_pass


class HostCallError(Exception):
    """Answers a host call with an exception in the sandbox.

    Args:
        type_name: an identifier that code can tell errors apart by.
        message: for people.
    """

    def __init__(self, type_name: str, message: str) -> None:
        super().__init__(message)
        self.type_name = type_name
        self.message = message


class ValueFormat(enum.StrEnum):
    """How an input becomes a Python value."""

    TEXT = "text"
    JSON = "json"
    BYTES = "bytes"


@dataclass(frozen=True)
class StoredBytes:
    """Bytes in a file, which are UTF-8 if they are text, named by their SHA-256 digest in hexadecimal."""

    path: Path
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class InputValue:
    """A variable of a session: text, a JSON document or bytes, at hand or in a file."""

    name: str
    format: ValueFormat
    value: str | bytes | StoredBytes

    @property
    def size_bytes(self) -> int:
        """Returns how large it is; of text at hand, how many characters it has."""
        return len(self.value) if isinstance(self.value, str | bytes) else self.value.size_bytes


@dataclass(frozen=True)
class HostCall:
    """A call that code in a sandbox makes. Everything in it comes from that code and is not to be trusted."""

    function: str
    args: list[object]
    kwargs: Mapping[str, object]


@dataclass(frozen=True)
class Prelude:
    """The `Prelude` of sandbox.v1.

    Args:
        source: what is the same for many sandboxes; runs before the inputs are set.
        setup: what is this sandbox's own; runs in the same module, after they are.
    """

    source: str
    setup: str = ""


@dataclass(frozen=True)
class SessionSpec:
    """The sandbox that is wanted.

    Args:
        inputs: variables.
        prelude: what runs before the first block of code.
        host_functions: names of the functions that `on_host_call` answers.
        on_host_call: returns a call's value, which JSON can express; may raise `HostCallError`. Several may run
            at once; each is cancelled and gone before the block that made it ends.
        memory_bytes: size of the memory; 0 takes the sandbox's default.
        begin_code: what a session that has been kept runs in place of the prelude.
        node_id: the node that runs code in it.
        seed: makes what code sees of chance and clocks the same each time, where the executor can; None does not.
        chance_seed: where `seed` is None, makes what code sees of chance the same each time, and leaves clocks alone.
        on_wait: is called if none can be had for a while, before that is told and it is waited for.
    """

    inputs: Sequence[InputValue]
    prelude: Prelude
    host_functions: Sequence[str]
    on_host_call: Callable[[HostCall], Awaitable[object]]
    memory_bytes: int = 0
    begin_code: str = ""
    node_id: str = ""
    seed: int | None = None
    chance_seed: int | None = None
    on_wait: Callable[[], Awaitable[None]] | None = None


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


@dataclass(frozen=True)
class FileContent:
    """What is in a file of a session.

    Args:
        data: the whole file.
        problem: why it cannot be had, as that there is none; empty if it can.
    """

    data: bytes = b""
    problem: str = ""


OutputHandler: TypeAlias = "Callable[[event_pb2.OutputStream.ValueType, str], Awaitable[None]]"
"""Gets what a block writes."""


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


class Executor(Protocol):
    """Makes sandboxes."""

    @property
    def name(self) -> str:
        """What to call it in messages, as an address."""

    async def packages(self) -> Sequence[str]:
        """Returns what its sandboxes have beside the standard library, each as `name==version`, as far as is known."""

    def open(self, spec: SessionSpec) -> AbstractAsyncContextManager[Session]:
        """Makes a sandbox that is freed when the context is left, however it is left.

        Raises:
            SandboxOpenError: no sandbox can be had.
        """
