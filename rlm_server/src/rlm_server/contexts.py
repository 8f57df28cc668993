"""The store of uploaded contexts: files named by their content, within a bounded room."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import hashlib
import json
import os
import tempfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from rlm_server.engine.ports import StoredBytes, ValueFormat

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType


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


@dataclass(frozen=True)
class StoredContext:
    """A context in the store.

    Args:
        context_id: `FORMAT-SHA256`.
        format: what its bytes are.
        stored: the file.
        size_chars: number of characters.
        beginning: its first characters, to tell the type of a JSON document by.
    """

    context_id: str
    format: ValueFormat
    stored: StoredBytes
    size_chars: int
    beginning: str


class ContextStore:
    """Keeps contexts while the server runs. The least recently used go when room is needed, unless they are in use.

    Args:
        capacity_bytes: room for all together.
        max_context_bytes: size of one.
        parent: directory to make the store's own directory in; None means the system's temporary one.
    """

    def __init__(self, *, capacity_bytes: int, max_context_bytes: int, parent: Path | None) -> None:
        if parent is not None:
            parent.mkdir(parents=True, exist_ok=True)
        self._directory = tempfile.TemporaryDirectory(prefix="rlm-contexts-", dir=parent)
        self._capacity_bytes = capacity_bytes
        self._max_context_bytes = min(max_context_bytes, capacity_bytes)
        self._contexts: OrderedDict[str, StoredContext] = OrderedDict()
        self._users: dict[str, int] = {}
        self._used_bytes = 0

    @property
    def max_context_bytes(self) -> int:
        """Size that one context can have."""
        return self._max_context_bytes

    def get(self, context_id: str) -> StoredContext | None:
        """Returns a context and marks it as recently used; None if it is not there."""
        context = self._contexts.get(context_id)
        if context is not None:
            self._contexts.move_to_end(context_id)
        return context

    @contextlib.contextmanager
    def in_use(self, contexts: list[StoredContext]) -> Iterator[None]:
        """Keeps contexts from being evicted."""
        ids = [context.context_id for context in contexts]
        for context_id in ids:
            self._users[context_id] = self._users.get(context_id, 0) + 1
        try:
            yield
        finally:
            for context_id in ids:
                self._users[context_id] -= 1
                if not self._users[context_id]:
                    del self._users[context_id]

    def begin(self, value_format: ValueFormat) -> ContextUpload:
        """Begins an upload. It is forgotten if it is left before `finish`."""
        return ContextUpload(self, value_format, Path(self._directory.name))

    def reserve(self, size_bytes: int) -> None:
        """Takes room; evicts what is not in use.

        Raises:
            ContextStoreFullError: there is not enough, even so.
        """
        for context_id in list(self._contexts):
            if self._used_bytes + size_bytes <= self._capacity_bytes:
                break
            if context_id not in self._users:
                evicted = self._contexts.pop(context_id)
                self._used_bytes -= evicted.stored.size_bytes
                evicted.stored.path.unlink()
        if self._used_bytes + size_bytes > self._capacity_bytes:
            raise ContextStoreFullError(
                self._capacity_bytes,
                f"the store of {self._capacity_bytes:,} bytes is full of contexts in use; try later",
            )
        self._used_bytes += size_bytes

    def release(self, size_bytes: int) -> None:
        """Gives room back."""
        self._used_bytes -= size_bytes

    def add(self, context: StoredContext) -> None:
        """Keeps a context whose room is reserved."""
        self._contexts[context.context_id] = context

    async def close(self) -> None:
        """Removes all contexts."""
        self._contexts.clear()
        await asyncio.to_thread(self._directory.cleanup)


class ContextUpload:
    """One upload: bytes go to a file while they are hashed and checked, on a thread.

    Args:
        store: where it goes.
        value_format: what the bytes are.
        directory: the store's.
    """

    def __init__(self, store: ContextStore, value_format: ValueFormat, directory: Path) -> None:
        self._store = store
        self._format = value_format
        self._directory = directory
        self._hash = hashlib.sha256()
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._size_chars = 0
        self._beginning = ""
        self._reserved_bytes = 0
        descriptor, name = tempfile.mkstemp(prefix="upload-", dir=directory)
        self._file = os.fdopen(descriptor, "wb")
        self._path = Path(name)
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
            InvalidContextError: they are no UTF-8.
            ContextStoreFullError: they are too many.
        """
        limit_bytes = self._store.max_context_bytes
        if self.size_bytes + len(chunk) > limit_bytes:
            raise ContextStoreFullError(limit_bytes, f"the context is larger than {limit_bytes:,} bytes")
        self._store.reserve(len(chunk))
        self._reserved_bytes += len(chunk)
        await asyncio.to_thread(self._write, chunk)

    async def finish(self) -> tuple[StoredContext, bool]:
        """Checks the whole and keeps it; returns it, and whether the store had it before.

        Raises:
            InvalidContextError: it ends within a character, or is no JSON.
        """
        await asyncio.to_thread(self._check_whole)
        digest = self._hash.hexdigest()
        context_id = f"{self._format.value}-{digest}"
        known = self._store.get(context_id)
        if known is not None:
            return known, True
        path = self._directory / context_id
        self._path.rename(path)
        context = StoredContext(
            context_id, self._format, StoredBytes(path, digest, self.size_bytes), self._size_chars, self._beginning
        )
        self._store.add(context)
        self._reserved_bytes = 0
        return context, False

    def digest(self) -> str:
        """Returns the SHA-256 digest of what has come so far, in hexadecimal."""
        return self._hash.hexdigest()

    def _write(self, chunk: bytes) -> None:
        self._decode(chunk, final=False)
        self._hash.update(chunk)
        self._file.write(chunk)
        self.size_bytes += len(chunk)

    def _decode(self, chunk: bytes, *, final: bool) -> None:
        try:
            text = self._decoder.decode(chunk, final)
        except UnicodeDecodeError as error:
            # The decoder may hold up to 3 bytes of the chunk before; the position is right to within those.
            position = self.size_bytes + error.start
            raise InvalidContextError(
                f"it is not UTF-8: {error.reason} near byte {position:,}; convert it to UTF-8 first"
            ) from None
        self._size_chars += len(text)
        if len(self._beginning) < 100:
            self._beginning = (self._beginning + text[:1000]).lstrip()[:100]

    def _check_whole(self) -> None:
        self._decode(b"", final=True)
        self._file.close()
        if self._format is ValueFormat.JSON:
            check_json(self._path.read_text(encoding="utf-8"))


def check_json(text: str) -> None:
    """Checks that a text is a JSON document.

    Raises:
        InvalidContextError: it is not; the message says where.
    """
    try:
        # The hook drops each object once it is read, which keeps memory low, and lets other threads run meanwhile.
        json.loads(text, object_hook=lambda _: None)
    except ValueError as error:
        raise InvalidContextError(f"it is not JSON: {error}") from None
    except RecursionError:
        raise InvalidContextError("it is not usable JSON: it is nested too deeply") from None
