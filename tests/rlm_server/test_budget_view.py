"""What is left of the budget, as code and models see it, and the share of it that a child gets."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rlm_api.rlm.v1 import event_pb2, limits_pb2

from tests.rlm_server.test_subcalls import policy
from tests.support.scripted_model import ScriptedReply

if TYPE_CHECKING:
    from tests.support.rlm_stack import Stack
    from tests.support.scripted_model import Messages

BUDGET = "import json\nprint(json.dumps(budget()))\n"


def tree(root: str, child: str) -> Any:
    """Returns a script: the root and its children run a block each and then answer; plain calls get `r`."""

    def reply(messages: Messages) -> str:
        if messages[0]["role"] != "system":
            return "r"
        code = root if "What is it?" in messages[1]["content"] else child
        return f"```repl\n{code}\n```" if len(messages) == 2 else "FINAL(done)"

    return reply


def shown_to_child(stack: Stack) -> str:
    return next(
        one[1]["content"]
        for one in stack.model.conversations
        if one[0]["role"] == "system" and "What is it?" not in one[1]["content"]
    )


async def test_code_can_read_what_is_left(stack: Stack) -> None:
    limits = limits_pb2.Limits(max_subcalls=5, max_iterations=4, max_input_tokens=100_000, max_concurrent_subcalls=3)
    events = await stack.play(policy(f"llm_query_batched(['a', 'b'])\n{BUDGET}", str), limits=limits)
    left = json.loads(events.output)
    assert 0 < left.pop("seconds") < 1800
    assert left == {
        "iterations": 3,
        "subcalls": 3,
        "input_tokens": 99_970,  # each call is said to take 10, the root's among them
        "output_tokens": None,
        "dollars": None,
        "depth": 1,
        "concurrency": 3,
    }


async def test_the_message_of_each_turn_says_what_is_left(stack: Stack) -> None:
    limits = limits_pb2.Limits(max_subcalls=5, max_iterations=4, max_output_tokens=100)
    await stack.play(policy("llm_query('a')", str), limits=limits)
    assert "[Turn 1 of 4. Left: 5 sub-calls, 30 min, 100 output tokens.]" in stack.shown_to_root(1)
    assert "[Turn 2 of 4. Left: 4 sub-calls, 30 min, 90 output tokens.]" in stack.shown_to_root(2)


async def test_a_child_gets_a_half_of_what_is_left_and_three_quarters_of_the_time(stack: Stack) -> None:
    limits = limits_pb2.Limits(max_subcalls=11, max_input_tokens=100_010)
    events = await stack.play(tree("print(rlm_query('x'))", BUDGET), limits=limits)
    (output,) = events.of("output", "0.1")
    left = json.loads(output.text)
    # One sub-call is the child itself; ten tokens each are the root's turn and the child's.
    assert (left["subcalls"], left["input_tokens"], left["depth"]) == (5, 49_990, 0)
    assert 1300 < left["seconds"] < 1350
    assert "Left: 5 sub-calls, 22 min, 50,000 input tokens." in shown_to_child(stack)


async def test_the_children_of_a_batch_split_that_half(stack: Stack) -> None:
    events = await stack.play(tree("rlm_query_batched(['x', 'y'])", BUDGET), limits=limits_pb2.Limits(max_subcalls=42))
    assert [json.loads(one.text)["subcalls"] for one in events.of("output") if "subcalls" in one.text] == [10, 10]


async def test_a_child_gets_no_part_of_what_others_at_work_were_promised(stack: Stack) -> None:
    root = "cs = [rlm_query_async(p) for p in 'xyz']\nfor c in cs: c.result()"
    events = await stack.play(tree(root, BUDGET), limits=limits_pb2.Limits(max_subcalls=103))
    shares = {event.node_id: json.loads(event.output.text)["subcalls"] for event in events.events_of("output")}
    assert shares == {"0.1": 51, "0.2": 25, "0.3": 12}


async def test_a_child_that_would_take_more_than_its_share_is_refused_and_its_parent_is_not(stack: Stack) -> None:
    root = "print(rlm_query('x'), llm_query_batched(['p'] * 6))"
    child = "try:\n    llm_query_batched(['p'] * 6)\nexcept SubcallError as e:\n    print(e.message)"
    events = await stack.play(tree(root, child), limits=limits_pb2.Limits(max_subcalls=11))
    assert events.of("output", "0.1")[0].text.startswith("6 sub-calls asked for, 5 left of this node's share of 5;")
    assert events.output == f"done {['r'] * 6}\n"
    assert events.warnings == ["SUBCALL_REFUSED"]


async def test_a_child_that_uses_up_its_share_of_tokens_ends_and_its_parent_goes_on(stack: Stack) -> None:
    root = "r = rlm_query_batched(['x'])[0]\nprint(r.kind, r.message, r.partial_answer)"
    endless = "answer['content'] = 'so far'"
    script = tree(root, endless)

    def reply(messages: Messages) -> ScriptedReply:
        is_child = "What is it?" not in messages[1]["content"]
        text = f"```repl\n{endless}\n```" if is_child else str(script(messages))
        return ScriptedReply(text, usage={"prompt_tokens": 10_000, "completion_tokens": 1})

    events = await stack.play(reply, limits=limits_pb2.Limits(max_input_tokens=90_000))
    assert events.output.startswith(
        "max_tokens the share of node 0.1, 40,000 of what was left of max_input_tokens, is used up: 0 are left, "
    )
    assert events.output.endswith(" so far\n")
    assert events.answer == "done"


async def test_a_batch_of_a_child_cannot_go_over_its_share_together(stack: Stack) -> None:
    """Or else the parent, and the other children, would have nothing left."""
    root = "print(rlm_query_batched(['x'])[0])\nprint(budget()['output_tokens'])"
    child = "r = llm_query_batched(['p'] * 12)\nFINAL([getattr(one, 'kind', one) for one in r].count('refused'))"
    script = tree(root, child)

    def reply(messages: Messages) -> ScriptedReply:
        is_leaf = messages[0]["role"] != "system"
        made = stack.model.requests[-1]["max_tokens"] if is_leaf else 0
        return ScriptedReply(script(messages), usage={"prompt_tokens": 0, "completion_tokens": made})

    events = await stack.play(reply, limits=limits_pb2.Limits(max_output_tokens=40_000))
    refused, left = events.output.split()
    assert 6 < int(refused) < 12
    assert 20_000 <= int(left) < 20_100


async def test_a_call_that_broke_off_is_charged_to_the_share_of_its_child(stack: Stack) -> None:
    child = "llm_query_batched(['p'])\nFINAL(budget()['output_tokens'])"
    script = tree("print(rlm_query('x'))", child)

    def reply(messages: Messages) -> ScriptedReply:
        is_leaf = messages[0]["role"] != "system"
        usage = {"prompt_tokens": 0, "completion_tokens": 0}
        if is_leaf:
            return ScriptedReply("x" * 2000, error_in_stream={"message": "that will not do", "code": 400})
        return ScriptedReply(script(messages), usage=usage)

    events = await stack.play(reply, limits=limits_pb2.Limits(max_output_tokens=40_000))
    assert events.output == "19000\n"


async def test_a_child_that_takes_too_long_ends_in_time_for_its_parent_to_answer(stack: Stack) -> None:
    root = "r = rlm_query_batched(['x'])[0]\nprint(r.kind, r.partial_answer)"
    script = tree(root, "answer['content'] = 'so far'\nprint('x')\nimport time\nwhile True: time.sleep(0.01)")
    limits = limits_pb2.Limits(wall_time={"seconds": 2})
    events = await stack.play(script, limits=limits)
    assert events.output.startswith("wall_time")
    assert events.answer == "done"
    (finished,) = events.of("subcall_finished")
    assert finished.finish_reason == event_pb2.FINISH_REASON_WALL_TIME
    assert "share of node 0.1" in finished.error
    kinds = [kind for kind in events.kinds("0.1") if kind in ("code_started", "code_finished")]
    assert kinds == ["code_started", "code_finished"]


async def test_what_a_child_does_not_use_is_there_for_the_next(stack: Stack) -> None:
    root = "for n in range(3): print(rlm_query('x'))"
    events = await stack.play(tree(root, BUDGET), limits=limits_pb2.Limits(max_subcalls=9))
    shares = [json.loads(event.output.text)["subcalls"] for event in events.events_of("output") if event.node_id != "0"]
    assert shares == [4, 3, 3]
