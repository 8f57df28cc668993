"""Completions outlive the calls that began them: watch, get, list, cancel, resume, delete, request ids."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_api.rlm.v1 import event_pb2

from tests.support.rlm_stack import Events, Stack, running_stack
from tests.support.scripted_model import ScriptedReply
from tests.support.statuses import assert_status, violated_fields

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.scripted_model import ScriptedModel

TWO_TURNS = ("```repl\nprint(llm_query('x'))\n```", "sub", "FINAL(done)")
WAIT_SECONDS = 10


@pytest.fixture
async def stack(model: ScriptedModel) -> AsyncIterator[Stack]:
    async with running_stack(model, client_grace_seconds=0.2) as running:
        yield running


async def watch(stack: Stack, completion_id: str, after: int = 0) -> Events:
    request = pb.WatchCompletionRequest(completion_id=completion_id, after_sequence=after)
    return Events([response.event async for response in stack.stub.WatchCompletion(request)])


async def get(stack: Stack, completion_id: str) -> pb.Completion:
    response = await stack.stub.GetCompletion(pb.GetCompletionRequest(completion_id=completion_id))
    return response.completion


async def until_ended(stack: Stack, completion_id: str) -> pb.Completion:
    async with asyncio.timeout(WAIT_SECONDS):
        while (completion := await get(stack, completion_id)).state == pb.COMPLETION_STATE_RUNNING:  # noqa: ASYNC110
            await asyncio.sleep(0.02)  # watching it would keep it
    return completion


async def rest(call: Any) -> list[event_pb2.Event]:
    """Returns the events that a call has still to give."""
    events = []
    while (response := await call.read()) is not grpc.aio.EOF:
        events.append(response.event)
    return events


def never() -> ScriptedReply:
    return ScriptedReply("too late", release=asyncio.Event())


async def test_a_completion_that_is_done_is_watched_from_any_event_on(stack: Stack) -> None:
    events = await stack.complete(*TWO_TURNS)
    completion_id = events.all[0].completion_id
    for after in (0, 1, 7, len(events.all)):
        assert (await watch(stack, completion_id, after)).all == events.all[after:]


async def test_watchers_of_a_running_completion_see_the_same_events_wherever_they_begin(stack: Stack) -> None:
    release = asyncio.Event()
    call = stack.start([TWO_TURNS[0], ScriptedReply("sub", release=release), TWO_TURNS[2]])
    first = (await call.read()).event
    await stack.model.until_waiting()
    watchers = [asyncio.create_task(watch(stack, first.completion_id, after)) for after in (0, 1, 3)]
    await asyncio.sleep(0)
    release.set()
    events = [first, *await rest(call)]
    for after, watcher in zip((0, 1, 3), watchers, strict=True):
        assert (await watcher).all == events[after:]


async def test_a_completion_is_described_while_it_runs_and_when_it_is_done(stack: Stack) -> None:
    release = asyncio.Event()
    call = stack.start([TWO_TURNS[0], ScriptedReply("sub", release=release), TWO_TURNS[2]], labels={"team": "a"})
    completion_id = (await call.read()).event.completion_id
    while (await call.read()).event.WhichOneof("kind") != "subcall_started":
        pass  # what was told is committed, which the model's having been asked does not say of the events before
    running = await get(stack, completion_id)
    assert (running.state, running.query, running.model) == (pb.COMPLETION_STATE_RUNNING, "What is it?", "root-model")
    assert dict(running.labels) == {"team": "a"}
    assert [(node.node_id, node.HasField("finished")) for node in running.nodes] == [("0", False), ("0.1", False)]
    assert running.usage.total.call_count == 1
    assert not running.HasField("end_time")
    release.set()
    events = await rest(call)
    done = await get(stack, completion_id)
    assert (done.state, done.finished) == (pb.COMPLETION_STATE_SUCCEEDED, events[-1].finished)
    assert done.last_sequence == events[-1].sequence
    assert done.usage == events[-1].finished.usage
    assert done.end_time.ToNanoseconds() >= done.create_time.ToNanoseconds()
    assert done.nodes[1].parent_node_id == "0"
    assert done.nodes[1].finished.answer_preview == "sub"


async def test_completions_are_listed_in_pages_latest_first(stack: Stack) -> None:
    ids = [(await stack.complete("FINAL(x)")).all[0].completion_id for _ in range(5)]
    listed, token = [], ""
    while True:
        page = await stack.stub.ListCompletions(pb.ListCompletionsRequest(page_size=2, page_token=token))
        listed += [completion.completion_id for completion in page.completions]
        token = page.next_page_token
        if not token:
            break
    assert listed == ids[::-1]


async def test_completions_are_listed_by_state_and_labels(stack: Stack) -> None:
    await stack.complete("FINAL(x)", labels={"team": "a", "kind": "k"})
    await stack.complete("FINAL(x)", labels={"team": "b"})
    await stack.complete(ScriptedReply(status=400), labels={"team": "a"})

    async def listed(**fields: Any) -> int:
        return len((await stack.stub.ListCompletions(pb.ListCompletionsRequest(**fields))).completions)

    assert await listed(labels={"team": "a"}) == 2
    assert await listed(labels={"team": "a", "kind": "k"}) == 1
    assert await listed(states=[pb.COMPLETION_STATE_FAILED]) == 1
    assert await listed(states=[pb.COMPLETION_STATE_FAILED, pb.COMPLETION_STATE_SUCCEEDED]) == 3
    assert await listed(states=[pb.COMPLETION_STATE_FAILED], labels={"team": "b"}) == 0


async def test_cancelling_ends_a_completion_in_order_and_may_be_repeated(stack: Stack) -> None:
    call = stack.start([TWO_TURNS[0], never()])
    completion_id = (await call.read()).event.completion_id
    await stack.model.until_waiting()
    request = pb.CancelCompletionRequest(completion_id=completion_id)
    cancelled = (await stack.stub.CancelCompletion(request)).completion
    assert cancelled.state == pb.COMPLETION_STATE_CANCELLED
    assert stack.model.waiting_count == 0
    events = Events(await rest(call))
    assert events.reason == "CANCELLED"
    assert [one.finish_reason for one in events.of("subcall_finished")] == [event_pb2.FINISH_REASON_CANCELLED]
    assert events.outcomes == ["CANCELLED"]
    assert (await stack.stub.CancelCompletion(request)).completion == cancelled


async def test_a_completion_whose_client_stays_away_is_cancelled_after_the_grace_time(stack: Stack) -> None:
    call = stack.start([never()])
    completion_id = (await call.read()).event.completion_id
    call.cancel()
    assert (await until_ended(stack, completion_id)).state == pb.COMPLETION_STATE_CANCELLED


async def test_a_client_that_comes_back_in_time_keeps_its_completion(model: ScriptedModel) -> None:
    async with running_stack(model, client_grace_seconds=0.5) as stack:
        release = asyncio.Event()
        call = stack.start([ScriptedReply("FINAL(kept)", release=release)])
        first = (await call.read()).event
        call.cancel()
        watching = asyncio.create_task(watch(stack, first.completion_id, first.sequence))
        await asyncio.sleep(0.7)
        release.set()
        assert (await watching).answer == "kept"


async def test_a_detached_completion_goes_on_without_its_client(stack: Stack) -> None:
    release = asyncio.Event()
    call = stack.start([ScriptedReply("FINAL(kept)", release=release)], detached=True)
    completion_id = (await call.read()).event.completion_id
    call.cancel()
    await asyncio.sleep(0.5)
    release.set()
    assert (await until_ended(stack, completion_id)).finished.answer == "kept"


async def test_the_deadline_of_the_call_cancels_at_once(model: ScriptedModel) -> None:
    async with running_stack(model, client_grace_seconds=60) as stack:
        model.follow([never()])
        request = pb.CompleteRequest(query="q", contexts=[pb.ContextPart(text="t")])
        call = stack.stub.Complete(request, timeout=0.3)
        completion_id = (await call.read()).event.completion_id
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await rest(call)
        assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert (await until_ended(stack, completion_id)).state == pb.COMPLETION_STATE_CANCELLED


async def test_the_same_request_id_gives_the_same_completion(stack: Stack) -> None:
    first = await stack.complete("FINAL(one)", request_id="r-1")
    again = await stack.complete("FINAL(two)", request_id="r-1")
    assert again.all == first.all
    assert len(stack.model.requests) == 1


async def test_two_calls_with_the_same_request_id_at_once_share_a_completion(stack: Stack) -> None:
    calls = [stack.start(["FINAL(one)"], request_id="r-1") for _ in range(4)]
    results = [[response.event async for response in call] for call in calls]
    assert all(result == results[0] for result in results)
    assert len(stack.model.requests) == 1


async def test_a_request_id_of_another_request_is_refused(stack: Stack) -> None:
    first = await stack.complete("FINAL(one)", request_id="r-1")
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stack.complete("FINAL(two)", request_id="r-1", query="Another?")
    completion_id = first.all[0].completion_id
    assert_status(failure.value, grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED", completion_id=completion_id)


async def test_a_completion_that_runs_cannot_be_deleted_and_one_that_ended_is_gone_for_good(stack: Stack) -> None:
    call = stack.start([never()])
    completion_id = (await call.read()).event.completion_id
    request = pb.DeleteCompletionRequest(completion_id=completion_id)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stack.stub.DeleteCompletion(request)
    assert_status(failure.value, grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE", state="RUNNING")
    await stack.stub.CancelCompletion(pb.CancelCompletionRequest(completion_id=completion_id))
    await stack.stub.DeleteCompletion(request)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await get(stack, completion_id)
    assert_status(failure.value, grpc.StatusCode.NOT_FOUND, "COMPLETION_NOT_FOUND", completion_id=completion_id)


@pytest.mark.parametrize("rpc", ["Watch", "Get", "Cancel", "Resume", "Delete"])
async def test_a_completion_that_is_not_there_is_not_found(stack: Stack, rpc: str) -> None:
    request = getattr(pb, f"{rpc}CompletionRequest")(completion_id="nobody")
    call = getattr(stack.stub, f"{rpc}Completion")(request)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await (call.read() if rpc == "Watch" else call)
    assert_status(failure.value, grpc.StatusCode.NOT_FOUND, "COMPLETION_NOT_FOUND", completion_id="nobody")


@pytest.mark.parametrize("rpc", ["Watch", "Get", "Cancel", "Resume", "Delete"])
async def test_an_empty_completion_id_is_named(stack: Stack, rpc: str) -> None:
    call = getattr(stack.stub, f"{rpc}Completion")(getattr(pb, f"{rpc}CompletionRequest")())
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await (call.read() if rpc == "Watch" else call)
    assert violated_fields(failure.value) == ["completion_id"]


async def test_watching_from_beyond_the_last_event_is_out_of_range(stack: Stack) -> None:
    events = await stack.complete("FINAL(x)")
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await watch(stack, events.all[0].completion_id, len(events.all) + 1)
    assert_status(
        failure.value,
        grpc.StatusCode.OUT_OF_RANGE,
        "SEQUENCE_OUT_OF_RANGE",
        last_sequence=str(len(events.all)),
    )
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await watch(stack, events.all[0].completion_id, -1)
    assert violated_fields(failure.value) == ["after_sequence"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"page_size": -1}, "page_size"),
        ({"page_size": 1001}, "page_size"),
        ({"page_token": "x"}, "page_token"),
        ({"states": [99]}, "states[0]"),
        ({"states": [pb.COMPLETION_STATE_UNSPECIFIED]}, "states[0]"),
        ({"labels": {str(n): "" for n in range(21)}}, "labels"),
    ],
)
async def test_wrong_fields_of_a_listing_are_named(stack: Stack, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stack.stub.ListCompletions(pb.ListCompletionsRequest(**fields))
    assert violated_fields(failure.value) == [field]


async def test_a_request_id_that_is_too_long_is_named(stack: Stack) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stack.complete("FINAL(x)", request_id="x" * 101)
    assert violated_fields(failure.value) == ["request_id"]


async def test_a_completion_whose_model_goes_away_parks_and_goes_on_when_it_is_resumed(stack: Stack) -> None:
    events = await stack.complete("```repl\nx = 6 * 7\nprint(x)\n```", ScriptedReply(status=503))
    parked = events.all[-1].parked
    completion_id = events.all[0].completion_id
    assert "scripted failure" in parked.reason
    described = await get(stack, completion_id)
    assert (described.state, described.parked_reason) == (pb.COMPLETION_STATE_PARKED, parked.reason)
    stack.model.follow(["```repl\nFINAL(x)\n```"])
    resumed = await stack.stub.ResumeCompletion(pb.ResumeCompletionRequest(completion_id=completion_id))
    assert resumed.completion.state == pb.COMPLETION_STATE_RUNNING
    more = await watch(stack, completion_id, events.all[-1].sequence)
    assert more.kinds()[0] == "resumed"
    assert more.answer == "42"
    assert [event.sequence for event in [*events.all, *more.all]] == list(range(1, len(events.all + more.all) + 1))
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stack.stub.ResumeCompletion(pb.ResumeCompletionRequest(completion_id=completion_id))
    assert_status(failure.value, grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE", state="SUCCEEDED")


async def test_a_parked_completion_can_be_cancelled(stack: Stack) -> None:
    events = await stack.complete("```repl\nx = 1\n```", ScriptedReply(status=503))
    completion_id = events.all[0].completion_id
    response = await stack.stub.CancelCompletion(pb.CancelCompletionRequest(completion_id=completion_id))
    assert response.completion.state == pb.COMPLETION_STATE_CANCELLED
    last = await watch(stack, completion_id, events.all[-1].sequence)
    assert last.kinds() == ["finished"]
    assert last.finished.usage.total.call_count == 1


async def test_a_model_that_cannot_be_reached_from_the_start_ends_the_completion(stack: Stack) -> None:
    events = await stack.complete(ScriptedReply(status=503))
    assert events.reason == "MODEL_ERROR"
