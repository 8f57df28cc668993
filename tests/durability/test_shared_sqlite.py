"""Servers that share an SQLite journal, one of which is frozen in the middle of a write, as by SIGSTOP."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING

import grpc
import pytest
from rlm_api.rlm.v1 import completion_service_pb2 as pb

from tests.durability.test_completions import get, rest, watch
from tests.durability.test_recovery import Script
from tests.support.rlm_stack import Events, running_stack
from tests.support.statuses import assert_status

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.scripted_model import ScriptedModel

LEASE_SECONDS = 1.0


async def test_what_runs_pauses_until_the_frozen_server_goes_on_and_what_is_new_is_refused(
    model: ScriptedModel, tmp_path: Path
) -> None:
    settings = {"data_dir": tmp_path, "lease_seconds": LEASE_SECONDS, "storage_patience_seconds": 0.5}
    async with running_stack(model, **settings), running_stack(model, **settings) as stack:
        done = await stack.complete("FINAL(before)")
        script = Script(hold="root 1")
        call = stack.start(script, detached=True)
        events = [(await call.read()).event]
        await script.reached.wait()
        frozen = sqlite3.connect(tmp_path / "journal.db", isolation_level=None)
        frozen.execute("BEGIN IMMEDIATE")
        script.let_go("root 2")
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stack.stub.Complete(pb.CompleteRequest(query="new", contexts=[pb.ContextPart(text="t")])).read()
        assert_status(failure.value, grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
        await asyncio.sleep(2 * LEASE_SECONDS)
        assert not script.reached.is_set()  # the reply is not recorded, so nothing is done with it
        assert (await watch(stack, done.all[0].completion_id)).all == done.all  # what is kept can be read
        assert (await get(stack, events[0].completion_id)).state == pb.COMPLETION_STATE_RUNNING
        frozen.execute("ROLLBACK")
        frozen.close()
        await asyncio.wait_for(script.reached.wait(), 20)
        script.let_go("")
        events += await asyncio.wait_for(rest(call), 20)
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert not Events(events).of("resumed")  # nobody took it for abandoned
        assert set(script.asked.values()) == {1}
        listed = (await stack.stub.ListCompletions(pb.ListCompletionsRequest())).completions
        assert len(listed) == 2  # what was refused has not begun
