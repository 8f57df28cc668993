"""A disk that is really full: what runs waits and goes on when there is room, what is new is refused."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from typing import TYPE_CHECKING

import grpc
import pytest
from rlm_api.rlm.v1 import completion_service_pb2 as pb

from tests.durability.test_completions import get, rest, watch
from tests.support.rlm_stack import Events, running_stack
from tests.support.scripted_model import ScriptedReply
from tests.support.statuses import assert_status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.scripted_model import ScriptedModel

DISK = "size=8m"
LARGE = 'import random\nprint("".join(random.choices("abcdefgh", k=200_000)))'


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", DISK, "tmpfs", str(path)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"no file system can be mounted: {error}")
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted: {mounted.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(path: Path) -> None:
    """Writes a file until there is no room for a single byte more."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    assert os.statvfs(path).f_bavail == 0


async def test_a_full_disk_is_waited_for_and_nothing_is_lost(model: ScriptedModel, disk: Path) -> None:
    async with running_stack(model, data_dir=disk / "data", client_grace_seconds=20) as stack:
        done = await stack.complete("FINAL(before)")
        release = asyncio.Event()
        call = stack.start([ScriptedReply(f"```repl\n{LARGE}\n```", release=release), "FINAL(kept)"])
        events = [(await call.read()).event]
        await model.until_waiting()
        requests = len(model.requests)
        fill(disk / "ballast")
        release.set()
        large = pb.CompleteRequest(query="new", contexts=[pb.ContextPart(text="x" * 200_000)])
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stack.stub.Complete(large).read()
        assert_status(failure.value, grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
        assert "disk is full" in str(failure.value.details())
        await asyncio.sleep(0.3)
        assert len(model.requests) == requests  # the output is not recorded, so nothing is asked of it
        assert (await watch(stack, done.all[0].completion_id)).all == done.all  # what is kept can be read
        (disk / "ballast").unlink()
        events += await asyncio.wait_for(rest(call), 30)
        assert Events(events).answer == "kept"
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert (await watch(stack, events[0].completion_id)).all == events
        assert (await get(stack, events[0].completion_id)).state == pb.COMPLETION_STATE_SUCCEEDED
        assert not list((disk / "data" / "blobs").glob("new-*/new-*"))  # nothing is left of what could not be written
