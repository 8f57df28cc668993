"""A server does not start with a blob store that is not its journal's."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_server.journal.blobs import BlobStore, DirectoryBlobs
from rlm_server.journal.database import sqlite_url
from rlm_server.journal.opening import JournalOpenError
from rlm_server.journal.pairing import StoreMismatchError

from tests.durability.test_blob_uses import DATA, journal_on, new
from tests.durability.test_blobs import grow_old
from tests.support.rlm_stack import running_stack

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.scripted_model import ScriptedModel


def test_a_mark_is_written_once_and_is_no_blob(blobs: BlobStore, tmp_path: Path) -> None:
    assert blobs.mark() is None
    blobs.set_mark("one")
    blobs.set_mark("two")
    assert blobs.mark() == "one"
    grow_old(tmp_path)
    assert not list(blobs.digests())


async def test_servers_that_begin_at_once_agree_on_the_mark(database: str, blobs: BlobStore) -> None:
    async with journal_on(database, blobs) as one, journal_on(database, blobs) as other:
        await asyncio.gather(one.create(new("a", request=DATA)), other.create(new("b", request=DATA)))
    async with journal_on(database, blobs) as again:
        assert await again.request_of("a") == DATA


async def test_another_journals_store_is_refused_and_so_is_an_empty_one_in_place_of_its_own(
    database: str, blobs: BlobStore, tmp_path: Path
) -> None:
    async with journal_on(database, blobs) as journal:
        await journal.create(new("c", request=DATA))
    with pytest.raises(StoreMismatchError, match="that of another journal"):
        async with journal_on(sqlite_url(tmp_path / "another.db"), blobs):
            pass
    with pytest.raises(StoreMismatchError, match="nothing of what the journal keeps"):
        async with journal_on(database, DirectoryBlobs(tmp_path / "empty")):
            pass


async def test_an_empty_store_is_taken_by_a_journal_that_keeps_nothing_in_one(
    database: str, blobs: BlobStore, tmp_path: Path
) -> None:
    async with journal_on(database, DirectoryBlobs(tmp_path / "before")):
        pass
    async with journal_on(database, blobs) as journal:
        await journal.create(new("c", request=DATA))


async def test_a_server_says_what_to_do_about_it(model: ScriptedModel, tmp_path: Path) -> None:
    database = sqlite_url(tmp_path / "journal.db")
    async with running_stack(model, data_dir=tmp_path / "one", database=database) as stack:
        await stack.complete("FINAL(x)", contexts=[pb.ContextPart(text="x" * 100_000)])
    with pytest.raises(JournalOpenError, match="give them the same blob_store, or a data_dir on a disk"):
        async with running_stack(model, data_dir=tmp_path / "two", database=database):
            pass
