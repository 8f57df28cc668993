"""Fields on which endpoints for chat completions differ: each gets what it takes, and nothing goes unsaid."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from rlm_server.engine.ports.models import Message, ModelError, ModelRequest, ReplyEnd, Sampling, TextPart
from rlm_server.models.dialect import Dialect
from rlm_server.models.openai_endpoint import EndpointOptions, OpenAIEndpoint

from tests.support.scripted_model import ScriptedReply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.scripted_model import ScriptedModel

LIMITED = ModelRequest("m", [Message("user", "hello")], Sampling(max_output_tokens=77))


@pytest.fixture
async def endpoint(model: ScriptedModel) -> AsyncIterator[OpenAIEndpoint]:
    endpoint = OpenAIEndpoint(EndpointOptions(base_url=model.base_url, silence_timeout_seconds=5))
    yield endpoint
    await endpoint.close()


async def ask(endpoint: OpenAIEndpoint, request: ModelRequest = LIMITED) -> list[TextPart | ReplyEnd]:
    return [part async for part in endpoint.stream(request, "m")]


# --- the limit of a reply


@pytest.mark.parametrize(
    ("base_url", "name"),
    [
        (None, "max_completion_tokens"),
        ("https://api.openai.com/v1", "max_completion_tokens"),
        ("https://eu.api.openai.com/v1", "max_completion_tokens"),
        ("https://example.openai.azure.com/openai/v1", "max_completion_tokens"),
        ("http://127.0.0.1:11434/v1", "max_tokens"),
        ("https://api.mistral.ai/v1", "max_tokens"),
        ("https://notopenai.com/v1", "max_tokens"),
    ],
)
def test_the_limit_of_a_reply_has_the_name_that_the_endpoint_knows(base_url: str | None, name: str) -> None:
    assert Dialect.expected_of(base_url).limit_field == name


async def test_azure_gets_the_new_name(model: ScriptedModel) -> None:
    model.follow(["x"])
    options = EndpointOptions(base_url=model.azure_url, azure_api_version="2025-04-01-preview", api_key="k")
    endpoint = OpenAIEndpoint(options)
    await ask(endpoint)
    await endpoint.close()
    assert model.requests[0]["max_completion_tokens"] == 77
    assert "max_tokens" not in model.requests[0]


async def test_an_endpoint_that_wants_the_other_name_is_given_it_from_then_on(
    endpoint: OpenAIEndpoint, model: ScriptedModel
) -> None:
    message = (
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    )
    model.follow([ScriptedReply(status=400, error={"message": message}), "x", "y"])
    assert (await ask(endpoint))[0] == TextPart("x")
    assert (await ask(endpoint))[0] == TextPart("y")
    names = [sorted(name for name in request if name.startswith("max_")) for request in model.requests]
    assert names == [["max_tokens"], ["max_completion_tokens"], ["max_completion_tokens"]]


async def test_an_endpoint_that_takes_neither_name_is_not_asked_for_ever(
    endpoint: OpenAIEndpoint, model: ScriptedModel
) -> None:
    def refuse(_: Any) -> ScriptedReply:
        (name,) = (name for name in model.requests[-1] if name.startswith("max_"))
        return ScriptedReply(status=400, error={"message": f"Unknown parameter: '{name}'"})

    model.follow(refuse)
    with pytest.raises(ModelError, match="Unknown parameter"):
        await ask(endpoint)
    assert len(model.requests) == 4


async def test_an_endpoint_that_does_not_know_stream_options_is_not_sent_them(
    endpoint: OpenAIEndpoint, model: ScriptedModel
) -> None:
    detail = [{"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}]
    body = {"object": "error", "message": {"detail": detail}, "type": "invalid_request_error"}
    refusal = ScriptedReply(status=422, raw=json.dumps(body).encode(), content_type="application/json")
    model.follow([refusal, "x"])
    assert (await ask(endpoint))[0] == TextPart("x")
    assert "stream_options" not in model.requests[1]


# --- replies


async def test_a_reply_that_comes_whole_though_a_stream_was_asked_for_is_read(
    endpoint: OpenAIEndpoint, model: ScriptedModel
) -> None:
    choice = {"message": {"content": "x"}, "finish_reason": "stop"}
    raw = json.dumps({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}).encode()
    model.follow([ScriptedReply(raw=raw, content_type="application/json")])
    part, end = await ask(endpoint)
    assert part == TextPart("x")
    assert isinstance(end, ReplyEnd)
    assert end.tokens is not None
    assert end.tokens.input_tokens == 3


@pytest.mark.parametrize("use_responses", [False, True])
async def test_a_reply_without_what_it_is_made_of_is_no_empty_one(model: ScriptedModel, use_responses: bool) -> None:
    model.follow([ScriptedReply(raw=b'{"id": "x"}', content_type="application/json")])
    options = EndpointOptions(base_url=model.base_url, stream=False, use_responses=use_responses)
    endpoint = OpenAIEndpoint(options)
    with pytest.raises(ModelError, match="the endpoint's reply has no"):
        await ask(endpoint)
    await endpoint.close()


async def test_content_in_pieces_is_read_with_thinking_apart(endpoint: OpenAIEndpoint, model: ScriptedModel) -> None:
    deltas: list[Any] = [
        [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm. "}]}],
        [{"type": "thinking", "thinking": "Well."}],
        [{"type": "text", "text": "The "}],
        "answer.",
    ]
    events = [{"choices": [{"delta": {"content": delta}}]} for delta in deltas]
    events.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    raw = "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode()
    model.follow([ScriptedReply(raw=raw, content_type="text/event-stream")])
    *parts, _ = await ask(endpoint)
    texts = [part for part in parts if isinstance(part, TextPart)]
    assert "".join(part.text for part in texts if part.reasoning) == "Hm. Well."
    assert "".join(part.text for part in texts if not part.reasoning) == "The answer."


# --- keys in files


async def test_a_key_that_is_refused_is_read_anew_from_its_file(model: ScriptedModel, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("new")
    options = EndpointOptions(base_url=model.base_url, api_key="old", read_key=file.read_text)
    endpoint = OpenAIEndpoint(options)

    def reply(_: Any) -> ScriptedReply | str:
        is_old = model.request_headers[-1]["authorization"] == "Bearer old"
        return ScriptedReply(status=401) if is_old else "x"

    model.follow(reply)
    assert (await ask(endpoint))[0] == TextPart("x")
    assert (await ask(endpoint))[0] == TextPart("x")
    assert [one["authorization"] for one in model.request_headers] == ["Bearer old", "Bearer new", "Bearer new"]
    await endpoint.close()


@pytest.mark.parametrize("found", ["old", None])
async def test_a_key_that_is_refused_and_has_not_changed_fails(model: ScriptedModel, found: str | None) -> None:
    options = EndpointOptions(base_url=model.base_url, api_key="old", read_key=lambda: found)
    endpoint = OpenAIEndpoint(options)
    model.follow([ScriptedReply(status=401)])
    with pytest.raises(ModelError) as failure:
        await ask(endpoint)
    assert failure.value.kind == "auth"
    assert len(model.requests) == 1
    await endpoint.close()
