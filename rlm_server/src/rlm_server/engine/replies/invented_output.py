"""Output that a model makes up: a reply that goes on after its code with the message that is still to come."""

from __future__ import annotations

import re

_HEADING = re.compile(
    r"^[ \t*#]*(?:REPL output(?: of block \d+ of \d+)?:|\[Turn \d+ of \d+\.|<\|im_start\|>|<\|start_header_id\|>)",
    re.MULTILINE,
)
_FENCE = re.compile(r"^[ \t]*(?:```|~~~)", re.MULTILINE)


def without_invented_output(text: str) -> str:
    """Returns a reply up to where it goes on as if its code had run, or all of it.

    That is where a message to the model begins, after a block of code and in none.
    """
    thought_end = text.rfind("</think>")
    fence_count = position = 0
    for heading in _HEADING.finditer(text):
        fence_count += len(_FENCE.findall(text, position, heading.start()))
        position = heading.start()
        if fence_count and fence_count % 2 == 0 and position > thought_end:
            return text[:position].rstrip()
    return text
