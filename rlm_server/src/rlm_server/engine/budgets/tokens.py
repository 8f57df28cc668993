"""How many tokens messages have, as far as that can be told without the model's own tokenizer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlm_server.engine.ports.models import Message

_FIRST_TOKENS_PER_BYTE = 0.4
_NEW_TOKENS_PER_BYTE = 0.5
_LEAST_TOKENS_PER_BYTE = 1 / 12
_MOST_TOKENS_PER_BYTE = 1.0
_TOKENS_PER_MESSAGE = 4


class TokenGauge:
    """Estimates the tokens of one node's messages from their bytes in UTF-8, and learns from what endpoints report.

    Messages that go on from those of which the endpoint has reported the tokens have these, and rather many for what is
    new: prose has a token for four or five bytes, but the output of code may well be numbers, with one for two. Of
    other messages the estimate is by the ratio that was reported last. That is trusted within bounds only, as some
    endpoints report what cannot be.
    """

    def __init__(self) -> None:
        self._tokens_per_byte = _FIRST_TOKENS_PER_BYTE
        self._known: list[Message] = []
        self._known_tokens = 0

    def tokens(self, messages: Sequence[Message]) -> int:
        """Returns the estimate for messages that are sent together."""
        number = len(self._known)
        if number and list(messages[:number]) == self._known:
            new = messages[number:]
            return self._known_tokens + _estimate(new, _NEW_TOKENS_PER_BYTE)
        return self.mean_tokens(messages)

    def mean_tokens(self, messages: Sequence[Message]) -> int:
        """Returns the estimate by the ratio alone, which is as often too low as too high."""
        return _estimate(messages, self._tokens_per_byte)

    def bytes_of(self, tokens: float) -> int:
        """Returns how many bytes have about that many tokens."""
        return int(tokens / self._tokens_per_byte)

    def learn(self, messages: Sequence[Message], input_tokens: int) -> None:
        """Takes note of the tokens that an endpoint counted in these messages."""
        ratio = (input_tokens - _TOKENS_PER_MESSAGE * len(messages)) / max(1, size_bytes(messages))
        self._tokens_per_byte = min(max(ratio, _LEAST_TOKENS_PER_BYTE), _MOST_TOKENS_PER_BYTE)
        self._known = list(messages)
        self._known_tokens = _estimate(messages, self._tokens_per_byte)


def size_bytes(messages: Sequence[Message]) -> int:
    """Returns the size of the messages' texts in UTF-8."""
    return sum(_text_bytes(message.content) for message in messages)


def _estimate(messages: Sequence[Message], tokens_per_byte: float) -> int:
    return math.ceil(size_bytes(messages) * tokens_per_byte) + _TOKENS_PER_MESSAGE * len(messages)


def _text_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
