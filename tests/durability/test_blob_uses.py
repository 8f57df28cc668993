"""No blob is deleted that a row names, or is about to name, whatever else is going on."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import threading
import uuid
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from rlm_server.context_uploads import ContextKind
from rlm_server.contexts import ContextStore
from rlm_server.journal import payloads
from rlm_server.journal.appends import Append
from rlm_server.journal.blobs import BlobMissingError, BlobStore, DirectoryBlobs
from rlm_server.journal.completion_rows import ContextGoneError
from rlm_server.journal.database import Database
from rlm_server.journal.store import Journal, NewCompletion

from tests.durability.test_blobs import grow_old

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

DATA = b"a" * 100_000
DIGEST = hashlib.sha256(DATA).hexdigest()


@contextlib.asynccontextmanager
async def journal_on(database: str, blobs: BlobStore) -> AsyncIterator[Journal]:
    journal = Journal(Database(database), blobs, owner=uuid.uuid4().hex, lease_seconds=60)
    await journal.open()
    try:
        yield journal
    finally:
        await journal.close()


def new(completion_id: str, *, request: bytes = b"request", contexts: tuple[str, ...] = ()) -> NewCompletion:
    return NewCompletion(
        completion_id, request, None, "digest", "query", "model", {}, detached=False, contexts=contexts
    )


class Held(DirectoryBlobs):
    """Blobs that are deleted only once the test lets them."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.is_deleting = threading.Event()
        self.may_delete = threading.Event()

    def delete(self, digest: str) -> None:
        self.is_deleting.set()
        assert self.may_delete.wait(20)
        super().delete(digest)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    blobs = Held(tmp_path / "blobs")
    yield blobs
    blobs.may_delete.set()


async def uses_of(journal: Journal) -> list[str]:
    statement = sa.text("SELECT used_by FROM blob_uses")
    return list(await journal.read(lambda _, connection: connection.execute(statement).scalars().all()))


async def test_a_blob_whose_row_waits_for_its_commit_outlives_a_sweep(
    database: str, blobs: BlobStore, tmp_path: Path
) -> None:
    async with journal_on(database, blobs) as waiting, journal_on(database, blobs) as other:
        await waiting.create(new("c"))
        payload = await waiting.payloads.store(DATA)
        grow_old(tmp_path)  # as if the database had been away for an hour
        await other.payloads.sweep()
        await waiting.append(Append("c", 1, steps=[("m/0/1", payload)]))
        assert await other.payloads.load((await other.steps("c"))["m/0/1"]) == DATA
        assert await uses_of(other) == ["c"]


async def test_a_blob_stays_that_was_stored_once_more_just_before_its_only_user_is_deleted(
    database: str, blobs: BlobStore
) -> None:
    async with journal_on(database, blobs) as journal, journal_on(database, blobs) as other:
        await journal.create(new("old", request=DATA))
        await journal.create(new("new"))
        payload = await journal.payloads.store(DATA)
        await other.delete("old")
        await journal.append(Append("new", 1, events=[(1, 10, payload)]))
        assert await other.payloads.load(payload) == DATA
        await other.delete("new")
        with pytest.raises(BlobMissingError):
            await other.payloads.load(payload)


async def test_a_blob_that_is_just_being_deleted_is_stored_anew(database: str, held: Held) -> None:
    async with journal_on(database, held) as journal, journal_on(database, held) as other:
        await journal.create(new("old", request=DATA))
        await journal.create(new("new"))
        deleting = asyncio.create_task(other.delete("old"))
        await asyncio.to_thread(held.is_deleting.wait, 20)
        storing = asyncio.create_task(journal.payloads.store(DATA))
        assert not (await asyncio.wait({storing}, timeout=0.1))[0]
        held.may_delete.set()
        await deleting
        await journal.append(Append("new", 1, events=[(1, 10, await storing)]))
        assert await other.payloads.load(await storing) == DATA


async def test_a_context_whose_bytes_are_just_being_deleted_is_stored_anew(
    database: str, held: Held, tmp_path: Path
) -> None:
    async with journal_on(database, held) as journal, journal_on(database, held) as other:
        sizes = {"capacity_bytes": 10**6, "max_context_bytes": 10**6, "max_image_bytes": 10**6}
        contexts = ContextStore(journal, **sizes, directory=tmp_path)
        await contexts.open()
        await journal.create(new("old", request=DATA))
        deleting = asyncio.create_task(other.delete("old"))
        await asyncio.to_thread(held.is_deleting.wait, 20)
        async with contexts.begin(ContextKind.TEXT) as upload:
            await upload.write(DATA)
            asyncio.get_running_loop().call_later(0.1, held.may_delete.set)
            kept, _ = await upload.finish()
        await deleting
        grow_old(tmp_path)
        await other.payloads.sweep()
        assert kept.stored.path.read_bytes() == DATA
        assert await uses_of(other) == [f"context/{kept.context_id}"]


async def test_what_a_dead_server_had_announced_is_swept_after_a_day(
    database: str, blobs: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with journal_on(database, blobs) as journal:
        await journal.payloads.store(DATA)
        grow_old(tmp_path)
        assert await journal.payloads.sweep() == 0
        monkeypatch.setattr(payloads, "_ANNOUNCED_SECONDS", 0.0)
        assert await journal.payloads.sweep() == 1
        assert await uses_of(journal) == []
        with pytest.raises(BlobMissingError):
            await asyncio.to_thread(functools.partial(blobs.get, DIGEST))


async def test_a_completion_does_not_begin_whose_context_another_server_has_just_evicted(
    database: str, blobs: BlobStore
) -> None:
    async with journal_on(database, blobs) as journal:
        with pytest.raises(ContextGoneError):
            await journal.create(new("c", contexts=(DIGEST,)))
        assert await journal.get("c") is None
        assert await uses_of(journal) == []
