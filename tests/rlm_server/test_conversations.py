"""A completion can go on where an earlier one ended: with its variables, its contexts and its messages."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf import duration_pb2
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_api.rlm.v1 import limits_pb2

from tests.support.rlm_stack import Events, running_stack
from tests.support.scripted_model import ScriptedReply
from tests.support.statuses import assert_status, violated_fields

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.fake_sandbox import FakeSandbox
    from tests.support.rlm_stack import Stack
    from tests.support.scripted_model import Messages, ScriptedModel

WAIT_SECONDS = 20


def text(value: str, name: str = "") -> pb.ContextPart:
    return pb.ContextPart(name=name, text=value)


def seconds(value: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromNanoseconds(int(value * 1e9))
    return duration


async def begin(stack: Stack, *replies: Any, **fields: Any) -> str:
    """Runs the first completion of a conversation; returns the conversation's id."""
    events = await stack.complete(*replies, keep_conversation=True, **fields)
    conversation_id = events.all[0].started.conversation_id
    assert conversation_id
    return conversation_id


async def go_on(stack: Stack, conversation_id: str, *replies: Any, **fields: Any) -> Events:
    """Runs another completion of it, by default without a context of its own."""
    fields.setdefault("contexts", [])
    return await stack.complete(*replies, conversation_id=conversation_id, **fields)


async def listed(stack: Stack, **fields: Any) -> list[pb.Conversation]:
    return list((await stack.stub.ListConversations(pb.ListConversationsRequest(**fields))).conversations)


async def variables(stack: Stack, conversation_id: str) -> dict[str, pb.ReplVariable]:
    response = await stack.stub.ListVariables(pb.ListVariablesRequest(conversation_id=conversation_id))
    assert response.error == ""
    return {one.name: one for one in response.variables}


async def close(stack: Stack, conversation_id: str) -> None:
    await stack.stub.CloseConversation(pb.CloseConversationRequest(conversation_id=conversation_id))


def first_question(stack: Stack) -> str:
    """Returns the first message that the root's model got from the user in the latest call."""
    return stack.model.conversations[-1][1]["content"]


def never() -> ScriptedReply:
    return ScriptedReply("too late", release=asyncio.Event())


# --- what goes on


async def test_variables_imports_and_functions_are_there_in_the_next_completion(stack: Stack) -> None:
    kept = await begin(stack, "```repl\nimport math\nx = 4\ndef f(n): return math.isqrt(n) * x\nFINAL('kept')\n```")
    events = await go_on(stack, kept, "```repl\nFINAL(f(9))\n```")
    assert events.answer == "12"
    assert events.all[0].started.conversation_id == kept
    assert events.warnings == []


async def test_without_being_asked_for_nothing_is_kept(stack: Stack) -> None:
    events = await stack.complete("FINAL(x)")
    assert events.all[0].started.conversation_id == ""
    assert await listed(stack) == []


async def test_contexts_are_numbered_over_all_completions_as_in_the_reference(stack: Stack) -> None:
    kept = await begin(stack, "FINAL(x)", contexts=[text("zero")])
    assert first_question(stack).count("context_0") == 1
    await go_on(stack, kept, "FINAL(x)", contexts=[text("one"), text("two")])
    events = await go_on(stack, kept, "```repl\nFINAL([context, context_0, context_1, context_2])\n```")
    assert events.answer == '["zero", "zero", "one", "two"]'


async def test_context_stays_the_dict_of_the_first_completions_parts(stack: Stack) -> None:
    kept = await begin(stack, "FINAL(x)", contexts=[text("a", "left"), text("b", "right")])
    events = await go_on(stack, kept, "```repl\nFINAL([context, left, context_2])\n```", contexts=[text("c")])
    assert events.answer == '[{"left": "a", "right": "b"}, "a", "c"]'


async def test_the_messages_of_earlier_completions_are_lists_of_dicts(stack: Stack) -> None:
    kept = await begin(stack, "```repl\nprint('seen')\n```", "FINAL(first)", query="What first?")
    await go_on(stack, kept, "FINAL(second)", query="What second?")
    code = "print([m['role'] for m in history_0])\nFINAL([history == history_0, history_0[-1], history_1[-1]])"
    events = await go_on(stack, kept, f"```repl\n{code}\n```")
    assert events.output == "['user', 'assistant', 'user', 'assistant']\n"
    assert events.answer == (
        '[true, {"role": "assistant", "content": "FINAL(first)"}, {"role": "assistant", "content": "FINAL(second)"}]'
    )


@pytest.mark.parametrize("own", ["'mine'", "[]", "[{'role': 'user'}]"])
async def test_a_variable_history_of_the_codes_own_is_not_taken_from_it(local_stack: Stack, own: str) -> None:
    kept = await begin(local_stack, f"```repl\nhistory = {own}\nFINAL('x')\n```")
    check = f"```repl\nFINAL([history == {own}, len(history_0)])\n```"
    for _ in range(2):
        assert (await go_on(local_stack, kept, check)).answer == "[true, 2]"


async def test_a_variable_in_the_place_of_a_new_part_has_another_name_and_the_model_is_told(stack: Stack) -> None:
    kept = await begin(stack, "```repl\ncontext_1, notes, notes_old = 1, 2, 3\nFINAL('x')\n```")
    parts = [text("one"), text("two", "notes")]
    code = "```repl\nFINAL([context_1, context_1_old, notes, notes_old, notes_old_old])\n```"
    events = await go_on(stack, kept, code, contexts=parts)
    assert events.answer == '["one", 1, "two", 3, 2]'
    assert events.warnings == ["NAME_RESTORED", "NAME_RESTORED"]
    assert "- `context_1_old`: your variable `context_1`, whose name a new part has\n" in first_question(stack)
    assert (await go_on(stack, kept, "FINAL(x)")).warnings == []


async def test_the_model_is_told_what_was_asked_and_answered_before_and_what_is_there(stack: Stack) -> None:
    kept = await begin(stack, "FINAL(forty two)", query="What is it?", contexts=[text("abc")])
    await go_on(stack, kept, "FINAL(x)", query="And now?", contexts=[text("more")])
    told = first_question(stack)
    assert told.index("1. Question: What is it?") < told.index("forty two") < told.index("And now?")
    for line in (
        "- `context_1`: str",
        "- `context_0`: str, 3 characters (from before)",
        "`history_0` (also `history`, unless that is a variable of yours)",
    ):
        assert line in told
    assert "- `context`: the same value as `context_0`" in told
    assert "are there still" in told
    # The messages themselves begin anew.
    assert [one["role"] for one in stack.model.conversations[-1]] == ["system", "user"]


async def test_of_many_completions_the_model_is_told_the_latest(stack: Stack) -> None:
    kept = await begin(stack, "FINAL(answer 1)")
    for number in range(2, 14):
        await go_on(stack, kept, f"FINAL(answer {number})")
    told = first_question(stack)
    assert "(2 earlier turns left out here)" in told
    assert "3. Question" in told
    assert "answer 12" in told
    assert "`history_0` (also `history`, unless that is a variable of yours) to `history_11`" in told


async def test_an_answer_that_was_not_final_is_told_as_such(stack: Stack) -> None:
    kept = await begin(stack, "```repl\nanswer['content'] = 'draft'\n```", limits=limits_pb2.Limits(max_iterations=1))
    await go_on(stack, kept, "FINAL(x)")
    assert "Answer (no final one was given): draft" in first_question(stack)


async def test_the_answer_dict_begins_empty_in_each_completion(stack: Stack) -> None:
    kept = await begin(stack, "```repl\nanswer['content'] = 'old'\nanswer['ready'] = True\n```")
    events = await go_on(stack, kept, "```repl\nprint(answer)\n```", limits=limits_pb2.Limits(max_iterations=1))
    assert events.output == "{'content': '', 'ready': False}\n"
    assert (events.reason, events.finished.answer) == ("MAX_ITERATIONS", "")


async def test_a_later_part_is_put_back_when_code_rebinds_it(stack: Stack) -> None:
    kept = await begin(stack, "FINAL(x)")
    events = await go_on(
        stack, kept, "```repl\ncontext_1 = 5\n```", "```repl\nFINAL(context_1)\n```", contexts=[text("new")]
    )
    assert events.answer == "new"
    assert events.warnings == ["NAME_RESTORED"]


async def test_an_answer_about_what_was_seen_before_needs_no_new_look(stack: Stack) -> None:
    kept = await begin(stack, "```repl\nprint(context)\n```", "FINAL(x)")
    assert (await go_on(stack, kept, "FINAL(y)", look_required=True)).warnings == []
    assert (await go_on(stack, kept, "FINAL(y)", contexts=[text("new")])).warnings == ["ANSWER_WITHOUT_CODE"]


async def test_sub_calls_of_a_later_completion_are_its_own(stack: Stack) -> None:
    kept = await begin(stack, "```repl\na = llm_query('1')\n```", "one", "FINAL(x)")
    events = await go_on(stack, kept, "```repl\nFINAL(a + llm_query('2') + rlm_query('3'))\n```", "two", "FINAL(three)")
    assert events.answer == "onetwothree"
    assert [event.node_id for event in events.events_of("subcall_started")] == ["0.1", "0.2"]
    assert events.finished.usage.subcall_count == 2


async def test_a_large_context_can_come_later(stack: Stack) -> None:
    kept = await begin(stack, "FINAL(x)")
    upload = stack.stub.UploadContext()
    await upload.write(pb.UploadContextRequest(metadata=pb.ContextMetadata()))
    for _ in range(3):
        await upload.write(pb.UploadContextRequest(chunk=b"y" * 1_000_000))
    await upload.done_writing()
    context_id = (await upload).context_id
    events = await go_on(
        stack, kept, "```repl\nFINAL(len(context_1))\n```", contexts=[pb.ContextPart(context_id=context_id)]
    )
    assert events.answer == "3000000"


async def test_a_compaction_in_a_later_completion_writes_that_ones_history(stack: Stack) -> None:
    kept = await begin(stack, "FINAL(x)")

    turns = iter(range(100))

    def reply(messages: Messages) -> str:
        if "about to be shortened" in messages[-1]["content"]:
            return "SUMMARY"
        if "SUMMARY" in str(messages):
            return "```repl\nFINAL([len(history_0), len(history_1)])\n```"
        return f"```repl\nprint('output {next(turns)} ' * 400)\n```"

    events = Events(
        [
            response.event
            async for response in stack.start(
                reply, conversation_id=kept, contexts=[], compaction=pb.Compaction(context_window_tokens=6000)
            )
        ]
    )
    (compacted,) = events.of("compacted")
    assert compacted.history_variable == "history_1"
    assert events.answer.startswith("[2, ")


DOUBLE = pb.Tool(
    name="double",
    description="Doubles a number.",
    python_source="def double(number): return 2 * number",
)


async def test_the_tools_of_the_first_completion_are_those_of_the_later_ones(stack: Stack) -> None:
    kept = await begin(stack, "```repl\nFINAL(double(2))\n```", tools=[DOUBLE])
    for tools in ([], [DOUBLE]):
        events = await go_on(stack, kept, "```repl\nFINAL(double(4))\n```", tools=tools)
        assert events.answer == "8"
        assert "Doubles a number" in stack.model.conversations[-1][0]["content"]
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await go_on(stack, kept, "FINAL(x)", tools=[pb.Tool(name="other", python_source="def other(): pass")])
    assert_status(failure.value, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert violated_fields(failure.value) == ["tools"]


# --- looking at conversations, and closing them


async def test_conversations_are_listed_latest_first_page_by_page(stack: Stack) -> None:
    ids = [await begin(stack, "FINAL(x)", query=f"Question {number}") for number in range(3)]
    await go_on(stack, ids[0], "FINAL(y)")
    everything = await listed(stack)
    assert [one.conversation_id for one in everything] == ids[::-1]
    assert [len(one.completion_ids) for one in everything] == [1, 1, 2]
    assert everything[0].query_preview == "Question 2"
    assert everything[0].time_to_live.seconds == 900
    assert everything[0].expire_time.seconds - everything[0].create_time.seconds >= 899
    first = await stack.stub.ListConversations(pb.ListConversationsRequest(page_size=2))
    assert [one.conversation_id for one in first.conversations] == [ids[2], ids[1]]
    second = await stack.stub.ListConversations(
        pb.ListConversationsRequest(page_size=2, page_token=first.next_page_token)
    )
    assert [one.conversation_id for one in second.conversations] == [ids[0]]
    assert second.next_page_token == ""


async def test_variables_come_from_the_live_sandbox(stack: Stack) -> None:
    kept = await begin(stack, "```repl\nfound = ['a', 'b']\nimport json\nFINAL(1)\n```", contexts=[text("abc")])
    await go_on(stack, kept, "FINAL(x)")
    told = await variables(stack, kept)
    assert set(told) == {"context", "context_0", "found", "history", "history_0"}
    assert (told["found"].type, told["found"].size, told["found"].preview) == ("list", 2, "['a', 'b']")
    assert (told["context_0"].type, told["context_0"].size, told["context_0"].preview) == ("str", 3, "'abc'")


async def test_a_closed_conversation_is_gone(stack: Stack) -> None:
    kept = await begin(stack, "FINAL(x)")
    await close(stack, kept)
    assert await listed(stack) == []
    for attempt in (lambda: go_on(stack, kept, "FINAL(x)"), lambda: variables(stack, kept), lambda: close(stack, kept)):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await attempt()
        assert_status(failure.value, grpc.StatusCode.NOT_FOUND, "CONVERSATION_NOT_FOUND", conversation_id=kept)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"conversation_time_to_live": seconds(5)}, "conversation_time_to_live"),
        ({"keep_conversation": True, "conversation_time_to_live": seconds(0)}, "conversation_time_to_live"),
        ({"keep_conversation": True, "conversation_time_to_live": seconds(-1)}, "conversation_time_to_live"),
        ({"keep_conversation": True, "contexts": []}, "contexts"),
        ({"contexts": [text("x", "history")]}, "contexts[0].name"),
        ({"contexts": [text("x", "history_12")]}, "contexts[0].name"),
    ],
)
async def test_a_wrong_field_of_a_first_completion_is_named(
    local_stack: Stack, fields: dict[str, Any], path: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await local_stack.complete("FINAL(x)", **fields)
    assert_status(failure.value, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert violated_fields(failure.value) == [path]
    assert await listed(local_stack) == []


@pytest.mark.parametrize("name", ["context", "context_0", "mine"])
async def test_a_later_part_cannot_take_the_name_of_an_earlier_one(local_stack: Stack, name: str) -> None:
    kept = await begin(local_stack, "FINAL(x)", contexts=[text("a"), text("b", "mine")])
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await go_on(local_stack, kept, "FINAL(x)", contexts=[text("c", name)])
    assert_status(failure.value, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert violated_fields(failure.value) == ["contexts[0].name"]
    assert (await go_on(local_stack, kept, "FINAL(still there)")).answer == "still there"


@pytest.mark.parametrize(
    ("request_fields", "path"),
    [({"page_size": -1}, "page_size"), ({"page_size": 1001}, "page_size"), ({"page_token": "x"}, "page_token")],
)
async def test_a_wrong_field_of_a_listing_is_named(
    local_stack: Stack, request_fields: dict[str, Any], path: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await listed(local_stack, **request_fields)
    assert_status(failure.value, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert violated_fields(failure.value) == [path]


async def test_an_empty_id_is_a_wrong_field(local_stack: Stack) -> None:
    for attempt in (variables, close):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await attempt(local_stack, "")
        assert_status(failure.value, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        assert violated_fields(failure.value) == ["conversation_id"]


# --- one at a time, cancelling, time running out


async def until_the_model_waits(stack: Stack, script: Any, **fields: Any) -> tuple[Any, asyncio.Task[Events]]:
    """Begins a completion and returns it, and the task that reads it, when its model is waited for."""
    call = stack.start(script, **fields)

    async def read() -> Events:
        return Events([response.event async for response in call])

    reading = asyncio.create_task(read())
    await asyncio.wait_for(stack.model.until_waiting(), WAIT_SECONDS)
    return call, reading


async def cancelled_in_a_subcall(stack: Stack, conversation_id: str, code: str) -> None:
    def reply(messages: Messages) -> Any:
        return never() if messages[0]["role"] == "user" else f"```repl\n{code}\nllm_query('x')\n```"

    call, reading = await until_the_model_waits(stack, reply, conversation_id=conversation_id, contexts=[])
    call.cancel()
    await asyncio.wait({reading})
    with contextlib.suppress(asyncio.CancelledError):
        reading.result()


async def test_a_second_completion_at_the_same_time_is_refused(stack: Stack) -> None:
    kept = await begin(stack, "FINAL(x)")
    call, reading = await until_the_model_waits(stack, lambda _: never(), conversation_id=kept, contexts=[])
    (conversation,) = await listed(stack)
    assert conversation.running_completion_id == conversation.completion_ids[-1]
    assert not conversation.HasField("expire_time")
    for attempt in (go_on(stack, kept, "FINAL(x)"), variables(stack, kept)):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await attempt
        assert_status(
            failure.value,
            grpc.StatusCode.FAILED_PRECONDITION,
            "CONVERSATION_BUSY",
            conversation_id=kept,
            completion_id=conversation.running_completion_id,
        )
    call.cancel()
    await asyncio.wait({reading})


async def test_the_same_request_finds_the_completion_that_it_began_before(stack: Stack) -> None:
    kept = await begin(stack, "FINAL(x)")
    release = asyncio.Event()
    fields = {"conversation_id": kept, "contexts": [], "query": "And?", "request_id": "once"}
    _, reading = await until_the_model_waits(stack, lambda _: ScriptedReply("FINAL(y)", release=release), **fields)
    again = stack.stub.Complete(pb.CompleteRequest(**fields))
    first = (await again.read()).event
    release.set()
    events = await asyncio.wait_for(reading, WAIT_SECONDS)
    assert first.completion_id == events.all[0].completion_id
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await go_on(stack, kept, "FINAL(z)", query="Other", request_id="once")
    assert_status(failure.value, grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    assert len((await listed(stack))[0].completion_ids) == 2


async def test_a_first_completion_that_was_parked_goes_on_in_its_conversation(stack: Stack) -> None:
    unreachable = ScriptedReply(status=503)
    events = await stack.complete("```repl\nx = 5\n```", unreachable, keep_conversation=True)
    assert events.kinds()[-1] == "parked"
    conversation_id = events.all[0].started.conversation_id
    stack.model.follow(["```repl\nFINAL(x)\n```"])
    await stack.stub.ResumeCompletion(pb.ResumeCompletionRequest(completion_id=events.all[0].completion_id))
    watched = stack.stub.WatchCompletion(pb.WatchCompletionRequest(completion_id=events.all[0].completion_id))
    async with asyncio.timeout(WAIT_SECONDS):
        rest = Events([response.event async for response in watched])
        while rest.kinds()[-1] == "parked":
            watched = stack.stub.WatchCompletion(pb.WatchCompletionRequest(completion_id=rest.all[0].completion_id))
            rest = Events([response.event async for response in watched])
    assert rest.answer == "5"
    assert (await go_on(stack, conversation_id, "```repl\nFINAL(x + 1)\n```")).answer == "6"


async def test_a_cancelled_completion_leaves_the_conversation_as_it_was_before_the_block(stack: Stack) -> None:
    kept = await begin(stack, "```repl\nx = [1]\nFINAL(1)\n```")
    await cancelled_in_a_subcall(stack, kept, "x.append(2)\ny = 1")
    events = await until_it_is_free(stack, kept, "```repl\nFINAL([context, 'x' in globals(), 'y' in globals()])\n```")
    is_lost = "VARIABLES_LOST" in events.warnings  # the local executor cannot undo a block
    assert events.answer == ('["abc", false, false]' if is_lost else '["abc", true, false]')
    if not is_lost:
        assert (await go_on(stack, kept, "```repl\nFINAL(x)\n```")).answer == "[1]"


async def until_it_is_free(stack: Stack, conversation_id: str, *replies: Any) -> Events:
    """Goes on with a conversation whose completion was cancelled a moment ago."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                return await go_on(stack, conversation_id, *replies)


async def test_a_real_sandbox_keeps_its_variables_over_a_cancel(sandbox_address: str, model: ScriptedModel) -> None:
    async with running_stack(model, sandbox=sandbox_address) as stack:
        kept = await begin(stack, "```repl\nx = [1]\nFINAL(1)\n```")
        await cancelled_in_a_subcall(stack, kept, "x.append(2)")
        events = await until_it_is_free(stack, kept, "```repl\nFINAL(x)\n```")
        assert (events.answer, events.warnings) == ("[1]", [])


async def test_when_the_time_is_up_the_event_says_what_became_of_the_variables(stack: Stack) -> None:
    kept = await begin(stack, "```repl\nx = 1\nFINAL(1)\n```")
    events = await go_on(
        stack, kept, "```repl\nwhile True: pass\n```", limits=limits_pb2.Limits(wall_time=seconds(0.5))
    )
    assert events.reason == "WALL_TIME"
    is_lost = events.of("code_finished")[0].variables_lost
    after = await go_on(stack, kept, "```repl\nFINAL('x' in globals())\n```")
    assert after.answer == str(not is_lost)
    assert ("VARIABLES_LOST" in after.warnings) == is_lost


async def test_a_conversation_outlives_a_first_completion_that_was_cancelled(stack: Stack) -> None:
    call, reading = await until_the_model_waits(stack, lambda _: never(), keep_conversation=True)
    (conversation,) = await listed(stack)
    call.cancel()
    await asyncio.wait({reading})
    events = await until_it_is_free(stack, conversation.conversation_id, "```repl\nFINAL(context)\n```")
    assert events.answer == "abc"


async def test_closing_cancels_the_completion_that_runs_in_it_and_that_says_why(stack: Stack) -> None:
    kept = await begin(stack, "FINAL(x)")
    _, reading = await until_the_model_waits(stack, lambda _: never(), conversation_id=kept, contexts=[])
    await close(stack, kept)
    events = await asyncio.wait_for(reading, WAIT_SECONDS)
    assert (events.reason, events.finished.error) == ("CANCELLED", "its conversation was closed")
    assert await listed(stack) == []


# --- sandboxes: freed on time, lost, refused


@pytest.fixture
async def watched(model: ScriptedModel, sandbox: FakeSandbox) -> AsyncIterator[Stack]:
    """A server whose sandbox can be watched."""
    async with running_stack(model, sandbox=sandbox.address, max_conversations=2) as stack:
        yield stack


async def test_when_its_time_is_up_the_sandbox_is_freed_at_once(watched: Stack, sandbox: FakeSandbox) -> None:
    kept = await begin(watched, "FINAL(x)", conversation_time_to_live=seconds(0.2))
    assert sandbox.open_sessions == 1
    await asyncio.wait_for(sandbox.all_closed.wait(), WAIT_SECONDS)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await go_on(watched, kept, "FINAL(x)")
    assert_status(failure.value, grpc.StatusCode.NOT_FOUND, "CONVERSATION_NOT_FOUND")


async def test_the_time_begins_anew_with_each_use_and_not_while_one_lasts(watched: Stack, sandbox: FakeSandbox) -> None:
    kept = await begin(watched, "FINAL(x)", conversation_time_to_live=seconds(0.3))
    release = asyncio.Event()
    asyncio.get_running_loop().call_later(0.6, release.set)
    events = await go_on(watched, kept, ScriptedReply("FINAL(late)", release=release))
    assert events.answer == "late"
    assert sandbox.open_sessions == 1
    assert (await go_on(watched, kept, "FINAL(x)", conversation_time_to_live=seconds(100))).answer == "x"
    (conversation,) = await listed(watched)
    assert conversation.time_to_live.seconds == 100


async def test_the_time_to_live_is_capped(sandbox: FakeSandbox, model: ScriptedModel) -> None:
    async with running_stack(model, sandbox=sandbox.address, max_conversation_ttl_seconds=60.0) as stack:
        await begin(stack, "FINAL(x)", conversation_time_to_live=seconds(1e6))
        await begin(stack, "FINAL(x)")
        assert [one.time_to_live.seconds for one in await listed(stack)] == [60, 60]


async def test_closing_frees_the_sandbox(watched: Stack, sandbox: FakeSandbox) -> None:
    await close(watched, await begin(watched, "FINAL(x)"))
    await asyncio.wait_for(sandbox.all_closed.wait(), WAIT_SECONDS)


async def test_their_number_is_bounded(watched: Stack) -> None:
    kept = [await begin(watched, "FINAL(x)") for _ in range(2)]
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await begin(watched, "FINAL(x)")
    assert_status(failure.value, grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CONVERSATIONS", limit="2")
    assert (await watched.complete("FINAL(others are served)")).answer == "others are served"
    await close(watched, kept[0])
    await begin(watched, "FINAL(x)")


async def test_a_lost_sandbox_is_told_and_the_conversation_goes_on_in_another_like_it(
    watched: Stack, sandbox: FakeSandbox
) -> None:
    kept = await begin(watched, "```repl\nx = llm_query('1')\n```", "one", "FINAL(done)", contexts=[text("abc")])
    sandbox.break_on_code = "# break here"
    replies = ("```repl\ny = x + context_1\n```", "```repl\n# break here\n```")
    events = await go_on(watched, kept, *replies, contexts=[text("def")])
    assert events.reason == "SANDBOX_ERROR"
    asked = len(watched.model.conversations)
    code = "FINAL([context, context_1, history[0]['role'], history_1[-1]['role'], x, y])"
    events = await go_on(watched, kept, f"```repl\n{code}\n```")
    assert events.answer == '["abc", "def", "user", "assistant", "one", "onedef"]'
    assert events.warnings == []
    (restored,) = events.of("sandbox_restored")
    assert (restored.cause, restored.replayed_cell_count) == ("UNAVAILABLE: the worker died", 2)
    assert events.kinds()[:2] == ["started", "sandbox_restored"]
    assert len(watched.model.conversations) == asked + 1
    assert not (await listed(watched))[0].variables_lost
    assert not (await go_on(watched, kept, "FINAL(x)")).of("sandbox_restored")


async def test_a_sandbox_that_is_lost_within_a_later_completion_is_made_of_all_before(
    watched: Stack, sandbox: FakeSandbox
) -> None:
    kept = await begin(watched, "```repl\nx = [llm_query('1')]\n```", "one", "FINAL(done)")
    await go_on(watched, kept, "```repl\nx.append(2)\n```", "FINAL(done)")
    first = "```repl\nx.append(3)\n```"
    sandbox.cut_on_code, sandbox.cuts_left = "# break once", 1
    events = await go_on(watched, kept, first, "```repl\n# break once\nFINAL(x)\n```")
    assert events.answer == '["one", 2, 3]'
    (restored,) = events.of("sandbox_restored")
    assert (restored.cause, restored.replayed_cell_count) == ("UNAVAILABLE: the connection broke", 3)
    assert not (await go_on(watched, kept, "```repl\nFINAL(x)\n```")).of("sandbox_restored")


async def test_variables_of_a_lost_sandbox_are_there_in_another(watched: Stack, sandbox: FakeSandbox) -> None:
    kept = await begin(watched, "```repl\nx = 1\nFINAL(1)\n```")
    sandbox.break_on_code = "# break here"
    await go_on(watched, kept, "```repl\n# break here\n```")
    assert set(await variables(watched, kept)) == {"context", "context_0", "history", "history_0", "x"}
    (restored,) = (await go_on(watched, kept, "FINAL(x)")).of("sandbox_restored")
    assert restored.replayed_cell_count == 1


async def test_a_variable_that_made_room_is_there_in_another_sandbox(watched: Stack, sandbox: FakeSandbox) -> None:
    kept = await begin(watched, "```repl\ncontext_1 = 1\nFINAL(1)\n```")
    await go_on(watched, kept, "```repl\nFINAL(context_1)\n```", contexts=[text("one")])
    sandbox.cut_on_code, sandbox.cuts_left = "# break once", 1
    events = await go_on(watched, kept, "```repl\n# break once\nFINAL([context_1, context_1_old])\n```")
    assert (events.answer, events.warnings) == ('["one", 1]', [])


async def test_a_block_that_does_something_else_the_second_time_is_told(watched: Stack, sandbox: FakeSandbox) -> None:
    kept = await begin(watched, "```repl\nimport time\nprint(time.time_ns())\nFINAL(1)\n```")
    sandbox.cut_on_code, sandbox.cuts_left = "# break once", 1
    events = await go_on(watched, kept, "```repl\n# break once\nFINAL(time.time_ns() > 0)\n```")
    assert events.answer == "True"
    assert events.warnings == ["REPLAY_DIVERGED"]
    assert f"block 1 of completion {kept} did not do the same once more" in events.of("warning")[0].message


async def test_messages_that_were_summed_up_are_there_in_another_sandbox(watched: Stack, sandbox: FakeSandbox) -> None:
    turns = iter(range(100))

    def reply(messages: Messages) -> str:
        if "about to be shortened" in messages[-1]["content"]:
            return "SUMMARY"
        if "SUMMARY" in str(messages):
            return "```repl\nkept = len(history)\nFINAL(kept)\n```"
        return f"```repl\nprint('output {next(turns)} ' * 400)\n```"

    events = await watched.play(reply, keep_conversation=True, compaction=pb.Compaction(context_window_tokens=6000))
    kept = events.all[0].started.conversation_id
    sandbox.cut_on_code, sandbox.cuts_left = "# break once", 1
    after = await go_on(watched, kept, "```repl\n# break once\nFINAL([kept, len(history) > kept])\n```")
    assert after.answer == f"[{events.answer}, true]"


async def test_what_a_reset_cost_is_not_there_in_another_sandbox(watched: Stack, sandbox: FakeSandbox) -> None:
    kept = await begin(watched, "```repl\nx = 1\nFINAL(1)\n```")
    limits = limits_pb2.Limits(cell=limits_pb2.CellLimits(wall_time=seconds(0.2)))
    events = await go_on(
        watched, kept, "```repl\nwhile True: pass\n```", "```repl\ny = 2\nFINAL(y)\n```", limits=limits
    )
    assert events.of("code_finished")[0].variables_lost
    sandbox.cut_on_code, sandbox.cuts_left = "# break once", 1
    code = "FINAL(['x' in globals(), y, context, len(history_1) > 2])"
    after = await go_on(watched, kept, f"```repl\n# break once\n{code}\n```")
    assert after.answer == '[false, 2, "abc", true]'


async def test_without_another_sandbox_it_is_unavailable_and_stays(watched: Stack, sandbox: FakeSandbox) -> None:
    kept = await begin(watched, "FINAL(x)")
    sandbox.break_on_code = "# break here"
    await go_on(watched, kept, "```repl\n# break here\n```")
    sandbox.refuse_open = grpc.StatusCode.RESOURCE_EXHAUSTED
    for attempt in (go_on(watched, kept, "FINAL(x)"), variables(watched, kept)):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await attempt
        assert_status(failure.value, grpc.StatusCode.UNAVAILABLE, "SANDBOX_UNAVAILABLE")
    sandbox.refuse_open = None
    assert (await go_on(watched, kept, "FINAL(back)")).answer == "back"
    (conversation,) = await listed(watched)
    assert len(conversation.completion_ids) == 3


async def test_a_first_completion_that_gets_no_sandbox_leaves_no_conversation(
    watched: Stack, sandbox: FakeSandbox
) -> None:
    sandbox.refuse_open = grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(grpc.aio.AioRpcError):
        await begin(watched, "FINAL(x)")
    assert await listed(watched) == []


async def test_draining_frees_what_is_idle_at_once_and_the_rest_when_it_has_ended(
    watched: Stack, sandbox: FakeSandbox
) -> None:
    idle = await begin(watched, "FINAL(x)")
    busy = await begin(watched, "FINAL(x)")
    release = asyncio.Event()
    _, reading = await until_the_model_waits(
        watched, lambda _: ScriptedReply("FINAL(done)", release=release), conversation_id=busy, contexts=[]
    )
    stopping = asyncio.create_task(watched.server.stop(WAIT_SECONDS))
    await asyncio.wait_for(sandbox.session_closed.wait(), WAIT_SECONDS)
    assert (idle != busy, sandbox.open_sessions) == (True, 1)
    release.set()
    assert (await asyncio.wait_for(reading, WAIT_SECONDS)).answer == "done"
    await asyncio.wait_for(stopping, WAIT_SECONDS)
    await asyncio.wait_for(sandbox.all_closed.wait(), WAIT_SECONDS)


async def test_a_later_part_that_code_changes_in_place_is_told(stack: Stack) -> None:
    kept = await begin(stack, "```repl\ncontext\n```", "FINAL(x)")
    events = await go_on(
        stack, kept, "```repl\ncontext_1.append(5)\n```", "FINAL(x)", contexts=[pb.ContextPart(json="[1]")]
    )
    assert [one.message for one in events.of("warning")] == ["code has changed context_1 in place, which stays so"]
