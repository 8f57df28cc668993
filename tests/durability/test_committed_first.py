"""What leaves the server waits until all that led to it is committed."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING, Any

from rlm_api.rlm.v1 import limits_pb2

from tests.support.rlm_stack import running_stack

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.scripted_model import Messages, ScriptedModel

_TURNS = 12


def _committed_steps(data_dir: Path) -> set[str]:
    with contextlib.closing(sqlite3.connect(data_dir / "journal.db")) as journal:
        return {key for (key,) in journal.execute("SELECT key FROM steps")}


async def test_a_model_is_asked_once_what_led_to_it_is_in_the_journal(model: ScriptedModel, tmp_path: Path) -> None:
    committed: list[set[str]] = []

    def script(messages: Messages) -> Any:
        committed.append(_committed_steps(tmp_path))
        if messages[0]["role"] != "system":
            return "a sub-model's"
        turn = len(messages) // 2
        return f"```repl\nturn = {turn}\nprint(llm_query('x'), turn)\n```" if turn <= _TURNS else "FINAL(done)"

    async with running_stack(model, data_dir=tmp_path) as stack:
        events = await stack.play(script)
    assert events.answer == "done"
    expected: set[str] = set()
    for turn in range(1, _TURNS + 1):
        assert committed[2 * turn - 2] == expected
        expected |= {f"m/0/{turn}"}
        assert committed[2 * turn - 1] == expected
        expected |= {f"m/0.{turn}/1", f"c/0/{turn}"}
    assert committed[2 * _TURNS] == expected


async def test_the_model_of_a_child_is_asked_once_what_led_to_it_is_in_the_journal(
    model: ScriptedModel, tmp_path: Path
) -> None:
    committed: list[set[str]] = []

    def script(messages: Messages) -> Any:
        is_root = "Which?" not in messages[1]["content"]
        if is_root:
            return "```repl\nprint(rlm_query('Which?', 'abc'))\n```" if len(messages) == 2 else "FINAL(done)"
        committed.append(_committed_steps(tmp_path))
        turn = len(messages) // 2
        return f"```repl\nprint({turn})\n```" if turn <= _TURNS else "FINAL(it)"

    async with running_stack(model, data_dir=tmp_path) as stack:
        events = await stack.play(script, limits=limits_pb2.Limits(max_depth=2))
    assert events.answer == "done"
    expected = {"m/0/1"}
    for turn, steps in enumerate(committed, 1):
        assert steps == expected
        expected |= {f"m/0.1/{turn}", f"c/0.1/{turn}"}
    assert len(committed) == _TURNS + 1
