"""A database that is slow, or says nothing any more: what runs waits and goes on, what is new is refused in time."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import grpc
import pytest
import pytest_asyncio
from rlm_api.rlm.v1 import completion_service_pb2 as pb

from tests.durability.proxy import Proxy
from tests.durability.test_completions import get, rest
from tests.durability.test_crashes import STEPS, check
from tests.durability.test_recovery import Script
from tests.support.rlm_stack import Events, Stack, running_stack
from tests.support.scripted_model import ScriptedReply
from tests.support.statuses import assert_status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.durability.postgres import PostgresServer
    from tests.support.scripted_model import ScriptedModel

pytestmark = pytest.mark.timeout(120)

PATIENCE_SECONDS = 1.0
LEASE_SECONDS = 3.0


@pytest_asyncio.fixture
async def network(postgres: PostgresServer) -> AsyncIterator[Proxy]:
    """Between the server and its database."""
    async with Proxy(f"127.0.0.1:{postgres.port}") as proxy:
        yield proxy


@pytest_asyncio.fixture
async def stack(model: ScriptedModel, network: Proxy, postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Stack]:
    database = await asyncio.to_thread(postgres.new_database)
    url = database.replace(f":{postgres.port}/", f":{network.port}/")
    async with running_stack(
        model, database=url, data_dir=tmp_path, storage_patience_seconds=PATIENCE_SECONDS, client_grace_seconds=20
    ) as running:
        yield running


async def test_completions_run_on_a_slow_database(stack: Stack, network: Proxy) -> None:
    network.delay_seconds = 0.01
    script = Script()
    events = await stack.play(script)
    check(events, script)


async def test_what_runs_waits_for_a_database_that_says_nothing_and_goes_on(stack: Stack, network: Proxy) -> None:
    script = Script(hold=STEPS[0])
    call = stack.start(script)
    events = [(await call.read()).event]
    for index, _ in enumerate(STEPS):
        await asyncio.wait_for(script.reached.wait(), 30)
        network.stall()
        following = STEPS[index + 1] if index + 1 < len(STEPS) else ""
        script.let_go(following)
        await asyncio.sleep(0.1)
        assert not script.reached.is_set()  # nothing is acted on before it is committed
        network.flow()
    events += await rest(call)
    check(Events(events), script)


async def test_what_is_new_is_refused_in_time_by_a_database_that_says_nothing(stack: Stack, network: Proxy) -> None:
    release = asyncio.Event()
    call = stack.start([ScriptedReply("FINAL(kept)", release=release)])
    first = (await call.read()).event
    await stack.model.until_waiting()
    network.stall()
    requests = len(stack.model.requests)
    refused = [
        stack.stub.Complete(pb.CompleteRequest(query="new", contexts=[pb.ContextPart(text="t")])),
        stack.stub.WatchCompletion(pb.WatchCompletionRequest(completion_id=first.completion_id)),
    ]
    unary = [
        stack.stub.GetCompletion(pb.GetCompletionRequest(completion_id=first.completion_id)),
        stack.stub.ListCompletions(pb.ListCompletionsRequest()),
    ]
    begin = time.monotonic()
    for one in [*(asyncio.ensure_future(stream.read()) for stream in refused), *unary]:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await one
        assert_status(failure.value, grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
        assert "does not answer" in str(failure.value.details())
    assert time.monotonic() - begin < 10 * PATIENCE_SECONDS
    release.set()
    network.flow()
    assert (await rest(call))[-1].finished.answer == "kept"
    # What was refused is not begun behind its caller's back.
    listed = (await stack.stub.ListCompletions(pb.ListCompletionsRequest())).completions
    assert [one.completion_id for one in listed] == [first.completion_id]
    assert len(stack.model.requests) == requests
    assert (await get(stack, first.completion_id)).state == pb.COMPLETION_STATE_SUCCEEDED


@pytest.mark.parametrize("breaks", [True, False])
async def test_owners_keep_their_completions_when_the_database_comes_back(
    model: ScriptedModel, network: Proxy, postgres: PostgresServer, tmp_path: Path, *, breaks: bool
) -> None:
    database = await asyncio.to_thread(postgres.new_database)
    async with Proxy(f"127.0.0.1:{postgres.port}") as other_network:
        networks = (other_network, network)
        urls = [database.replace(f":{postgres.port}/", f":{one.port}/") for one in networks]
        settings = {"data_dir": tmp_path, "lease_seconds": LEASE_SECONDS}
        async with (
            running_stack(model, database=urls[0], **settings),
            running_stack(model, database=urls[1], **settings) as owner,
        ):
            release = asyncio.Event()
            call = owner.start([ScriptedReply("FINAL(kept)", release=release)], detached=True)
            events = [(await call.read()).event]
            await model.until_waiting()
            for one in networks:
                one.is_down = breaks
                if breaks:
                    one.cut()
                else:
                    one.stall()
            await asyncio.sleep(LEASE_SECONDS + 1)
            for one in networks:  # that of the owner comes back last
                one.is_down = False
                one.flow()
                await asyncio.sleep(0.3)
            release.set()
            events += await rest(call)
            assert Events(events).answer == "kept"
            assert not Events(events).of("resumed")
            assert len(model.requests) == 1  # the call that was under way is not made by the other server, too


async def test_many_calls_that_wait_for_the_database_do_not_hold_up_the_rest(stack: Stack, network: Proxy) -> None:
    await stack.complete("FINAL(x)")
    network.stall()
    waiting = [
        asyncio.ensure_future(_outcome(stack.stub.ListCompletions(pb.ListCompletionsRequest()))) for _ in range(40)
    ]
    begin = time.monotonic()
    await stack.stub.ListModels(pb.ListModelsRequest())
    assert time.monotonic() - begin < PATIENCE_SECONDS
    assert set(await asyncio.gather(*waiting)) == {grpc.StatusCode.UNAVAILABLE}
    network.flow()
    assert (await stack.complete("FINAL(y)")).answer == "y"


async def test_a_server_stops_though_its_database_says_nothing(
    model: ScriptedModel, network: Proxy, postgres: PostgresServer, tmp_path: Path
) -> None:
    database = await asyncio.to_thread(postgres.new_database)
    url = database.replace(f":{postgres.port}/", f":{network.port}/")
    async with running_stack(
        model, database=url, data_dir=tmp_path, storage_patience_seconds=PATIENCE_SECONDS
    ) as stack:
        call = stack.start([ScriptedReply("late", release=asyncio.Event())], detached=True)
        await call.read()
        network.stall()
        begin = time.monotonic()
    assert time.monotonic() - begin < 20 * PATIENCE_SECONDS


async def _outcome(call: object) -> grpc.StatusCode:
    try:
        await call  # type: ignore[misc]
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK
