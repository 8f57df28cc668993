"""Sees that an endpoint has cut what it was sent, which some do without a word, as Ollama with its default window."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlm_server.engine.budgets.tokens import size_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlm_server.engine.ports.models import Message, TokenCounts

_LEAST_BYTES = 32_000
_MOST_BYTES_PER_TOKEN = 8
"""No text that is not mostly white space has more: prose has four or five, code three or four."""

_LEAST_GROWTH_BYTES = 4000
_LEAST_TOKENS = 1000
"""Endpoints that report less for the messages of a loop count something else."""


class CutInput:
    """Compares the tokens that endpoints report with the sizes of what they were sent."""

    def __init__(self) -> None:
        self._latest: dict[tuple[str, str], tuple[int, int]] = {}

    def see(self, node_id: str, model: str, messages: Sequence[Message], tokens: TokenCounts) -> bool:
        """Takes note of a call; tells whether some of what was sent is likely not to have been read.

        That is so if there are far too few tokens for a large text, or if a loop's messages have grown by much and
        their tokens not at all.

        Args:
            node_id: the node that made it.
            model: the model that answered.
            messages: what was sent.
            tokens: what was reported.
        """
        if tokens.cached_input_tokens or any(message.parts for message in messages):
            return False  # some endpoints leave cached tokens out, and what pictures take is not known
        size = size_bytes(messages)
        size_before, tokens_before = self._latest.get((node_id, model), (size, 0))
        if len(messages) > 1:  # those of a loop
            self._latest[node_id, model] = size, tokens.input_tokens
        if size >= _LEAST_BYTES and tokens.input_tokens * _MOST_BYTES_PER_TOKEN < size:
            return True
        grown = size >= size_before + _LEAST_GROWTH_BYTES
        return grown and _LEAST_TOKENS <= tokens.input_tokens <= tokens_before
