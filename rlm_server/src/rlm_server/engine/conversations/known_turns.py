"""What is known of the completions of a conversation, which is what those after them are told."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING

from rlm_server.engine.conversations.turns import EarlierPart, Exchange, Past
from rlm_server.engine.truncation import cut_middle

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rlm_server.engine.conversations.turns import Restoration, TurnEnd, TurnStart

_REMEMBERED_EXCHANGES = 10
_MAX_QUERY_CHARS = 1000
_MAX_ANSWER_CHARS = 2000

NO_HISTORY = "[]"
"""The messages of a completion that had none."""


class KnownTurns:
    """The completions that have begun in a conversation, first to last, and what the latest of them came to."""

    def __init__(self) -> None:
        self._exchanges: collections.deque[Exchange] = collections.deque(maxlen=_REMEMBERED_EXCHANGES)
        self._parts: list[EarlierPart] = []
        self._context_names: list[str] = []
        self.begun_ids: list[str] = []
        """Their ids."""
        self.history = NO_HISTORY
        """The messages of the latest that has ended, as the JSON of the variable that the next one finds."""

    @property
    def part_names(self) -> list[str]:
        """The variables that their contexts are."""
        return [part.name for part in self._parts]

    def learn(self, turns: Sequence[tuple[str, TurnStart, TurnEnd]]) -> None:
        """Takes note of further completions, which another server ran: the id of each, and how it began and ended."""
        for completion_id, start, end in turns:
            self.begin(completion_id, start)
            self.end(end)

    def begin(self, completion_id: str, start: TurnStart) -> None:
        """Takes note of a completion that begins."""
        if not self.begun_ids:
            self._context_names = [one.name for one in start.spec.inputs]
        self.begun_ids.append(completion_id)
        self._exchanges.append(Exchange(start.query))
        self._parts += start.parts

    def end(self, end: TurnEnd) -> None:
        """Takes note of what the latest completion came to."""
        self._exchanges[-1] = Exchange(self._exchanges[-1].query, end.answer, end.is_final)
        self.history = end.history

    def past(self, restoration: Restoration | None, moved: Mapping[str, str], *, variables_lost: bool) -> Past:
        """Returns what a completion is told that is to begin.

        Args:
            restoration: how the REPL was made once more, if it had to be.
            moved: the new names of variables whose names new parts of the context have, by the old ones.
            variables_lost: whether variables that their code made are gone.
        """
        return Past(
            len(self.begun_ids),
            tuple(self._exchanges),
            tuple(self._parts),
            tuple(self._context_names),
            variables_lost,
            restoration,
            moved,
        )


def told_query(query: str) -> str:
    """Returns as much of a question as later completions are told."""
    return cut_middle(query, _MAX_QUERY_CHARS)


def told_answer(answer: str) -> str:
    """Returns as much of an answer as later completions are told."""
    return cut_middle(answer, _MAX_ANSWER_CHARS)
