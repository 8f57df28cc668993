"""How many tokens messages are likely to have, told without the model's own tokenizer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlm_server.engine.ports import Message

_BYTES_PER_TOKEN = 3
_TOKENS_PER_MESSAGE = 8


def estimate_tokens(messages: Sequence[Message]) -> int:
    """Returns a number of tokens that messages rarely exceed.

    Tokenizers make a token of some four bytes of English prose, and of three or more of code and of most other
    languages in UTF-8.
    """
    return sum(estimate_text_tokens(message.content) + _TOKENS_PER_MESSAGE for message in messages)


def estimate_text_tokens(text: str) -> int:
    """Returns a number of tokens that a text rarely exceeds."""
    return math.ceil((len(text) if text.isascii() else len(text.encode())) / _BYTES_PER_TOKEN)
