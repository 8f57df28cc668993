"""Identical sub-calls, made once where the request says so."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from rlm_api.rlm.v1 import event_pb2, limits_pb2

from tests.rlm_server.test_subcalls import policy
from tests.support.scripted_model import ScriptedReply

if TYPE_CHECKING:
    from tests.support.rlm_stack import Stack


def sub_prompts(stack: Stack) -> list[str]:
    return [one[0]["content"] for one in stack.model.conversations if one[0]["role"] == "user"]


async def test_without_it_identical_calls_are_all_made(stack: Stack) -> None:
    await stack.play(policy("llm_query('a')\nllm_query('a')", str.upper))
    assert sub_prompts(stack) == ["a", "a"]


async def test_an_identical_later_call_has_the_reply_of_the_first(stack: Stack) -> None:
    code = "print(llm_query('a'), llm_query('a'), llm_query_batched(['b', 'a']))"
    events = await stack.play(policy(code, str.upper), cache_subcalls=True)
    assert events.output == "A A ['B', 'A']\n"
    assert sub_prompts(stack) == ["a", "b"]
    cached = {event.node_id: event.subcall_finished.cached for event in events.events_of("subcall_finished")}
    assert cached == {"0.1": False, "0.2": True, "0.3": False, "0.4": True}
    assert events.of("subcall_finished", "0.2")[0].usage.call_count == 0
    assert events.finished.usage.subcall_count == 2


async def test_identical_calls_at_once_are_made_once(stack: Stack) -> None:
    code = (
        "cs = [llm_query_async('a') for _ in range(3)]\nprint(llm_query_batched(['a'] * 3), [c.result() for c in cs])"
    )
    release = asyncio.Event()
    script = policy(code, lambda prompt: ScriptedReply(prompt, release=release))
    playing = asyncio.create_task(stack.play(script, cache_subcalls=True))
    await asyncio.wait_for(stack.model.until_waiting(1), 10)
    release.set()
    events = await playing
    assert events.output == f"{['a'] * 3} {['a'] * 3}\n"
    assert sub_prompts(stack) == ["a"]


async def test_cached_calls_do_not_count_against_the_limit(stack: Stack) -> None:
    code = "print(llm_query_batched(['a'] * 50))"
    events = await stack.play(policy(code, str.upper), cache_subcalls=True, limits=limits_pb2.Limits(max_subcalls=1))
    assert events.output == f"{['A'] * 50}\n"


async def test_another_model_function_or_context_is_another_call(stack: Stack) -> None:
    code = "llm_query('a')\nllm_query('a', model='m')\nrlm_query('a')\nrlm_query('a', context='c')\nrlm_query('a')"

    def reply(messages: list[dict[str, str]]) -> str:
        if messages[0]["role"] != "system":
            return "r"
        is_root = "What is it?" in messages[1]["content"]
        return f"```repl\n{code}\n```" if is_root and len(messages) == 2 else "FINAL(done)"

    events = await stack.play(reply, cache_subcalls=True)
    assert [one.cached for one in events.of("subcall_finished")] == [False, False, False, False, True]


async def test_a_failure_is_shared_with_those_that_wait_and_not_kept(stack: Stack) -> None:
    calls = []

    def sub(prompt: str) -> ScriptedReply | str:
        calls.append(prompt)
        return ScriptedReply(status=400) if len(calls) == 1 else "better"

    code = "rs = llm_query_batched(['a', 'a'])\nprint([r.kind for r in rs], llm_query('a'))"
    events = await stack.play(policy(code, sub), cache_subcalls=True)
    assert events.output == "['bad_request', 'bad_request'] better\n"
    reasons = [one.finish_reason for one in events.of("subcall_finished")]
    assert reasons[:2] == [event_pb2.FINISH_REASON_MODEL_ERROR] * 2


@pytest.mark.parametrize(("function", "expected"), [("llm_query_async", "now now"), ("rlm_query_async", "four four")])
async def test_a_call_that_waits_for_one_which_code_cancels_is_made_itself(
    stack: Stack, function: str, expected: str
) -> None:
    first = asyncio.Event()

    def reply(messages: list[dict[str, str]]) -> ScriptedReply | str:
        if messages[0]["role"] == "system" and "What is it?" in messages[1]["content"]:
            return f"```repl\n{code}\n```" if len(messages) == 2 else "FINAL(done)"
        if not first.is_set():
            first.set()
            return ScriptedReply("late", release=asyncio.Event())
        return "now" if messages[0]["role"] == "user" else "FINAL(four)"

    code = (
        f"import asyncio\none, two, three = [{function}('same') for _ in range(3)]\n"
        "try:\n    await asyncio.wait_for(one, 0.2)\nexcept TimeoutError:\n    print(await two, await three)"
    )
    events = await stack.play(reply, cache_subcalls=True)
    assert events.output == f"{expected}\n"
    assert [one.cached for one in events.of("subcall_finished") if not one.error] == [False, True]
    assert events.finished.usage.subcall_count == 2


async def test_a_call_that_waits_for_one_which_code_cancels_keeps_within_the_limit(local_stack: Stack) -> None:
    code = (
        "one, two = [llm_query_async('same') for _ in range(2)]\none.cancel()\n"
        "try:\n    two.result()\nexcept SubcallError as error:\n    print(error.kind)"
    )
    script = policy(code, lambda prompt: ScriptedReply(prompt, release=asyncio.Event()))
    limits = limits_pb2.Limits(max_subcalls=1)
    events = await local_stack.play(script, cache_subcalls=True, limits=limits)
    assert (events.output, events.warnings) == ("refused\n", ["SUBCALL_REFUSED"])


async def test_a_block_that_leaves_a_call_behind_leaves_nothing_in_the_cache(stack: Stack) -> None:
    release = asyncio.Event()
    replies = ["```repl\nc = llm_query_async('a')\n```", "```repl\nprint(llm_query('a'))\n```", "FINAL(done)"]
    turns = iter(enumerate(replies))
    block = 0

    def reply(messages: list[dict[str, str]]) -> ScriptedReply | str:
        nonlocal block
        if messages[0]["role"] == "system":
            block, text = next(turns)
            return text
        # Whether the first call gets as far as the model before its block is over is a matter of time.
        return ScriptedReply("late", release=release) if block == 0 else "now"

    events = await stack.play(reply, cache_subcalls=True)
    assert events.output == "now\n"
    assert events.answer == "done"
