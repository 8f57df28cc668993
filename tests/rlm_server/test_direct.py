"""Direct answers: one plain call where the context fits, the loop where that will not do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_api.rlm.v1 import limits_pb2
from rlm_client import AsyncClient
from rlm_server.demo_model.server import running_demo_model
from rlm_server.engine.direct import CANNOT_ANSWER
from rlm_server.models.profile import ModelProfile
from rlm_server.server import create_server
from rlm_server.settings import Settings

from tests.support.pictures import png
from tests.support.rlm_stack import Events, running_stack
from tests.support.scripted_model import ScriptedReply

if TYPE_CHECKING:
    from tests.support.rlm_stack import Stack
    from tests.support.scripted_model import ScriptedModel

CODE = "```repl\nFINAL(len(context))\n```"


async def ask(stack: Stack, *replies: Any, **fields: Any) -> Events:
    return await stack.complete(*replies, direct_answer_allowed=True, **fields)


def was_direct(events: Events) -> bool:
    return bool(events.of("answered_directly"))


async def test_a_context_that_fits_is_answered_by_one_plain_call(local_stack: Stack) -> None:
    events = await ask(local_stack, "Forty-two.", query="How many?")
    assert events.answer == "Forty-two."
    kinds = [kind for kind in events.kinds() if kind != "model_text_delta"]
    assert kinds == ["started", "model_reply_finished", "usage_updated", "answered_directly", "finished"]
    assert "".join(delta.text for delta in events.of("model_text_delta")) == "Forty-two."
    assert events.of("answered_directly")[0].context_tokens == 1
    usage = events.finished.usage
    assert (usage.total.call_count, usage.iterations, events.finished.iterations) == (1, 0, 0)


async def test_the_model_is_given_question_and_context_in_one_message(local_stack: Stack) -> None:
    parts = [
        pb.ContextPart(name="notes", text="one\ntwo", description="of May"),
        pb.ContextPart(name="orders", json='[{"a": 1}]'),
    ]
    await ask(local_stack, "x", query="How many?", contexts=parts)
    (message,) = local_stack.model.conversations[0]
    assert message["role"] == "user"
    assert message["content"].endswith(
        "Question:\nHow many?\n\nContext:\n"
        "=== notes: str, 7 characters in 2 lines: of May\none\ntwo\n=== end of notes\n\n"
        '=== orders: list, 1 dict, 10 characters as JSON\n[{"a": 1}]\n=== end of orders'
    )


async def test_without_leave_the_loop_answers(local_stack: Stack) -> None:
    events = await local_stack.complete(CODE)
    assert not was_direct(events)
    assert events.answer == "3"


@pytest.mark.parametrize(
    ("settings", "model_name", "direct"),
    [
        ({}, "root-model", True),
        ({"max_direct_answer_tokens": 300}, "root-model", False),
        ({"max_direct_answer_tokens": 334}, "root-model", True),
        ({"models": {"narrow": ModelProfile(window_tokens=600)}}, "narrow", False),
        ({"models": {"narrow": ModelProfile(window_tokens=700)}}, "narrow", True),
    ],
)
async def test_what_fits_depends_on_the_limit_and_the_models_window(
    model: ScriptedModel, settings: dict[str, Any], model_name: str, direct: bool
) -> None:
    async with running_stack(model, **settings) as stack:
        events = await ask(stack, "x" if direct else CODE, contexts=[pb.ContextPart(text="x" * 1000)], model=model_name)
    assert was_direct(events) is direct
    assert not events.warnings


async def test_a_large_upload_is_read_from_its_file(local_stack: Stack) -> None:
    requests = [pb.UploadContextRequest(metadata=pb.ContextMetadata()), pb.UploadContextRequest(chunk=b"x" * 40_000)]
    response = await local_stack.stub.UploadContext(iter(requests))
    events = await ask(local_stack, "x", contexts=[pb.ContextPart(context_id=response.context_id)])
    assert was_direct(events)
    assert "x" * 40_000 in local_stack.model.conversations[0][0]["content"]


async def test_pictures_are_shown_to_a_model_that_takes_them(model: ScriptedModel) -> None:
    parts = [pb.ContextPart(image=pb.Image(data=png(), media_type="image/png"))]
    async with running_stack(model, models={"blind": ModelProfile(images=False)}) as stack:
        events = await ask(stack, "a flag", contexts=parts)
        assert was_direct(events)
        kinds = [part["type"] for part in stack.model.conversations[0][0]["content"]]
        assert kinds == ["text", "text", "image_url"]
        events = await ask(stack, "```repl\nFINAL(context.media_type)\n```", contexts=parts, model="blind")
        assert not was_direct(events)


@pytest.mark.parametrize(
    ("failure", "limits", "reason"),
    [
        (ScriptedReply(status=400), {}, "MODEL_ERROR"),
        (ScriptedReply("never"), {"max_output_tokens": 20}, "MAX_TOKENS"),
        (ScriptedReply("never", release=asyncio.Event()), {"wall_time": {"seconds": 1}}, "WALL_TIME"),
    ],
)
async def test_an_answer_that_cannot_be_mended_any_more_is_a_partial_one(
    local_stack: Stack, failure: ScriptedReply, limits: dict[str, Any], reason: str
) -> None:
    first = ScriptedReply("not a list", usage={"prompt_tokens": 10, "completion_tokens": 10})
    local_stack.model.follow([first, failure])
    request = pb.CompleteRequest(
        query="What is it?",
        contexts=[pb.ContextPart(text="abc")],
        direct_answer_allowed=True,
        answer_schema='{"type": "array"}',
        limits=limits_pb2.Limits(**limits),
    )
    events = Events([response.event async for response in local_stack.stub.Complete(request)])
    assert (events.reason, events.finished.answer, events.finished.partial) == (reason, "not a list", True)


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (CANNOT_ANSWER, "cannot answer"),
        (f"`{CANNOT_ANSWER}`.", "cannot answer"),
        (f"<think>hm</think>\n**{CANNOT_ANSWER}**: there is too much to count", "cannot answer"),
        ("", "was empty"),
        ("<think>on and on", "was empty"),
        (ScriptedReply("The answer is", stop_reason="length"), "was cut by the limit of tokens"),
        (ScriptedReply("The answer is", stop_reason="content_filter"), "was cut by the endpoint's content filter"),
        (ScriptedReply(status=400, error={"message": "too long", "code": "context_length_exceeded"}), "too long"),
    ],
)
async def test_where_one_call_will_not_do_the_loop_answers(local_stack: Stack, reply: Any, why: str) -> None:
    events = await ask(local_stack, reply, CODE)
    assert events.answer == "3"
    assert not was_direct(events)
    assert events.warnings == ["NOT_ANSWERED_DIRECTLY"]
    assert why in events.of("warning")[0].message
    assert events.kinds().count("started") == 1
    assert events.finished.usage.total.call_count == 2


@pytest.mark.parametrize("reply", [f"The code {CANNOT_ANSWER} stands for a refusal.", f"No: {CANNOT_ANSWER}"])
async def test_an_answer_that_speaks_of_the_refusal_is_an_answer(local_stack: Stack, reply: str) -> None:
    assert (await ask(local_stack, reply)).answer == reply


SCHEMA = '{"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]}'


@pytest.mark.parametrize("reply", ['{"count": 3}', '```json\n{"count": 3}\n```', '<think>hm</think>\n{"count": 3}'])
async def test_a_direct_answer_must_match_the_schema(local_stack: Stack, reply: str) -> None:
    events = await ask(local_stack, reply, answer_schema=SCHEMA)
    assert was_direct(events)
    assert events.finished.answer_json == '{"count": 3}'
    assert f"matches this JSON Schema:\n\n{SCHEMA}\n" in local_stack.model.conversations[0][0]["content"]


async def test_a_typed_answer_that_does_not_match_is_mended(local_stack: Stack) -> None:
    events = await ask(local_stack, '{"count": "three"}', '{"count": 3}', answer_schema=SCHEMA)
    assert was_direct(events)
    assert (events.warnings, events.finished.answer_json) == (["ANSWER_MISMATCH"], '{"count": 3}')
    assert '$.count: "three" is not of type "integer"' in local_stack.model.conversations[1][2]["content"]


async def test_typed_answers_that_never_match_leave_it_to_the_loop(local_stack: Stack) -> None:
    events = await ask(local_stack, "three", "3", "```repl\nFINAL({'count': len(context)})\n```", answer_schema=SCHEMA)
    assert not was_direct(events)
    assert events.warnings[:3] == ["ANSWER_MISMATCH", "ANSWER_MISMATCH", "NOT_ANSWERED_DIRECTLY"]
    assert events.finished.answer_json == '{"count": 3}'


async def test_thinking_is_no_part_of_the_answer(local_stack: Stack) -> None:
    events = await ask(local_stack, ScriptedReply("<think>Is it?</think>\nIt is.", reasoning="hm"))
    assert events.answer == "It is."


async def test_a_failing_model_ends_the_completion_as_it_does_the_loop(local_stack: Stack) -> None:
    events = await ask(local_stack, ScriptedReply(status=401, error={"message": "bad key"}))
    assert events.reason == "MODEL_ERROR"
    assert events.kinds()[0] == "started"
    assert "bad key" in events.finished.error


@pytest.mark.parametrize(
    ("limits", "reason"),
    [({"max_input_tokens": 0}, "MAX_TOKENS"), ({"wall_time": {"nanos": 200_000_000}}, "WALL_TIME")],
)
async def test_limits_hold_for_the_one_call(local_stack: Stack, limits: dict[str, Any], reason: str) -> None:
    events = await ask(local_stack, ScriptedReply("x", release=asyncio.Event()), limits=limits)
    assert events.reason == reason
    assert events.finished.partial


async def test_cancelling_stops_the_one_call(local_stack: Stack) -> None:
    call = local_stack.start([ScriptedReply("x", release=asyncio.Event())], direct_answer_allowed=True)
    await call.read()
    await local_stack.model.until_waiting()
    call.cancel()
    await asyncio.wait_for(local_stack.model.disconnected.wait(), 10)


async def test_where_files_are_asked_for_the_loop_answers(local_stack: Stack) -> None:
    events = await ask(local_stack, "```repl\nFINAL(4)\n```", return_files=pb.ReturnFiles())
    assert events.answer == "4"
    assert events.of("answered_directly") == []


async def test_with_tools_the_loop_answers(local_stack: Stack) -> None:
    tools = [pb.Tool(name="double", python_source="def double(x): return 2 * x")]
    events = await ask(local_stack, "```repl\nFINAL(double(2))\n```", tools=tools)
    assert (events.answer, was_direct(events)) == ("4", False)


async def test_a_conversation_always_has_a_repl(local_stack: Stack) -> None:
    events = await ask(local_stack, CODE, keep_conversation=True)
    assert (events.answer, was_direct(events)) == ("3", False)


async def test_the_text_can_be_replaced(local_stack: Stack) -> None:
    overrides = {"direct": "Q: $query C: $contexts or $cannot_answer $answer_format"}
    await ask(local_stack, "x", query="Why?", prompts=pb.Prompts(overrides=overrides))
    content = local_stack.model.conversations[0][0]["content"]
    assert content.startswith("Q: Why? C: === context: str, 3 characters\nabc\n=== end of context or CANNOT_ANSWER")


@pytest.mark.parametrize(
    ("query", "beginning", "turns"),
    [
        ("Which lines mention `b`?", "Lines that count: 1\ncontext: 2", 0),
        ("Which line is best?", "Lines that count", 4),
    ],
)
async def test_the_demo_model_answers_directly_or_says_that_it_cannot(
    executor: str, query: str, beginning: str, turns: int
) -> None:
    async with running_demo_model() as model:
        settings = Settings(
            default_model="demo-model", listen=("127.0.0.1:0",), sandbox=executor, base_url=model.base_url
        )
        server = await create_server(settings)
        try:
            await server.start()
            async with AsyncClient(server.addresses[0]) as client:
                completion = await client.completion("a\nb is the best line\nc", query, direct_answer_allowed=True)
        finally:
            await server.stop(0)
    assert completion.answer.startswith(beginning)
    assert completion.iterations == turns
