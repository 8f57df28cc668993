"""A sub-call that code cancelled stays cancelled when its completion goes on after its server has stopped."""

from __future__ import annotations

import asyncio
import collections
from typing import TYPE_CHECKING, Any

import pytest
from rlm_api.rlm.v1 import event_pb2

from tests.durability.test_completions import watch
from tests.durability.test_recovery import WAIT_SECONDS, assert_told_once
from tests.support.rlm_stack import running_stack
from tests.support.scripted_model import ScriptedReply

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.scripted_model import Messages, ScriptedModel

TURNS = [
    (
        "```repl\nimport asyncio\nc = llm_query_async('slow')\nquick = llm_query('quick')\n"
        "try:\n    await asyncio.wait_for(c, 0.1)\nexcept TimeoutError:\n    late = True\n```"
    ),
    "```repl\ntry:\n    c.result()\nexcept SubcallError as error:\n    kind = error.kind\n```",
    "```repl\nFINAL([quick, late, kind])\n```",
]


class Script:
    """Never answers `slow`, and holds the reply of one turn back."""

    def __init__(self) -> None:
        self.asked: collections.Counter[str] = collections.Counter()
        self.held_turn = 2
        self.reached = asyncio.Event()
        self.never = asyncio.Event()

    def __call__(self, messages: Messages) -> ScriptedReply:
        if messages[0]["role"] == "user":
            name = messages[0]["content"]
            self.asked[name] += 1
            return ScriptedReply(name.upper(), release=self.never if name == "slow" else None)
        turn = sum(message["role"] == "assistant" for message in messages)
        self.asked[f"turn {turn}"] += 1
        if turn == self.held_turn:
            self.reached.set()
            return ScriptedReply(TURNS[turn], release=self.never)
        return ScriptedReply(TURNS[turn])


@pytest.mark.parametrize("kind", ["local", "sandbox"])
async def test_a_cancelled_sub_call_is_not_made_again(
    model: ScriptedModel, tmp_path: Path, kind: str, sandbox_address: str
) -> None:
    script = Script()
    sandbox = sandbox_address if kind == "sandbox" else "local"
    settings: dict[str, Any] = {"data_dir": tmp_path, "sandbox": sandbox, "lease_seconds": 0.6}
    async with running_stack(model, **settings) as stack:
        first = (await stack.start(script, detached=True).read()).event
        await script.reached.wait()
    script.held_turn = -1
    async with running_stack(model, **settings) as stack:
        events = await asyncio.wait_for(watch(stack, first.completion_id), WAIT_SECONDS)
    assert events.answer == '["QUICK", true, "cancelled"]'
    assert script.asked == {"slow": 1, "quick": 1, "turn 0": 1, "turn 1": 1, "turn 2": 2}
    assert_told_once(events)
    reasons = {event.node_id: event.subcall_finished.finish_reason for event in events.events_of("subcall_finished")}
    assert reasons == {"0.1": event_pb2.FINISH_REASON_CANCELLED, "0.2": event_pb2.FINISH_REASON_ANSWERED}
    assert not events.warnings
