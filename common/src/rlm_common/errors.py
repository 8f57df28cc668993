"""Errors that become gRPC statuses with `google.rpc` details (AIP-193).

    ServiceError            any failed RPC: code, reason, message, metadata
    └── InvalidRequestError INVALID_ARGUMENT with a BadRequest detail that names each wrong field

Every status carries one `google.rpc.ErrorInfo`; `reason` is a member of the service's `ErrorReason` enum without the
prefix, `domain` the proto package. Statuses travel in HTTP/2 trailers; gRPC replaces one of more than 8 KiB by another
status, so texts are cut until all of it has at most 4 KiB.
"""

from __future__ import annotations

import base64
import urllib.parse
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from google.protobuf.message import Message

MAX_MESSAGE_CHARS = 1000
"""Longest message of a status, and longest metadata value."""

MAX_FIELD_VIOLATIONS = 8
"""Most field violations that one status names."""

MAX_TRAILER_BYTES = 4096
"""Most bytes that a status has on the wire."""


class ServiceError(Exception):
    """An RPC that fails with a status.

    Args:
        code: the gRPC status code.
        reason: member of the service's `ErrorReason`, without the `ERROR_REASON_` prefix.
        message: what went wrong and how to mend it, for people.
        metadata: the message's variable parts, for programs.
        retry_delay_seconds: adds a `google.rpc.RetryInfo`.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        retry_delay_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.retry_delay_seconds = retry_delay_seconds

    def details(self, scale: float = 1.0) -> list[Message]:  # noqa: ARG002 - here there are no texts
        """Returns the details beyond `ErrorInfo`.

        Args:
            scale: how long their texts may be, as a part of the usual.
        """
        if self.retry_delay_seconds is None:
            return []
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(self.retry_delay_seconds * 1e9))
        return [error_details_pb2.RetryInfo(retry_delay=delay)]


@dataclass(frozen=True)
class FieldViolation:
    """One wrong field: its path as in `limits.fuel` or `inputs[2].name`, and what is wrong with the remedy."""

    field: str
    description: str


class InvalidRequestError(ServiceError):
    """A request with wrong fields: INVALID_ARGUMENT with a `google.rpc.BadRequest`."""

    def __init__(
        self,
        violations: Sequence[FieldViolation],
        *,
        reason: str = "INVALID_FIELD",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        message = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
        super().__init__(grpc.StatusCode.INVALID_ARGUMENT, reason, message, metadata=metadata)
        self.violations = list(violations)

    def details(self, scale: float = 1.0) -> list[Message]:
        """Returns the `BadRequest`; of very many violations the first, the last of which counts the others."""
        bad_request = error_details_pb2.BadRequest()
        shown = self.violations[: max(1, int(MAX_FIELD_VIOLATIONS * scale))]
        for violation in shown:
            bad_request.field_violations.add(
                field=_cut(violation.field, int(100 * scale)), description=_cut(violation.description, int(300 * scale))
            )
        if left_out := len(self.violations) - len(shown):
            bad_request.field_violations[-1].description += f" [{left_out} more fields are wrong]"
        return [bad_request]


def invalid_field(
    field_path: str, description: str, *, reason: str = "INVALID_FIELD", metadata: Mapping[str, str] | None = None
) -> InvalidRequestError:
    """Returns the error for one wrong field."""
    return InvalidRequestError([FieldViolation(field_path, description)], reason=reason, metadata=metadata)


@dataclass
class Violations:
    """Collects the wrong fields of a request, so that a caller learns of all of them at once."""

    found: list[FieldViolation] = field(default_factory=list)

    def add(self, field_path: str, description: str) -> None:
        """Notes that a field is wrong."""
        self.found.append(FieldViolation(field_path, description))

    def check(self, condition: bool, field_path: str, description: str) -> bool:
        """Notes that a field is wrong unless the condition holds; returns the condition."""
        if not condition:
            self.add(field_path, description)
        return condition

    def raise_if_any(self) -> None:
        """Raises `InvalidRequestError` if a field was found wrong."""
        if self.found:
            raise InvalidRequestError(self.found)


_UNQUOTED = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


def to_status(error: ServiceError, domain: str) -> status_pb2.Status:
    """Returns the `google.rpc.Status` of an error, with `ErrorInfo` first among its details."""
    scale = 1.0
    while True:
        status = _to_status(error, domain, scale)
        # Below that, it is not the texts that are too long but their number, which is up to the code that fails.
        if _trailer_bytes(status) <= MAX_TRAILER_BYTES or scale < 0.01:
            return status
        scale /= 2


def _to_status(error: ServiceError, domain: str, scale: float) -> status_pb2.Status:
    limit = int(MAX_MESSAGE_CHARS * scale)
    metadata = {key: _cut(value, limit) for key, value in error.metadata.items()}
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=domain, metadata=metadata)
    status = status_pb2.Status(code=_rpc_code(error.code), message=_cut(error.message, limit))
    for detail in (info, *error.details(scale)):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _trailer_bytes(status: status_pb2.Status) -> int:
    """Returns how much of the trailers a status takes: its message percent-encoded, and all of it in base64."""
    message_bytes = len(urllib.parse.quote(status.message, safe=_UNQUOTED))
    return message_bytes + len(base64.b64encode(status.SerializeToString()))


def _rpc_code(code: grpc.StatusCode) -> code_pb2.Code:
    return code_pb2.Code.Value(code.name)


def _cut(text: str, limit: int) -> str:
    text = text.encode(errors="replace").decode()  # a lone surrogate, as in the name of a file, cannot be sent
    kept = max(limit - 20, 10)
    return text if len(text) <= max(limit, 30) else f"{text[:kept]}... [{len(text) - kept} more]"
