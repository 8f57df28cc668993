"""The bytes of a part of a context, checked and hashed before any of them is sent."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from rlm_api.rlm.v1 import completion_service_pb2 as pb

from rlm_client._errors import ContextError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UTF8 = "utf-8"

Json: TypeAlias = dict[str, Any] | list[Any]
"""A value that `json.dumps` takes."""

CHUNK_BYTES = 512 * 1024
"""Size of an upload's chunks; the server takes up to 1 MiB."""


@dataclass(frozen=True)
class Source:
    """The bytes of a part, in memory or in a file, known to be valid.

    Args:
        format: text, JSON or picture.
        data: the bytes, or the file that has them.
        size_bytes: how many they are.
        sha256: their digest.
        charset: their character set, if they are text.
        media_type: what they are, if they are a picture.
    """

    format: pb.ContextFormat.ValueType
    data: bytes | Path
    size_bytes: int
    sha256: str
    charset: str = UTF8
    media_type: str = ""

    def chunks(self) -> Iterator[bytes]:
        """Yields the bytes in pieces of at most `CHUNK_BYTES`.

        Raises:
            OSError: the file cannot be read any more.
        """
        return _chunks(self.data)

    def read(self) -> bytes:
        """Returns all the bytes."""
        return self.data if isinstance(self.data, bytes) else self.data.read_bytes()

    def upload_requests(self) -> Iterator[pb.UploadContextRequest]:
        """Yields the messages of an upload."""
        metadata = pb.ContextMetadata(format=self.format, sha256=self.sha256, size_bytes=self.size_bytes)
        if self.charset != UTF8:
            metadata.charset = self.charset
        yield pb.UploadContextRequest(metadata=metadata)
        for chunk in self.chunks():
            yield pb.UploadContextRequest(chunk=chunk)


def json_source(label: str, value: Json) -> Source:
    """Makes a source of a JSON value, which is written as text.

    Raises:
        ContextError: it is none.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ContextError(label, f"not a JSON value: {error}") from None
    try:
        data = text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON has as an escape only
        data = json.dumps(value).encode()
    return checked_source(label, pb.CONTEXT_FORMAT_JSON, data)


def text_source(label: str, data: bytes | Path, charset: str) -> Source:
    """Makes a source of a text. The mark that some programs begin UTF-8 with is no part of the text.

    Raises:
        ContextError: the bytes are not in the character set, or the file cannot be read.
    """
    if charset == UTF8 and begins_with_mark(label, data):
        charset = "utf-8-sig"
    return checked_source(label, pb.CONTEXT_FORMAT_TEXT, data, charset)


def begins_with_mark(label: str, data: bytes | Path) -> bool:
    """Tells whether bytes begin with the mark that some programs begin UTF-8 with.

    Raises:
        ContextError: the file cannot be read.
    """
    if isinstance(data, bytes):
        return data.startswith(codecs.BOM_UTF8)
    try:
        with data.open("rb") as file:
            return file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
    except OSError as error:
        raise unreadable(label, error) from error


def read_once(path: Path) -> bytes:
    """Reads a file.

    Raises:
        ContextError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(str(path), error) from error


def checked_source(label: str, format_: pb.ContextFormat.ValueType, data: bytes | Path, charset: str = UTF8) -> Source:
    """Makes a source, reading its bytes once: to hash them and to check that they are in the character set.

    Raises:
        ContextError: they are not, there is no such set, or the file cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    try:
        with contextlib.suppress(UnicodeDecodeError):
            b"a".decode(charset)  # refuses what is a codec and no character set, as `rot13`
        decoder = codecs.getincrementaldecoder(charset)()
    except LookupError:
        raise ContextError(label, unknown_charset(charset)) from None
    try:
        for chunk in _chunks(data):
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError as error:
                raise _undecodable(label, charset, size - pending + error.start) from None
            digest.update(chunk)
            size += len(chunk)
        pending = len(decoder.getstate()[0])
        if pending:
            raise _undecodable(label, charset, size - pending)
    except OSError as error:
        raise unreadable(label, error) from error
    return Source(format_, data, size, digest.hexdigest(), charset)


def unknown_charset(charset: str) -> str:
    """Returns what to tell of a character set that does not exist."""
    return f"Python knows no character set {charset!r}; give one as utf-8, iso-8859-1 or cp1252"


def unreadable(label: str, error: OSError) -> ContextError:
    """Returns what to raise for a file that cannot be read."""
    return ContextError(label, f"cannot be read: {error.strerror or error}")


def _undecodable(label: str, charset: str, byte_offset: int) -> ContextError:
    name = "UTF-8" if charset in (UTF8, "utf-8-sig") else charset
    return ContextError(label, f"not {name} at byte {byte_offset}", byte_offset=byte_offset)


def _chunks(data: bytes | Path) -> Iterator[bytes]:
    if isinstance(data, bytes):
        for start in range(0, len(data), CHUNK_BYTES):
            yield data[start : start + CHUNK_BYTES]
        return
    with data.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
