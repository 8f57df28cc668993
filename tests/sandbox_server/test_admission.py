"""What a server gives away: no more than it has, and to no client more than its share."""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING

import grpc
import pytest
from rlm_api.sandbox.v1 import execute_service_pb2 as pb
from sandbox_server.memory_gauge import MemoryGauge

from tests.sandbox_server.conftest import Stack, running_server
from tests.sandbox_server.driver import limits, session
from tests.support.statuses import assert_status, says_when_to_retry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MIB = 1 << 20
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


def named(client: str) -> tuple[tuple[str, str], ...]:
    return (("x-client-id", client),)


async def run(stack: Stack, client: str = "one", memory_mib: int = 64) -> str:
    request = pb.RunRequest(code="print(1)", limits=limits(memory_bytes=memory_mib * MIB))
    return (await stack.stub.Run(request, metadata=named(client))).stdout


async def upload(stack: Stack, data: bytes, client: str) -> pb.UploadBlobResponse:
    async def requests() -> AsyncIterator[pb.UploadBlobRequest]:
        digest = hashlib.sha256(data).hexdigest()
        yield pb.UploadBlobRequest(metadata=pb.BlobMetadata(sha256=digest, size_bytes=len(data)))
        yield pb.UploadBlobRequest(chunk=data)

    return await stack.stub.UploadBlob(requests(), metadata=named(client))


async def test_memory_limits_together_stay_within_the_servers_memory() -> None:
    async with running_server(max_memory_bytes=200 * MIB) as stack:
        async with session(stack.stub, limits=limits(memory_bytes=150 * MIB)):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await run(stack)
            limit = str(200 * MIB)
            assert_status(error.value, EXHAUSTED, "MEMORY_EXHAUSTED", domain="sandbox.v1", limit_bytes=limit)
            assert says_when_to_retry(error.value)
        info = await stack.stub.GetServerInfo(pb.GetServerInfoRequest())
        greatest = info.max_limits
        assert greatest == info.default_limits or greatest.memory_bytes == info.default_limits.memory_bytes
        assert greatest.memory_bytes + greatest.scratch_bytes == 200 * MIB, "the interpreter and its files together"


async def test_by_default_no_sandbox_may_have_more_memory_than_the_machine() -> None:
    with contextlib.closing(MemoryGauge()) as gauge:
        there_is = gauge.total_bytes
    assert 2**28 < there_is < 2**45
    async with running_server() as stack:
        info = await stack.stub.GetServerInfo(pb.GetServerInfoRequest())
        assert info.max_limits.memory_bytes <= there_is


async def test_a_client_has_its_share_of_sandboxes_and_others_have_theirs() -> None:
    async with running_server(max_client_sessions=1) as stack:
        call = stack.stub.Session(metadata=named("one"))
        await call.write(pb.SessionRequest(open=pb.OpenSession()))
        await call.read()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await run(stack, "one")
        assert_status(error.value, EXHAUSTED, "QUOTA_EXCEEDED", domain="sandbox.v1", quota="sessions", limit="1")
        assert says_when_to_retry(error.value)
        assert await run(stack, "two") == "1\n"
        call.cancel()


async def test_a_client_has_its_share_of_memory() -> None:
    async with running_server(max_client_memory_bytes=200 * MIB) as stack:
        call = stack.stub.Session(metadata=named("one"))
        await call.write(pb.SessionRequest(open=pb.OpenSession(limits=limits(memory_bytes=150 * MIB))))
        await call.read()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await run(stack, "one")
        limit = str(200 * MIB)
        assert_status(error.value, EXHAUSTED, "QUOTA_EXCEEDED", domain="sandbox.v1", quota="memory", limit=limit)
        assert says_when_to_retry(error.value)
        assert await run(stack, "two") == "1\n"
        call.cancel()


async def test_a_client_has_its_share_of_the_cache_and_pushes_out_only_its_own() -> None:
    async with running_server(max_client_blob_bytes=1000, max_blob_cache_bytes=10_000) as stack:
        await upload(stack, b"a" * 600, "one")
        await upload(stack, b"b" * 600, "two")
        await upload(stack, b"c" * 600, "one")
        kept = []
        for data in (b"a" * 600, b"b" * 600, b"c" * 600):
            try:
                await stack.stub.GetBlob(pb.GetBlobRequest(sha256=hashlib.sha256(data).hexdigest()))
            except grpc.aio.AioRpcError:
                kept.append(False)
            else:
                kept.append(True)
        assert kept == [False, True, True]
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await upload(stack, b"d" * 1001, "one")
        assert_status(error.value, EXHAUSTED, "QUOTA_EXCEEDED", domain="sandbox.v1", quota="uploads", limit="1000")


async def test_what_was_given_is_given_back() -> None:
    async with running_server(max_client_sessions=1, max_client_memory_bytes=64 * MIB) as stack:
        for _ in range(3):
            assert await run(stack) == "1\n"


async def test_a_share_of_the_cache_that_is_in_use_makes_the_client_wait_and_nobody_else() -> None:
    async with running_server(max_client_blob_bytes=1000, max_blob_cache_bytes=10_000) as stack:
        await upload(stack, b"a" * 600, "one")
        used = pb.Input(name="x", blob=pb.BlobInput(sha256=hashlib.sha256(b"a" * 600).hexdigest()))
        async with session(stack.stub, inputs=[used]):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await upload(stack, b"b" * 600, "one")
            assert_status(error.value, EXHAUSTED, "QUOTA_EXCEEDED", domain="sandbox.v1", quota="uploads", limit="1000")
            assert says_when_to_retry(error.value)
            await upload(stack, b"b" * 600, "two")


async def test_files_count_with_the_memory() -> None:
    wanted = limits(memory_bytes=300 * MIB, scratch_bytes=50 * MIB)
    async with running_server(max_memory_bytes=400 * MIB) as stack, session(stack.stub, limits=wanted) as s:
        assert (s.opened.limits.memory_bytes, s.opened.limits.scratch_bytes) == (300 * MIB, 50 * MIB)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await run(stack)
        assert_status(error.value, EXHAUSTED, "MEMORY_EXHAUSTED", domain="sandbox.v1")
