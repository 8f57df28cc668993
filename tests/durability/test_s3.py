"""Blobs in an object store with S3's protocol: what is put, what is missing, wrong keys, and a store that goes away."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import TYPE_CHECKING

import grpc
import pytest
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_server.journal import blobs as blobs_module
from rlm_server.journal.blobs import BlobMissingError, ObjectBlobs
from rlm_server.journal.database import sqlite_url
from rlm_server.journal.opening import JournalOpenError

from tests.durability.proxy import Proxy
from tests.durability.s3 import S3Server, running_s3
from tests.durability.test_completions import rest, watch
from tests.support.rlm_stack import Events, running_stack
from tests.support.scripted_model import ScriptedReply
from tests.support.statuses import assert_status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.scripted_model import ScriptedModel

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

DATA = b"some bytes " * 1_000_000
DIGEST = hashlib.sha256(DATA).hexdigest()
LARGE = 'import random\nprint("".join(random.choices("abcdefgh", k=200_000)))'


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with running_s3() as server:
        for name, value in server.variables.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def blobs(s3: S3Server, tmp_path: Path) -> ObjectBlobs:
    return ObjectBlobs(s3.url, tmp_path / "cache")


def test_bytes_and_files_come_back_under_their_digest_on_any_machine(
    blobs: ObjectBlobs, s3: S3Server, tmp_path: Path
) -> None:
    blobs.check()
    for _ in range(2):
        blobs.put(hashlib.sha256(b"small").hexdigest(), b"small")
    file = tmp_path / "file"
    file.write_bytes(DATA)
    blobs.put_file(DIGEST, file)
    assert not file.exists()
    elsewhere = ObjectBlobs(s3.url, tmp_path / "cache elsewhere")
    assert elsewhere.get(hashlib.sha256(b"small").hexdigest()) == b"small"
    assert elsewhere.local_path(DIGEST).read_bytes() == elsewhere.get(DIGEST) == DATA


def test_what_is_missing_is_told_and_only_what_is_old_is_swept(
    blobs: ObjectBlobs, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for read in (blobs.get, blobs.local_path):
        with pytest.raises(BlobMissingError):
            read(DIGEST)
    blobs.delete(DIGEST)
    blobs.put(DIGEST, DATA)
    assert not list(blobs.digests())
    elsewhere = ObjectBlobs(s3.url, tmp_path / "cache elsewhere")
    elsewhere.local_path(DIGEST)
    monkeypatch.setattr(blobs_module, "_YOUNG_SECONDS", -5.0)
    assert list(blobs.digests()) == [DIGEST]
    blobs.delete(DIGEST)
    with pytest.raises(BlobMissingError):
        blobs.get(DIGEST)
    assert elsewhere.local_path(DIGEST).exists()  # its own copy, until it sweeps
    assert not list(elsewhere.digests())
    with pytest.raises(BlobMissingError):
        elsewhere.local_path(DIGEST)


@pytest.mark.parametrize("wrong", ["key", "bucket"])
async def test_a_server_does_not_start_with_a_store_that_it_cannot_use(
    model: ScriptedModel, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    url = s3.url
    if wrong == "key":
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    else:
        url = "s3://another/prefix"
    with pytest.raises(OSError, match=r"40[34]"):
        ObjectBlobs(url, tmp_path / "cache").check()
    with pytest.raises(JournalOpenError, match=r"the blob store s3://.* cannot be used"):
        async with running_stack(model, data_dir=tmp_path, blob_store=url):
            pass


async def test_a_store_that_is_away_is_told_of_in_time(blobs: ObjectBlobs, s3: S3Server) -> None:
    s3.kill()
    begin = time.monotonic()
    for use in (lambda: blobs.put(DIGEST, b"x"), lambda: blobs.get(DIGEST), lambda: blobs.delete(DIGEST), blobs.check):
        with pytest.raises(OSError, match="S3"):
            await asyncio.to_thread(use)
    assert time.monotonic() - begin < 60


async def test_what_runs_waits_for_the_store_and_what_is_new_is_refused(
    model: ScriptedModel, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Proxy(f"127.0.0.1:{s3.port}") as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        async with running_stack(model, data_dir=tmp_path, blob_store=s3.url) as stack:
            release = asyncio.Event()
            call = stack.start([ScriptedReply(f"```repl\n{LARGE}\n```", release=release), "FINAL(kept)"])
            events = [(await call.read()).event]
            await stack.model.until_waiting()
            proxy.is_down = True
            proxy.cut()
            release.set()
            large = pb.CompleteRequest(query="new", contexts=[pb.ContextPart(text="x" * 200_000)])
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await stack.stub.Complete(large).read()
            assert_status(failure.value, grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
            assert len(stack.model.requests) == 1  # the block with its large output is not recorded yet
            proxy.is_down = False
            events += await asyncio.wait_for(rest(call), 60)
            assert Events(events).answer == "kept"
            assert [event.sequence for event in events] == list(range(1, len(events) + 1))


async def test_completions_and_contexts_are_kept_in_the_store(
    model: ScriptedModel, s3: S3Server, tmp_path: Path
) -> None:
    text = "a long text " * 200_000
    chunks = [text.encode()[start : start + 500_000] for start in range(0, len(text), 500_000)]
    database = sqlite_url(tmp_path / "journal.db")
    async with running_stack(model, data_dir=tmp_path / "one", database=database, blob_store=s3.url) as stack:
        metadata = pb.UploadContextRequest(metadata=pb.ContextMetadata())
        requests = [metadata, *(pb.UploadContextRequest(chunk=chunk) for chunk in chunks)]
        part = pb.ContextPart(context_id=(await stack.stub.UploadContext(iter(requests))).context_id)
        script = [f"```repl\n{LARGE}\n```", ScriptedReply("late", release=asyncio.Event())]
        call = stack.start(script, contexts=[part], detached=True)
        completion_id = (await call.read()).event.completion_id
        await stack.model.until_waiting()
    # Another server, as on another machine: what it has is in the database and the store.
    stack.model.follow(["```repl\nFINAL(len(context))\n```"])
    settings = {"data_dir": tmp_path / "two", "database": database, "blob_store": s3.url, "lease_seconds": 0.4}
    async with running_stack(model, **settings) as stack:
        events = await asyncio.wait_for(watch(stack, completion_id), 60)
    assert events.answer == str(len(text))
    assert [event.sequence for event in events.all] == list(range(1, len(events.all) + 1))
