"""The store of uploaded contexts: bytes named by their content, within a bounded room."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from typing import TYPE_CHECKING

from rlm_server.context_uploads import ContextStoreFullError, ContextUpload, StoredContext
from rlm_server.engine.images import ImageInfo
from rlm_server.engine.ports.inputs import StoredBytes, ValueFormat
from rlm_server.engine.repl.outlines import Outline
from rlm_server.journal.blobs import BlobMissingError
from rlm_server.journal.context_rows import evict, find, keep, total_bytes
from rlm_server.journal.store import StorageUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from rlm_server.context_uploads import ContextKind
    from rlm_server.journal.store import Journal


class ContextStore:
    """Keeps contexts. The least recently used go when room is needed, unless they are in use.

    What is known of them is in the journal, their bytes in its blob store, so that they outlive the server and are
    there for all that share the journal.

    Args:
        journal: keeps them.
        capacity_bytes: room for all together.
        max_context_bytes: size of one.
        max_image_bytes: size of one that is a picture.
        directory: where uploads are until they are complete.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        capacity_bytes: int,
        max_context_bytes: int,
        max_image_bytes: int,
        directory: Path,
    ) -> None:
        self._journal = journal
        self._directory = directory
        self._capacity_bytes = capacity_bytes
        self._max_context_bytes = min(max_context_bytes, capacity_bytes)
        self.max_image_bytes = min(max_image_bytes, self._max_context_bytes)
        """Size that one picture can have."""
        self._contexts: dict[str, StoredContext] = {}
        self._users: dict[str, int] = {}
        self._used_bytes = 0
        self._evicting = asyncio.Lock()

    async def open(self) -> None:
        """Finds what earlier servers have kept.

        Raises:
            StorageUnavailableError: the journal cannot be read.
        """
        await asyncio.to_thread(self._directory.mkdir, parents=True, exist_ok=True)
        self._used_bytes = await self._journal.read(lambda _, connection: total_bytes(connection))

    @property
    def max_context_bytes(self) -> int:
        """Size that one context can have."""
        return self._max_context_bytes

    async def load(self, context_ids: Sequence[str]) -> None:
        """Makes contexts known to `get` that are kept, by this server or another, and marks them as recently used.

        Raises:
            StorageUnavailableError: the journal cannot be used at present.
        """
        if not context_ids:
            return
        rows = await self._journal.execute(lambda database, connection: find(database, connection, context_ids))
        for context_id in context_ids:
            self._contexts.pop(context_id, None)
        for row in rows:
            try:
                path = await asyncio.to_thread(self._journal.blobs.local_path, row.sha256)
            except BlobMissingError:
                continue
            except OSError as error:
                raise StorageUnavailableError(f"the blob store cannot be read: {error}") from error
            self._contexts[row.context_id] = StoredContext(
                row.context_id,
                ValueFormat(row.format),
                StoredBytes(path, row.sha256, row.size_bytes),
                *_outline_from_json(row.outline),
            )

    def get(self, context_id: str) -> StoredContext | None:
        """Returns a context that was loaded or has been uploaded here; None if it is not there."""
        return self._contexts.get(context_id)

    @contextlib.contextmanager
    def in_use(self, contexts: list[StoredContext]) -> Iterator[None]:
        """Keeps contexts from being evicted by this server."""
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

    def begin(self, kind: ContextKind, charset: str = "") -> ContextUpload:
        """Begins an upload. It is forgotten if it is left before `finish`.

        Args:
            kind: what its bytes are.
            charset: their character set; empty means UTF-8.

        Raises:
            LookupError: there is no such character set.
        """
        return ContextUpload(self, kind, self._directory, charset)

    async def reserve(self, size_bytes: int) -> None:
        """Takes room; evicts what is not in use.

        Raises:
            ContextStoreFullError: there is not enough, even so.
            StorageUnavailableError: the journal cannot be used at present.
        """
        self._used_bytes += size_bytes
        if self._used_bytes <= self._capacity_bytes:
            return
        has_room = False
        try:
            async with self._evicting:
                await self._evict()
            has_room = self._used_bytes <= self._capacity_bytes
        finally:
            if not has_room:
                self._used_bytes -= size_bytes
        if not has_room:
            raise ContextStoreFullError(
                self._capacity_bytes,
                f"the store of {self._capacity_bytes:,} bytes is full of contexts in use; try later",
            )

    async def _evict(self) -> None:
        excess_bytes = self._used_bytes - self._capacity_bytes
        if excess_bytes <= 0:
            return
        in_use = list(self._users)
        evicted, digests = await self._journal.execute(
            lambda _, connection: evict(connection, excess_bytes, in_use=in_use)
        )
        for context_id, size_bytes in evicted:
            self._contexts.pop(context_id, None)
            self._used_bytes -= size_bytes
        await self._journal.payloads.delete_unused(digests)

    def release(self, size_bytes: int) -> None:
        """Gives room back."""
        self._used_bytes -= size_bytes

    async def add(self, context: StoredContext, path: Path) -> StoredContext:
        """Keeps a context whose room is reserved, and takes its file.

        Raises:
            StorageUnavailableError: it cannot be kept at present.
        """
        stored = context.stored
        announcement = await self._journal.payloads.announce(stored.sha256)
        try:
            await asyncio.to_thread(self._journal.blobs.put_file, stored.sha256, path)
        except OSError as error:
            raise StorageUnavailableError(f"the blob store cannot be written: {error}") from error
        row = {
            "context_id": context.context_id,
            "format": context.format.value,
            "sha256": stored.sha256,
            "size_bytes": stored.size_bytes,
            "outline": _outline_to_json(context),
        }
        await self._journal.execute(lambda database, connection: keep(database, connection, row, announcement))
        kept_path = await asyncio.to_thread(self._journal.blobs.local_path, stored.sha256)
        kept = dataclasses.replace(context, stored=dataclasses.replace(stored, path=kept_path))
        self._contexts[context.context_id] = kept
        return kept


def _outline_to_json(context: StoredContext) -> str:
    image = None if context.image is None else dataclasses.asdict(context.image)
    return json.dumps(dataclasses.asdict(context.outline) | {"image": image})


def _outline_from_json(text: str) -> tuple[Outline, ImageInfo | None]:
    fields = json.loads(text)
    image = fields.pop("image", None)
    return Outline(**fields), None if image is None else ImageInfo(**image)
