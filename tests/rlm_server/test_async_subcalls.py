"""Sub-calls that code begins and joins later: by `await`, `asyncio.gather`, tasks, `result()` and `done()`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from rlm_api.rlm.v1 import event_pb2, limits_pb2

from tests.rlm_server.test_subcalls import fail_on, policy
from tests.support.scripted_model import ScriptedReply

if TYPE_CHECKING:
    from tests.support.rlm_stack import Stack

UPPER_OF_THREE = "['A', 'B', 'C']\n"


@pytest.mark.parametrize("use", ["print(call)", "f'{call}'", "str(call)", "llm_query(f'Why {call}?')", "FINAL([call])"])
async def test_a_call_that_has_begun_does_not_pass_for_its_reply(stack: Stack, use: str) -> None:
    await stack.play(policy(f"call = llm_query_async('a')\n{use}", str.upper))
    assert "TypeError: this is a sub-call that has begun, not its reply; await it" in stack.shown_to_root(2)


@pytest.mark.parametrize(
    "code",
    [
        "import asyncio\nprint(await asyncio.gather(*[llm_query_async(p) for p in 'abc']))",
        "import asyncio\nawait asyncio.gather(*[llm_query_async(p) for p in 'abc'])",
        (
            "import asyncio\nasync def main():\n    return await asyncio.gather(*[llm_query_async(p) for p in 'abc'])\n"
            "print(asyncio.run(main()))"
        ),
        "import asyncio\nts = [asyncio.create_task(llm_query_async(p)) for p in 'abc']\nprint([await t for t in ts])",
        (
            "import asyncio\nasync with asyncio.TaskGroup() as g:\n"
            "    ts = [g.create_task(llm_query_async(p)) for p in 'abc']\nprint([t.result() for t in ts])"
        ),
        (
            "import asyncio\ncs = [llm_query_async(p) for p in 'abc']\n"
            "print(sorted([await c for c in asyncio.as_completed(cs)]))"
        ),
        "cs = [llm_query_async(p) for p in 'abc']\nprint([c.result() for c in cs])",
        "cs = [llm_query_async(p) for p in 'abc']\nprint([c.result() for c in reversed(cs)][::-1])",
        (
            "import asyncio\ncs = [llm_query_async(p) for p in 'abc']\nasync def one(c):\n    return await c\n"
            "print([asyncio.run(one(c)) for c in cs])"
        ),
        "print(await llm_query_batched_async('a b c'.split()))",
        "import asyncio\nprint([await asyncio.wait_for(llm_query_async(p), 30) for p in 'abc'])",
    ],
)
async def test_calls_that_were_begun_are_joined(stack: Stack, code: str) -> None:
    events = await stack.play(policy(code, str.upper))
    assert events.output == UPPER_OF_THREE
    assert [one.prompt_preview for one in events.of("subcall_started")] == ["a", "b", "c"]


async def test_calls_that_were_begun_run_at_once_while_code_goes_on(stack: Stack) -> None:
    code = "cs = [llm_query_async(str(n)) for n in range(3)]\nprint('begun')\nprint([c.result() for c in cs])"
    release = asyncio.Event()
    playing = asyncio.create_task(stack.play(policy(code, lambda prompt: ScriptedReply(prompt, release=release))))
    await asyncio.wait_for(stack.model.until_waiting(3), 10)
    release.set()
    assert (await playing).output == "begun\n['0', '1', '2']\n"


async def test_done_tells_whether_the_reply_is_here_without_waiting(stack: Stack) -> None:
    code = (
        "c = llm_query_async('x')\nprint(c.done())\nwhile not c.done(): pass\nprint(c.result(), c.done(), repr(c)[:9])"
    )
    release = asyncio.Event()
    playing = asyncio.create_task(stack.play(policy(code, lambda prompt: ScriptedReply(prompt, release=release))))
    await asyncio.wait_for(stack.model.until_waiting(1), 10)
    release.set()
    assert (await playing).output in ("False\nx True <Subcall:\n", "True\nx True <Subcall:\n")


async def test_a_call_that_fails_raises_where_it_is_joined(stack: Stack) -> None:
    code = (
        "import asyncio\n"
        "rs = await asyncio.gather(*[llm_query_async(p) for p in ('a', 'bad')], return_exceptions=True)\n"
        "print(rs[0], type(rs[1]).__name__, rs[1].kind)\n"
        "c = llm_query_async('bad')\n"
        "try:\n    c.result()\nexcept SubcallError as e:\n    print(e.kind)\n"
        "try:\n    await llm_query_async('x', model='no such ' * 30)\nexcept TypeError as e:\n    print('TypeError')"
    )
    events = await stack.play(policy(code, fail_on("bad")))
    assert events.output == "A SubcallError bad_request\nbad_request\nTypeError\n"


async def test_a_failed_batch_that_is_awaited_has_error_values(stack: Stack) -> None:
    code = "rs = await llm_query_batched_async(['a', 'bad'])\nprint(rs[0], bool(rs[1]))"
    assert (await stack.play(policy(code, fail_on("bad")))).output == "A False\n"


async def test_children_can_be_begun_and_joined(stack: Stack) -> None:
    root = "import asyncio\nFINAL(await asyncio.gather(rlm_query_async('x'), rlm_query_async('y', context='z')))"

    def reply(messages: list[dict[str, str]]) -> str:
        is_root = "What is it?" in messages[1]["content"]
        return f"```repl\n{root if is_root else 'FINAL(context * 2)'}\n```"

    events = await stack.play(reply)
    assert events.answer == '["xx", "zz"]'


async def test_calls_that_nobody_waited_for_end_with_the_block(stack: Stack) -> None:
    release = asyncio.Event()
    code = "c = llm_query_async('x')\nprint('over')"
    events = await stack.play(policy(code, lambda prompt: ScriptedReply(prompt, release=release)))
    assert events.output == "over\n"
    assert events.answer == "done"
    started, finished = events.of("subcall_started"), events.of("subcall_finished")
    assert len(started) == len(finished)


async def test_what_was_not_answered_when_its_block_ended_raises_in_later_blocks(stack: Stack) -> None:
    turns = [
        "a, b = llm_query_async('a'), llm_query_async('b')\nwhile not a.done(): pass",
        "print(a.result(), b.done())\ntry:\n    await b\nexcept SubcallError as e:\n    print(e.kind)\nb.cancel()",
    ]
    release = asyncio.Event()

    def reply(messages: list[dict[str, str]]) -> str | ScriptedReply:
        if messages[0]["role"] == "user":
            prompt = messages[0]["content"]
            return ScriptedReply(prompt.upper(), release=release if prompt == "b" else None)
        turn = sum(message["role"] == "assistant" for message in messages)
        return f"```repl\n{turns[turn]}\n```" if turn < 2 else "FINAL(done)"

    events = await asyncio.wait_for(stack.play(reply), 20)
    assert events.output == "A True\ncancelled\n"


CANCELLED = {
    "wait_for": "try:\n    await asyncio.wait_for(c, 0.05)\nexcept TimeoutError:\n    print('late')",
    "timeout": "try:\n    async with asyncio.timeout(0.05): await c\nexcept TimeoutError:\n    print('late')",
    "task": (
        "t = asyncio.create_task(c)\nawait asyncio.sleep(0)\nt.cancel()\n"
        "try:\n    await t\nexcept asyncio.CancelledError:\n    print('late')"
    ),
    "cancel": "c.cancel()\nprint('late')",
    "cancel_subcall": "cancel_subcall(c)\nprint('late')",
}


@pytest.mark.parametrize("how", CANCELLED)
async def test_a_call_that_code_cancels_is_stopped_while_the_block_goes_on(stack: Stack, how: str) -> None:
    code = (
        f"import asyncio\nc = llm_query_async('slow')\n{CANCELLED[how]}\n"
        "try:\n    c.result()\nexcept SubcallError as e:\n    print(e.kind)\nprint(llm_query('quick'))"
    )
    release = asyncio.Event()
    script = policy(code, lambda prompt: ScriptedReply(prompt, release=release) if prompt == "slow" else "yes")
    events = await asyncio.wait_for(stack.play(script), 20)
    assert events.output == "late\ncancelled\nyes\n"
    finished = [(event.node_id, event.subcall_finished.finish_reason) for event in events.events_of("subcall_finished")]
    assert finished == [("0.1", event_pb2.FINISH_REASON_CANCELLED), ("0.2", event_pb2.FINISH_REASON_ANSWERED)]


async def test_cancelling_what_is_answered_or_was_cancelled_does_nothing(stack: Stack) -> None:
    code = "c = llm_query_async('a')\nprint(c.result())\nc.cancel()\nc.cancel()\nprint(c.result())"
    assert (await stack.play(policy(code, str.upper))).output == "A\nA\n"


async def test_a_cancelled_child_ends_with_all_that_it_does(stack: Stack) -> None:
    root = (
        "import asyncio\ntry:\n    await asyncio.wait_for(rlm_query_async('x'), 2)\n"
        "except TimeoutError:\n    FINAL('late')"
    )
    release = asyncio.Event()

    def reply(messages: list[dict[str, str]]) -> str | ScriptedReply:
        if messages[0]["role"] == "user":
            return ScriptedReply("never", release=release)
        is_root = "What is it?" in messages[1]["content"]
        return f"```repl\n{root}\n```" if is_root else "```repl\nllm_query('deep')\n```"

    events = await asyncio.wait_for(stack.play(reply), 20)
    assert events.answer == "late"
    ended = [event.node_id for event in events.events_of("subcall_finished")]
    assert ended == ["0.1.1", "0.1"]
    reasons = {call.finish_reason for call in events.of("subcall_finished")}
    assert reasons == {event_pb2.FINISH_REASON_CANCELLED}


async def test_a_batch_does_not_go_over_the_bound_of_one_model(stack: Stack) -> None:
    code = (
        "a = llm_query_batched_async([str(n) for n in range(9)])\n"
        "b = llm_query_batched(['x'] * 2, model='other')\na.result()"
    )
    release = asyncio.Event()
    script = policy(code, lambda prompt: ScriptedReply(prompt, release=release))
    limits = limits_pb2.Limits(max_concurrent_subcalls=8, max_concurrent_calls_per_model=3)
    playing = asyncio.create_task(stack.play(script, limits=limits))
    await asyncio.wait_for(stack.model.until_waiting(5), 10)
    assert stack.model.waiting_count == 5
    release.set()
    await playing
    assert stack.model.most_concurrent == 5


async def test_a_block_that_awaits_shows_its_last_value_and_its_traceback(stack: Stack) -> None:
    first = "x = await llm_query_async('a')\nx"
    events = await stack.play(policy(first, str.upper))
    assert events.output == "'A'\n"
    events = await stack.play(policy("y = await llm_query_async('a')\n1 / 0", str.upper))
    assert events.outcomes == ["EXCEPTION"]
    traceback = events.of("code_finished")[0].traceback
    assert traceback.count("File ") == 1
    assert "line 2" in traceback


async def test_final_in_a_block_that_awaits_ends_it(stack: Stack) -> None:
    events = await stack.complete("```repl\nFINAL(await llm_query_async('a'))\nprint('not reached')\n```", "yes")
    assert (events.answer, events.output) == ("yes", "")


async def test_ids_follow_the_order_of_calls_however_large_they_are(stack: Stack) -> None:
    code = "cs = [llm_query_async(p) for p in ('x' * 3_000_000, 'small')]\nprint([len(c.result()) for c in cs])"
    events = await stack.play(policy(code, str), limits=limits_pb2.Limits(max_subcall_prompt_chars=4_000_000))
    assert events.output == "[3000000, 5]\n"
    started = {event.node_id: event.subcall_started.prompt_chars for event in events.events_of("subcall_started")}
    assert started == {"0.1": 3_000_000, "0.2": 5}
