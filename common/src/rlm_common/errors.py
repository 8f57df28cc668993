"""Errors that become gRPC statuses with `google.rpc` details (AIP-193).

    ServiceError            any failed RPC: code, reason, message, metadata
    └── InvalidRequestError INVALID_ARGUMENT with a BadRequest detail that names each wrong field

Every status carries one `google.rpc.ErrorInfo`; `reason` is a member of the service's `ErrorReason` enum without the
prefix, `domain` the proto package. Statuses travel in HTTP/2 trailers, which gRPC bounds to 8 KiB, so messages are cut.
"""

from __future__ import annotations

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

    def details(self) -> list[Message]:
        """Returns the details beyond `ErrorInfo`."""
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

    def details(self) -> list[Message]:
        """Returns the `BadRequest`; of very many violations the first."""
        bad_request = error_details_pb2.BadRequest()
        for violation in self.violations[:MAX_FIELD_VIOLATIONS]:
            bad_request.field_violations.add(
                field=_cut(violation.field, 100), description=_cut(violation.description, 300)
            )
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


def to_status(error: ServiceError, domain: str) -> status_pb2.Status:
    """Returns the `google.rpc.Status` of an error, with `ErrorInfo` first among its details."""
    info = error_details_pb2.ErrorInfo(
        reason=error.reason,
        domain=domain,
        metadata={key: _cut(value, MAX_MESSAGE_CHARS) for key, value in error.metadata.items()},
    )
    status = status_pb2.Status(code=_rpc_code(error.code), message=_cut(error.message, MAX_MESSAGE_CHARS))
    for detail in (info, *error.details()):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _rpc_code(code: grpc.StatusCode) -> code_pb2.Code:
    return code_pb2.Code.Value(code.name)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 20]}... [{len(text) - limit + 20} more]"
