"""What a failed RPC says, for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.rpc import error_details_pb2
from grpc_status import rpc_status

if TYPE_CHECKING:
    import grpc


def error_info(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    """Returns the `ErrorInfo` that every failed RPC must carry."""
    return _details(error, error_details_pb2.ErrorInfo)[0]


def violated_fields(error: grpc.aio.AioRpcError) -> list[str]:
    """Returns the paths of the fields that a `BadRequest` names."""
    bad_requests = _details(error, error_details_pb2.BadRequest)
    return [violation.field for one in bad_requests for violation in one.field_violations]


def violations(error: grpc.aio.AioRpcError) -> dict[str, str]:
    """Returns what a `BadRequest` says, by the paths of the fields."""
    bad_requests = _details(error, error_details_pb2.BadRequest)
    return {violation.field: violation.description for one in bad_requests for violation in one.field_violations}


def says_when_to_retry(error: grpc.aio.AioRpcError) -> bool:
    """Returns whether there is a `RetryInfo`, with a time."""
    return any(one.retry_delay.ToNanoseconds() > 0 for one in _details(error, error_details_pb2.RetryInfo))


def assert_status(
    error: grpc.aio.AioRpcError, code: grpc.StatusCode, reason: str, *, domain: str = "rlm.v1", **metadata: str
) -> None:
    """Asserts the code, the reason, the domain and some of the metadata of a failed RPC."""
    info = error_info(error)
    assert (error.code(), info.reason, info.domain) == (code, reason, domain), error.details()
    assert metadata.items() <= dict(info.metadata).items()


def _details(error: grpc.aio.AioRpcError, kind: Any) -> list[Any]:
    status = rpc_status.from_call(error)
    assert status is not None, f"the status has no details: {error.code()}: {error.details()}"
    found = []
    for packed in status.details:
        if packed.Is(kind.DESCRIPTOR):
            detail = kind()
            packed.Unpack(detail)
            found.append(detail)
    return found
