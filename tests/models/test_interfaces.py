"""Both of OpenAI's interfaces, streamed and whole, and Azure's paths, by the real `openai` package over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from rlm_server.engine.ports.models import Message, ModelError, ModelRequest, ReplyEnd, Sampling, TextPart, TokenCounts
from rlm_server.models.openai_endpoint import EndpointOptions, OpenAIEndpoint

from tests.support.scripted_model import DEFAULT_USAGE, ScriptedReply

if TYPE_CHECKING:
    from tests.support.scripted_model import ScriptedModel

MESSAGES = [Message("system", "Be brief."), Message("user", "hello")]
INTERFACES = [
    pytest.param({"use_responses": use_responses, "stream": stream}, id=f"{name}-{'streamed' if stream else 'whole'}")
    for use_responses, name in ((False, "chat"), (True, "responses"))
    for stream in (True, False)
]


async def ask(model: ScriptedModel, sampling: Sampling | None = None, **options: Any) -> list[Any]:
    options.setdefault("base_url", model.base_url)
    endpoint = OpenAIEndpoint(EndpointOptions(silence_timeout_seconds=5, **options))
    try:
        return [part async for part in endpoint.stream(ModelRequest("m", MESSAGES, sampling or Sampling()), "name")]
    finally:
        await endpoint.close()


@pytest.mark.parametrize("options", INTERFACES)
async def test_text_reasoning_and_usage_are_read(model: ScriptedModel, options: dict[str, Any]) -> None:
    model.follow([ScriptedReply("a reply of some length", reasoning="thought")])
    *parts, end = await ask(model, **options)
    assert all(isinstance(part, TextPart) for part in parts)
    assert "".join(part.text for part in parts if not part.reasoning) == "a reply of some length"
    assert "".join(part.text for part in parts if part.reasoning) == "thought"
    assert end == ReplyEnd("stop", TokenCounts(10, 5, 4, 2))


@pytest.mark.parametrize("options", INTERFACES)
async def test_the_messages_and_the_sampling_are_sent(model: ScriptedModel, options: dict[str, Any]) -> None:
    model.follow(["x"])
    await ask(model, Sampling(0.5, 0.9, 77, "low"), extra_body={"seed": 1}, extra_headers={"x-a": "b"}, **options)
    (body,) = model.requests
    assert model.conversations == [[{"role": one.role, "content": one.content} for one in MESSAGES]]
    assert (body["model"], body["temperature"], body["top_p"], body["seed"]) == ("m", 0.5, 0.9, 1)
    assert body["stream"] is options["stream"]
    if options["use_responses"]:
        assert (body["max_output_tokens"], body["reasoning"], body["store"]) == (77, {"effort": "low"}, False)
    else:
        assert (body["max_tokens"], body["reasoning_effort"]) == (77, "low")
        assert body.get("stream_options") == ({"include_usage": True} if options["stream"] else None)
    assert model.request_headers[0]["x-a"] == "b"


@pytest.mark.parametrize("options", INTERFACES)
async def test_a_reply_cut_by_the_limit_of_tokens_says_so(model: ScriptedModel, options: dict[str, Any]) -> None:
    model.follow([ScriptedReply("half", stop_reason="length", usage=None)])
    assert (await ask(model, **options))[-1] == ReplyEnd("length", None)


@pytest.mark.parametrize("options", INTERFACES)
@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (ScriptedReply(stop_reason="content_filter"), "content_filter"),
        (ScriptedReply(status=429, error={"message": "m", "code": "insufficient_quota"}), "quota"),
        (ScriptedReply(status=400, error={"message": "m", "code": "context_length_exceeded"}), "context_too_long"),
        (ScriptedReply(status=401), "auth"),
        (ScriptedReply(status=503), "overloaded"),
    ],
)
async def test_failures_are_told_apart(
    model: ScriptedModel, options: dict[str, Any], reply: ScriptedReply, kind: str
) -> None:
    model.follow([reply])
    with pytest.raises(ModelError) as failure:
        await ask(model, **options)
    assert failure.value.kind == kind
    assert failure.value.message.startswith("name: ")


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (ScriptedReply("half", end_early=True), "unreachable"),
        (ScriptedReply("half", break_off=True), "unreachable"),
        (ScriptedReply("half", error_in_stream={"code": "server_error", "message": "m"}), "overloaded"),
        (
            ScriptedReply("half", error_in_stream={"code": "context_length_exceeded", "message": "m"}),
            "context_too_long",
        ),
    ],
)
@pytest.mark.parametrize("use_responses", [False, True])
async def test_a_stream_that_ends_before_its_end_is_no_reply(
    model: ScriptedModel, reply: ScriptedReply, kind: str, use_responses: bool
) -> None:
    model.follow([reply])
    with pytest.raises(ModelError) as failure:
        await ask(model, use_responses=use_responses)
    assert failure.value.kind == kind


async def test_an_endpoint_that_does_not_stream_is_told_with_the_remedy(model: ScriptedModel) -> None:
    model.follow([ScriptedReply(raw=b"{}", content_type="text/plain")])
    with pytest.raises(ModelError, match="set stream = false"):
        await ask(model)


@pytest.mark.parametrize(
    ("use_responses", "path"),
    [(False, "openai/deployments/m/chat/completions"), (True, "openai/responses")],
)
async def test_azure_has_paths_a_version_and_a_header_of_its_own(
    model: ScriptedModel, use_responses: bool, path: str
) -> None:
    model.follow(["x"])
    options = {"base_url": model.azure_url, "azure_api_version": "2025-04-01-preview", "api_key": "sesame"}
    parts = await ask(model, use_responses=use_responses, **options)
    assert parts[0] == TextPart("x")
    assert model.request_paths == [f"{path}?api-version=2025-04-01-preview"]
    assert model.request_headers[0]["api-key"] == "sesame"
    assert "authorization" not in model.request_headers[0]


async def test_a_cost_that_the_endpoint_tells_is_read(model: ScriptedModel) -> None:
    model.follow([ScriptedReply("x", usage=DEFAULT_USAGE | {"cost": 0.0025})])
    assert (await ask(model))[-1].tokens.cost_microdollars == pytest.approx(2500)
