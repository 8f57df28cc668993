"""What leaves the server waits until all that led to it is committed."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING, Any

from tests.support.rlm_stack import running_stack

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.scripted_model import Messages, ScriptedModel

_TURNS = 12


async def test_a_model_is_asked_once_what_led_to_it_is_in_the_journal(model: ScriptedModel, tmp_path: Path) -> None:
    committed: list[set[str]] = []

    def script(messages: Messages) -> Any:
        with contextlib.closing(sqlite3.connect(tmp_path / "journal.db")) as journal:
            committed.append({key for (key,) in journal.execute("SELECT key FROM steps")})
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
