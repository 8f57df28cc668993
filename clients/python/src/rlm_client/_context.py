"""What callers give as a context, made ready to be sent: inline if it is small, else to be uploaded."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from rlm_api.rlm.v1 import completion_service_pb2 as pb

from rlm_client._directory import SkippedFile, read_directory
from rlm_client._errors import ContextError
from rlm_client._image import IMAGE_SUFFIXES, Image

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

UTF8 = "utf-8"

Json: TypeAlias = dict[str, Any] | list[Any]
"""A value that `json.dumps` takes."""

Value: TypeAlias = str | bytes | Json | Path | Image
"""A context: text, UTF-8 bytes, a JSON value, a file, a directory, or a picture. A file whose name ends as those of
pictures do is one."""

UPLOAD_THRESHOLD_BYTES = 1024 * 1024
"""Contexts larger than this, in all, are uploaded; smaller ones travel in the request."""

CHUNK_BYTES = 512 * 1024
"""Size of an upload's chunks; the server takes up to 1 MiB."""


@dataclass(frozen=True)
class Part:
    """A part of a context with a name of its own.

    Args:
        name: the variable's name in the REPL, a Python identifier.
        value: text, the bytes of a text, a JSON value, a picture, or the path of a file or of a directory.
        description: tells the model what it is.
        charset: character set of bytes and files. In UTF-8, a byte order mark at the beginning is left out.
        is_json: bytes, or a file, are a JSON document in UTF-8 and become the value that it holds.
    """

    name: str
    value: Value
    description: str = ""
    charset: str = UTF8
    is_json: bool = False


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


@dataclass(frozen=True)
class PreparedPart:
    """A part that is ready to be sent.

    Args:
        name: the variable's name, or empty.
        description: what the model is told of it.
        source: its bytes.
    """

    name: str
    description: str
    source: Source

    def inline(self) -> pb.ContextPart:
        """Returns the part with its value in it."""
        if self.source.media_type:
            image = pb.Image(data=self.source.read(), media_type=self.source.media_type)
            return pb.ContextPart(name=self.name, description=self.description, image=image)
        if self.source.charset != UTF8:
            encoded = pb.EncodedText(data=self.source.read(), charset=self.source.charset)
            return pb.ContextPart(name=self.name, description=self.description, encoded=encoded)
        text = self.source.read().decode()
        if self.source.format == pb.CONTEXT_FORMAT_JSON:
            return pb.ContextPart(name=self.name, description=self.description, json=text)
        return pb.ContextPart(name=self.name, description=self.description, text=text)

    def uploaded(self, context_id: str) -> pb.ContextPart:
        """Returns the part with the id of its uploaded value."""
        return pb.ContextPart(name=self.name, description=self.description, context_id=context_id)


@dataclass(frozen=True)
class PreparedContext:
    """A context that was read, checked and hashed, ready for any number of queries; `prepare` makes it.

    Args:
        parts: its parts.
        skipped_files: files of directories that are not in it.
    """

    parts: Sequence[PreparedPart]
    skipped_files: Sequence[SkippedFile] = field(default_factory=tuple)

    @property
    def must_be_uploaded(self) -> bool:
        """Whether it is too large to travel in the request."""
        return sum(part.source.size_bytes for part in self.parts) > UPLOAD_THRESHOLD_BYTES


Context: TypeAlias = Value | list[Part] | PreparedContext
"""What `completion` takes: a value, several named parts, or a context that was prepared before."""


def prepare(context: Context | None) -> PreparedContext:
    """Reads a context, checks that it can be sent, and hashes it. It reads files, so it may block.

    `completion` does this itself. Do it before, to ask several questions of a large context, or to learn early that it
    cannot be read. None is no context at all, for a question that goes on with a conversation.

    Raises:
        ContextError: a file cannot be read, bytes are no UTF-8, a value is no JSON, or there is nothing at all.
        TypeError: the context is of a type that cannot be sent.
    """
    if isinstance(context, PreparedContext):
        return context
    if context is None:
        return PreparedContext(())
    if isinstance(context, list) and any(isinstance(part, Part) for part in context):
        if not all(isinstance(part, Part) for part in context):
            raise TypeError("a list that has a Part must have nothing else: make each value a Part")
        named = list(context)
    else:
        named = [Part("", context)]  # a list of parts was dealt with above
    parts: list[PreparedPart] = []
    skipped: list[SkippedFile] = []
    for part in named:
        label = f"context {part.name!r}" if part.name else "context"
        source, more_skipped = _prepare_value(label, part)
        if not source.size_bytes:
            raise ContextError(str(part.value) if isinstance(part.value, Path) else label, "it is empty")
        parts.append(PreparedPart(part.name, part.description, source))
        skipped += more_skipped
    return PreparedContext(parts, tuple(skipped))


def _prepare_value(label: str, part: Part) -> tuple[Source, Sequence[SkippedFile]]:
    value, charset = part.value, part.charset
    if isinstance(value, Path) and value.exists() and not value.is_dir() and not value.is_file():
        label, value = (
            str(value),
            _read_once(value),
        )  # a pipe, as a shell's `<(...)`: it cannot be read again to be sent
    if part.is_json and (isinstance(value, bytes) or (isinstance(value, Path) and not value.is_dir())):
        if charset != UTF8:
            raise ContextError(label, f"JSON is in UTF-8, not in {charset}; convert it")
        label = label if isinstance(value, bytes) else str(value)
        if _begins_with_mark(label, value):
            value = (value if isinstance(value, bytes) else _read_once(value)).removeprefix(codecs.BOM_UTF8)
        return _source(label, pb.CONTEXT_FORMAT_JSON, value), ()
    if isinstance(value, str):
        try:
            return _source(label, pb.CONTEXT_FORMAT_TEXT, value.encode()), ()
        except UnicodeEncodeError as error:
            raise ContextError(label, f"character {error.start} is half of a surrogate pair, no text") from None
    if isinstance(value, bytes):
        return _text_source(label, value, charset), ()
    if isinstance(value, Path) and value.suffix.lower() in IMAGE_SUFFIXES and not value.is_dir():
        value = Image(value)
    if isinstance(value, Image):
        data, media_type = value.read()
        digest = hashlib.sha256(data).hexdigest()
        return Source(pb.CONTEXT_FORMAT_IMAGE, data, len(data), digest, media_type=media_type), ()
    if isinstance(value, Path):
        if not value.is_dir():
            return _text_source(str(value), value, charset), ()
        try:
            directory = read_directory(value, charset=charset)
        except OSError as error:
            raise _unreadable(str(value), error) from error
        except LookupError:
            raise ContextError(str(value), unknown_charset(charset)) from None
        if not directory.documents:
            raise ContextError(str(value), "the directory has no text files")
        return _json_source(str(value), directory.documents), directory.skipped_files
    if isinstance(value, dict | list):
        return _json_source(label, value), ()
    raise TypeError(f"{label} must be str, bytes, dict, list, pathlib.Path, Image or a list of Part, not {type(value)}")


def _json_source(label: str, value: Json) -> Source:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ContextError(label, f"not a JSON value: {error}") from None
    try:
        data = text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON has as an escape only
        data = json.dumps(value).encode()
    return _source(label, pb.CONTEXT_FORMAT_JSON, data)


def _text_source(label: str, data: bytes | Path, charset: str) -> Source:
    """Makes a source of a text. The mark that some programs begin UTF-8 with is no part of the text."""
    if charset == UTF8 and _begins_with_mark(label, data):
        charset = "utf-8-sig"
    return _source(label, pb.CONTEXT_FORMAT_TEXT, data, charset)


def _begins_with_mark(label: str, data: bytes | Path) -> bool:
    if isinstance(data, bytes):
        return data.startswith(codecs.BOM_UTF8)
    try:
        with data.open("rb") as file:
            return file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
    except OSError as error:
        raise _unreadable(label, error) from error


def _read_once(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(str(path), error) from error


def _source(label: str, format_: pb.ContextFormat.ValueType, data: bytes | Path, charset: str = UTF8) -> Source:
    """Makes a source, reading its bytes once: to hash them and to check that they are in the character set."""
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
        raise _unreadable(label, error) from error
    return Source(format_, data, size, digest.hexdigest(), charset)


def unknown_charset(charset: str) -> str:
    """Returns what to tell of a character set that does not exist."""
    return f"Python knows no character set {charset!r}; give one as utf-8, iso-8859-1 or cp1252"


def _unreadable(label: str, error: OSError) -> ContextError:
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
