"""What endpoints say when they refuse a call, in the words of each, and what is made of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rlm_api.rlm.v1 import limits_pb2
from rlm_server.engine.ports.models import Message, ModelError, ModelRequest
from rlm_server.models.openai_endpoint import EndpointOptions, OpenAIEndpoint
from rlm_server.models.refusals import RefusedReply, refused_reply

from tests.support.rlm_stack import running_stack
from tests.support.scripted_model import ScriptedReply

if TYPE_CHECKING:
    from tests.support.scripted_model import ScriptedModel, ScriptedModels


REFUSALS = [json.loads(line) for line in (Path(__file__).parent / "refusals.jsonl").read_text().splitlines()]
"""What endpoints have sent, with status and body, the kind of failure that it is, and perhaps words that people see."""


@pytest.fixture
async def endpoint(model: ScriptedModel) -> Any:
    endpoint = OpenAIEndpoint(EndpointOptions(base_url=model.base_url, silence_timeout_seconds=5))
    yield endpoint
    await endpoint.close()


async def failure_of(endpoint: OpenAIEndpoint) -> ModelError:
    with pytest.raises(ModelError) as failure:
        _ = [part async for part in endpoint.stream(ModelRequest("m", [Message("user", "hello")]), "m")]
    return failure.value


@pytest.mark.parametrize("said", REFUSALS, ids=[f"{said['endpoint']}-{said['kind']}" for said in REFUSALS])
async def test_each_endpoints_refusal_has_its_kind(
    endpoint: OpenAIEndpoint, model: ScriptedModel, said: dict[str, Any]
) -> None:
    body = said["body"]
    raw = body if isinstance(body, str) else json.dumps(body)
    content_type = "text/html" if isinstance(body, str) else "application/json"
    model.follow([ScriptedReply(status=said["status"], raw=raw.encode(), content_type=content_type)])
    failure = await failure_of(endpoint)
    assert failure.kind == said["kind"]
    assert said.get("shown", "") in failure.message


WITH_STATUS = [said for said in REFUSALS if "OpenRouter" in said["endpoint"] or "llama.cpp" in said["endpoint"]]


@pytest.mark.parametrize("said", WITH_STATUS, ids=[f"{said['endpoint']}-{said['kind']}" for said in WITH_STATUS])
async def test_a_refusal_with_a_good_status_is_read_all_the_same(
    endpoint: OpenAIEndpoint, model: ScriptedModel, said: dict[str, Any]
) -> None:
    """Routers of models answer with 200 before they know that the model refuses."""
    model.follow([ScriptedReply(raw=json.dumps(said["body"]).encode(), content_type="application/json")])
    assert (await failure_of(endpoint)).kind == said["kind"]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (
            ScriptedReply(status=404, raw=b"404 page not found"),
            "404: 404 page not found (check the base URL, which",
        ),
        (ScriptedReply(status=405, raw=b""), "answered with 405 (check the base URL, which usually ends in /v1, and"),
    ],
)
async def test_a_wrong_base_url_is_told_as_such(
    endpoint: OpenAIEndpoint, model: ScriptedModel, reply: ScriptedReply, message: str
) -> None:
    model.follow([reply])
    failure = await failure_of(endpoint)
    assert failure.kind == "bad_request"
    assert message in failure.message


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_an_endpoint_that_has_moved_is_told_and_not_followed_with_key_and_context(
    models: ScriptedModels, status: int
) -> None:
    elsewhere, moved = models.new_model(), models.new_model()
    location = f"{elsewhere.base_url}/chat/completions"
    moved.follow([ScriptedReply(status=status, headers={"location": location})])
    endpoint = OpenAIEndpoint(EndpointOptions(base_url=moved.base_url, api_key="sesame"))
    failure = await failure_of(endpoint)
    await endpoint.close()
    assert f"it has moved to {location}" in failure.message
    assert elsewhere.requests == []


async def test_an_error_object_in_a_stream_is_no_empty_reply(endpoint: OpenAIEndpoint, model: ScriptedModel) -> None:
    event = {"object": "error", "message": "context size exceeded", "code": 400}
    raw = f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n".encode()
    model.follow([ScriptedReply(raw=raw, content_type="text/event-stream")])
    assert (await failure_of(endpoint)).kind == "context_too_long"


async def test_a_reply_that_ends_with_an_error_is_none(endpoint: OpenAIEndpoint, model: ScriptedModel) -> None:
    model.follow([ScriptedReply("half", stop_reason="error")])
    assert (await failure_of(endpoint)).kind == "unreachable"


# --- replies that are longer than a model can make

TOO_LONG = "This model's maximum context length is"


@pytest.mark.parametrize(
    ("message", "room", "is_of_model"),
    [
        ("max_tokens is too large: 32768. This model supports at most 16384 completion tokens.", 16384, True),
        ("max_tokens: 32768 > 8192, which is the maximum allowed number of output tokens for claude", 8192, True),
        ("`max_completion_tokens` must be less than or equal to `8192`, the maximum value", 8192, True),
        ("Invalid max_tokens value, the valid range of max_tokens is [1, 8192]", 8192, True),
        (
            "maximum context length is 8192 tokens and your request has 4000 input tokens (5000 > 8192 - 4000",
            4192,
            False,
        ),
        (f"{TOO_LONG} 8192 tokens. However, you requested 9000 tokens (1000 in the messages, 8000 in the", 7192, False),
        (f"{TOO_LONG} 9000 tokens. However, you requested about 15000 tokens (8000 of text input, 7000", 1000, False),
        ("`inputs` tokens + `max_new_tokens` must be <= 4097. Given: 1000 `inputs` tokens and 4000", 3097, False),
    ],
)
def test_how_long_a_reply_may_be_is_read(message: str, room: int, is_of_model: bool) -> None:
    assert refused_reply(message) == RefusedReply(room, is_of_model)


@pytest.mark.parametrize(
    "message",
    [
        f"{TOO_LONG} 8192 tokens. However, you requested 9000 tokens (8190 in the messages, 810 in the completion)",
        f"{TOO_LONG} 8192 tokens, but the messages have 9000",
        "max_tokens must be at least 1",
    ],
)
def test_what_is_no_refusal_of_a_reply_is_not_taken_for_one(message: str) -> None:
    assert refused_reply(message) is None


async def test_a_limit_on_tokens_does_not_ask_a_model_for_more_than_it_can_make(model: ScriptedModel) -> None:
    """Without what the endpoint tells, a completion with a generous limit could not begin."""
    message = "max_tokens is too large: 32768. This model supports at most 16384 completion tokens."
    replies = [ScriptedReply(status=400, error={"message": message}), "```repl\nx = 1\n```", "FINAL(x)"]
    async with running_stack(model) as stack:
        events = await stack.complete(*replies, limits=limits_pb2.Limits(max_output_tokens=1_000_000))
    assert events.answer == "1"
    assert [request["max_tokens"] for request in model.requests] == [32768, 16384, 16384]
    assert events.warnings == ["MODEL_RETRY"]
    assert "it is asked again for a reply of at most 16,384 tokens" in events.of("warning")[0].message


async def test_a_reply_that_does_not_fit_beside_the_messages_is_made_shorter_and_nothing_compacted(
    model: ScriptedModel,
) -> None:
    message = f"{TOO_LONG} 8192 tokens. However, you requested 33768 tokens (1000 in the messages, 32768 in the rest)."
    async with running_stack(model) as stack:
        events = await stack.complete(
            ScriptedReply(status=400, error={"message": message}),
            "FINAL(x)",
            limits=limits_pb2.Limits(max_output_tokens=1_000_000),
        )
    assert events.answer == "x"
    assert [request["max_tokens"] for request in model.requests] == [32768, 7192]
    assert events.of("compacted") == []
