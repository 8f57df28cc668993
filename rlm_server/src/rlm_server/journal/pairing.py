"""A journal and its blob store belong together: each has the same mark.

Without this a server that was given another journal's store would sweep away what that one uses, and one that was given
an empty store, as its own directory in place of one that all share, could not go on with what others began.
"""

from __future__ import annotations

import asyncio
import functools
import uuid
from typing import TYPE_CHECKING

from rlm_server.journal import blob_rows

if TYPE_CHECKING:
    from rlm_server.journal.access import Access
    from rlm_server.journal.blobs import BlobStore


class StoreMismatchError(Exception):
    """The blob store is not the journal's; the message says how they differ."""


async def pair(access: Access, blobs: BlobStore) -> None:
    """Makes sure that a journal and a blob store belong together. Two that are new do from now on.

    Raises:
        StoreMismatchError: they do not.
        StorageUnavailableError: the database does not answer.
        OSError: the store cannot be used.
    """
    in_store = await asyncio.to_thread(blobs.mark)
    in_journal = await access.read(blob_rows.mark)
    if in_store is None:
        if in_journal is None:
            in_journal = await access.execute(functools.partial(blob_rows.keep_mark, new_mark=uuid.uuid4().hex))
        elif await access.read(blob_rows.has_uses) and await asyncio.to_thread(_is_empty, blobs):
            raise StoreMismatchError("it has nothing of what the journal keeps in its blob store")
        await asyncio.to_thread(blobs.set_mark, in_journal)
        in_store = await asyncio.to_thread(blobs.mark)
    if in_store != in_journal:
        raise StoreMismatchError("it is that of another journal")


def _is_empty(blobs: BlobStore) -> bool:
    return next(iter(blobs.digests()), None) is None
