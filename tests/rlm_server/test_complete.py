"""The normal path: a query, turns of code, an answer."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_api.rlm.v1 import event_pb2, limits_pb2

if TYPE_CHECKING:
    from tests.support.rlm_stack import Stack

LOOK_THEN_ANSWER = ("I look.\n```repl\nprint(context.upper())\n```", "```repl\nFINAL(context * 2)\n```")


async def test_events_tell_the_whole_story_in_order(stack: Stack) -> None:
    events = await stack.complete(*LOOK_THEN_ANSWER)
    kinds = [kind for kind in events.kinds() if kind != "model_text_delta"]
    turn = ["iteration_started", "model_reply_finished", "usage_updated", "code_started"]
    assert kinds == ["started", *turn, "output", "code_finished", *turn, "code_finished", "finished"]
    assert events.answer == "abcabc"


async def test_every_event_has_the_completion_id_a_gapless_sequence_a_time_and_a_node(stack: Stack) -> None:
    events = await stack.complete(*LOOK_THEN_ANSWER)
    assert [event.sequence for event in events.all] == list(range(1, len(events.all) + 1))
    assert len({event.completion_id for event in events.all}) == 1
    assert events.all[0].completion_id
    assert {event.node_id for event in events.all} == {"0"}
    times = [event.event_time.ToNanoseconds() for event in events.all]
    assert times == sorted(times)


async def test_started_tells_models_context_and_the_limits_in_force(stack: Stack) -> None:
    events = await stack.complete("FINAL(x)", contexts=[pb.ContextPart(text="käse", description="cheese")])
    started = events.all[0].started
    assert (started.query, started.model, started.sub_model) == ("What is it?", "root-model", "sub-model")
    assert started.limits.max_iterations == 30
    assert started.limits.wall_time.seconds == 1800
    assert not started.limits.HasField("max_input_tokens")
    (context,) = started.contexts
    digest = hashlib.sha256("käse".encode()).hexdigest()
    assert (context.name, context.type, context.size_bytes, context.sha256) == ("context", "str", 5, digest)


async def test_text_deltas_add_up_to_the_reply(stack: Stack) -> None:
    events = await stack.complete(*LOOK_THEN_ANSWER)
    for turn, reply in enumerate(LOOK_THEN_ANSWER, start=1):
        deltas = [delta.text for delta in events.of("model_text_delta") if delta.iteration == turn]
        assert "".join(deltas) == reply
        assert events.of("model_reply_finished")[turn - 1].text == reply


async def test_code_events_name_turn_block_and_source(stack: Stack) -> None:
    events = await stack.complete("```repl\na = 1\n```\nand\n```python\nprint(a)\n```", "FINAL(x)")
    started = [(one.iteration, one.block, one.code) for one in events.of("code_started")]
    assert started == [(1, 1, "a = 1"), (1, 2, "print(a)")]
    (output,) = events.of("output")
    assert (output.iteration, output.block, output.stream, output.text) == (1, 2, event_pb2.OUTPUT_STREAM_STDOUT, "1\n")
    assert [one.output_chars for one in events.of("code_finished")] == [0, 2]


async def test_usage_is_the_sum_of_all_calls_and_split_by_model(stack: Stack) -> None:
    events = await stack.complete("```repl\nllm_query('x')\n```", "sub", "FINAL(x)")
    usage = events.finished.usage
    assert (usage.total.call_count, usage.total.input_tokens, usage.total.output_tokens) == (3, 30, 15)
    assert (usage.total.cached_input_tokens, usage.total.reasoning_tokens) == (12, 6)
    assert usage.by_model["root-model"].call_count == 2
    assert usage.by_model["sub-model"].call_count == 1
    assert (usage.iterations, usage.subcall_count, events.finished.iterations) == (2, 1, 2)
    assert len(events.of("usage_updated")) == 3


async def test_the_model_is_told_the_question_the_shape_of_the_context_and_the_budget(stack: Stack) -> None:
    text = f"begin {'secret ' * 1000} end"
    await stack.complete("FINAL(x)", query="Who?", contexts=[pb.ContextPart(text=text, description="a diary")])
    system, first = stack.model.conversations[0]
    assert system["role"] == "system"
    for word in ("llm_query_batched", "rlm_query", "SHOW_VARS", "FINAL_VAR", 'answer["ready"]', "20,000", "30 turns"):
        assert word in system["content"]
    assert "Who?" in first["content"]
    assert "`context`: str, 7,010 characters: a diary\n  begins: 'begin secret" in first["content"]
    assert "secret  end'" in first["content"]
    assert "Turn 1 of 30" in first["content"]
    assert first["content"].count("secret") < 60


async def test_the_model_is_shown_its_reply_and_the_output_of_the_code(stack: Stack) -> None:
    await stack.complete(*LOOK_THEN_ANSWER)
    roles = [message["role"] for message in stack.model.conversations[1]]
    assert roles == ["system", "user", "assistant", "user"]
    assert stack.model.conversations[1][2]["content"] == LOOK_THEN_ANSWER[0]
    assert stack.shown_to_root(2).startswith("REPL output:\nABC\n")
    assert "Turn 2 of 30" in stack.shown_to_root(2)


async def test_sampling_reaches_the_endpoint(stack: Stack) -> None:
    sampling = pb.Sampling(temperature=0.5, top_p=0.9, max_output_tokens=77, reasoning_effort="low")
    await stack.complete("FINAL(x)", sampling=sampling)
    request = stack.model.requests[0]
    assert (request["temperature"], request["top_p"]) == (0.5, 0.9)
    assert (request["max_tokens"], request["reasoning_effort"]) == (77, "low")


async def test_sub_calls_and_children_can_have_sampling_of_their_own(stack: Stack) -> None:
    await stack.complete(
        "```repl\nllm_query('a')\nrlm_query('b')\n```",
        *("a reply", "```repl\nprint(llm_query('c'))\n```", "a reply", "FINAL(child)", "FINAL(x)"),
        sampling=pb.Sampling(temperature=0.5, top_p=0.9),
        sub_sampling=pb.Sampling(temperature=0.0, reasoning_effort="low"),
        limits=limits_pb2.Limits(max_depth=1),
    )
    said = [(one["temperature"], one["top_p"], one.get("reasoning_effort")) for one in stack.model.requests]
    assert said == [(0.5, 0.9, None), *[(0.0, 0.9, "low")] * 4, (0.5, 0.9, None)]


async def test_sampling_that_is_not_given_is_left_to_the_endpoint(stack: Stack) -> None:
    await stack.complete("FINAL(x)")
    assert set(stack.model.requests[0]) == {"model", "messages", "stream", "stream_options"}


@pytest.mark.parametrize(
    ("part", "expression", "expected"),
    [
        (pb.ContextPart(text="a\r\nb\x00"), "repr(context)", repr("a\r\nb\x00")),
        (pb.ContextPart(json='{"a": [1, null]}'), "context['a']", "[1, null]"),
        (
            pb.ContextPart(documents=pb.Documents(documents=[pb.Document(id="i", text="t", metadata={"k": "v"})])),
            "context",
            '[{"id": "i", "text": "t", "metadata": {"k": "v"}}]',
        ),
        (pb.ContextPart(encoded=pb.EncodedText(data=b"k\xe4se", charset="iso-8859-1")), "context", "käse"),
        (pb.ContextPart(name="report", text="r"), "report + context", "rr"),
    ],
    ids=["text", "json", "documents", "encoded", "named"],
)
async def test_each_kind_of_context_becomes_a_variable(
    stack: Stack, part: pb.ContextPart, expression: str, expected: str
) -> None:
    events = await stack.complete(f"```repl\nFINAL({expression})\n```", contexts=[part])
    assert events.answer == expected


async def test_several_parts_are_variables_and_together_a_dict(stack: Stack) -> None:
    parts = [pb.ContextPart(text="a"), pb.ContextPart(name="notes", text="b"), pb.ContextPart(json="[3]")]
    code = "FINAL([context_0, notes, context_2, sorted(context), context['notes'] is notes])"
    events = await stack.complete(f"```repl\n{code}\n```", contexts=parts)
    assert json.loads(events.answer) == ["a", "b", [3], ["context_0", "context_2", "notes"], True]


async def test_an_uploaded_context_is_a_variable(stack: Stack) -> None:
    data = ("line\n" * 300_000).encode()

    async def upload() -> object:
        requests = [pb.UploadContextRequest(metadata=pb.ContextMetadata())]
        requests += [pb.UploadContextRequest(chunk=data[at : at + 2**20]) for at in range(0, len(data), 2**20)]
        return requests

    response = await stack.stub.UploadContext(await upload())  # type: ignore[arg-type]
    part = pb.ContextPart(context_id=response.context_id)
    events = await stack.complete("```repl\nFINAL((len(context), context.count('\\n')))\n```", contexts=[part])
    assert events.answer == "[1500000, 300000]"
    assert events.all[0].started.contexts[0].size_bytes == len(data)


async def test_two_completions_share_nothing(stack: Stack) -> None:
    await stack.complete("```repl\nleft_behind = 1\nFINAL('x')\n```")
    events = await stack.complete("```repl\nFINAL('left_behind' in globals())\n```")
    assert events.answer == "False"


async def test_list_models_names_the_defaults(stack: Stack) -> None:
    response = await stack.stub.ListModels(pb.ListModelsRequest())
    assert [model.name for model in response.models] == ["root-model", "sub-model"]
    assert (response.default_model, response.default_sub_model) == ("root-model", "sub-model")
    assert response.any_model_allowed
