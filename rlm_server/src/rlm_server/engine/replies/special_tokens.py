"""What stands around a reply where an endpoint does not take it away: special tokens, and what the model thought."""

from __future__ import annotations

import re

THINKING_TAGS = r"(?:seed:)?think|thinking|thought|reasoning"
"""Names of the tags around what models think, as alternatives of a regular expression."""

_THINKING_TAG = re.compile(rf"<(?:{THINKING_TAGS})\b", re.IGNORECASE)
_THINKING_WITHOUT_BEGINNING = re.compile(
    rf"</(?:{THINKING_TAGS})>[ \t]*(?=\n|\Z|```|~~~|FINAL)"
    r"|<\|channel\|>final[^<>\n]{0,50}<\|message\|>",
    re.IGNORECASE,
)
# What models end their replies with, and some endpoints do not take away.
_SPECIAL_TOKENS = re.compile(r"(?:\s*(?:<[|\uff5c][\w\u2581 ]{2,30}[|\uff5c]>|</s>|<end_of_turn>))+\s*\Z")
_THINKING_FIRST = re.compile(
    rf"\s*(?:<(?P<tag>{THINKING_TAGS})>.*?(?:</(?P=tag)>|\Z)|\[THINK\].*?(?:\[/THINK\]|\Z))",
    re.DOTALL | re.IGNORECASE,
)
_MAX_SPECIAL_CHARS = 200


def plain_reply(text: str) -> str:
    """Returns what a model says that was asked for a text, without what it thought before it and special tokens.

    Tags further on in the text are part of what it says, as it may speak of a text that has some.
    """
    text = without_special(text)
    start = 0
    while (thinking := _THINKING_FIRST.match(text, start)) is not None:
        start = thinking.end()
    return text[start:].strip()


def without_special(text: str) -> str:
    """Returns a text without special tokens at its end, and without thinking whose beginning is missing."""
    tail = text[-_MAX_SPECIAL_CHARS:]
    special = _SPECIAL_TOKENS.search(tail)
    return _without_thinking_before(text if special is None else text[: len(text) - len(tail) + special.start()])


def _without_thinking_before(text: str) -> str:
    """Returns the text after thinking whose beginning is missing, as some chat templates write that themselves."""
    closing = _THINKING_WITHOUT_BEGINNING.search(text)
    if closing is None or _THINKING_TAG.search(text[: closing.start()]):
        return text
    return text[closing.end() :]
