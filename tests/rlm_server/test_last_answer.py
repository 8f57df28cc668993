"""After a limit the model is asked once more, for the best answer from what it has seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from rlm_api.rlm.v1 import limits_pb2
from rlm_server.engine.answers.last_answer import read_last_answer

from tests.support.rlm_stack import running_stack
from tests.support.scripted_model import ScriptedReply

if TYPE_CHECKING:
    from tests.support.rlm_stack import Events, Stack
    from tests.support.scripted_model import Messages, ScriptedModel

DRAFT = "```repl\nanswer['content'] = 'draft'\n```"


def assert_last_answer(events: Events, reason: str, answer: str) -> None:
    assert (events.reason, events.finished.answer, events.finished.partial) == (reason, answer, True)
    assert [one.last_answer for one in events.of("iteration_started", "0")].count(True) == 1
    assert events.of("iteration_started", "0")[-1].last_answer


async def test_after_max_iterations_the_model_says_what_it_knows(local_stack: Stack) -> None:
    events = await local_stack.complete(DRAFT, DRAFT, "It is seven.", limits=limits_pb2.Limits(max_iterations=2))
    assert_last_answer(events, "MAX_ITERATIONS", "It is seven.")
    assert events.finished.iterations == 2
    assert events.finished.usage.iterations == 2
    assert events.finished.usage.total.call_count == 3
    assert [one.iteration for one in events.of("model_reply_finished")] == [1, 2, 3]
    shown = local_stack.shown_to_root(3)
    assert "A limit is reached: max_iterations of 2 is reached. No more code will run." in shown
    assert "(no output; print what you want to see)" in shown
    roles = [message["role"] for message in local_stack.model.conversations[-1]]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user"]


async def test_after_max_errors_the_model_is_shown_the_last_one(local_stack: Stack) -> None:
    limits = limits_pb2.Limits(max_consecutive_errors=1)
    events = await local_stack.complete("```repl\n1/0\n```", "Division fails.", limits=limits)
    assert_last_answer(events, "MAX_ERRORS", "Division fails.")
    assert "ZeroDivisionError" in local_stack.shown_to_root(2)


async def test_after_max_subcalls_too(local_stack: Stack) -> None:
    limits = limits_pb2.Limits(max_subcalls=0, max_consecutive_errors=1)
    events = await local_stack.complete("```repl\nllm_query('x')\n```", "Unknown.", limits=limits)
    assert_last_answer(events, "MAX_SUBCALLS", "Unknown.")


async def test_a_child_gives_its_last_answer_to_its_parent(local_stack: Stack) -> None:
    def reply(messages: Messages) -> str:
        if "What is it?" in messages[1]["content"]:
            return "```repl\nr = rlm_query_batched(['p'])[0]\nFINAL((r.kind, r.partial_answer))\n```"
        return "known so far" if "A limit is reached" in messages[-1]["content"] else "```repl\n1/0\n```"

    events = await local_stack.play(reply, limits=limits_pb2.Limits(max_consecutive_errors=1))
    assert events.answer == '["max_errors", "known so far"]'


async def test_a_last_answer_with_code_is_none(local_stack: Stack) -> None:
    events = await local_stack.complete(DRAFT, DRAFT, limits=limits_pb2.Limits(max_iterations=1))
    assert_last_answer(events, "MAX_ITERATIONS", "draft")
    assert events.warnings == ["NO_LAST_ANSWER"]
    assert len(events.of("code_started")) == 1


async def test_a_last_call_that_fails_leaves_what_there_was(local_stack: Stack) -> None:
    failure = ScriptedReply(status=400)
    events = await local_stack.complete(DRAFT, failure, limits=limits_pb2.Limits(max_iterations=1))
    assert_last_answer(events, "MAX_ITERATIONS", "draft")
    assert events.warnings == ["NO_LAST_ANSWER"]


async def test_a_last_call_that_is_not_affordable_is_not_made(local_stack: Stack) -> None:
    reply = ScriptedReply(DRAFT, usage={"prompt_tokens": 10, "completion_tokens": 995})
    limits = limits_pb2.Limits(max_iterations=1, max_output_tokens=1000)
    events = await local_stack.complete(reply, "never asked", limits=limits)
    assert_last_answer(events, "MAX_ITERATIONS", "draft")
    assert "max_output_tokens of 1,000 is reached" in events.of("warning")[0].message
    assert len(local_stack.model.requests) == 1


async def test_a_last_answer_that_matches_the_schema_is_json_too(local_stack: Stack) -> None:
    limits = limits_pb2.Limits(max_iterations=1)
    events = await local_stack.complete(
        "```repl\nx = 1\n```", "[1, 2]", limits=limits, answer_schema='{"type": "array"}'
    )
    assert_last_answer(events, "MAX_ITERATIONS", "[1, 2]")
    assert events.finished.answer_json == "[1, 2]"


@pytest.mark.parametrize(("settings", "fields"), [({"answer_at_limit": False}, {}), ({}, {"answer_at_limit": False})])
async def test_it_can_be_turned_off(model: ScriptedModel, settings: dict[str, Any], fields: dict[str, Any]) -> None:
    async with running_stack(model, **settings) as stack:
        events = await stack.complete(DRAFT, "never", limits=limits_pb2.Limits(max_iterations=1), **fields)
    assert (events.reason, events.finished.answer) == ("MAX_ITERATIONS", "draft")
    assert len(model.requests) == 1


async def test_a_request_wins_over_the_setting(model: ScriptedModel) -> None:
    async with running_stack(model, answer_at_limit=False) as stack:
        limits = limits_pb2.Limits(max_iterations=1)
        events = await stack.complete(DRAFT, "said", limits=limits, answer_at_limit=True)
    assert_last_answer(events, "MAX_ITERATIONS", "said")


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("It is 7.", "It is 7."),
        ("  It is 7.\n", "It is 7."),
        ("FINAL(7)", "7"),
        ("<think>hm</think>\nIt is 7.", "It is 7."),
        ('```json\n{"a": 1}\n```', '```json\n{"a": 1}\n```'),
        ("", None),
        ("<think>only this", None),
        ("FINAL_VAR(x)", None),
        ("FINAL(f'It is {x}')", None),
        ("```repl\nFINAL(7)\n```", None),
    ],
)
def test_a_last_answer_is_read(reply: str, answer: str | None) -> None:
    found = read_last_answer(reply)
    assert (found.text if found else None) == answer
