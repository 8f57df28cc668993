"""Errors of the client.

    RlmError                            anything that this package raises on purpose
    ├── ContextError                    a context that cannot be read or sent; raised before any call (a ValueError too)
    ├── ToolDefinitionError             a function that cannot be a tool; raised before any call (a ValueError too)
    ├── AnswerTypeError                 a type that has no JSON Schema; raised before any call (a ValueError too)
    ├── AnswerValueError                an answer that its type does not take, though its JSON Schema does (likewise)
    ├── StreamEndedError                a stream ended without its `finished` event
    ├── CompletionParkedError           a completion waits, as its model cannot be reached; `resume` lets it go on
    └── StatusError                     an RPC failed: code, reason, message, metadata
        ├── InvalidRequestError         INVALID_ARGUMENT: field_violations names each wrong field
        ├── NotFoundError               NOT_FOUND: context, completion, conversation
        ├── AlreadyExistsError          ALREADY_EXISTS: request_id reused with another request
        ├── WrongStateError             FAILED_PRECONDITION
        ├── SequenceOutOfRangeError     OUT_OF_RANGE
        ├── OverloadedError             RESOURCE_EXHAUSTED: retry_delay_seconds says when to try again
        ├── UnavailableError            UNAVAILABLE: no server there, or it is draining
        ├── NotImplementedByServerError UNIMPLEMENTED: the server does not serve this yet
        ├── CallDeadlineError           DEADLINE_EXCEEDED: timeout_seconds passed (a TimeoutError too)
        ├── CallCancelledError          CANCELLED
        ├── AccessError                 UNAUTHENTICATED, PERMISSION_DENIED
        └── ServerFailedError           INTERNAL and all others

A completion that ends at a limit, or whose model fails, raises nothing: see `Completion.finish_reason`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from google.rpc import status_pb2


class RlmError(Exception):
    """Base of this package's errors."""


class ContextError(RlmError, ValueError):
    """A context that cannot be read or sent.

    Attributes:
        source: what it was: a path, or a part's name.
        byte_offset: where its bytes are no UTF-8, or None if that is not what is wrong.
    """

    def __init__(self, source: str, message: str, *, byte_offset: int | None = None) -> None:
        super().__init__(f"{source}: {message}")
        self.source = source
        self.byte_offset = byte_offset


class AnswerTypeError(RlmError, ValueError):
    """A type that an answer cannot have, as it has no JSON Schema."""


class AnswerValueError(RlmError, ValueError):
    """An answer that matches the JSON Schema of its type, but not what the type checks besides."""


class ToolDefinitionError(RlmError, ValueError):
    """A function, or a source, that cannot be a tool; the message says why, and the remedy."""


class StreamEndedError(RlmError):
    """A stream of events ended without `finished`: the server broke off.

    Attributes:
        completion_id: the completion's, or empty if there was no event.
        last_sequence: number of the last event that came, 0 if none did.
    """

    def __init__(self, completion_id: str, last_sequence: int) -> None:
        super().__init__(f"the stream of completion {completion_id!r} ended after event {last_sequence}, unfinished")
        self.completion_id = completion_id
        self.last_sequence = last_sequence


class CompletionParkedError(RlmError):
    """A completion waits to be resumed; nothing of it is lost.

    Attributes:
        completion_id: the completion's; give it to `resume`, and then to `watch`.
        reason: what it waits for.
    """

    def __init__(self, completion_id: str, reason: str) -> None:
        super().__init__(f"completion {completion_id} is parked until it is resumed: {reason}")
        self.completion_id = completion_id
        self.reason = reason


@dataclass(frozen=True)
class FieldViolation:
    """A wrong field of a request: its path, as `limits.max_depth`, and what is wrong."""

    field: str
    description: str


class StatusError(RlmError):
    """An RPC that failed.

    Attributes:
        code: the gRPC status code.
        message: what went wrong, for people.
        reason: member of `rlm.v1.ErrorReason` without its prefix, or empty if the failure is not the server's own, as
            when no server is there.
        metadata: the message's variable parts.
        retry_delay_seconds: when the server says to try again, or None.
    """

    codes: ClassVar[tuple[grpc.StatusCode, ...]] = ()

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        field_violations: Sequence[FieldViolation] = (),
        retry_delay_seconds: float | None = None,
    ) -> None:
        super().__init__(f"{code.name}{f' {reason}' if reason else ''}: {message}")
        self.code = code
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.field_violations = tuple(field_violations)
        self.retry_delay_seconds = retry_delay_seconds


class InvalidRequestError(StatusError):
    """The request has wrong fields, named by `field_violations`."""

    codes = (grpc.StatusCode.INVALID_ARGUMENT,)


class NotFoundError(StatusError):
    """The request names something that is not there."""

    codes = (grpc.StatusCode.NOT_FOUND,)


class AlreadyExistsError(StatusError):
    """The request's id was used before, with another request."""

    codes = (grpc.StatusCode.ALREADY_EXISTS,)


class WrongStateError(StatusError):
    """What the request names is not in a state that allows it."""

    codes = (grpc.StatusCode.FAILED_PRECONDITION,)


class SequenceOutOfRangeError(StatusError):
    """The event to continue after is beyond the last one."""

    codes = (grpc.StatusCode.OUT_OF_RANGE,)


class OverloadedError(StatusError):
    """The server has too much to do, or the context is too large for it."""

    codes = (grpc.StatusCode.RESOURCE_EXHAUSTED,)


class UnavailableError(StatusError):
    """No server can be reached, or it is shutting down, or it lacks a sandbox."""

    codes = (grpc.StatusCode.UNAVAILABLE,)


class NotImplementedByServerError(StatusError):
    """The contract has this field or call, but the server does not serve it yet."""

    codes = (grpc.StatusCode.UNIMPLEMENTED,)


class CallDeadlineError(StatusError, TimeoutError):
    """The call took longer than `timeout_seconds`."""

    codes = (grpc.StatusCode.DEADLINE_EXCEEDED,)


class CallCancelledError(StatusError):
    """The call was cancelled."""

    codes = (grpc.StatusCode.CANCELLED,)


class AccessError(StatusError):
    """The caller is not known, or may not do this."""

    codes = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


class ServerFailedError(StatusError):
    """The server broke; `metadata["request_id"]`, if it is there, finds the cause in the server's log."""


_BY_CODE: dict[grpc.StatusCode, type[StatusError]] = {
    code: error for error in StatusError.__subclasses__() for code in error.codes
}


_BROKEN_WHILE_WRITING = "Internal error from Core"
"""What grpc's asyncio client says when a connection breaks in the middle of a message; servers do not say it."""


def from_rpc_error(error: grpc.RpcError) -> StatusError:
    """Returns the typed error of a failed call, synchronous or asyncio."""
    code = error.code() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else grpc.StatusCode.UNKNOWN
    message = (error.details() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else str(error)) or code.name
    if code is grpc.StatusCode.INTERNAL and message == _BROKEN_WHILE_WRITING:
        code, message = grpc.StatusCode.UNAVAILABLE, "the connection broke while this client was sending"
    try:
        status: status_pb2.Status | None = rpc_status.from_call(error)
    except ValueError:  # details that contradict the status: a proxy's doing
        status = None
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    for packed in status.details if status is not None else ():
        for detail in (info, bad_request, retry):
            if packed.Is(detail.DESCRIPTOR):
                packed.Unpack(detail)
    delay = retry.retry_delay.ToNanoseconds() / 1e9 if retry.HasField("retry_delay") else None
    return _BY_CODE.get(code, ServerFailedError)(
        code,
        message,
        reason=info.reason,
        metadata=dict(info.metadata),
        field_violations=[FieldViolation(one.field, one.description) for one in bad_request.field_violations],
        retry_delay_seconds=delay,
    )
