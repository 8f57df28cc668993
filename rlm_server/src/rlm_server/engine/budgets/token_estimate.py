"""An upper bound of the tokens that messages have, told without the model's own tokenizer.

`tokens` has the estimate that is as often too low as too high; this one is for what must not be exceeded.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rlm_server.engine.budgets.tokens import size_bytes
from rlm_server.engine.images import images_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlm_server.engine.ports.models import Message

_TOKENS_PER_BYTE = 0.5
_LEAST_TOKENS_PER_BYTE = 0.3
_MOST_TOKENS_PER_BYTE = 1.0
_MARGIN = 1.2
_TOKENS_PER_MESSAGE = 8
_LEAST_BYTES_TO_LEARN_FROM = 1000
TOKENS_PER_IMAGE = 1600
"""What a large picture costs at most endpoints that scale it down."""


class TokenBound:
    """Bounds the tokens of messages by their bytes in UTF-8, and learns from what endpoints report.

    Until a model's endpoint has reported something, a token is taken for two bytes, which few texts exceed. After that
    it is the most that was seen, and a fifth more.
    """

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}

    def tokens(self, model: str, messages: Sequence[Message]) -> int:
        """Returns a number of tokens that messages rarely exceed."""
        seen = self._seen.get(model)
        ratio = _TOKENS_PER_BYTE if seen is None else max(_LEAST_TOKENS_PER_BYTE, seen * _MARGIN)
        return estimate_tokens(messages, min(ratio, _MOST_TOKENS_PER_BYTE))

    def learn(self, model: str, messages: Sequence[Message], input_tokens: int) -> None:
        """Takes note of the tokens that an endpoint counted in these messages."""
        size = size_bytes(messages)
        if any(message.parts for message in messages):  # what pictures cost differs from model to model
            return
        if size >= _LEAST_BYTES_TO_LEARN_FROM:
            ratio = (input_tokens - _TOKENS_PER_MESSAGE * len(messages)) / size
            self._seen[model] = max(ratio, self._seen.get(model, 0.0))


def estimate_tokens(messages: Sequence[Message], tokens_per_byte: float = _TOKENS_PER_BYTE) -> int:
    """Returns the tokens of messages that have so many for a byte."""
    images = sum(len(images_of(message.parts)) for message in messages)
    others = _TOKENS_PER_MESSAGE * len(messages) + TOKENS_PER_IMAGE * images
    return math.ceil(size_bytes(messages) * tokens_per_byte) + others


def text_tokens(texts: Sequence[str]) -> int:
    """Returns a number of tokens that texts rarely exceed."""
    return math.ceil(sum(len(text) if text.isascii() else len(text.encode()) for text in texts) * _TOKENS_PER_BYTE)
