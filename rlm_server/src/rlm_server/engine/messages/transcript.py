"""The messages of a node: all there were, and those that its model is shown."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

from rlm_server.engine.ports.inputs import InputValue, ValueFormat
from rlm_server.engine.ports.models import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

HISTORY_ALIAS = "history"
"""Another name of `history_0`, unless code has a variable of that name. In conversations the REPL itself gives it."""


class Transcript:
    """The messages of a node, from the system message and the question on.

    Args:
        opening: these two.
    """

    def __init__(self, opening: Sequence[Message]) -> None:
        self.system, self.question = opening
        self.shown = list(opening)
        """What the model is shown."""
        self._log = [self.question]

    def append(self, *messages: Message) -> None:
        """Adds messages."""
        self.shown += messages
        self._log += messages

    def add_to_last(self, text: str) -> None:
        """Adds a text at the end of what the model is shown, to the last message if that is the user's."""
        last = self.shown[-1]
        if last.role == "user":
            parts = (*last.parts, text) if last.parts else ()
            self.shown[-1] = dataclasses.replace(last, content=f"{last.content}\n\n{text}", parts=parts)
        else:
            self.shown.append(Message("user", text))
        self._log.append(Message("user", text))

    def history_json(self) -> str:
        """Returns all messages but the system's, as the JSON of a list of dicts with `role` and `content`."""
        return json.dumps([{"role": one.role, "content": one.content} for one in self._log], ensure_ascii=False)


def history_input(index: int, history_json: str) -> InputValue:
    """Returns the variable that holds the messages of the completion of that index in its conversation.

    Args:
        index: n of `history_n`.
        history_json: the messages.
    """
    return InputValue(history_name(index), ValueFormat.JSON, history_json)


def history_name(index: int) -> str:
    """Returns the variable with the messages of the completion of that index in its conversation."""
    return f"history_{index}"
