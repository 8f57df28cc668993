"""The demo model's newer interface, Azure's paths, and its faults, by the real `openai` package."""

from __future__ import annotations

import openai
import pytest
from rlm_server.demo_model import Behaviour, DemoModelSettings
from rlm_server.demo_model.server import running_demo_model
from rlm_server.engine.ports.models import Message, ModelError, ModelRequest
from rlm_server.models.openai_endpoint import EndpointOptions, OpenAIEndpoint

INPUT = [{"role": "user", "content": "What are you?"}]


async def test_responses_have_the_text_of_chat_completions_whole_and_streamed():
    async with (
        running_demo_model(DemoModelSettings(Behaviour(chunk_chars=10))) as running,
        openai.AsyncOpenAI(base_url=running.base_url, api_key="any", max_retries=0) as client,
    ):
        chat = await client.chat.completions.create(model="demo-model", messages=INPUT)
        whole = await client.responses.create(model="demo-model", input=INPUT)
        stream = await client.responses.create(model="demo-model", input=INPUT, stream=True)
        events = [event async for event in stream]
        cut = await client.responses.create(model="demo-model", input=INPUT, max_output_tokens=5)
    text = chat.choices[0].message.content
    assert whole.output_text == text
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == text
    assert events[-1].type == "response.completed"
    assert events[-1].response.usage == whole.usage
    assert whole.usage.input_tokens == chat.usage.prompt_tokens
    assert whole.usage.output_tokens == chat.usage.completion_tokens
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")


async def test_azures_client_is_answered_with_its_key_in_its_own_header():
    async with running_demo_model(DemoModelSettings(api_key="right")) as running:
        address = running.base_url.removesuffix("/v1")
        options = {"azure_endpoint": address, "api_version": "2025-04-01-preview", "max_retries": 0}
        async with openai.AsyncAzureOpenAI(api_key="right", **options) as client:
            reply = await client.chat.completions.create(model="demo-model", messages=INPUT)
            response = await client.responses.create(model="demo-model", input=INPUT)
        assert response.output_text == reply.choices[0].message.content
        async with openai.AsyncAzureOpenAI(api_key="wrong", **options) as client:
            with pytest.raises(openai.AuthenticationError):
                await client.chat.completions.create(model="demo-model", messages=INPUT)


@pytest.mark.parametrize("use_responses", [False, True])
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("401", "auth"),
        ("402", "quota"),
        ("quota", "quota"),
        ("429", "overloaded"),
        ("500", "overloaded"),
        ("503", "overloaded"),
        ("context_length", "context_too_long"),
        ("content_filter", "content_filter"),
        ("broken", "unreachable"),
        ("hang", "timeout"),
    ],
)
async def test_each_fault_is_what_it_says(fault, kind, use_responses):
    async with running_demo_model() as running:
        options = EndpointOptions(base_url=running.base_url, use_responses=use_responses, silence_timeout_seconds=0.5)
        endpoint = OpenAIEndpoint(options)
        request = ModelRequest(f"demo-model?fault={fault}", [Message("user", "What are you?")])
        with pytest.raises(ModelError) as failure:
            _ = [part async for part in endpoint.stream(request, "m")]
        await endpoint.close()
    assert failure.value.kind == kind


@pytest.mark.parametrize(
    ("body", "complaint"),
    [({"input": INPUT}, "model"), ({"model": "demo-model"}, "input"), ({"model": "demo-model", "input": []}, "input")],
)
async def test_a_bad_request_is_told(body, complaint):
    async with (
        running_demo_model() as running,
        openai.AsyncOpenAI(base_url=running.base_url, api_key="any", max_retries=0) as client,
    ):
        with pytest.raises(openai.BadRequestError, match=complaint):
            await client.post("/responses", body=body, cast_to=object)
