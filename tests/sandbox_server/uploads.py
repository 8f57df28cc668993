"""Uploads blobs, as a client would, on the generated stub alone."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from rlm_api.sandbox.v1 import execute_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rlm_api.sandbox.v1 import execute_service_pb2_grpc as pb_grpc

MIB = 1 << 20


def digest_of(data: bytes) -> str:
    """Returns the name that the cache has for bytes."""
    return hashlib.sha256(data).hexdigest()


async def parts(data: bytes, sha256: str, size: int, chunk: int) -> AsyncIterator[pb.UploadBlobRequest]:
    """Yields the messages of an upload."""
    yield pb.UploadBlobRequest(metadata=pb.BlobMetadata(sha256=sha256, size_bytes=size))
    for start in range(0, len(data), chunk):
        yield pb.UploadBlobRequest(chunk=data[start : start + chunk])


async def upload(
    stub: pb_grpc.ExecuteServiceAsyncStub,
    data: bytes,
    *,
    sha256: str | None = None,
    size: int | None = None,
    chunk: int = MIB,
) -> pb.UploadBlobResponse:
    """Uploads bytes, under their own digest and size unless others are given."""
    requests = parts(data, sha256 or digest_of(data), len(data) if size is None else size, chunk)
    return await stub.UploadBlob(requests)


def blob_input(data: bytes, value_format: pb.ValueFormat.ValueType = pb.VALUE_FORMAT_TEXT) -> pb.Input:
    """Returns the variable `x` with uploaded bytes as its value."""
    return pb.Input(name="x", blob=pb.BlobInput(sha256=digest_of(data), format=value_format))
