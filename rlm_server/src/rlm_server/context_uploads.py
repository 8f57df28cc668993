"""Uploads of contexts: bytes go to a file while they are hashed and checked."""

from __future__ import annotations

import asyncio
import enum
import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from rlm_server.charsets import text_decoder
from rlm_server.engine.images import ImageInfo, check_image
from rlm_server.engine.ports.inputs import StoredBytes, ValueFormat
from rlm_server.engine.repl.outlines import Outline, TextScan, outline_image
from rlm_server.json_check import check_json_file

if TYPE_CHECKING:
    from types import TracebackType

    from rlm_server.contexts import ContextStore

_UTF8 = "utf-8"


class ContextStoreFullError(Exception):
    """There is no room for a context.

    Args:
        limit_bytes: the limit that it runs into.
        message: for people.
    """

    def __init__(self, limit_bytes: int, message: str) -> None:
        super().__init__(message)
        self.limit_bytes = limit_bytes


class InvalidContextError(Exception):
    """Bytes that are not what was announced; the message says where and why."""


class ContextKind(enum.StrEnum):
    """What the bytes of an upload are."""

    TEXT = "text"
    JSON = "json"
    DOCUMENTS = "documents"
    IMAGE = "image"


@dataclass(frozen=True)
class StoredContext:
    """A context in the store.

    Args:
        context_id: `KIND-SHA256`.
        format: how its bytes become a value.
        stored: the file.
        outline: what models are told of it.
        image: what is known of it, if it is a picture.
    """

    context_id: str
    format: ValueFormat
    stored: StoredBytes
    outline: Outline
    image: ImageInfo | None = None


_FORMATS = {
    ContextKind.TEXT: ValueFormat.TEXT,
    ContextKind.JSON: ValueFormat.JSON,
    ContextKind.DOCUMENTS: ValueFormat.JSON,
    ContextKind.IMAGE: ValueFormat.BYTES,
}


class ContextUpload:
    """One upload. Its blocking work is done on threads.

    Args:
        store: where it goes.
        kind: what the bytes are.
        directory: the store's.
        charset: their character set; the file has UTF-8 whatever they are.

    Raises:
        LookupError: there is no such character set.
    """

    def __init__(self, store: ContextStore, kind: ContextKind, directory: Path, charset: str = "") -> None:
        self._store = store
        self._kind = kind
        self._charset = charset or _UTF8
        self._decoder = text_decoder(self._charset)
        self._is_text = kind is not ContextKind.IMAGE
        self._max_bytes = store.max_context_bytes if self._is_text else store.max_image_bytes
        self._is_utf8 = not self._is_text or self._charset.lower().replace("_", "-") in (_UTF8, "utf8")
        self._received_hash = hashlib.sha256()
        self._hash = self._received_hash if self._is_utf8 else hashlib.sha256()
        self._scan = TextScan()
        self._reserved_bytes = 0
        descriptor, name = tempfile.mkstemp(prefix="upload-", dir=directory)
        self._file = os.fdopen(descriptor, "wb")
        self._path = Path(name)
        self._stored_bytes = 0
        self.size_bytes = 0
        """How many bytes have come."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._reserved_bytes:
            self._store.release(self._reserved_bytes)
        self._path.unlink(missing_ok=True)

    async def write(self, chunk: bytes) -> None:
        """Appends bytes.

        Raises:
            InvalidContextError: they are not in the character set.
            ContextStoreFullError: they are too many.
        """
        encoded = await asyncio.to_thread(self._convert, chunk)
        if self._stored_bytes + len(encoded) > self._max_bytes:
            raise ContextStoreFullError(self._max_bytes, f"the context is larger than {self._max_bytes:,} bytes")
        await self._store.reserve(len(encoded))
        self._reserved_bytes += len(encoded)
        await asyncio.to_thread(self._write, encoded)

    async def finish(self) -> tuple[StoredContext, bool]:
        """Checks the whole and keeps it; returns it, and whether the store had it before.

        Raises:
            InvalidContextError: it ends within a character, or is not of its kind.
            StorageUnavailableError: it cannot be kept at present.
        """
        outline, image = await asyncio.to_thread(self._finish)
        digest = self._hash.hexdigest()
        context_id = f"{self._kind.value}-{digest}"
        await self._store.load([context_id])
        known = self._store.get(context_id)
        if known is not None:
            return known, True
        stored = StoredBytes(self._path, digest, self._stored_bytes)
        context = StoredContext(context_id, _FORMATS[self._kind], stored, outline, image)
        kept = await self._store.add(context, self._path)
        self._reserved_bytes = 0
        return kept, False

    def received_digest(self) -> str:
        """Returns the SHA-256 digest of the bytes that have come so far, in hexadecimal."""
        return self._received_hash.hexdigest()

    def _convert(self, chunk: bytes) -> bytes:
        """Checks bytes that have come, and returns them as UTF-8."""
        if self._is_text:
            text = self._decode(chunk, final=False)
            self._scan.feed(text)
        self._received_hash.update(chunk)
        self.size_bytes += len(chunk)
        if self._is_utf8:
            return chunk
        try:
            encoded = text.encode()
        except UnicodeEncodeError:
            raise InvalidContextError("it has half of a surrogate pair, which is no text") from None
        self._hash.update(encoded)
        return encoded

    def _write(self, encoded: bytes) -> None:
        self._file.write(encoded)
        self._stored_bytes += len(encoded)

    def _decode(self, chunk: bytes, *, final: bool) -> str:
        try:
            return self._decoder.decode(chunk, final)
        except UnicodeDecodeError as error:
            # The decoder may hold up to 3 bytes of the chunk before; the position is right to within those.
            position = self.size_bytes + error.start
            remedy = "name its charset, or convert it to UTF-8 first" if self._is_utf8 else "name the right charset"
            charset = "UTF-8" if self._is_utf8 else self._charset
            raise InvalidContextError(f"it is not {charset}: {error.reason} near byte {position:,}; {remedy}") from None

    def _finish(self) -> tuple[Outline, ImageInfo | None]:
        try:
            if not self._is_text:
                self._file.close()
                image = check_image(self._path.read_bytes(), "", self._max_bytes).info
                return outline_image(image), image
            self._decode(b"", final=True)
            self._file.close()
            if not self._stored_bytes:  # as of a byte order mark alone
                raise InvalidContextError("it is empty")
            if self._kind is ContextKind.TEXT:
                return self._scan.outline(), None
            return check_json_file(self._path, is_documents=self._kind is ContextKind.DOCUMENTS), None
        except ValueError as error:
            raise InvalidContextError(str(error)) from None
