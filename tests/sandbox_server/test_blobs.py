"""Uploads: sent once in chunks, found by their digest, used by any number of sandboxes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest
from rlm_api.sandbox.v1 import execute_service_pb2 as pb

from tests.sandbox_server.uploads import MIB, blob_input, digest_of, upload
from tests.support.statuses import assert_status, violated_fields

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from rlm_api.sandbox.v1 import execute_service_pb2_grpc as pb_grpc

    Stub = pb_grpc.ExecuteServiceAsyncStub


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

    again = await stub.UploadBlob(only_metadata())
    assert (again.sha256, again.size_bytes, again.already_present) == (digest_of(data), len(data), True)
    assert (await upload(stub, data, size=3)).size_bytes == len(data)
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
