"""What is too large for a row of the journal: stored as blobs, which are kept for as long as a row names them."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
from typing import TYPE_CHECKING

import sqlalchemy as sa

from rlm_server.journal import blob_rows
from rlm_server.journal.access import brief
from rlm_server.journal.appends import Payload
from rlm_server.journal.blob_users import new_announcement
from rlm_server.journal.writer import StorageUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlm_server.journal.access import Access
    from rlm_server.journal.blobs import BlobStore

_log = logging.getLogger(__name__)

_MAX_ROW_BYTES = 64 * 1024
"""Larger ones go to the blob store."""

_DIGESTS_AT_ONCE = 500
_DELETED_AT_ONCE = 8
"""How many blobs are deleted while nobody can use another one."""

_ANNOUNCED_SECONDS = 24 * 3600.0
"""After which a server that has announced a blob, and named it in no row, is dead and not only waiting."""


class Payloads:
    """The bytes of rows, and the blobs that have what is large.

    Args:
        access: leads to the database, which says who uses which blobs.
        blobs: has them.
    """

    def __init__(self, access: Access, blobs: BlobStore) -> None:
        self._access = access
        self._blobs = blobs
        self._deleting = asyncio.Lock()

    async def store(self, data: bytes) -> Payload:
        """Returns what goes into a row for these bytes; large ones are put into the blob store first.

        Raises:
            StorageUnavailableError: the journal or the blob store cannot be written at present.
        """
        if len(data) <= _MAX_ROW_BYTES:
            return Payload(data, None, len(data))
        digest = await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
        announcement = await self.announce(digest)
        try:
            await asyncio.to_thread(self._blobs.put, digest, data)
        except OSError as error:
            raise StorageUnavailableError(f"the blob store cannot be written: {error}") from error
        return Payload(None, digest, len(data), announcement)

    async def announce(self, digest: str) -> str:
        """Keeps a blob that is about to be stored from being deleted; see `blob_rows`.

        Returns:
            The announcement, which the transaction is to take back whose row names the blob.

        Raises:
            StorageUnavailableError: the journal cannot be written at present.
        """
        announcement = new_announcement()
        await self._access.writer.execute(
            lambda connection: blob_rows.announce(self._access.database, connection, digest, announcement),
            is_alone=False,
            timeout_seconds=self._access.patience_seconds,
        )
        return announcement

    async def load(self, payload: Payload) -> bytes:
        """Returns the bytes that a row stands for.

        Raises:
            BlobMissingError: they are not in the blob store.
            StorageUnavailableError: the blob store cannot be read.
        """
        if payload.blob is None:
            return self.bytes_of(payload)
        try:
            return await asyncio.to_thread(self.bytes_of, payload)
        except OSError as error:
            raise StorageUnavailableError(f"the blob store cannot be read: {error}") from error

    def bytes_of(self, payload: Payload) -> bytes:
        """Returns the bytes that a row stands for. May block."""
        if payload.blob is not None:
            return self._blobs.get(payload.blob)
        return bytes(payload.data or b"")

    async def sweep(self) -> int:
        """Removes blobs that nobody uses, as of a server that died before it said what for; returns their number.

        Raises:
            StorageUnavailableError: the journal cannot be read at present.
        """
        await self._access.execute(functools.partial(blob_rows.take_back_old, max_age_seconds=_ANNOUNCED_SECONDS))
        try:
            stored = await asyncio.to_thread(lambda: list(self._blobs.digests()))
        except OSError as error:
            raise StorageUnavailableError(f"the blob store cannot be read: {error}") from error
        unused: list[str] = []
        for start in range(0, len(stored), _DIGESTS_AT_ONCE):
            some = stored[start : start + _DIGESTS_AT_ONCE]
            used = await self._access.read(functools.partial(blob_rows.used, digests=some))
            unused += [digest for digest in some if digest not in used]
        await self.delete_unused(unused)
        return len(unused)

    async def delete_unused(self, digests: Sequence[str]) -> None:
        """Removes those of the blobs that nobody uses. What cannot be removed now is at the next sweep."""
        try:
            async with self._deleting:
                for start in range(0, len(digests), _DELETED_AT_ONCE):
                    await asyncio.to_thread(self._delete_unused, digests[start : start + _DELETED_AT_ONCE])
        except (sa.exc.DBAPIError, sa.exc.TimeoutError, OSError) as error:
            _log.warning("blobs that nobody uses cannot be deleted at present: %s", brief(error))

    def _delete_unused(self, digests: Sequence[str]) -> None:
        with self._access.database.writing.begin() as connection:
            blob_rows.keep_uses(connection)
            used = blob_rows.used(connection, digests)
            for digest in digests:
                if digest not in used:
                    self._blobs.delete(digest)
