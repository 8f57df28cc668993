"""Children with a REPL of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rlm_api.rlm.v1 import event_pb2, limits_pb2

from tests.support.scripted_model import ScriptedReply

if TYPE_CHECKING:
    from tests.support.rlm_stack import Stack
    from tests.support.scripted_model import Messages


def depth_limit(max_depth: int, **others: Any) -> limits_pb2.Limits:
    return limits_pb2.Limits(max_depth=max_depth, **others)


async def test_a_child_has_its_own_repl_whose_context_is_the_prompt(stack: Stack) -> None:
    events = await stack.complete(
        "```repl\nx = 'of the root'\nFINAL(rlm_query('the whole prompt'))\n```",
        "```repl\nFINAL((context, 'x' in globals()))\n```",
    )
    assert events.answer == '["the whole prompt", false]'


async def test_a_child_can_be_given_a_context_apart_from_its_question(stack: Stack) -> None:
    events = await stack.complete(
        "```repl\nFINAL(rlm_query('Count them.', context={'n': [1, 2]}))\n```", "```repl\nFINAL(len(context['n']))\n```"
    )
    assert events.answer == "2"
    first = stack.model.conversations[1][1]["content"]
    assert "Count them." in first
    assert "`context`: dict" in first


async def test_a_childs_events_come_under_its_own_node(stack: Stack) -> None:
    events = await stack.complete(
        "```repl\nprint('root')\nprint(rlm_query('p'))\n```", "```repl\nprint('child')\n```", "FINAL(c)", "FINAL(r)"
    )
    assert events.answer == "r"
    assert events.output == "root\nc\n"
    kinds = [kind for kind in events.kinds("0.1") if kind != "model_text_delta"]
    turn = ["iteration_started", "model_reply_finished", "usage_updated"]
    assert kinds == ["subcall_started", *turn, "code_started", "output", "code_finished", *turn, "subcall_finished"]
    (started,) = events.of("subcall_started")
    assert (started.kind, started.function, started.model) == (event_pb2.NODE_KIND_RLM, "rlm_query", "sub-model")
    (finished,) = events.of("subcall_finished")
    assert finished.usage.call_count == 2


async def test_depth_two_makes_grandchildren_with_ids_that_tell_the_tree(stack: Stack) -> None:
    events = await stack.complete(
        "```repl\nFINAL(rlm_query('one') + '!')\n```",
        "```repl\nllm_query('leaf')\nFINAL(rlm_query('two') + '?')\n```",
        "a leaf",
        "```repl\nFINAL(llm_query('three').upper())\n```",
        "deep",
        limits=depth_limit(2),
    )
    assert events.answer == "DEEP?!"
    nodes = {event.node_id: event.subcall_started for event in events.events_of("subcall_started")}
    assert {node_id: (one.parent_node_id, one.depth) for node_id, one in nodes.items()} == {
        "0.1": ("0", 1),
        "0.1.1": ("0.1", 2),
        "0.1.2": ("0.1", 2),
        "0.1.2.1": ("0.1.2", 3),
    }
    usage = {event.node_id: event.subcall_finished.usage.call_count for event in events.events_of("subcall_finished")}
    assert usage == {"0.1": 4, "0.1.1": 1, "0.1.2": 2, "0.1.2.1": 1}


async def test_beyond_max_depth_rlm_query_is_a_plain_call_with_a_warning(stack: Stack) -> None:
    events = await stack.complete("```repl\nFINAL(rlm_query('p', context='c'))\n```", "plain", limits=depth_limit(0))
    assert events.answer == "plain"
    assert events.warnings == ["MAX_DEPTH"]
    assert events.of("subcall_started")[0].kind == event_pb2.NODE_KIND_LLM
    assert stack.model.conversations[1] == [{"role": "user", "content": "p\n\nContext:\nc"}]


async def test_the_prompt_tells_whether_rlm_query_recurses(stack: Stack) -> None:
    await stack.complete("FINAL(x)", limits=depth_limit(0))
    await stack.complete("FINAL(x)", limits=depth_limit(1))
    systems = [messages[0]["content"] for messages in stack.model.conversations]
    assert "the same as `llm_query`" in systems[0]
    assert "a REPL of its own" in systems[1]


async def test_children_run_at_once_and_keep_their_order(stack: Stack) -> None:
    def reply(messages: Messages) -> str:
        question = messages[1]["content"]
        if "What is it?" in question:
            code = "print(rlm_query_batched(['q'] * 3, contexts=['a', 'b', 'c']))"
            return f"```repl\n{code}\n```" if len(messages) == 2 else "FINAL(done)"
        return "```repl\nFINAL(context * 2)\n```"

    events = await stack.play(reply)
    assert events.output == "['aa', 'bb', 'cc']\n"


async def test_nested_batches_do_not_lock_up_under_a_limit_of_one(stack: Stack) -> None:
    def reply(messages: Messages) -> str:
        if messages[0]["role"] == "user":
            return "leaf"
        question = messages[1]["content"]
        if "What is it?" in question:
            return "```repl\nFINAL(rlm_query_batched(['middle'] * 3, contexts=['x'] * 3))\n```"
        if "middle" in question:
            return "```repl\nFINAL(rlm_query_batched(['inner'] * 2, contexts=['y'] * 2))\n```"
        return "```repl\nFINAL(llm_query_batched(['a', 'b']))\n```"

    events = await stack.play(reply, limits=depth_limit(2, max_concurrent_subcalls=1))
    assert events.answer.count("leaf") == 12
    assert stack.model.most_concurrent == 1


async def test_a_child_that_ends_without_an_answer_is_an_error_with_what_it_had(stack: Stack) -> None:
    def reply(messages: Messages) -> str:
        if "What is it?" in messages[1]["content"]:
            code = "try:\n    rlm_query('p')\nexcept SubcallError as e:\n    FINAL((e.kind, e.partial_answer))"
            return f"```repl\n{code}\n```"
        return "```repl\nanswer['content'] = 'half of it'\n```"

    events = await stack.play(reply, limits=depth_limit(1, max_iterations=2))
    assert events.answer == '["max_iterations", "half of it"]'
    (finished,) = events.of("subcall_finished")
    assert finished.finish_reason == event_pb2.FINISH_REASON_MAX_ITERATIONS
    assert finished.answer_preview == "half of it"


async def test_a_childs_failing_model_is_an_error_for_the_parent(stack: Stack) -> None:
    events = await stack.complete(
        "```repl\ntry:\n    rlm_query('p')\nexcept SubcallError as e:\n    FINAL(e.kind)\n```",
        ScriptedReply(status=401),
    )
    assert events.answer == "model_error"


async def test_a_large_context_reaches_a_child(stack: Stack) -> None:
    events = await stack.complete(
        "```repl\nbig = 'ü' * 2_000_000\nFINAL(rlm_query('p', context=[big]))\n```",
        "```repl\nFINAL(len(context[0]))\n```",
    )
    assert events.answer == "2000000"
