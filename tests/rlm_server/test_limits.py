"""Every limit ends the completion with its reason and the best partial answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import duration_pb2
from rlm_api.rlm.v1 import event_pb2, limits_pb2
from rlm_server.engine.limits import CellBounds, CompletionLimits

from tests.support.scripted_model import ScriptedReply

if TYPE_CHECKING:
    from tests.support.rlm_stack import Events, Stack
    from tests.support.scripted_model import Messages, ScriptedModel


def milliseconds(number: int) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromMilliseconds(number)
    return duration


def assert_partial(events: Events, reason: str, answer: str) -> None:
    assert (events.reason, events.finished.answer, events.finished.partial) == (reason, answer, True)
    assert events.finished.error


async def test_max_iterations_gives_the_content_of_answer(stack: Stack) -> None:
    limits = limits_pb2.Limits(max_iterations=2)
    replies = "```repl\nanswer['content'] = 'draft'\n```", "```repl\nx = 1\n```"
    events = await stack.complete(*replies, limits=limits, answer_at_limit=False)
    assert_partial(events, "MAX_ITERATIONS", "draft")
    assert events.finished.iterations == 2
    assert len(stack.model.requests) == 2


@pytest.mark.parametrize(
    "replies",
    [
        ["I think it is 7.\n```repl\nx=1\n```"],
        ["I think it is 7.\n```repl\nx=1\n```", "```repl\nx=2\n```"],
        ["<think>Hm.</think>I think it is 7.", "<think>Hm.</think>", ""],
    ],
)
async def test_without_content_what_was_said_beside_code_is_the_partial_answer(
    local_stack: Stack, replies: list[str]
) -> None:
    events = await local_stack.complete(*replies, limits=limits_pb2.Limits(max_iterations=len(replies)))
    assert_partial(events, "MAX_ITERATIONS", "I think it is 7.")


async def test_code_alone_is_no_answer(local_stack: Stack) -> None:
    events = await local_stack.complete("```repl\nx=1\n```", limits=limits_pb2.Limits(max_iterations=1))
    assert_partial(events, "MAX_ITERATIONS", "")


def using(text: str, sent: int = 10, made: int = 5) -> ScriptedReply:
    """Returns a reply that is said to have taken so many tokens."""
    return ScriptedReply(text, usage={"prompt_tokens": sent, "completion_tokens": made})


@pytest.mark.parametrize(
    "limits", [limits_pb2.Limits(max_input_tokens=90_000), limits_pb2.Limits(max_output_tokens=90_000)]
)
async def test_tokens_are_checked_before_each_call(stack: Stack, limits: limits_pb2.Limits) -> None:
    code = "```repl\nanswer['content'] = 'draft'\n```"
    events = await stack.complete(using(code, 89_990, 89_990), "never asked", limits=limits)
    assert_partial(events, "MAX_TOKENS", "draft")
    assert len(stack.model.requests) == 1


async def test_a_limit_of_zero_tokens_asks_no_model(stack: Stack) -> None:
    events = await stack.complete("never asked", limits=limits_pb2.Limits(max_input_tokens=0))
    assert_partial(events, "MAX_TOKENS", "")
    assert stack.model.requests == []


async def test_tokens_of_subcalls_count_and_further_ones_are_refused(stack: Stack) -> None:
    code = "a = llm_query('1')\ntry:\n    llm_query('2')\nexcept SubcallError as e:\n    answer['content'] = a + e.kind"
    replies = using(f"```repl\n{code}\n```", 50_000), using("one:", 40_000)
    events = await stack.complete(*replies, limits=limits_pb2.Limits(max_input_tokens=90_000))
    assert_partial(events, "MAX_TOKENS", "one:refused")
    assert events.warnings == ["SUBCALL_REFUSED"]


async def test_tokens_of_children_count_for_the_root(stack: Stack) -> None:
    replies = using("```repl\nanswer['content'] = rlm_query('p')\n```", made=500), using("FINAL(c)", made=9_990)
    events = await stack.complete(*replies, limits=limits_pb2.Limits(max_output_tokens=10_000))
    assert_partial(events, "MAX_TOKENS", "c")


async def test_subcalls_beyond_the_limit_are_refused_in_the_code(stack: Stack) -> None:
    code = "a = llm_query('1')\ntry:\n    llm_query('2')\nexcept SubcallError as e:\n    FINAL((a, e.kind))"
    events = await stack.complete(f"```repl\n{code}\n```", "one", limits=limits_pb2.Limits(max_subcalls=1))
    assert events.answer == '["one", "refused"]'
    assert events.warnings == ["SUBCALL_REFUSED"]
    assert events.finished.usage.subcall_count == 1


async def test_a_batch_beyond_the_limit_is_refused_as_a_whole_before_it_costs_anything(stack: Stack) -> None:
    code = "try:\n    llm_query_batched(['x'] * 6)\nexcept SubcallError as e:\n    FINAL(e.message)"
    events = await stack.complete(f"```repl\n{code}\n```", limits=limits_pb2.Limits(max_subcalls=5))
    assert "6 sub-calls asked for, 5 left of 5; none was made" in events.answer
    assert events.of("subcall_started") == []


async def test_code_that_cannot_do_without_more_subcalls_ends_the_completion(stack: Stack) -> None:
    limits = limits_pb2.Limits(max_subcalls=0, max_consecutive_errors=2)
    events = await stack.play(lambda _: "```repl\nllm_query('x')\n```", limits=limits)
    assert_partial(events, "MAX_SUBCALLS", "")


async def test_the_subcalls_of_children_come_out_of_the_same_budget(stack: Stack) -> None:
    events = await stack.complete(
        "```repl\nrlm_query('p')\ntry:\n  llm_query_batched(['x', 'y'])\nexcept SubcallError as e: FINAL(e.kind)\n```",
        "```repl\nFINAL(llm_query('leaf'))\n```",
        "leaf",
        limits=limits_pb2.Limits(max_subcalls=3),
    )
    assert events.answer == "refused"


async def test_consecutive_errors_end_the_completion(stack: Stack) -> None:
    replies = ["```repl\n1/0\n```", "```repl\nx=1\n```", "```repl\n1/0\n```", "```repl\n1/0\n```"]
    events = await stack.complete(*replies, limits=limits_pb2.Limits(max_consecutive_errors=2))
    assert_partial(events, "MAX_ERRORS", "")
    assert events.finished.iterations == 4


async def test_wall_time_interrupts_a_model_call_at_once(stack: Stack) -> None:
    never = ScriptedReply("late", release=asyncio.Event())
    events = await stack.complete(
        "```repl\nanswer['content'] = 'draft'\n```", never, limits=limits_pb2.Limits(wall_time=milliseconds(1500))
    )
    assert_partial(events, "WALL_TIME", "draft")
    await asyncio.wait_for(stack.model.disconnected.wait(), 5)
    assert events.finished.wall_time.ToMilliseconds() < 5000


async def test_wall_time_interrupts_running_code_at_once(stack: Stack) -> None:
    events = await stack.complete(
        "```repl\nanswer['content'] = 'draft'\n```",
        "```repl\nwhile True: pass\n```",
        limits=limits_pb2.Limits(wall_time=milliseconds(1500)),
    )
    assert_partial(events, "WALL_TIME", "draft")
    assert len(events.of("code_started")) == len(events.of("code_finished")) == 2
    assert events.finished.wall_time.ToMilliseconds() < 5000


async def test_wall_time_ends_what_runs_below_so_that_every_start_has_its_end(stack: Stack) -> None:
    def reply(messages: Messages) -> Any:
        if messages[0]["role"] == "user":
            return ScriptedReply("late", release=asyncio.Event())
        if "What is it?" in messages[1]["content"]:
            return "```repl\nrlm_query_batched(['p'] * 2)\n```"
        return "```repl\nllm_query('leaf')\n```"

    events = await stack.play(reply, limits=limits_pb2.Limits(wall_time=milliseconds(1500)))
    assert events.reason == "WALL_TIME"
    started = [event.node_id for event in events.events_of("subcall_started")]
    finished = [event.node_id for event in events.events_of("subcall_finished")]
    # Children have their share of the time, so that the root gets to more turns; in its last one they end with it.
    assert {"0.1", "0.1.1", "0.2", "0.2.1"} <= set(started)
    assert sorted(started) == sorted(finished)
    assert {one.finish_reason for one in events.of("subcall_finished")} == {event_pb2.FINISH_REASON_WALL_TIME}
    assert len(events.of("code_started")) == len(events.of("code_finished"))


async def test_a_block_that_takes_too_long_is_killed_and_the_model_told(stack: Stack) -> None:
    cell = limits_pb2.CellLimits(wall_time=milliseconds(200))
    events = await stack.complete(
        "```repl\nx = 1\n```",
        "```repl\nwhile True: pass\n```",
        "```repl\nFINAL('x' in globals())\n```",
        limits=limits_pb2.Limits(cell=cell),
    )
    assert events.outcomes == ["OK", "DEADLINE", "OK"]
    lost = events.of("code_finished")[1].variables_lost
    assert events.answer == str(not lost)
    assert ("VARIABLES_LOST" in events.warnings) == lost
    assert ("your variables, imports and functions are gone" in stack.shown_to_root(3)) == lost


async def test_after_a_kill_context_and_functions_are_there_again(stack: Stack) -> None:
    cell = limits_pb2.CellLimits(wall_time=milliseconds(200))
    events = await stack.complete(
        "```repl\nwhile True: pass\n```",
        "```repl\nFINAL(context + llm_query('x'))\n```",
        "sub",
        limits=limits_pb2.Limits(cell=cell),
    )
    assert events.answer == "abcsub"


async def test_subcalls_of_a_killed_block_end_with_it(stack: Stack) -> None:
    def reply(messages: Messages) -> Any:
        if messages[0]["role"] == "user":
            return ScriptedReply("late", release=asyncio.Event())
        return "```repl\nllm_query('x')\n```" if len(messages) == 2 else "FINAL(done)"

    cell = limits_pb2.CellLimits(wall_time=milliseconds(200))
    events = await stack.play(reply, limits=limits_pb2.Limits(cell=cell))
    assert events.answer == "done"
    (finished,) = events.of("subcall_finished")
    assert finished.finish_reason == event_pb2.FINISH_REASON_CANCELLED
    await asyncio.wait_for(stack.model.disconnected.wait(), 5)


async def test_limits_are_lowered_to_the_operators_greatest(serve: Any, model: ScriptedModel) -> None:
    greatest = CompletionLimits(max_iterations=3, max_input_tokens=100, cell=CellBounds(output_bytes=10))
    asked = limits_pb2.Limits(
        max_iterations=9, max_input_tokens=1000, max_subcalls=1, cell=limits_pb2.CellLimits(output_bytes=99)
    )
    async with serve(max_limits=greatest) as stack:
        limits = (await stack.complete("FINAL(x)", limits=asked)).all[0].started.limits
    assert (limits.max_iterations, limits.max_input_tokens, limits.max_subcalls) == (3, 100, 1)
    assert limits.cell.output_bytes == 10
