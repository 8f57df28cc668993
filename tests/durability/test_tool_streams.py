"""Tools that the client serves: what becomes of their calls when the stream breaks, or the server dies."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import TYPE_CHECKING, Any, Self

import grpc
import pytest
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_client import AsyncClient, Client, Tool

from tests.durability.cluster import Cluster
from tests.durability.load import Reader
from tests.durability.proxy import Proxy
from tests.durability.test_completions import get, until_ended
from tests.durability.test_crashes import directory
from tests.support.rlm_stack import Events, Stack, running_stack
from tests.support.scripted_model import ScriptedReply
from tests.support.statuses import assert_status, violated_fields

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.durability.postgres import PostgresServer
    from tests.support.scripted_model import ScriptedModel

__all__ = ["directory"]

pytestmark = pytest.mark.timeout(120)

LOOK_UP = pb.Tool(name="look_up", client_served=True)
TURNS = ["```repl\nfound = [look_up(of='a'), look_up(of='b')]\nprint(found)\n```", "```repl\nFINAL(found)\n```"]


@pytest.fixture
async def stack(model: ScriptedModel) -> AsyncIterator[Stack]:
    async with running_stack(model, client_grace_seconds=20) as running:
        yield running


class ToolClient:
    """A client that serves tools by hand.

    Args:
        stack: what it is a client of.
        first: what its stream begins with.
    """

    def __init__(self, stack: Stack, **first: Any) -> None:
        self.events: list[Any] = []
        self._call = stack.stub.CompleteWithTools()
        self._first = pb.CompleteWithToolsRequest(**first)

    async def __aenter__(self) -> Self:
        await self._call.write(self._first)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._call.cancel()

    async def until(self, kind: str) -> Any:
        """Reads until an event of a kind has come, and returns it."""
        async with asyncio.timeout(20):
            while (response := await self._call.read()) is not grpc.aio.EOF:
                self.events.append(response.event)
                if response.event.HasField(kind):
                    return getattr(response.event, kind)
        raise AssertionError(f"the stream ended without {kind}")

    async def answer(self, call_id: str, value: object) -> None:
        result = pb.ToolResult(call_id=call_id, value_json=json.dumps(value))
        await self._call.write(pb.CompleteWithToolsRequest(tool_result=result))

    @property
    def last_sequence(self) -> int:
        return int(self.events[-1].sequence)

    @property
    def completion_id(self) -> str:
        return str(self.events[0].completion_id)


def start(**fields: Any) -> dict[str, Any]:
    context = pb.ContextPart(text="abc")
    return {"start": pb.CompleteRequest(query="What is it?", contexts=[context], tools=[LOOK_UP], **fields)}


def resume(client: ToolClient) -> dict[str, Any]:
    return {"resume": pb.ResumeTools(completion_id=client.completion_id, after_sequence=client.last_sequence)}


async def test_a_call_that_was_open_when_the_stream_broke_is_answered_on_the_next(stack: Stack) -> None:
    stack.model.follow(TURNS)
    async with ToolClient(stack, **start()) as first:
        call = await first.until("tool_call")
    async with ToolClient(stack, **resume(first)) as second:
        await second.answer(call.call_id, "A")
        following = await second.until("tool_call")
        assert json.loads(following.arguments_json) == {"of": "b"}
        await second.answer(following.call_id, "B")
        finished = await second.until("finished")
    assert finished.answer == '["A", "B"]'
    events = [*first.events, *second.events]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))


async def test_a_result_that_is_sent_once_more_counts_once(stack: Stack) -> None:
    stack.model.follow(TURNS)
    async with ToolClient(stack, **start()) as first:
        call = await first.until("tool_call")
        await first.answer(call.call_id, "A")
        following = await first.until("tool_call")
    async with ToolClient(stack, **resume(first)) as second:
        await second.answer(call.call_id, "another A")
        await second.answer(following.call_id, "B")
        await second.answer(following.call_id, "another B")
        assert (await second.until("finished")).answer == '["A", "B"]'


async def test_the_same_request_may_take_the_place_of_a_resumption(stack: Stack) -> None:
    stack.model.follow(TURNS)
    async with ToolClient(stack, **start(request_id="r")) as first:
        call = await first.until("tool_call")
    async with ToolClient(stack, **start(request_id="r")) as second:
        assert (await second.until("tool_call")).call_id == call.call_id
        await second.answer(call.call_id, "A")
        await second.answer((await second.until("tool_call")).call_id, "B")
        assert (await second.until("finished")).answer == '["A", "B"]'


async def test_a_client_that_stays_away_has_its_completion_cancelled(model: ScriptedModel) -> None:
    async with running_stack(model, client_grace_seconds=0.2) as stack:
        stack.model.follow(TURNS)
        async with ToolClient(stack, **start()) as first:
            await first.until("tool_call")
        assert (await until_ended(stack, first.completion_id)).state == pb.COMPLETION_STATE_CANCELLED


async def test_a_detached_completion_does_not_wait_for_the_tools_of_a_client_that_stays_away(
    model: ScriptedModel,
) -> None:
    """Neither for the call that is open nor for those to come, each of which could take its whole time-out."""
    patient = pb.Tool(name="look_up", client_served=True, timeout={"seconds": 3000})
    code = "def asked(of):\n    try: return look_up(of=of)\n    except ToolError as e: return str(e)"
    turns = [f"```repl\n{code}\nFINAL([asked('a'), asked('b')])\n```"]
    async with running_stack(model, client_grace_seconds=0.3) as stack:
        stack.model.follow(turns)
        request = start(detached=True)
        request["start"].tools[0].CopyFrom(patient)
        async with ToolClient(stack, **request) as first:
            await first.until("tool_call")
        ended = await until_ended(stack, first.completion_id)
    gone = "the client that serves tools has gone away"
    assert json.loads(ended.finished.answer) == [gone, gone]


async def test_a_client_that_comes_back_after_its_grace_time_serves_the_calls_to_come(model: ScriptedModel) -> None:
    code = "try: look_up(of='a')\nexcept ToolError as e: print(e)\nx = llm_query('q')\nFINAL(look_up(of=x))"
    release = asyncio.Event()
    turns = [f"```repl\n{code}\n```", ScriptedReply("b", release=release)]
    async with running_stack(model, client_grace_seconds=0.1) as stack:
        stack.model.follow(turns)
        async with ToolClient(stack, **start(detached=True)) as first:
            await first.until("tool_call")
        await stack.model.until_waiting()
        async with ToolClient(stack, **resume(first)) as second:
            await second.until("tool_call_finished")
            release.set()
            await second.answer((await second.until("tool_call")).call_id, "B")
            assert (await second.until("finished")).answer == "B"


async def test_a_result_for_a_call_that_there_was_not_is_refused_on_any_stream(stack: Stack) -> None:
    stack.model.follow(TURNS)
    async with ToolClient(stack, **start()) as first:
        await first.until("tool_call")
    async with ToolClient(stack, **resume(first)) as second:
        await second.answer("no-such-call", 1)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await second.until("parked")
        assert_status(failure.value, grpc.StatusCode.FAILED_PRECONDITION, "TOOL_CALL_NOT_OPEN", call_id="no-such-call")
    assert (await get(stack, first.completion_id)).state == pb.COMPLETION_STATE_CANCELLED


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.ResumeTools(), "resume.completion_id"),
        (pb.ResumeTools(completion_id="known", after_sequence=-1), "resume.after_sequence"),
    ],
)
async def test_a_wrong_resumption_is_a_bad_request(stack: Stack, request_: pb.ResumeTools, field: str) -> None:
    if request_.completion_id:
        request_.completion_id = (await stack.complete("FINAL(x)")).all[0].completion_id
    async with ToolClient(stack, resume=request_) as client:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await client.until("parked")
    assert violated_fields(failure.value) == [field]


async def test_a_resumption_of_what_is_not_there_is_not_found(stack: Stack) -> None:
    async with ToolClient(stack, resume=pb.ResumeTools(completion_id="nobody")) as client:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await client.until("parked")
    assert_status(failure.value, grpc.StatusCode.NOT_FOUND, "COMPLETION_NOT_FOUND", completion_id="nobody")


@pytest.mark.parametrize("kind", ["asyncio", "threads"])
async def test_the_clients_run_each_tool_once_however_often_their_streams_break(stack: Stack, kind: str) -> None:
    stack.model.follow(TURNS)
    called: list[str] = []
    runs, release = threading.Event(), threading.Event()

    def look_up(of: str) -> str:
        called.append(of)
        runs.set()
        release.wait(20)
        return of.upper()

    async with Proxy(stack.server.addresses[0]) as proxy:
        target = f"127.0.0.1:{proxy.port}"
        using: asyncio.Task[str] = asyncio.create_task(
            _complete(target, look_up) if kind == "asyncio" else asyncio.to_thread(_complete_in_thread, target, look_up)
        )
        await asyncio.to_thread(runs.wait, 20)
        proxy.cut()  # while the tool runs
        await asyncio.sleep(0.3)
        proxy.cut()  # again, when the stream has perhaps been continued
        release.set()
        assert await asyncio.wait_for(using, 30) == '["A", "B"]'
    assert called == ["a", "b"]


async def _complete(target: str, tool: Any) -> str:
    async with AsyncClient(target) as client:
        return (await client.completion("text", "What is it?", tools=[Tool.served(tool)])).answer


def _complete_in_thread(target: str, tool: Any) -> str:
    with Client(target) as client:
        return client.completion("text", "What is it?", tools=[tool]).answer


async def test_a_call_that_is_open_when_its_server_is_killed_is_answered_by_whoever_serves_it(
    directory: Path, model: ScriptedModel, postgres: PostgresServer
) -> None:
    database = await asyncio.to_thread(postgres.new_database)
    async with Cluster(directory, model, database=database) as cluster:
        model.follow(lambda messages: TURNS[sum(message["role"] == "assistant" for message in messages)])
        called: list[str] = []
        runs, release = asyncio.Event(), asyncio.Event()

        async def look_up(of: str) -> str:
            called.append(of)
            runs.set()
            await release.wait()
            return of.upper()

        # Each client has its stream with one of the servers, in turn: half of them not with the one that runs it.
        readers = [
            Reader(await cluster.client.stream("abc", "What is it?", tools=[look_up]))  # type: ignore[arg-type]
            for _ in range(4)
        ]
        async with asyncio.timeout(30):
            while len(called) < 4:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.02)
        for victim in cluster.servers:
            await victim.kill()
            await victim.start()
        release.set()
        for reader in readers:
            events: Events = await reader.end()
            assert events.answer == '["A", "B"]'
            assert [event.sequence for event in events.all] == list(range(1, len(events.all) + 1))
            calls = [call.call_id for call in events.of("tool_call")]
            assert calls == [call.call_id for call in events.of("tool_call_finished")]
            assert len(calls) == len(set(calls)) == 2
            assert events.of("resumed")
        assert sorted(called) == ["a"] * 4 + ["b"] * 4
        await cluster.assert_nothing_left()
