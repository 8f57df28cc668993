"""What callers give as a context, made ready to be sent: inline if it is small, else to be uploaded."""

from __future__ import annotations

import codecs
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from rlm_api.rlm.v1 import completion_service_pb2 as pb

from rlm_client._directory import SkippedFile, read_directory
from rlm_client._errors import ContextError
from rlm_client._image import IMAGE_SUFFIXES, Image
from rlm_client._source import (
    UTF8,
    Json,
    Source,
    begins_with_mark,
    checked_source,
    json_source,
    read_once,
    text_source,
    unknown_charset,
    unreadable,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

Value: TypeAlias = str | bytes | Json | Path | Image
"""A context: text, UTF-8 bytes, a JSON value, a file, a directory, or a picture. A file whose name ends as those of
pictures do is one."""

UPLOAD_THRESHOLD_BYTES = 1024 * 1024
"""Contexts larger than this, in all, are uploaded; smaller ones travel in the request."""


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
            read_once(value),
        )  # a pipe, as a shell's `<(...)`: it cannot be read again to be sent
    if part.is_json and (isinstance(value, bytes) or (isinstance(value, Path) and not value.is_dir())):
        if charset != UTF8:
            raise ContextError(label, f"JSON is in UTF-8, not in {charset}; convert it")
        label = label if isinstance(value, bytes) else str(value)
        if begins_with_mark(label, value):
            value = (value if isinstance(value, bytes) else read_once(value)).removeprefix(codecs.BOM_UTF8)
        return checked_source(label, pb.CONTEXT_FORMAT_JSON, value), ()
    if isinstance(value, str):
        try:
            return checked_source(label, pb.CONTEXT_FORMAT_TEXT, value.encode()), ()
        except UnicodeEncodeError as error:
            raise ContextError(label, f"character {error.start} is half of a surrogate pair, no text") from None
    if isinstance(value, bytes):
        return text_source(label, value, charset), ()
    if isinstance(value, Path) and value.suffix.lower() in IMAGE_SUFFIXES and not value.is_dir():
        value = Image(value)
    if isinstance(value, Image):
        data, media_type = value.read()
        digest = hashlib.sha256(data).hexdigest()
        return Source(pb.CONTEXT_FORMAT_IMAGE, data, len(data), digest, media_type=media_type), ()
    if isinstance(value, Path):
        if not value.is_dir():
            return text_source(str(value), value, charset), ()
        try:
            directory = read_directory(value, charset=charset)
        except OSError as error:
            raise unreadable(str(value), error) from error
        except LookupError:
            raise ContextError(str(value), unknown_charset(charset)) from None
        if not directory.documents:
            raise ContextError(str(value), "the directory has no text files")
        return json_source(str(value), directory.documents), directory.skipped_files
    if isinstance(value, dict | list):
        return json_source(label, value), ()
    raise TypeError(f"{label} must be str, bytes, dict, list, pathlib.Path, Image or a list of Part, not {type(value)}")
