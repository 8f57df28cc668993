"""When messages near the model's window, the model sums them up and goes on; what there was stays in the REPL."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_api.rlm.v1 import event_pb2, limits_pb2
from rlm_server.engine.budgets.tokens import TokenGauge
from rlm_server.engine.cut_input import CutInput
from rlm_server.engine.messages.compaction import _share
from rlm_server.engine.ports.models import Message, TokenCounts

from tests.support.scripted_model import ScriptedReply
from tests.support.statuses import assert_status, violated_fields

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.rlm_stack import Stack
    from tests.support.scripted_model import Messages

SUMMARY = "Found: the code is in `x`."
PRINT = "```repl\nprint('output ' * 400)\n```"


def is_summary_request(messages: Messages) -> bool:
    return "about to be shortened" in messages[-1]["content"]


class Windowed:
    """A model with a window: it counts a token for four characters, and refuses what is longer.

    Args:
        window: its size in tokens.
        reply: what it says, by the number of the turn from 1.
    """

    def __init__(self, window: int, reply: Callable[[int], str], summary: str = SUMMARY) -> None:
        self.window = window
        self.reply = reply
        self.summary = summary
        self.turns = 0
        self.calls: list[tuple[int, bool, bool]] = []
        """Of each call: its tokens, whether it asked for a summary, whether it was refused."""

    def __call__(self, messages: Messages) -> ScriptedReply:
        tokens = sum(len(one["content"]) for one in messages) // 4
        is_refused = tokens > self.window
        self.calls.append((tokens, is_summary_request(messages), is_refused))
        if is_refused:
            error = {"message": f"maximum context length is {self.window}", "code": "context_length_exceeded"}
            return ScriptedReply(status=400, error=error)
        if is_summary_request(messages):
            text = self.summary
        else:
            self.turns += 1
            text = self.reply(self.turns)
        return ScriptedReply(text, usage={"prompt_tokens": tokens, "completion_tokens": len(text) // 4})


def window(tokens: int, **fields: Any) -> pb.Compaction:
    return pb.Compaction(context_window_tokens=tokens, **fields)


def prints_then(last: str, turns: int) -> Callable[[int], str]:
    """Replies that print much, and after so many turns the last one."""
    return lambda turn: PRINT if turn <= turns else last


async def test_beyond_the_threshold_a_summary_takes_the_place_of_the_messages(stack: Stack) -> None:
    model = Windowed(5000, prints_then("```repl\nFINAL(len(history_0))\n```", 4))
    events = await stack.play(model, compaction=window(5000))
    (compacted,) = events.of("compacted")
    assert compacted.summary == SUMMARY
    assert compacted.message_count == 4
    assert compacted.tokens_after < 0.8 * 5000 < compacted.tokens_before < 5000
    assert compacted.history_variable == "history_0"
    assert not any(refused for _, _, refused in model.calls)
    shown = stack.model.conversations[-1]
    assert [one["role"] for one in shown] == ["system", "user", *["assistant", "user"] * 2]
    assert "What is it?" in shown[1]["content"]
    assert SUMMARY in shown[1]["content"]
    assert "4 earlier messages" in shown[1]["content"]
    assert "output output" in shown[3]["content"]
    assert events.answer == "7"  # what there was when it was compacted


async def test_the_messages_in_full_are_in_the_repl_and_the_variables_are_kept(stack: Stack) -> None:
    check = "print([one['role'] for one in history], 'What is it?' in history[0]['content'], history == history_0)"
    turns = {1: "```repl\nx = 5\n```", 6: f"```repl\n{check}\nFINAL((x, history[1]['content']))\n```"}
    events = await stack.play(Windowed(4000, lambda turn: turns.get(turn, PRINT)), compaction=window(5000))
    assert events.of("compacted")
    assert events.answer == '[5, "```repl\\nx = 5\\n```"]'
    assert "['user', 'assistant', 'user', 'assistant', 'user'" in events.output
    assert events.output.rstrip().endswith("True True")


async def test_a_variable_history_of_the_codes_own_is_not_taken_from_it(stack: Stack) -> None:
    check = "print(history, len(history_0) > 5)\nFINAL(history)"
    turns = {1: "```repl\nhistory = 'mine'\n```", 12: f"```repl\n{check}\n```"}

    def say(turn: int) -> str:
        return turns.get(turn, f"```repl\nprint('output {turn} ' * 300)\n```")

    events = await stack.play(Windowed(4000, say), compaction=window(5000))
    assert len(events.of("compacted")) >= 2
    assert (events.answer, events.output[-10:]) == ("mine", "mine True\n")


async def test_a_summary_is_without_the_models_thinking_and_one_that_was_cut_is_told(stack: Stack) -> None:
    model = Windowed(5000, prints_then("FINAL(x)", 4), summary="<think>Hm. What was it?</think>\nFound it.")

    def cut(messages: Messages) -> ScriptedReply:
        reply = model(messages)
        return replace(reply, stop_reason="length") if is_summary_request(messages) else reply

    events = await stack.play(cut, compaction=window(5000))
    assert events.of("compacted")[0].summary == "Found it."
    assert [one.message for one in events.of("warning") if "summary" in one.message] == [
        "the summary of the messages was cut by the limit of tokens"
    ]


async def test_the_call_for_the_summary_is_counted_and_its_end_told(stack: Stack) -> None:
    model = Windowed(5000, prints_then("FINAL(x)", 4))
    events = await stack.play(model, compaction=window(5000))
    (compacted,) = events.of("compacted")
    total = events.finished.usage.total
    assert total.call_count == len(model.calls) == 6
    assert total.input_tokens == sum(tokens for tokens, _, _ in model.calls)
    assert compacted.usage.call_count == 1
    assert compacted.usage.input_tokens == next(tokens for tokens, is_summary, _ in model.calls if is_summary)
    kinds = events.kinds()
    assert kinds[kinds.index("compacted") - 1] == "usage_updated"


async def test_a_summary_that_the_budget_does_not_allow_ends_the_completion(stack: Stack) -> None:
    model = Windowed(5000, prints_then("FINAL(x)", 4))
    await stack.play(model, compaction=window(5000))
    before = sum(tokens for tokens, _, _ in model.calls[: [is_summary for _, is_summary, _ in model.calls].index(True)])
    model = Windowed(5000, prints_then("FINAL(x)", 4))
    limits = limits_pb2.Limits(max_input_tokens=before - 10)
    events = await stack.play(model, compaction=window(5000), limits=limits)
    assert events.reason == "MAX_TOKENS"
    assert not any(is_summary for _, is_summary, _ in model.calls)


async def test_children_compact_their_own_messages(stack: Stack) -> None:
    child = Windowed(5000, prints_then("FINAL(child)", 4))

    def reply(messages: Messages) -> Any:
        if "What is it?" in messages[1]["content"]:
            return "```repl\nFINAL(rlm_query('go on'))\n```"
        return child(messages)

    events = await stack.play(reply, compaction=window(5000))
    assert events.answer == "child"
    assert [event.node_id for event in events.events_of("compacted")] == ["0.1"]
    assert events.of("subcall_finished")[0].usage.call_count == 6


async def test_an_endpoint_that_finds_the_messages_too_long_is_asked_again_with_a_summary(stack: Stack) -> None:
    model = Windowed(4000, prints_then("FINAL(done)", 5))
    events = await stack.play(model)  # the server believes in 128,000 tokens
    assert events.answer == "done"
    assert events.of("compacted")
    assert any(refused for _, _, refused in model.calls)
    # What was learnt of the window holds for the turns that follow.
    assert [refused for _, _, refused in model.calls[-3:]] == [False] * 3


async def test_what_is_too_long_even_for_the_summary_is_cut_in_the_middle(stack: Stack) -> None:
    model = Windowed(4000, lambda turn: "```repl\nprint('y' * 15000)\n```" if turn == 1 else "FINAL(done)")
    events = await stack.play(model, limits=limits_pb2.Limits(max_output_chars=15_000))
    assert events.answer == "done"
    request = next(one for one in stack.model.conversations if is_summary_request(one) and "characters cut" in str(one))
    assert sum(len(one["content"]) for one in request) // 4 < 4000


async def test_a_question_that_does_not_fit_the_window_ends_with_its_own_reason(stack: Stack) -> None:
    model = Windowed(4000, lambda _: "FINAL(x)")
    events = await stack.play(model, query="y" * 20_000)
    assert (events.reason, events.finished.partial) == ("CONTEXT_TOO_LONG", True)
    assert "maximum context length is 4000" in events.finished.error
    assert len(model.calls) == 1


async def test_without_compaction_the_endpoints_refusal_is_the_end(stack: Stack) -> None:
    model = Windowed(5000, prints_then("FINAL(x)", 9))
    events = await stack.play(model, compaction=window(4000, disabled=True))
    assert (events.reason, events.of("compacted")) == ("CONTEXT_TOO_LONG", [])


async def test_a_window_that_is_too_small_ends_it_and_not_the_budget(stack: Stack) -> None:
    flood = "```repl\nprint('y' * 19000)\n```"
    model = Windowed(100_000, lambda _: flood)
    events = await stack.play(model, compaction=window(4500), limits=limits_pb2.Limits(max_iterations=50))
    assert events.reason == "CONTEXT_TOO_LONG"
    assert len(model.calls) < 12


async def test_a_summary_that_is_longer_than_its_room_is_cut(stack: Stack) -> None:
    model = Windowed(5000, prints_then("FINAL(x)", 4), summary="z" * 14_000)
    events = await stack.play(model, compaction=window(5000))
    compacted = events.of("compacted")[0]
    assert "characters cut" in compacted.summary
    assert compacted.tokens_after < 4000
    assert events.answer == "x"


async def test_an_empty_summary_is_no_end(stack: Stack) -> None:
    events = await stack.play(Windowed(5000, prints_then("FINAL(x)", 4), summary=""), compaction=window(5000))
    assert events.of("compacted")[0].summary == "(The model gave no summary.)"
    assert events.answer == "x"


async def test_an_endpoint_that_reports_no_tokens_is_compacted_by_estimate(stack: Stack) -> None:
    def reply(messages: Messages) -> ScriptedReply:
        done = len(stack.model.requests) > 6
        text = SUMMARY if is_summary_request(messages) else "FINAL(x)" if done else PRINT
        return ScriptedReply(text, usage=None)

    events = await stack.play(reply, compaction=window(5000))
    assert events.answer == "x"
    assert events.of("compacted")


async def test_an_endpoint_that_cuts_what_it_is_sent_without_a_word_is_told_once(stack: Stack) -> None:
    """As Ollama does, which then reports what it has read."""

    def reply(messages: Messages) -> ScriptedReply:
        tokens = min(2048, sum(len(one["content"]) for one in messages) // 4)
        turn = len(messages) // 2
        text = "FINAL(x)" if turn > 5 else f"```repl\nprint('output {turn} ' * 600)\n```"
        return ScriptedReply(text, usage={"prompt_tokens": tokens, "completion_tokens": 10})

    events = await stack.play(reply)
    assert events.answer == "x"
    assert events.warnings == ["INPUT_CUT"]
    assert "the endpoint of root-model seems to cut what it is sent: it reports 2,048 tokens" in str(events.all)


async def test_a_sub_call_whose_prompt_was_cut_is_told_at_its_node(stack: Stack) -> None:
    def reply(messages: Messages) -> ScriptedReply:
        is_root = messages[0]["role"] == "system"
        text = "```repl\nFINAL(llm_query('word ' * 20_000))\n```" if is_root else "sub"
        return ScriptedReply(text, usage={"prompt_tokens": 1000 if is_root else 4096, "completion_tokens": 10})

    events = await stack.play(reply)
    assert events.answer == "sub"
    assert [(event.node_id, event.warning.code) for event in events.events_of("warning")] == [
        ("0.1", event_pb2.WARNING_CODE_INPUT_CUT)
    ]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(4000, 1000), (9000, 2200)], False),  # grows as it should
        ([(4000, 2000), (9000, 2000)], True),
        ([(4000, 2000), (5000, 2000)], False),  # too little to be sure
        ([(9000, 2000), (4000, 1000)], False),  # summed up
        ([(4000, 10), (9000, 10)], False),  # counts something else
        ([(40_000, 6000)], False),
        ([(40_000, 4000)], True),
    ],
)
def test_what_was_cut_is_seen_by_the_tokens(sizes: list[tuple[int, int]], expected: bool) -> None:
    cut = CutInput()
    for size, tokens in sizes:
        messages = [Message("system", ""), Message("user", "x" * size)]
        found = cut.see("0", "m", messages, TokenCounts(tokens, 1))
    assert found is expected
    assert not cut.see("0", "m", messages, TokenCounts(10, 1, cached_input_tokens=5))


async def test_the_threshold_is_the_requests(stack: Stack) -> None:
    early = await stack.play(Windowed(8000, prints_then("FINAL(x)", 2)), compaction=window(8000, threshold=0.3))
    late = await stack.play(Windowed(8000, prints_then("FINAL(x)", 2)), compaction=window(8000, threshold=1.0))
    assert len(early.of("compacted")) >= 1
    assert late.of("compacted") == []


@pytest.mark.parametrize(
    ("compaction", "field"),
    [
        (pb.Compaction(context_window_tokens=999), "compaction.context_window_tokens"),
        (pb.Compaction(context_window_tokens=-1), "compaction.context_window_tokens"),
        (pb.Compaction(threshold=0), "compaction.threshold"),
        (pb.Compaction(threshold=1.1), "compaction.threshold"),
        (pb.Compaction(threshold=float("nan")), "compaction.threshold"),
    ],
)
async def test_a_wrong_field_is_named(local_stack: Stack, compaction: pb.Compaction, field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await local_stack.complete("FINAL(x)", compaction=compaction)
    assert_status(failure.value, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert violated_fields(failure.value) == [field]


async def test_the_same_replies_give_the_same_events(local_stack: Stack) -> None:
    runs = []
    for _ in range(2):
        events = await local_stack.play(Windowed(5000, prints_then("FINAL(x)", 4)), compaction=window(5000))
        runs.append(
            [
                (event.WhichOneof("kind"), event.node_id, event.compacted)
                for event in events.all
                if event.WhichOneof("kind") not in ("model_text_delta", "output")
            ]
        )
    assert runs[0] == runs[1]
    assert any(kind == "compacted" for kind, _, _ in runs[0])


async def test_a_child_that_does_not_fit_says_so_in_its_error(stack: Stack) -> None:
    child = Windowed(100, lambda _: "FINAL(x)")

    def reply(messages: Messages) -> Any:
        if "What is it?" in messages[1]["content"]:
            return "```repl\ntry:\n    rlm_query('go on')\nexcept SubcallError as e:\n    FINAL(e.kind)\n```"
        return child(messages)

    assert (await stack.play(reply)).answer == "context_too_long"


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=20), st.integers(0, 50_000))
def test_what_is_cut_to_its_share_fits_the_room(lengths: list[int], room: int) -> None:
    share = _share(lengths, room)
    if sum(lengths) <= room:
        assert share == max(lengths)
    elif share > 200:
        assert sum(min(length, share) for length in lengths) <= room


def test_the_estimate_is_what_endpoints_report_within_bounds() -> None:
    gauge = TokenGauge()
    messages = [Message("user", "x" * 3000)]
    assert gauge.tokens(messages) == 1204
    gauge.learn(messages, 604)
    assert gauge.tokens(messages) == 604
    assert gauge.tokens([Message("user", "é" * 1500)]) == 604
    gauge.learn(messages, 1)
    assert gauge.tokens(messages) == 254
    gauge.learn(messages, 10**9)
    assert gauge.tokens(messages) == 3004


def test_what_was_added_since_the_report_counts_for_much() -> None:
    gauge = TokenGauge()
    messages = [Message("user", "x" * 3000)]
    gauge.learn(messages, 604)
    assert gauge.tokens([*messages, Message("assistant", "y" * 1000)]) == 604 + 504
