"""Without any sandbox server a completion waits, visibly, from its first moment on."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from google.protobuf.duration_pb2 import Duration
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_api.rlm.v1 import event_pb2, limits_pb2
from rlm_server.journal import lasting_sandbox

from tests.durability.test_completions import get, rest, watch
from tests.sandbox_server.conftest import running_server
from tests.support.rlm_stack import Events, Stack, running_stack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import grpc

    from tests.support.scripted_model import ScriptedModel

CODE = "```repl\nFINAL(len(context))\n```"


@pytest.fixture
def address() -> Iterator[str]:
    """Where no sandbox server is yet."""
    with tempfile.TemporaryDirectory(prefix="rlm-") as path:
        yield f"unix:{Path(path) / 'sandbox.sock'}"


@contextlib.asynccontextmanager
async def waiting(
    model: ScriptedModel, address: str, patience_seconds: float = 60.0, **fields: object
) -> AsyncIterator[tuple[Stack, list[event_pb2.Event], grpc.aio.UnaryStreamCall[object, pb.CompleteResponse]]]:
    """Begins a completion and reads on until it says that it waits for a sandbox."""
    async with running_stack(model, sandbox=address, sandbox_patience_seconds=patience_seconds) as stack:
        call = stack.start([CODE], **fields)
        events: list[event_pb2.Event] = []
        async with asyncio.timeout(30):
            while not Events(events).warnings:
                events.append((await call.read()).event)
        yield stack, events, call


async def test_a_completion_begins_when_a_sandbox_server_is_there_at_last(model: ScriptedModel, address: str) -> None:
    async with waiting(model, address) as (_, events, call):
        assert Events(events).kinds() == ["started", "warning"]
        assert Events(events).warnings == ["SANDBOX_AWAITED"]
        assert f"no sandbox can be had from {address}" in events[-1].warning.message
        assert model.requests == []
        async with running_server(workers=1, listen=(address,)):
            events.extend(await asyncio.wait_for(rest(call), 60))
    assert Events(events).answer == "3"
    assert Events(events).kinds().count("started") == 1
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))


async def test_a_completion_that_waits_for_a_sandbox_can_be_cancelled(model: ScriptedModel, address: str) -> None:
    async with waiting(model, address) as (stack, events, call):
        await stack.stub.CancelCompletion(pb.CancelCompletionRequest(completion_id=events[0].completion_id))
        assert Events(await asyncio.wait_for(rest(call), 10)).reason == "CANCELLED"


async def test_the_wall_time_of_a_completion_runs_while_it_waits_for_a_sandbox(
    model: ScriptedModel, address: str
) -> None:
    limits = limits_pb2.Limits(wall_time=Duration(seconds=3))
    async with waiting(model, address, limits=limits) as (_, _, call):
        assert Events(await asyncio.wait_for(rest(call), 10)).reason == "WALL_TIME"


async def test_a_completion_that_has_waited_long_enough_is_parked_and_can_be_resumed(
    model: ScriptedModel, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lasting_sandbox, "_UNTOLD_SECONDS", 0.0)
    async with waiting(model, address, patience_seconds=0.2, detached=True) as (stack, events, call):
        events.extend(await asyncio.wait_for(rest(call), 10))
        assert events[-1].parked.reason.startswith(f"no sandbox can be had from {address}")
        completion_id = events[0].completion_id
        assert (await get(stack, completion_id)).state == pb.COMPLETION_STATE_PARKED
        async with running_server(workers=1, listen=(address,)):
            while events[-1].HasField("parked"):  # as it is again until the connection is tried the next time
                await stack.stub.ResumeCompletion(pb.ResumeCompletionRequest(completion_id=completion_id))
                events.extend((await asyncio.wait_for(watch(stack, completion_id, events[-1].sequence), 60)).all)
        assert Events(events).answer == "3"
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
