"""`UploadContext`: the stream of one upload into the store."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import grpc
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_common.errors import ServiceError, Violations, invalid_field

from rlm_server.charsets import text_decoder
from rlm_server.context_uploads import ContextKind, ContextStoreFullError, InvalidContextError
from rlm_server.journal.store import StorageUnavailableError
from rlm_server.service.refusals import storage_unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rlm_server.context_uploads import StoredContext
    from rlm_server.contexts import ContextStore

_MAX_CHUNK_BYTES = 1024 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")
_KINDS = {
    pb.CONTEXT_FORMAT_UNSPECIFIED: ContextKind.TEXT,
    pb.CONTEXT_FORMAT_TEXT: ContextKind.TEXT,
    pb.CONTEXT_FORMAT_JSON: ContextKind.JSON,
    pb.CONTEXT_FORMAT_DOCUMENTS: ContextKind.DOCUMENTS,
    pb.CONTEXT_FORMAT_IMAGE: ContextKind.IMAGE,
}


async def receive_context(
    requests: AsyncIterator[pb.UploadContextRequest], store: ContextStore
) -> pb.UploadContextResponse:
    """Takes an upload.

    Raises:
        ServiceError: INVALID_ARGUMENT for a wrong field or wrong bytes, RESOURCE_EXHAUSTED for too many, UNAVAILABLE if
            they cannot be kept at present.
    """
    first = await anext(requests, None)
    if first is None or first.WhichOneof("part") != "metadata":
        raise invalid_field("metadata", "must come in the first message, before any chunk")
    metadata = first.metadata
    kind = _check_metadata(metadata, store)
    try:
        return await _receive(metadata, kind, requests, store)
    except StorageUnavailableError as error:
        raise storage_unavailable(error) from error


async def _receive(
    metadata: pb.ContextMetadata,
    kind: ContextKind,
    requests: AsyncIterator[pb.UploadContextRequest],
    store: ContextStore,
) -> pb.UploadContextResponse:
    if metadata.sha256 and not metadata.charset:
        context_id = f"{kind.value}-{metadata.sha256}"
        await store.load([context_id])
        known = store.get(context_id)
        if known is not None:
            return _response(known, already_present=True)
    try:
        async with store.begin(kind, metadata.charset) as upload:
            async for request in requests:
                await upload.write(_check_chunk(request))
            if not upload.size_bytes:
                raise invalid_field("chunk", "the context is empty; send at least one byte")
            if metadata.size_bytes and metadata.size_bytes != upload.size_bytes:
                raise invalid_field(
                    "metadata.size_bytes", f"is {metadata.size_bytes:,}, but {upload.size_bytes:,} bytes came"
                )
            if metadata.sha256 and metadata.sha256 != upload.received_digest():
                raise invalid_field(
                    "metadata.sha256", f"is not the digest of the bytes that came, which is {upload.received_digest()}"
                )
            context, already_present = await upload.finish()
    except InvalidContextError as error:
        raise invalid_field("chunk", str(error)) from None
    except ContextStoreFullError as error:
        raise _full(error.limit_bytes, str(error)) from None
    return _response(context, already_present=already_present)


def _check_metadata(metadata: pb.ContextMetadata, store: ContextStore) -> ContextKind:
    violations = Violations()
    kind = _KINDS.get(metadata.format)
    if kind is None:
        violations.add(
            "metadata.format", f"is {metadata.format}, which is no format; use TEXT, JSON, DOCUMENTS or IMAGE"
        )
    if metadata.sha256 and not _SHA256.fullmatch(metadata.sha256):
        violations.add("metadata.sha256", "must be 64 lower-case hexadecimal digits, or empty")
    if metadata.size_bytes < 0:
        violations.add("metadata.size_bytes", f"is {metadata.size_bytes}; must not be negative, and 0 means unknown")
    if metadata.charset and kind is ContextKind.IMAGE:
        violations.add("metadata.charset", "is for texts; leave it out for an image")
    elif metadata.charset:
        try:
            text_decoder(metadata.charset)
        except LookupError as error:
            violations.add("metadata.charset", str(error))
    violations.raise_if_any()
    if metadata.size_bytes > store.max_context_bytes:
        raise _full(store.max_context_bytes, f"the context is larger than {store.max_context_bytes:,} bytes")
    return kind or ContextKind.TEXT


def _check_chunk(request: pb.UploadContextRequest) -> bytes:
    if request.WhichOneof("part") != "chunk":
        raise invalid_field("metadata", "must come in the first message only; send chunks after it")
    if len(request.chunk) > _MAX_CHUNK_BYTES:
        raise invalid_field("chunk", f"has {len(request.chunk):,} bytes; send at most {_MAX_CHUNK_BYTES:,} in each")
    return request.chunk


def _full(limit_bytes: int, message: str) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "CONTEXT_STORE_FULL", message, metadata={"limit_bytes": str(limit_bytes)}
    )


def _response(context: StoredContext, *, already_present: bool) -> pb.UploadContextResponse:
    return pb.UploadContextResponse(
        context_id=context.context_id,
        size_bytes=context.stored.size_bytes,
        sha256=context.stored.sha256,
        already_present=already_present,
    )
