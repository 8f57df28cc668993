"""The demo model speaks OpenAI's API: seen through the `openai` package, over real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import math

import httpx2
import openai
import pytest
from rlm_server.demo_model import DEMO_HEADER, MODEL_IDS, Behaviour, DemoModelSettings, Fault
from rlm_server.demo_model.server import running_demo_model

QUESTION = [{"role": "user", "content": "What are you?"}]


@contextlib.asynccontextmanager
async def client_of(settings: DemoModelSettings | None = None, *, api_key: str = "any"):
    async with (
        running_demo_model(settings) as running,
        openai.AsyncOpenAI(base_url=running.base_url, api_key=api_key, max_retries=0) as client,
    ):
        yield client


async def test_models_are_listed_and_say_that_they_stand_in_for_a_language_model():
    async with client_of() as client:
        models = [model async for model in client.models.list()]
        assert [model.id for model in models] == list(MODEL_IDS)
        assert all("stands in for a language model" in model.owned_by for model in models)
        assert (await client.models.retrieve("demo-model")).id == "demo-model"


async def test_a_reply_says_that_it_is_the_demo_model():
    async with client_of() as client:
        reply = await client.chat.completions.create(model="demo-model", messages=QUESTION)
    assert "demo-model, a fixed program that stands in for a language model" in reply.choices[0].message.content
    assert reply.choices[0].finish_reason == "stop"


async def test_usage_counts_a_token_for_every_four_characters():
    async with client_of() as client:
        reply = await client.chat.completions.create(model="demo-model", messages=QUESTION)
    assert reply.usage.prompt_tokens == math.ceil(len("What are you?") / 4)
    assert reply.usage.completion_tokens == math.ceil(len(reply.choices[0].message.content) / 4)
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


async def test_a_streamed_reply_is_the_same_text_in_parts_with_usage_last():
    async with client_of(DemoModelSettings(Behaviour(chunk_chars=10))) as client:
        whole = await client.chat.completions.create(model="demo-model", messages=QUESTION)
        stream = await client.chat.completions.create(
            model="demo-model", messages=QUESTION, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    parts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert max(map(len, parts)) == 10
    assert "".join(parts) == whole.choices[0].message.content
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage


async def test_a_stream_has_no_usage_unless_it_is_asked_for():
    async with client_of() as client:
        stream = await client.chat.completions.create(model="demo-model", messages=QUESTION, stream=True)
        assert all(chunk.usage is None for chunk in [chunk async for chunk in stream])


async def test_a_reply_is_cut_at_the_greatest_number_of_tokens():
    async with client_of() as client:
        reply = await client.chat.completions.create(model="demo-model", messages=QUESTION, max_completion_tokens=3)
    assert len(reply.choices[0].message.content) == 12
    assert reply.choices[0].finish_reason == "length"


async def test_equal_messages_get_equal_replies():
    async with client_of() as client:
        replies = await asyncio.gather(
            *(client.chat.completions.create(model="demo-model", messages=QUESTION) for _ in range(5))
        )
    assert len({reply.choices[0].message.content for reply in replies}) == 1


async def test_an_unknown_model_is_not_found():
    async with client_of() as client:
        with pytest.raises(openai.NotFoundError, match="there are demo-model") as caught:
            await client.chat.completions.create(model="gpt-9", messages=QUESTION)
    assert caught.value.code == "model_not_found"


async def test_a_wrong_key_is_refused_where_one_is_set():
    settings = DemoModelSettings(api_key="right")
    async with client_of(settings, api_key="wrong") as client:
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()
    async with client_of(settings, api_key="right") as client:
        assert (await client.models.list()).data


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"[]",
        b'{"messages": [{"role": "user", "content": "x"}]}',
        b'{"model": "demo-model"}',
        b'{"model": "demo-model", "messages": []}',
        b'{"model": "demo-model", "messages": ["x"]}',
        b'{"model": "demo-model", "messages": [{"role": "user"}], "max_tokens": -1}',
        b'{"model": "demo-model?colour=red", "messages": [{"role": "user"}]}',
    ],
)
async def test_a_bad_request_gets_an_error_as_openai_shapes_it(body):
    async with running_demo_model() as running, httpx2.AsyncClient() as client:
        response = await client.post(f"{running.base_url}/chat/completions", content=body)
    assert response.status_code == 400
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


async def test_a_rate_limit_has_a_retry_after():
    settings = DemoModelSettings(Behaviour(fault=Fault.RATE_LIMIT, retry_after_seconds=7))
    async with client_of(settings) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(model="demo-model", messages=QUESTION)
    assert caught.value.response.headers["retry-after"] == "7"


async def test_only_every_nth_call_fails():
    settings = DemoModelSettings(Behaviour(fault=Fault.SERVER_ERROR, fault_every=3))
    outcomes = []
    async with client_of(settings) as client:
        for _ in range(6):
            try:
                await client.chat.completions.create(model="demo-model", messages=QUESTION)
                outcomes.append("ok")
            except openai.InternalServerError:
                outcomes.append("500")
    assert outcomes == ["ok", "ok", "500", "ok", "ok", "500"]


async def test_only_the_first_calls_fail():
    settings = DemoModelSettings(Behaviour(fault=Fault.SERVER_ERROR, fault_first=1))
    async with client_of(settings) as client:
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(model="demo-model", messages=QUESTION)
        assert await client.chat.completions.create(model="demo-model", messages=QUESTION)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_broken_reply_ends_in_a_connection_error(stream):
    async with client_of(DemoModelSettings(Behaviour(fault=Fault.BROKEN_STREAM, chunk_chars=5))) as client:

        async def call():
            reply = await client.chat.completions.create(model="demo-model", messages=QUESTION, stream=stream)
            return [chunk async for chunk in reply] if stream else reply

        with pytest.raises((openai.APIConnectionError, httpx2.TransportError)):
            await call()


async def test_a_call_that_hangs_runs_into_the_callers_timeout():
    async with client_of(DemoModelSettings(Behaviour(fault=Fault.HANG))) as client:
        with pytest.raises(openai.APITimeoutError):
            await client.with_options(timeout=0.05).chat.completions.create(model="demo-model", messages=QUESTION)


async def test_a_server_with_calls_that_hang_ends_at_once_when_their_callers_go(caplog):
    loop = asyncio.get_running_loop()
    async with client_of() as client:
        with pytest.raises(openai.APITimeoutError):
            await client.with_options(timeout=0.05).chat.completions.create(
                model="demo-model?fault=hang", messages=QUESTION
            )
        ending = loop.time()
    assert loop.time() - ending < 0.9
    assert all(record.levelname != "ERROR" for record in caplog.records)


async def test_an_empty_reply_can_be_asked_for():
    async with client_of(DemoModelSettings(Behaviour(fault=Fault.EMPTY))) as client:
        reply = await client.chat.completions.create(model="demo-model", messages=QUESTION)
    assert not reply.choices[0].message.content


@pytest.mark.parametrize(
    "override",
    [{"model": "demo-model?fault=500"}, {"model": "demo-model", "extra_headers": {DEMO_HEADER: "fault=500"}}],
    ids=["model name", "header"],
)
async def test_one_call_is_made_to_fail_by_its_model_name_or_a_header(override):
    async with client_of() as client:
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(messages=QUESTION, **override)
        assert await client.chat.completions.create(model="demo-model", messages=QUESTION)


async def test_latency_delays_a_reply():
    async with client_of() as client:
        before = asyncio.get_running_loop().time()
        await client.chat.completions.create(model="demo-model?latency_seconds=0.2", messages=QUESTION)
    assert asyncio.get_running_loop().time() - before >= 0.2


async def test_a_port_that_is_taken_is_an_error():
    async with running_demo_model() as running:
        with pytest.raises(OSError, match="Address already in use"):
            async with running_demo_model(port=running.port):
                pass


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("colour=red", "unknown setting 'colour'; there are latency_seconds"),
        ("latency_seconds=fast", "latency_seconds=fast does not fit"),
        ("fault=flood", "fault=flood does not fit"),
        ("latency_seconds=-1", "must not be negative"),
        ("chunk_chars=0", "chunk_chars must be at least 1"),
        ("x", "bad query field"),
    ],
)
def test_a_bad_override_of_the_behaviour_is_refused(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        Behaviour().overridden(text)
