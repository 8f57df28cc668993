"""Notices that a node goes round in circles."""

from __future__ import annotations

import ast
import collections
import functools
import hashlib
import re
from typing import TYPE_CHECKING

from rlm_server.engine.budgets.accounts import LimitReachedError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_REPEATED_TURNS = 5
"""Turns in a row that bring nothing new after which a node gives up."""

TURNS_WITHOUT_NEWS = 3
"""Turns in a row that show the model nothing but what it has seen before after which it is told so."""

_MAX_READ_CHARS = 50_000
"""Longer code is compared as it stands."""

_CELL_NAME = re.compile(r"<cell [^>\n]*>")


class RepetitionError(LimitReachedError):
    """A node goes round in circles. It may have seen enough for an answer nevertheless."""


class Progress:
    """Knows the turns of a node. One that brings nothing new has code that ran before, and came to the same.

    Two turns are the same if their code, what the model is shown of it, and what it asked sub-models are the same.
    Comments and blanks make no difference in code. So code that polls, or that takes the next item each time it runs,
    makes progress as long as anything differs.

    Other code that only shows what was shown before may still do something, so that is no more than told.
    """

    def __init__(self) -> None:
        self._seen: collections.defaultdict[tuple[bytes, tuple[int, ...]], list[_Code]] = collections.defaultdict(list)
        """The code of the turns that came to the same."""
        self._seen_outputs: set[bytes] = set()
        self.repeated_turns = 0
        """How many of the last turns brought nothing new."""
        self.stale_turns = 0
        """How many of the last turns showed nothing new, and asked nothing; those without output are not counted."""

    def record(
        self, blocks: Sequence[str], shown: Sequence[str], outputs: Sequence[str], asked: tuple[int, ...]
    ) -> None:
        """Takes note of a turn.

        Args:
            blocks: its code.
            shown: what the model is shown of it.
            outputs: what its blocks wrote, and the errors that they ended with, of that.
            asked: what stands for the calls of its code to sub-models.
        """
        code = _Code(blocks)
        alike = self._seen[_digest([_CELL_NAME.sub("<cell>", text) for text in shown]), asked]
        if any(code.essence == earlier.essence for earlier in alike):
            self.repeated_turns += 1
        else:
            self.repeated_turns = 0
            alike.append(code)
        if not any(outputs) and not asked:
            return
        output = _digest([_CELL_NAME.sub("<cell>", text) for text in outputs])
        self.stale_turns = self.stale_turns + 1 if output in self._seen_outputs and not asked else 0
        self._seen_outputs.add(output)


class _Code:
    """The code of a turn, which is read when there is other code to compare it with.

    Args:
        blocks: the code.
    """

    def __init__(self, blocks: Sequence[str]) -> None:
        self._blocks = blocks

    @functools.cached_property
    def essence(self) -> bytes:
        """Stands for what the code consists of."""
        return _digest([_essence(block) for block in self._blocks])


def _essence(code: str) -> str:
    """Returns what code consists of, without comments and blanks; code that cannot be read as it stands."""
    if len(code) > _MAX_READ_CHARS:
        return code
    try:
        return ast.dump(ast.parse(code))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return code


def _digest(texts: Sequence[str]) -> bytes:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(hashlib.sha256(text.encode()).digest())
    return digest.digest()
