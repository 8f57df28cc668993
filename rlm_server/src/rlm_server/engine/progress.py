"""Notices that a node goes round in circles."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_REPEATED_TURNS = 5
"""Turns in a row that bring nothing new after which a node gives up."""

_CELL_NAME = re.compile(r"<cell [^>\n]*>")


class Progress:
    """Knows the turns of a node. One that brings nothing new has code that ran before, and came to the same.

    Two turns are the same if their code, what the model is shown of it, and what it asked sub-models are the same. So
    code that polls, or that takes the next item each time it runs, makes progress as long as anything differs.
    """

    def __init__(self) -> None:
        self._seen: set[tuple[bytes, tuple[int, ...]]] = set()
        self.repeated_turns = 0
        """How many of the last turns brought nothing new."""

    def record(self, blocks: Sequence[str], shown: Sequence[str], asked: tuple[int, ...]) -> None:
        """Takes note of a turn.

        Args:
            blocks: its code.
            shown: what the model is shown of it.
            asked: what stands for the calls of its code to sub-models.
        """
        digest = hashlib.sha256()
        for text in (*blocks, *(_CELL_NAME.sub("<cell>", text) for text in shown)):
            digest.update(hashlib.sha256(text.encode()).digest())
        turn = digest.digest(), asked
        self.repeated_turns = self.repeated_turns + 1 if turn in self._seen else 0
        self._seen.add(turn)
