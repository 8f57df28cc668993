"""The cache of uploads: bounded, shared by all sandboxes, and never in the way of one that uses it."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from typing import TYPE_CHECKING

import grpc
import pytest
from rlm_api.sandbox.v1 import execute_service_pb2 as pb

from tests.sandbox_server.conftest import Stack, running_server
from tests.sandbox_server.driver import session
from tests.sandbox_server.processes import memory_kib, server_process
from tests.sandbox_server.uploads import blob_input, digest_of, upload
from tests.support.statuses import assert_status, says_when_to_retry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

FIRST, SECOND, THIRD = (bytes([number]) * 400 for number in range(3))


@pytest.fixture
async def stack() -> AsyncIterator[Stack]:
    """A server with room for two of the blobs."""
    async with running_server(max_blob_cache_bytes=1000) as running:
        yield running


async def cached(stack: Stack, *blobs: bytes) -> list[bool]:
    """Tells of each blob whether the cache has it."""
    found = []
    for data in blobs:
        try:
            await stack.stub.GetBlob(pb.GetBlobRequest(sha256=digest_of(data)))
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND:
                raise
            found.append(False)
        else:
            found.append(True)
    return found


async def refused(stack: Stack, data: bytes) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await upload(stack.stub, data)
    assert_status(
        error.value, grpc.StatusCode.RESOURCE_EXHAUSTED, "BLOB_CACHE_FULL", domain="sandbox.v1", limit_bytes="1000"
    )
    return error.value


def files(stack: Stack) -> list[str]:
    directory: Path = stack.server._binding.drainable._blobs.directory  # type: ignore[attr-defined]
    return sorted(path.name for path in directory.iterdir() if path.name != ".lock")


async def test_the_least_recently_used_is_forgotten(stack: Stack) -> None:
    await upload(stack.stub, FIRST)
    await upload(stack.stub, SECOND)
    assert await cached(stack, FIRST)  # this is a use
    await upload(stack.stub, THIRD)
    assert await cached(stack, FIRST, SECOND, THIRD) == [True, False, True]
    assert files(stack) == sorted([digest_of(FIRST), digest_of(THIRD)])


async def test_what_a_session_uses_is_never_forgotten(stack: Stack) -> None:
    await upload(stack.stub, FIRST)
    async with session(stack.stub, inputs=[blob_input(FIRST, pb.VALUE_FORMAT_BYTES)]) as s:
        await upload(stack.stub, SECOND)
        await upload(stack.stub, THIRD)
        assert await cached(stack, FIRST, SECOND) == [True, False]
        assert says_when_to_retry(await refused(stack, b"x" * 700))
        await s.send(close=pb.CloseSession())
        assert await s.call.read() is grpc.aio.EOF
    await upload(stack.stub, b"x" * 700)


async def test_a_blob_that_finds_no_room_pushes_nothing_out(stack: Stack) -> None:
    await upload(stack.stub, FIRST)
    await upload(stack.stub, SECOND)
    assert not says_when_to_retry(await refused(stack, b"x" * 1001))
    assert await cached(stack, FIRST, SECOND) == [True, True]
    async with session(stack.stub, inputs=[blob_input(FIRST, pb.VALUE_FORMAT_BYTES)]):
        await refused(stack, b"x" * 700)
        assert await cached(stack, SECOND) == [True]


async def test_the_same_blob_uploaded_twice_at_once_is_kept_once(stack: Stack) -> None:
    metadata = pb.UploadBlobRequest(metadata=pb.BlobMetadata(sha256=digest_of(FIRST), size_bytes=len(FIRST)))
    calls = [stack.stub.UploadBlob(), stack.stub.UploadBlob()]
    for call in calls:
        await call.write(metadata)
        await call.write(pb.UploadBlobRequest(chunk=FIRST[:100]))
    for call in calls:
        await call.write(pb.UploadBlobRequest(chunk=FIRST[100:]))
        await call.done_writing()
    assert [(await call).size_bytes for call in calls] == [400, 400]
    assert files(stack) == [digest_of(FIRST)]
    await upload(stack.stub, SECOND)  # for which there would be no room otherwise
    assert await cached(stack, FIRST, SECOND) == [True, True]


@pytest.mark.parametrize("how", ["cancelled", "digest", "size"])
async def test_an_upload_that_fails_leaves_nothing_behind(stack: Stack, how: str) -> None:
    call = stack.stub.UploadBlob()
    sha256 = hashlib.sha256(b"other").hexdigest()
    await call.write(pb.UploadBlobRequest(metadata=pb.BlobMetadata(sha256=sha256, size_bytes=900)))
    await call.write(pb.UploadBlobRequest(chunk=b"x" * (900 if how == "digest" else 100)))
    if how == "cancelled":
        call.cancel()
    else:
        await call.done_writing()
        with pytest.raises(grpc.aio.AioRpcError):
            await call
    async with asyncio.timeout(20):
        while True:
            # Its room is free as soon as the server has seen its end.
            try:
                await upload(stack.stub, b"y" * 900)
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
            else:
                break
    assert files(stack) == [digest_of(b"y" * 900)]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the peak of memory")
async def test_a_text_of_100_megabytes_is_sent_once_for_two_sessions_and_takes_little_more_memory_than_itself() -> None:
    data = b"".join(b"%09d\n" % number for number in range(100_000)) * 100
    async with server_process("127.0.0.1:0") as server:
        await server.stub.Run(pb.RunRequest(code="1"))
        before = [memory_kib(pid, "VmHWM") for pid in server.pids()]
        await upload(server.stub, data)
        for _ in range(2):
            async with session(server.stub, inputs=[blob_input(data)]) as s:
                cell = await s.run("print(len(x), x.count('000\\n'), x[-10:-1])")
                assert cell.stdout == "100000000 10000 000099999\n"
                await s.send(close=pb.CloseSession())
                assert await s.call.read() is grpc.aio.EOF
        growth = [memory_kib(pid, "VmHWM") - start for pid, start in zip(server.pids(), before, strict=True)]
        assert sum(growth) * 1024 < 3 * len(data)
        assert growth[0] * 1024 < len(data)  # the server's own process never holds the text
