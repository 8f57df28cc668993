"""Endpoints that fail, in every way they can."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from rlm_server.engine.ports.models import Message, ModelError, ModelRequest, ReplyEnd, TextPart, TokenCounts
from rlm_server.models.openai_endpoint import EndpointOptions, OpenAIEndpoint

from tests.support.rlm_stack import running_stack
from tests.support.scripted_model import ScriptedReply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.rlm_stack import Stack
    from tests.support.scripted_model import ScriptedModel

REQUEST = ModelRequest("m", [Message("user", "hello")])


@pytest.fixture
async def endpoint(model: ScriptedModel) -> AsyncIterator[OpenAIEndpoint]:
    endpoint = OpenAIEndpoint(EndpointOptions(base_url=model.base_url, silence_timeout_seconds=0.5))
    yield endpoint
    await endpoint.close()


async def parts_of(endpoint: OpenAIEndpoint) -> list[TextPart | ReplyEnd]:
    return [part async for part in endpoint.stream(REQUEST, "m")]


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (ScriptedReply(status=401), "auth"),
        (ScriptedReply(status=403), "auth"),
        (ScriptedReply(status=402), "quota"),
        (ScriptedReply(status=429, error={"message": "quota", "code": "insufficient_quota"}), "quota"),
        (ScriptedReply(status=429, error={"message": "slow down"}), "overloaded"),
        (ScriptedReply(status=503), "overloaded"),
        (ScriptedReply(status=500), "overloaded"),
        (ScriptedReply(status=400, error={"message": "m", "code": "context_length_exceeded"}), "context_too_long"),
        (ScriptedReply(status=400, error={"message": "This model's maximum context length is 8"}), "context_too_long"),
        (ScriptedReply(status=400, error={"message": "m", "code": "content_filter"}), "content_filter"),
        (ScriptedReply(status=404, error={"message": "no such model"}), "bad_request"),
        (ScriptedReply(status=400), "bad_request"),
        (ScriptedReply(status=422), "bad_request"),
        (ScriptedReply(raw=b"<html>"), "bad_request"),
        (ScriptedReply(raw=b"data: {nonsense\n\n", content_type="text/event-stream"), "bad_request"),
        (ScriptedReply(stop_reason="content_filter"), "content_filter"),
        (ScriptedReply("half", error_in_stream={"message": "m", "code": "rate_limit_exceeded"}), "overloaded"),
        (ScriptedReply("half", error_in_stream={"message": "boom"}), "overloaded"),
        (ScriptedReply("half", break_off=True), "unreachable"),
        (ScriptedReply("half", end_early=True), "unreachable"),
    ],
)
async def test_each_failure_has_its_kind_and_names_the_model(
    endpoint: OpenAIEndpoint, model: ScriptedModel, reply: ScriptedReply, kind: str
) -> None:
    model.follow([reply])
    with pytest.raises(ModelError) as failure:
        await parts_of(endpoint)
    assert failure.value.kind == kind
    assert failure.value.message.startswith("m: ")


async def test_an_endpoint_that_is_not_there_is_unreachable(unused_tcp_port: int) -> None:
    options = EndpointOptions(base_url=f"http://127.0.0.1:{unused_tcp_port}/v1", silence_timeout_seconds=1)
    endpoint = OpenAIEndpoint(options)
    with pytest.raises(ModelError) as failure:
        await parts_of(endpoint)
    assert failure.value.kind == "unreachable"
    await endpoint.close()


async def test_an_endpoint_that_falls_silent_times_out(endpoint: OpenAIEndpoint, model: ScriptedModel) -> None:
    model.follow([ScriptedReply("late", release=asyncio.Event())])
    with pytest.raises(ModelError) as failure:
        await parts_of(endpoint)
    assert failure.value.kind == "timeout"


async def test_reasoning_comes_apart_from_the_reply(endpoint: OpenAIEndpoint, model: ScriptedModel) -> None:
    model.follow([ScriptedReply("reply", reasoning="thought", chunk_chars=100)])
    parts = await parts_of(endpoint)
    texts = [part for part in parts if isinstance(part, TextPart)]
    assert "".join(part.text for part in texts if part.reasoning) == "thought"
    assert "".join(part.text for part in texts if not part.reasoning) == "reply"
    assert parts[-1] == ReplyEnd("stop", TokenCounts(10, 5, 4, 2))


async def test_an_endpoint_without_usage_is_counted_as_unreported(stack: Stack) -> None:
    reply = ScriptedReply("FINAL(x)", usage=None)
    events = await stack.complete(ScriptedReply("```repl\nx = 1\n```", usage=None), reply)
    assert events.warnings == ["USAGE_UNKNOWN"]
    usage = events.finished.usage.total
    assert (usage.call_count, usage.unreported_call_count, usage.input_tokens) == (2, 2, 0)


async def test_a_failed_call_is_tried_again_as_often_as_the_settings_say(model: ScriptedModel) -> None:
    async with running_stack(model, model_max_retries=2) as stack:
        retry_at_once = {"retry-after-ms": "1"}
        failure = ScriptedReply(status=503, headers=retry_at_once)
        events = await stack.complete(failure, failure, "FINAL(x)")
    assert events.answer == "x"


async def test_a_root_whose_model_fails_ends_with_the_partial_answer(stack: Stack) -> None:
    events = await stack.complete("```repl\nanswer['content'] = 'draft'\n```", ScriptedReply(status=400))
    assert (events.reason, events.finished.answer, events.finished.partial) == ("MODEL_ERROR", "draft", True)
    assert "scripted failure" in events.finished.error


async def test_reasoning_is_streamed_and_no_part_of_the_reply(stack: Stack) -> None:
    events = await stack.complete(ScriptedReply("FINAL(x)", reasoning="FINAL(thought)"))
    assert events.answer == "x"
    reasoning = "".join(delta.text for delta in events.of("model_text_delta") if delta.reasoning)
    assert reasoning == "FINAL(thought)"
    assert events.of("model_reply_finished")[0].text == "FINAL(x)"


async def test_a_reply_cut_by_the_limit_of_tokens_is_told(stack: Stack) -> None:
    cut = ScriptedReply("```repl\nx = 1", stop_reason="length")
    events = await stack.complete(cut, "FINAL(x)")
    assert events.warnings == ["REPLY_TRUNCATED"]
    assert events.of("code_started")[0].code == "x = 1"
    assert "cut off" in stack.shown_to_root(2)
    assert events.of("model_reply_finished")[0].stop_reason == "length"


async def test_a_reply_cut_by_a_content_filter_is_told_to_people_and_to_the_model(stack: Stack) -> None:
    cut = ScriptedReply("```repl\nx = llm_query('q')", stop_reason="content_filter")
    events = await stack.complete(cut, ScriptedReply("half", stop_reason="content_filter: SAFETY"), "FINAL(x)")
    assert [(event.node_id, event.warning.message) for event in events.events_of("warning")] == [
        ("0", "the reply was cut by the endpoint's content filter"),
        ("0.1", "the reply was cut by the endpoint's content filter"),
    ]
    assert "cut off by a content filter" in stack.shown_to_root(2)


async def test_lone_surrogates_from_a_model_do_no_harm(stack: Stack) -> None:
    event = {"choices": [{"index": 0, "delta": {"content": "FINAL(\ud800!)"}, "finish_reason": "stop"}]}
    raw = f"data: {json.dumps(event)}\r\n\r\ndata: [DONE]".encode()
    events = await stack.complete(ScriptedReply(raw=raw, content_type="text/event-stream; charset=utf-8"))
    assert events.answer == "?!"


@pytest.mark.parametrize(
    "usage",
    [{}, {"prompt_tokens": None, "completion_tokens": 1}, {"prompt_tokens": 1, "completion_tokens": 1, "x": None}],
)
async def test_odd_usage_does_no_harm(stack: Stack, usage: dict[str, Any]) -> None:
    assert (await stack.complete(ScriptedReply("FINAL(x)", usage=usage))).answer == "x"


async def test_the_key_is_sent_to_the_endpoint_and_shown_nowhere(model: ScriptedModel) -> None:
    async with running_stack(model, api_key="secret-key") as stack:
        events = await stack.complete("```repl\nimport os\nprint(os.environ)\n```", ScriptedReply(status=401))
    assert model.request_headers[0]["authorization"] == "Bearer secret-key"
    assert not any("secret-key" in str(event) for event in events.all)
