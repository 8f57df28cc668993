"""Brings large inputs to a sandbox server, once for each."""

from __future__ import annotations

import asyncio
import hashlib
import weakref
from typing import TYPE_CHECKING

import grpc
from rlm_api.sandbox.v1 import execute_service_pb2 as pb

from rlm_server.engine.ports.inputs import StoredBytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rlm_api.sandbox.v1.execute_service_pb2_grpc import ExecuteServiceAsyncStub

_CHUNK_BYTES = 1024 * 1024


class BlobUploader:
    """Uploads blobs that the server does not have.

    Args:
        stub: the server's.
    """

    def __init__(self, stub: ExecuteServiceAsyncStub) -> None:
        self._stub = stub
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def ensure(self, value: bytes | StoredBytes) -> str:
        """Makes sure that the server has the bytes; returns their SHA-256 digest.

        Raises:
            grpc.aio.AioRpcError: the server refuses them or is gone.
        """
        digest = value.sha256 if isinstance(value, StoredBytes) else await asyncio.to_thread(_digest, value)
        lock = self._locks.setdefault(digest, asyncio.Lock())
        async with lock:  # sessions that want the same blob at the same time upload it once
            if not await self._is_there(digest):
                await self._stub.UploadBlob(_messages(digest, value))
        return digest

    async def _is_there(self, digest: str) -> bool:
        try:
            await self._stub.GetBlob(pb.GetBlobRequest(sha256=digest))
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                return False
            raise
        return True


async def _messages(digest: str, value: bytes | StoredBytes) -> AsyncIterator[pb.UploadBlobRequest]:
    size_bytes = len(value) if isinstance(value, bytes) else value.size_bytes
    yield pb.UploadBlobRequest(metadata=pb.BlobMetadata(sha256=digest, size_bytes=size_bytes))
    if isinstance(value, bytes):
        for start in range(0, len(value), _CHUNK_BYTES):
            yield pb.UploadBlobRequest(chunk=value[start : start + _CHUNK_BYTES])
        return
    file = await asyncio.to_thread(value.path.open, "rb")
    with file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
            yield pb.UploadBlobRequest(chunk=chunk)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
