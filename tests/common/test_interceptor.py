"""What a caller sees of what goes wrong in a server: a status with details, and never a server's insides."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from rlm_api.sandbox.v1 import execute_service_pb2 as pb
from rlm_common.errors import ServiceError, invalid_field

from tests.common.conftest import SHAPES
from tests.support.statuses import assert_status, error_info, violated_fields

if TYPE_CHECKING:
    from tests.common.conftest import Peer

GOOD = pb.RunRequest(code="x").SerializeToString()
TRUNCATED = b"\x0a\x10abc"  # field 1, 16 bytes announced, 3 there
NOT_UTF8 = b"\x0a\x02\xff\xfe"


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_good_message_reaches_the_handler_and_the_response_the_caller(peer: Peer, shape: str) -> None:
    peer.on_message = lambda request: pb.RunResponse(stdout=request.code)
    assert [response.stdout for response in await peer.call(shape, GOOD)] == ["x"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("message", [TRUNCATED, NOT_UTF8], ids=["truncated", "not UTF-8"])
async def test_a_message_that_cannot_be_decoded_is_an_invalid_argument(peer: Peer, shape: str, message: bytes) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await peer.call(shape, message)
    assert_status(error.value, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", domain="test.v1")
    assert violated_fields(error.value) == ["request"]
    assert "Exception" not in str(error.value.details())


@pytest.mark.parametrize("shape", ["stream_unary", "stream_stream"])
async def test_a_bad_message_after_good_ones_ends_the_stream_in_the_same_way(peer: Peer, shape: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await peer.call(shape, GOOD, GOOD, TRUNCATED)
    assert_status(error.value, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", domain="test.v1")


@pytest.mark.parametrize("shape", SHAPES)
async def test_an_exception_is_logged_under_an_id_and_the_caller_sees_only_the_id(
    peer: Peer, shape: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(request: pb.RunRequest) -> pb.RunResponse:
        raise ValueError("secret in /etc")

    peer.on_message = fail
    with caplog.at_level(logging.ERROR), pytest.raises(grpc.aio.AioRpcError) as error:
        await peer.call(shape, GOOD)
    assert_status(error.value, grpc.StatusCode.INTERNAL, "INTERNAL", domain="test.v1")
    assert "secret" not in str(rpc_status.from_call(error.value))
    assert "secret" not in str(error.value.details())
    [record] = caplog.records
    assert error_info(error.value).metadata["request_id"] in record.getMessage()
    assert record.exc_info is not None
    assert "secret" in str(record.exc_info[1])


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_service_error_has_its_code_reason_metadata_and_delay(peer: Peer, shape: str) -> None:
    def fail(request: pb.RunRequest) -> pb.RunResponse:
        raise ServiceError(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "TOO_MANY_SESSIONS",
            "too many",
            metadata={"limit": "3"},
            retry_delay_seconds=1.5,
        )

    peer.on_message = fail
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await peer.call(shape, GOOD)
    assert_status(error.value, grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_SESSIONS", domain="test.v1", limit="3")
    retry = error_details_pb2.RetryInfo()
    status = rpc_status.from_call(error.value)
    assert any(detail.Unpack(retry) for detail in status.details)
    assert retry.retry_delay.ToMilliseconds() == 1500


async def test_details_fit_the_trailers_however_much_is_wrong(peer: Peer) -> None:
    def fail(request: pb.RunRequest) -> pb.RunResponse:
        raise invalid_field("f" * 5000, "d" * 50_000, metadata={"key": "v" * 50_000})

    peer.on_message = fail
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await peer.call("unary_unary", GOOD)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "more]" in str(error.value.details())
    assert rpc_status.from_call(error.value).ByteSize() < 4096
