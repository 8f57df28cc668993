"""What a caller sees of what goes wrong in a server: a status with details, and never a server's insides."""

from __future__ import annotations

import asyncio
import logging
import urllib.parse
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from rlm_api.sandbox.v1 import execute_service_pb2 as pb
from rlm_common.errors import FieldViolation, InvalidRequestError, ServiceError, invalid_field

from tests.common.conftest import SHAPES
from tests.support.statuses import assert_status, error_info, violated_fields

if TYPE_CHECKING:
    from tests.common.conftest import Peer

GOOD = pb.RunRequest(code="x").SerializeToString()
TRUNCATED = b"\x0a\x10abc"  # field 1, 16 bytes announced, 3 there
WAIT_SECONDS = 10
NOT_UTF8 = b"\x0a\x02\xff\xfe"


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_good_message_reaches_the_handler_and_the_response_the_caller(peer: Peer, shape: str) -> None:
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
    async def fail(request: pb.RunRequest, context: Any) -> pb.RunResponse:
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
    async def fail(request: pb.RunRequest, context: Any) -> pb.RunResponse:
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


@pytest.mark.parametrize("shape", ["unary_stream", "stream_stream"])
async def test_what_was_sent_before_a_failure_arrives_before_it(peer: Peer, shape: str) -> None:
    async def fail(request: pb.RunRequest, context: Any) -> pb.RunResponse:
        await context.write(pb.RunResponse(stdout="before"))
        raise ValueError

    peer.on_message = fail
    call = peer.start(shape, GOOD)
    assert (await call.read()).stdout == "before"
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call.read()
    assert_status(error.value, grpc.StatusCode.INTERNAL, "INTERNAL", domain="test.v1")


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_status_that_the_handler_sets_itself_is_left_as_it_is(peer: Peer, shape: str) -> None:
    async def fail(request: pb.RunRequest, context: Any) -> pb.RunResponse:
        await context.abort(grpc.StatusCode.DATA_LOSS, "as it is")

    peer.on_message = fail
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await peer.call(shape, GOOD)
    assert (error.value.code(), error.value.details()) == (grpc.StatusCode.DATA_LOSS, "as it is")


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_call_that_its_caller_cancels_is_cancelled_in_the_handler_and_no_error(
    peer: Peer, shape: str, caplog: pytest.LogCaptureFixture
) -> None:
    runs, is_cancelled = asyncio.Event(), asyncio.Event()

    async def wait(request: pb.RunRequest, context: Any) -> pb.RunResponse:
        runs.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            is_cancelled.set()
            raise
        raise AssertionError

    peer.on_message = wait
    call = peer.start(shape, GOOD)
    await asyncio.wait_for(runs.wait(), WAIT_SECONDS)
    call.cancel()
    await asyncio.wait_for(is_cancelled.wait(), WAIT_SECONDS)
    assert await call.code() == grpc.StatusCode.CANCELLED
    assert caplog.records == []


async def test_an_rpc_that_does_not_exist_is_unimplemented(peer: Peer) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await peer.channel.unary_unary("/test.v1.TestService/none")(GOOD)
    assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED


LONG_TEXTS = {"letters": "d" * 50_000, "percent signs": "%" * 50_000, "emoji": "\N{WHITE HEAVY CHECK MARK}" * 50_000}


@pytest.mark.parametrize("text", LONG_TEXTS.values(), ids=LONG_TEXTS)
async def test_a_status_fits_the_trailers_however_much_is_wrong(peer: Peer, text: str) -> None:
    async def fail(request: pb.RunRequest, context: Any) -> pb.RunResponse:
        violations = [FieldViolation(text, text)] * 20
        raise InvalidRequestError(violations, metadata={"one": text, "two": text})

    peer.on_message = fail
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await peer.call("unary_unary", GOOD)
    assert_status(error.value, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", domain="test.v1")
    assert "more]" in str(error.value.details())
    assert "more]" in error_info(error.value).metadata["one"]
    details = dict(error.value.trailing_metadata() or ())["grpc-status-details-bin"]
    assert len(urllib.parse.quote(str(error.value.details()))) + len(details) * 4 / 3 < 4200


async def test_fields_that_are_left_out_are_counted(peer: Peer) -> None:
    async def fail(request: pb.RunRequest, context: Any) -> pb.RunResponse:
        raise InvalidRequestError([FieldViolation(f"inputs[{number}]", "is wrong") for number in range(50)])

    peer.on_message = fail
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await peer.call("unary_unary", GOOD)
    assert violated_fields(error.value) == [f"inputs[{number}]" for number in range(8)]
    assert "[42 more fields are wrong]" in str(rpc_status.from_call(error.value))


async def test_text_that_is_no_unicode_can_be_told(peer: Peer) -> None:
    async def fail(request: pb.RunRequest, context: Any) -> pb.RunResponse:
        raise invalid_field("path", "caf\udce9 is no file")

    peer.on_message = fail
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await peer.call("unary_unary", GOOD)
    assert error.value.details() == "path: caf? is no file"
