"""Code that a model gives as the call of a tool, in the markup it was trained on, though it was told to fence it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from rlm_server.engine.replies.python_source import looks_like_code

if TYPE_CHECKING:
    from collections.abc import Iterator

_CODE_KEYS = ("code", "python", "source")
_SECTION = re.compile(
    r"<tool_call>(?P<call>.*?)(?:</tool_call>|\Z)"
    r"|<parameter(?:=code|[ \t]+name=\"code\")>(?P<parameter>.*?)(?:</parameter>|\Z)"
    r"|^[ \t]*<(?P<tag>repl|python|code|execute|tool_code)>(?P<tagged>.*?)(?:</(?P=tag)>|\Z)"
    r"|<\|python_tag\|>(?P<python>.*?)(?:<\||\Z)",
    re.DOTALL | re.MULTILINE,
)
_MAX_SECTIONS = 20


def code_in_markup(prose: str) -> list[str]:
    """Returns the blocks of code in a text that has none that is fenced."""
    return [code for code in _candidates(prose) if looks_like_code(code)]


def _candidates(prose: str) -> Iterator[str]:
    position = 0
    for _ in range(_MAX_SECTIONS):
        section = _SECTION.search(prose, position)
        if section is None:
            return
        position = section.end()
        kind = section.lastgroup or ""
        text = section[kind]
        if kind == "call" and text.lstrip().startswith("{"):
            code = _code_in_json(text)
            if code:
                yield code
        elif kind == "call":  # with parameters in it
            position = section.start("call")
        else:
            yield text.strip("\n")


def _code_in_json(text: str) -> str:
    """Returns the code among the arguments of a call; empty if there is none."""
    try:
        call = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    arguments = call.get("arguments", call.get("parameters")) if isinstance(call, dict) else None
    if not isinstance(arguments, dict):
        return ""
    return next((arguments[key] for key in _CODE_KEYS if isinstance(arguments.get(key), str)), "")
