"""Uploads: sent once in chunks, found by their digest, used by any number of sandboxes."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import grpc
import pytest
from rlm_api.sandbox.v1 import execute_service_pb2 as pb

from tests.sandbox_server.conftest import running_server
from tests.sandbox_server.driver import limits, session
from tests.support.statuses import assert_status, violated_fields

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from rlm_api.sandbox.v1 import execute_service_pb2_grpc as pb_grpc

    Stub = pb_grpc.ExecuteServiceAsyncStub

MIB = 1 << 20


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def parts(data: bytes, sha256: str, size: int, chunk: int) -> AsyncIterator[pb.UploadBlobRequest]:
    yield pb.UploadBlobRequest(metadata=pb.BlobMetadata(sha256=sha256, size_bytes=size))
    for start in range(0, len(data), chunk):
        yield pb.UploadBlobRequest(chunk=data[start : start + chunk])


async def upload(
    stub: Stub, data: bytes, *, sha256: str | None = None, size: int | None = None, chunk: int = MIB
) -> pb.UploadBlobResponse:
    requests = parts(data, sha256 or digest_of(data), len(data) if size is None else size, chunk)
    return await stub.UploadBlob(requests)


def blob_input(data: bytes, value_format: pb.ValueFormat.ValueType = pb.VALUE_FORMAT_TEXT) -> pb.Input:
    return pb.Input(name="x", blob=pb.BlobInput(sha256=digest_of(data), format=value_format))


async def test_a_blob_becomes_a_variable_of_the_kind_that_is_asked_for(stub: Stub) -> None:
    data = b'["\xc3\xbc"]'
    response = await upload(stub, data, chunk=3)
    assert (response.sha256, response.size_bytes, response.already_present) == (digest_of(data), 6, False)
    shown = {
        pb.VALUE_FORMAT_UNSPECIFIED: "'[\"ü\"]'",
        pb.VALUE_FORMAT_TEXT: "'[\"ü\"]'",
        pb.VALUE_FORMAT_JSON: "['ü']",
        pb.VALUE_FORMAT_BYTES: "b'[\"\\xc3\\xbc\"]'",
    }
    for value_format, expected in shown.items():
        run = await stub.Run(pb.RunRequest(code="x", inputs=[blob_input(data, value_format)]))
        assert run.stdout == expected + "\n"


async def test_a_blob_that_is_there_need_not_be_sent(stub: Stub) -> None:
    data = b"sent once"
    await upload(stub, data)

    async def only_metadata() -> AsyncIterator[pb.UploadBlobRequest]:
        yield pb.UploadBlobRequest(metadata=pb.BlobMetadata(sha256=digest_of(data), size_bytes=len(data)))

    assert (await stub.UploadBlob(only_metadata())).already_present
    assert (await stub.GetBlob(pb.GetBlobRequest(sha256=digest_of(data)))).size_bytes == len(data)


async def test_an_empty_blob_is_a_blob(stub: Stub) -> None:
    await upload(stub, b"")
    assert (await stub.Run(pb.RunRequest(code="x", inputs=[blob_input(b"")]))).stdout == "''\n"


async def test_bytes_that_do_not_match_their_digest_are_refused(stub: Stub) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await upload(stub, b"these", sha256=digest_of(b"those"))
    assert_status(
        error.value,
        grpc.StatusCode.INVALID_ARGUMENT,
        "DIGEST_MISMATCH",
        domain="sandbox.v1",
        expected=digest_of(b"those"),
        actual=digest_of(b"these"),
    )


@pytest.mark.parametrize("size", [3, 5])
async def test_a_size_that_is_not_the_announced_one_is_refused(stub: Stub, size: int) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await upload(stub, f"{size:4}".encode(), size=size)
    assert violated_fields(error.value) == ["metadata.size_bytes"]


@pytest.mark.parametrize(
    ("requests", "field"),
    [
        ([pb.UploadBlobRequest(chunk=b"x")], "metadata"),
        ([pb.UploadBlobRequest()], "metadata"),
        ([pb.UploadBlobRequest(metadata=pb.BlobMetadata(sha256="ABC", size_bytes=1))], "metadata.sha256"),
        ([pb.UploadBlobRequest(metadata=pb.BlobMetadata(sha256="0" * 64, size_bytes=-1))], "metadata.size_bytes"),
        (
            [
                pb.UploadBlobRequest(metadata=pb.BlobMetadata(sha256="0" * 64, size_bytes=3 * MIB)),
                pb.UploadBlobRequest(chunk=b"x" * (MIB + 1)),
            ],
            "chunk",
        ),
        (
            [
                pb.UploadBlobRequest(metadata=pb.BlobMetadata(sha256="0" * 64, size_bytes=3)),
                pb.UploadBlobRequest(metadata=pb.BlobMetadata(sha256="0" * 64, size_bytes=3)),
            ],
            "chunk",
        ),
    ],
)
async def test_uploads_that_do_not_follow_the_contract_are_refused(
    stub: Stub, requests: Iterable[pb.UploadBlobRequest], field: str
) -> None:
    async def stream() -> AsyncIterator[pb.UploadBlobRequest]:
        for request in requests:
            yield request

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.UploadBlob(stream())
    assert violated_fields(error.value) == [field]


async def test_an_unknown_blob_is_not_found(stub: Stub) -> None:
    unknown = digest_of(b"never uploaded")
    for call in (
        stub.GetBlob(pb.GetBlobRequest(sha256=unknown)),
        stub.Run(pb.RunRequest(code="x", inputs=[blob_input(b"never uploaded")])),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        assert_status(error.value, grpc.StatusCode.NOT_FOUND, "BLOB_NOT_FOUND", domain="sandbox.v1", sha256=unknown)


async def test_text_that_is_not_utf8_is_refused_naming_the_byte(stub: Stub) -> None:
    data = b"a" * 3 * MIB + b"\xff"
    await upload(stub, data)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.Run(pb.RunRequest(code="x", inputs=[blob_input(data)]))
    assert violated_fields(error.value) == ["inputs[0]"]
    assert f"byte {3 * MIB}" in str(error.value.details())


async def test_characters_that_lie_across_chunks_arrive_whole(stub: Stub) -> None:
    data = ("ü€😀" * 400_000).encode()
    await upload(stub, data, chunk=100_003)
    run = await stub.Run(pb.RunRequest(code="print(len(x), x == 'ü€😀' * 400_000)", inputs=[blob_input(data)]))
    assert run.stdout == "1200000 True\n"


async def test_the_cache_forgets_the_least_recently_used_and_never_what_is_in_use() -> None:
    first, second, third = (bytes([number]) * 400 for number in range(3))
    async with running_server(max_blob_cache_bytes=1000) as stack:
        await upload(stack.stub, first)
        async with session(stack.stub, inputs=[blob_input(first, pb.VALUE_FORMAT_BYTES)]):
            await upload(stack.stub, second)
            await upload(stack.stub, third)
            assert (await stack.stub.GetBlob(pb.GetBlobRequest(sha256=digest_of(first)))).size_bytes == 400
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await stack.stub.GetBlob(pb.GetBlobRequest(sha256=digest_of(second)))
            assert error.value.code() == grpc.StatusCode.NOT_FOUND
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await upload(stack.stub, b"x" * 700)
            assert_status(
                error.value,
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "BLOB_CACHE_FULL",
                domain="sandbox.v1",
                limit_bytes="1000",
            )


async def test_an_upload_that_breaks_off_leaves_nothing_behind() -> None:
    async with running_server(max_blob_cache_bytes=1000) as stack:
        call = stack.stub.UploadBlob()
        await call.write(pb.UploadBlobRequest(metadata=pb.BlobMetadata(sha256="0" * 64, size_bytes=900)))
        await call.write(pb.UploadBlobRequest(chunk=b"x" * 100))
        call.cancel()
        # Its room is free again, as soon as the server sees the end.
        while True:
            try:
                await upload(stack.stub, b"y" * 900)
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
            else:
                break


async def test_a_text_of_100_megabytes_is_a_variable_and_is_sent_once_for_two_sessions() -> None:
    data = b"".join(b"%09d\n" % number for number in range(10_000_000))
    async with running_server() as stack:
        await upload(stack.stub, data)
        for _ in range(2):
            opened = session(stack.stub, inputs=[blob_input(data)], limits=limits(memory_bytes=1 << 30))
            async with opened as s:
                cell = await s.run("print(len(x), x.count('000\\n'), x[-10:-1])")
                assert cell.stdout == "100000000 10000 009999999\n"
