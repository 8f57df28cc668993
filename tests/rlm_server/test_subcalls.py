"""Sub-calls from code: plain, batched, recursive."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from rlm_api.rlm.v1 import event_pb2, limits_pb2

from tests.support.scripted_model import ScriptedReply

if TYPE_CHECKING:
    from tests.support.rlm_stack import Stack
    from tests.support.scripted_model import Messages


def policy(root_code: str, sub: Any) -> Any:
    """Returns a script: the root runs the code and then answers `done`; each sub-call gets `sub(prompt)`."""

    def reply(messages: Messages) -> Any:
        if messages[0]["role"] != "system":
            return sub(messages[0]["content"])
        return f"```repl\n{root_code}\n```" if len(messages) == 2 else "FINAL(done)"

    return reply


def fail_on(word: str, status: int = 400) -> Any:
    return lambda prompt: ScriptedReply(status=status) if word in prompt else prompt.upper()


async def test_llm_query_returns_the_reply_as_text(stack: Stack) -> None:
    events = await stack.complete("```repl\nFINAL(llm_query('Say hi.') + '!')\n```", "hi")
    assert events.answer == "hi!"
    assert stack.model.conversations[1] == [{"role": "user", "content": "Say hi."}]


async def test_a_subcall_is_a_node_with_a_start_and_an_end(stack: Stack) -> None:
    events = await stack.complete("```repl\nllm_query('P' * 1000)\n```", "r" * 500, "FINAL(x)")
    (started,) = events.of("subcall_started", "0.1")
    assert (started.parent_node_id, started.depth, started.kind) == ("0", 1, event_pb2.NODE_KIND_LLM)
    assert (started.function, started.model, started.prompt_chars) == ("llm_query", "sub-model", 1000)
    assert started.prompt_preview == "P" * 400
    assert not started.HasField("batch_index")
    (finished,) = events.of("subcall_finished", "0.1")
    assert (finished.finish_reason, finished.answer_chars) == (event_pb2.FINISH_REASON_ANSWERED, 500)
    assert finished.usage.input_tokens == 10
    assert finished.wall_time.ToNanoseconds() > 0


async def test_the_model_of_a_subcall_can_be_named(stack: Stack) -> None:
    await stack.complete("```repl\nllm_query('x', 'other')\nllm_query('x', model='third')\n```", "r", "r", "FINAL(x)")
    assert [one["model"] for one in stack.model.requests] == ["root-model", "other", "third", "root-model"]


async def test_a_failed_llm_query_raises_subcall_error(stack: Stack) -> None:
    code = "try:\n    llm_query('bad')\nexcept SubcallError as e:\n    print(e.kind, str(e)[:7], bool(e))"
    events = await stack.play(policy(code, fail_on("bad")))
    assert events.output == "bad_request Error:  False\n"
    (finished,) = events.of("subcall_finished")
    assert finished.finish_reason == event_pb2.FINISH_REASON_MODEL_ERROR
    assert "scripted failure" in finished.error


async def test_an_uncaught_subcall_error_is_shown_to_the_model(stack: Stack) -> None:
    events = await stack.play(policy("llm_query('bad')", fail_on("bad")))
    assert events.outcomes == ["EXCEPTION"]
    assert "SubcallError" in stack.shown_to_root(2)
    assert "scripted failure" in stack.shown_to_root(2)


async def test_a_batch_keeps_its_order_and_survives_a_failed_item(stack: Stack) -> None:
    code = (
        "rs = llm_query_batched(['a', 'bad', 'c'])\n"
        "print([r for r in rs if r], [isinstance(r, SubcallError) for r in rs], isinstance(rs[1], str))"
    )
    events = await stack.play(policy(code, fail_on("bad")))
    assert events.output == "['A', 'C'] [False, True, False] False\n"
    started = {event.node_id: event.subcall_started for event in events.events_of("subcall_started")}
    assert [started[f"0.{n}"].prompt_preview for n in (1, 2, 3)] == ["a", "bad", "c"]
    assert [started[f"0.{n}"].batch_index for n in (1, 2, 3)] == [0, 1, 2]


async def test_node_ids_go_on_counting_after_a_batch(stack: Stack) -> None:
    events = await stack.play(policy("llm_query_batched(['a', 'b'])\nllm_query('c')", str.upper))
    assert sorted(event.node_id for event in events.events_of("subcall_started")) == ["0.1", "0.2", "0.3"]


async def test_a_batch_runs_at_once_but_no_more_than_the_limit(stack: Stack) -> None:
    code = "print(llm_query_batched([str(n) for n in range(40)]) == [str(n) for n in range(40)])"
    release = asyncio.Event()
    script = policy(code, lambda prompt: ScriptedReply(prompt, release=release))
    playing = asyncio.create_task(stack.play(script, limits=limits_pb2.Limits(max_concurrent_subcalls=4)))
    await asyncio.wait_for(stack.model.until_waiting(4), 10)
    release.set()
    assert (await playing).output == "True\n"
    assert stack.model.most_concurrent == 4


async def test_an_empty_batch_costs_nothing(stack: Stack) -> None:
    events = await stack.play(policy("print(llm_query_batched([]), rlm_query_batched([]))", str))
    assert events.output == "[] []\n"
    assert events.of("subcall_started") == []


async def test_an_empty_prompt_is_an_error_value_and_makes_no_call(stack: Stack) -> None:
    code = "rs = llm_query_batched(['a', ' ', None])\nprint([getattr(r, 'kind', r) for r in rs])"
    events = await stack.play(policy(code, str.upper))
    assert events.output == "['A', 'empty_prompt', 'empty_prompt']\n"
    assert events.finished.usage.subcall_count == 1


async def test_prompts_that_are_no_text_are_rendered(stack: Stack) -> None:
    code = "for r in llm_query_batched([{'a': 'ä'}, [1, None], 7, b'bytes', ('x',)]):\n    print(r)"
    events = await stack.play(policy(code, str))
    assert events.output.splitlines() == ['{"a": "ä"}', "[1, null]", "7", "bytes", '["x"]']


async def test_a_prompt_of_several_megabytes_arrives_whole(stack: Stack) -> None:
    code = "print(llm_query('ä' * 3_000_000 + 'end'))"
    limits = limits_pb2.Limits(max_subcall_prompt_chars=4_000_000)
    events = await stack.play(policy(code, lambda prompt: f"{len(prompt)} {prompt[-4:]}"), limits=limits)
    assert events.output == "3000003 äend\n"


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("llm_query_batched('one text')", "TypeError: llm_query_batched takes a list"),
        ("llm_query_batched(None)", "TypeError: llm_query_batched takes a list of prompts, not one NoneType"),
        ("llm_query(len)", "TypeError: this is a builtin_function_or_method, not a value"),
        ("llm_query(p for p in 'ab')", "TypeError: this is a generator, not a value"),
        ("llm_query('x', model=7)", "TypeError: model must be the name"),
        ("rlm_query('x', 'long text ' * 100)", "use context="),
        ("rlm_query_batched(['a', 'b'], contexts=['c'])", "2 prompts but 1 contexts"),
        ("rlm_query('x', context=object())", "a context must be text, images, or what JSON can express"),
    ],
)
async def test_a_wrong_call_raises_with_the_remedy(stack: Stack, call: str, error: str) -> None:
    await stack.play(policy(call, str))
    assert error in stack.shown_to_root(2)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("<think>FINAL(no)\n</think>\n\n[1]", "[1]"),
        ("<think>a</think><think>b</think>[1]", "[1]"),
        ("So I think.\n</think>\n\n[1]", "[1]"),
        ("[1]<|im_end|>", "[1]"),
        ("The log has:\n<think>x</think>\nin it", "The log has:\n<think>x</think>\nin it"),
    ],
)
async def test_what_a_model_thinks_before_its_reply_is_no_part_of_it(stack: Stack, reply: str, expected: str) -> None:
    events = await stack.play(policy("print(llm_query('x'))", lambda _: reply))
    assert events.output == f"{expected}\n"


async def test_a_reply_of_nothing_but_thinking_is_an_error(stack: Stack) -> None:
    events = await stack.play(policy("print(llm_query_batched(['x'])[0])", lambda _: "<think>I will"))
    assert "thinking used up the limit" in events.of("code_finished")[0].error_message


async def test_an_empty_reply_is_an_error(stack: Stack) -> None:
    events = await stack.play(policy("print(llm_query_batched(['x'])[0].kind)", lambda _: ""))
    assert events.output == "empty_reply\n"


async def test_a_model_that_is_not_served_is_told_with_those_that_are(serve: Any) -> None:
    async with serve(allowed_models=("root-model", "sub-model")) as stack:
        code = "try:\n    llm_query('x', model='gpt-x')\nexcept SubcallError as e:\n    print(e.kind, e.message)"
        events = await stack.play(policy(code, str))
    assert events.output == "unknown_model there is no model 'gpt-x'; there are: root-model, sub-model\n"


async def test_subcalls_from_several_turns_and_failing_code_do_not_mix(stack: Stack) -> None:
    replies = ["```repl\na = llm_query('1')\n1 / 0\n```", "one", "```repl\nFINAL(a + llm_query('2'))\n```", "two"]
    assert (await stack.complete(*replies)).answer == "onetwo"


async def test_a_batch_of_a_thousand_works(stack: Stack) -> None:
    code = "print(sum(map(int, llm_query_batched([str(n) for n in range(1000)]))))"
    events = await stack.play(policy(code, str), limits=limits_pb2.Limits(max_concurrent_subcalls=50))
    assert events.output == "499500\n"
    assert events.finished.usage.subcall_count == 1000


async def test_results_survive_json(stack: Stack) -> None:
    text = 'quotes " \\ and\nlines \u2028 and \U0001f600'
    events = await stack.play(policy("print(ascii(llm_query('x')))", lambda _: text))
    assert events.output == ascii(text) + "\n"
