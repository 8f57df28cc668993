"""Calls that fail are made again, and then fallbacks are asked: told by events, over gRPC."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_api.rlm.v1 import event_pb2
from rlm_server.models.openai_errors import retry_after_seconds
from rlm_server.models.refusals import wait_seconds

from tests.support.pictures import png
from tests.support.rlm_stack import running_stack
from tests.support.scripted_model import ScriptedReply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.rlm_stack import Events
    from tests.support.scripted_model import ScriptedModel

AT_ONCE = {"retry-after-ms": "1"}


def profile(endpoint: ScriptedModel, **fields: Any) -> dict[str, Any]:
    return {"base_url": endpoint.base_url, "max_retries": 0} | fields


async def complete(replies: Sequence[Any], model: ScriptedModel, **settings: Any) -> Events:
    async with running_stack(model, **settings) as stack:
        return await stack.complete(*replies)


@pytest.mark.parametrize(
    "failure",
    [
        ScriptedReply(status=503, headers=AT_ONCE),
        ScriptedReply(status=429, headers=AT_ONCE),
        ScriptedReply(status=500, headers=AT_ONCE),
    ],
)
async def test_a_call_that_fails_is_made_again_and_told(model: ScriptedModel, failure: ScriptedReply) -> None:
    events = await complete([failure, failure, "FINAL(x)"], model, model_max_retries=2)
    assert events.answer == "x"
    assert events.warnings[:2] == ["MODEL_RETRY", "MODEL_RETRY"]
    assert "for the 2. of at most 3 times" in events.of("warning")[0].message
    assert events.finished.usage.total.call_count == 1


@pytest.mark.parametrize(
    "refusal",
    [
        pytest.param(ScriptedReply(status=429, headers={"retry-after": "0.7"}), id="in-a-header"),
        pytest.param(ScriptedReply(status=429, error={"message": "Please try again in 700ms."}), id="in-words"),
    ],
)
async def test_the_wait_that_an_endpoint_asks_for_is_kept(model: ScriptedModel, refusal: ScriptedReply) -> None:
    times = []

    def reply(_: Any) -> Any:
        times.append(asyncio.get_running_loop().time())
        return refusal if len(times) == 1 else "FINAL(x)"

    async with running_stack(model, model_max_retries=1) as stack:
        assert (await stack.play(reply)).answer == "x"
    assert 0.7 <= times[1] - times[0] < 3


async def test_a_reply_that_breaks_off_is_void_and_begins_anew(model: ScriptedModel) -> None:
    broken = ScriptedReply("```repl\nFINAL('half')", break_off=True)
    events = await complete([broken, "FINAL(x)"], model, model_max_retries=1)
    assert events.answer == "x"
    assert events.of("model_reply_finished")[0].text == "FINAL(x)"
    assert "the reply that had begun is void" in events.of("warning")[0].message
    usage = events.finished.usage.total
    assert (usage.call_count, usage.unreported_call_count) == (2, 1)


@pytest.mark.parametrize(
    "failure",
    [
        ScriptedReply(status=401),
        ScriptedReply(status=402),
        ScriptedReply(status=429, error={"message": "m", "code": "insufficient_quota"}),
        ScriptedReply(status=400, error={"message": "m", "code": "content_filter"}),
        ScriptedReply(status=503, headers={"x-should-retry": "false"}),
    ],
)
async def test_what_will_not_pass_is_not_tried_again(model: ScriptedModel, failure: ScriptedReply) -> None:
    events = await complete([failure], model, model_max_retries=5)
    assert events.reason == "MODEL_ERROR"
    assert len(model.requests) == 1


async def test_a_wait_beyond_the_time_in_all_is_not_begun(model: ScriptedModel) -> None:
    failure = ScriptedReply(status=429, headers={"retry-after": "3600"})
    events = await complete([failure], model, model_max_retries=5, model_total_timeout_seconds=5)
    assert events.reason == "MODEL_ERROR"
    assert events.finished.wall_time.ToMilliseconds() < 4000


async def test_a_call_has_its_time_though_parts_keep_coming(model: ScriptedModel) -> None:
    never = ScriptedReply("late", release=asyncio.Event())
    events = await complete([never, "FINAL(x)"], model, model_try_timeout_seconds=0.3, model_max_retries=1)
    assert events.answer == "x"
    assert "not complete in time" in events.of("warning")[0].message


# --- fallbacks


@pytest.mark.parametrize(
    "failure", [ScriptedReply(status=503), ScriptedReply(status=401), ScriptedReply("half", break_off=True)]
)
async def test_a_fallback_is_asked_when_a_model_fails(
    model: ScriptedModel, other: ScriptedModel, failure: ScriptedReply
) -> None:
    other.follow(["FINAL(from the other)"])
    models = {"first": profile(model, fallbacks=["second"]), "second": profile(other, model="real-name")}
    events = await complete([failure], model, models=models, default_model="first", default_sub_model=None)
    assert events.answer == "from the other"
    assert events.warnings[0] == "MODEL_FALLBACK"
    assert "second is asked instead" in events.of("warning")[0].message
    assert events.of("model_reply_finished")[0].model == "second"
    assert other.requests[0]["model"] == "real-name"
    assert events.finished.usage.by_model["second"].input_tokens == 10


async def test_a_fallback_that_takes_no_images_is_passed_over_for_those(
    model: ScriptedModel, other: ScriptedModel
) -> None:
    models = {
        "first": profile(model, fallbacks=["blind", "seeing"]),
        "blind": profile(other, images=False),
        "seeing": profile(model),
    }
    image = pb.ContextPart(image=pb.Image(data=png(), media_type="image/png"))
    replies = ["```repl\nFINAL(llm_query(['What?', context]))\n```", ScriptedReply(status=503), "a picture"]
    async with running_stack(model, models=models, default_model="first", default_sub_model=None) as stack:
        events = await stack.complete(*replies, contexts=[image])
    assert events.answer == "a picture"
    assert other.requests == []
    assert "seeing is asked instead" in events.of("warning")[0].message


async def test_fallbacks_are_asked_in_their_order_and_the_last_failure_counts(
    model: ScriptedModel, other: ScriptedModel
) -> None:
    other.follow([ScriptedReply(status=402)])
    models = {"a": profile(model, fallbacks=["b", "c"]), "b": profile(model), "c": profile(other)}
    replies = [ScriptedReply(status=503), ScriptedReply(status=500)]
    events = await complete(replies, model, models=models, default_model="a", default_sub_model=None)
    assert events.reason == "MODEL_ERROR"
    assert events.finished.error.startswith("c: ")
    assert events.warnings == ["MODEL_FALLBACK", "MODEL_FALLBACK"]


@pytest.mark.parametrize("code", ["context_length_exceeded", "content_filter"])
async def test_a_request_that_is_at_fault_itself_goes_to_no_fallback(
    model: ScriptedModel, other: ScriptedModel, code: str
) -> None:
    models = {"first": profile(model, fallbacks=["second"]), "second": profile(other)}
    failure = ScriptedReply(status=400, error={"message": "m", "code": code})
    await complete([failure], model, models=models, default_model="first", default_sub_model=None)
    assert other.requests == []


async def test_a_subcall_tells_of_its_retry_at_its_own_node(model: ScriptedModel) -> None:
    failure = ScriptedReply(status=503, headers=AT_ONCE)
    replies = ["```repl\nFINAL(llm_query('q'))\n```", failure, "sub"]
    events = await complete(replies, model, model_max_retries=1)
    assert events.answer == "sub"
    (event,) = events.events_of("warning")
    assert (event.node_id, event.warning.code) == ("0.1", event_pb2.WARNING_CODE_MODEL_RETRY)


# --- the header


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "nonsense"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    ],
)
def test_a_wait_is_read_in_each_form(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_seconds(headers) == seconds


# --- the body


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        ({"message": "Rate limit reached. Please try again in 7.66s. Visit the console.", "code": 429}, 7.66),
        ({"message": "Rate limit reached. Please try again in 120ms."}, 0.12),
        ({"error": {"message": "Limit 100000, Used 99994. Please try again in 6m0s."}}, 360.0),
        ({"message": "Please try again in 1h2m3.5s."}, 3723.5),
        ({"message": "Please retry in 20.064s."}, 20.064),
        ([{"error": {"code": 429, "details": [{"@type": "x.RetryInfo", "retryDelay": "39s"}]}}], 39.0),
        ({"message": "m", "details": [{"@type": "x.Help"}, {"@type": "x.RetryInfo", "retryDelay": "1.5s"}]}, 1.5),
        ({"message": "m", "details": [{"retryDelay": "soon"}, "x"]}, None),
        ({"message": "Please try again in a moment."}, None),
        ("Please try again later", None),
        ([], None),
        (None, None),
    ],
)
def test_a_wait_is_read_in_the_body_of_a_refusal(body: object, seconds: float | None) -> None:
    assert wait_seconds(body) == seconds
