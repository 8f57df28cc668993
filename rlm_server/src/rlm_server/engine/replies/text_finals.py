"""Finds `FINAL(...)` and `FINAL_VAR(...)` in the text of a reply."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from rlm_server.engine.replies.python_source import string_value

# Before it on its line there may be emphasis, a bullet, the mark of a heading, or a label as `The final answer is:`;
# before the bracket the end of the emphasis, or a space.
_OPENING = re.compile(
    r"^[ \t]*(?:(?:[-*+]|#{1,6})[ \t]+)?(?:[*_]{0,2}(?:(?:so|thus|therefore|hence|and|my|the|final)[, \t]+){0,4}"
    r"(?:answer|result|output)(?:[ \t]+is)?[*_]{0,2}:[*_]{0,2}[ \t]*)?"
    r"[*_`]{0,3}(?P<function>FINAL_VAR|FINAL)[*_`]{0,3}[ \t]?\(",
    re.MULTILINE | re.IGNORECASE,
)
_LINE_END = re.compile(r"[ \t]*[*_`]{0,3}[ \t]*[.;!]?[ \t]*[*_`]{0,3}[ \t]*(?=\n|\Z)")
_LITERAL = re.compile(r"[rRuU]?['\"]")
_NO_END = re.compile(r"(?:\[[^\[\]()\n]*,[^\[\]()\n]*|(?<!\w)[:;]-?)\)\Z")
_MAX_INTERVAL_CHARS = 100
_MAX_CANDIDATES = 20


class FinalKind(enum.Enum):
    """What a final answer in a reply's text gives."""

    VALUE = enum.auto()
    VARIABLE = enum.auto()


@dataclass(frozen=True)
class TextFinal:
    """`FINAL(...)` or `FINAL_VAR(...)` in the text of a reply.

    Args:
        kind: what it gives.
        argument: what is between the brackets; of a string literal its value.
        is_quoted: it was a string literal.
    """

    kind: FinalKind
    argument: str
    is_quoted: bool = False


def find_final(prose: str) -> TextFinal | None:
    """Returns the last final answer in a text."""
    found: TextFinal | None = None
    position = 0
    openings = [opening for opening in _OPENING.finditer(prose) if opening["function"].isupper()]
    for opening in openings[-_MAX_CANDIDATES:]:
        start = opening.end()
        end = _find_end(prose, start) if start > position else None
        if end is None:
            continue
        argument, is_quoted = _unquote(prose[start:end].strip())
        kind = FinalKind.VARIABLE if opening["function"] == "FINAL_VAR" else FinalKind.VALUE
        if kind is FinalKind.VARIABLE and not is_quoted:
            argument = argument.strip("`* \t")
        if argument.strip():
            found = TextFinal(kind, argument, is_quoted)
            position = end
    return found


def find_span_end(text: str) -> int | None:
    """Returns where a final answer ends that the first line of a text begins; None if it begins none that ends."""
    opening = _OPENING.match(text)
    return _find_end(text, opening.end()) if opening is not None and opening["function"].isupper() else None


def _find_end(text: str, start: int) -> int | None:
    """Returns the position of the bracket that closes the one before `start`, if nothing follows on its line."""
    end = _scan_to_end(text, start, quotes_count=True)
    if end is not None and _LINE_END.match(text, end + 1):
        return _end_after_interval(text, start, end)
    # An apostrophe or inch sign is no quote: where that gives no end, quotes are read as plain characters.
    end = _scan_to_end(text, start, quotes_count=False)
    if end is None:
        # An opening bracket too many, as in a smiley: the answer ends with the text.
        rest = text.rstrip().rstrip("*_`.;! \t")
        return len(rest) - 1 if len(rest) > start and rest.endswith(")") else None
    if _LINE_END.match(text, end + 1):
        return _end_after_interval(text, start, end)
    # A closing bracket too many, as in `[0, 1)`: the answer ends with the line, where that makes up for it.
    line_end = text.find("\n", end)
    rest = text[end + 1 : line_end if line_end >= 0 else len(text)].rstrip().rstrip("*_`.;! \t")
    if rest.endswith(")") and rest.count(")") == rest.count("(") + 1:
        return end + len(rest)
    later = _end_after_interval(text, start, end)
    return later if later > end else None


def _end_after_interval(text: str, start: int, end: int) -> int:
    """Returns the end, or the text's last bracket if the one at `end` closes an interval, as `[0, 1)`, or is a smiley.

    It is the last one only if there is one more to close in what follows than is opened there.
    """
    if _NO_END.search(text, max(start, end - _MAX_INTERVAL_CHARS), end + 1) is None:
        return end
    rest = text[end + 1 :].rstrip().rstrip("*_`.;! \t")
    if rest.endswith(")") and rest.count(")") == rest.count("(") + 1 and _OPENING.search(rest) is None:
        return end + len(rest)
    return end


def _scan_to_end(text: str, start: int, *, quotes_count: bool) -> int | None:
    depth = 1
    index = start
    while index < len(text):
        character = text[index]
        if quotes_count and character in "\"'" and not (text[index - 1].isalnum() or text[index - 1] == "\\"):
            closed = _end_of_string(text, index)
            if closed is None:
                return None
            index = closed
            continue
        if character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
            if depth == 0:
                return index
        index += 1
    return None


def _end_of_string(text: str, start: int) -> int | None:
    """Returns the position after the string literal that begins at `start`, or None if it does not end."""
    quote = text[start : start + 3] if text[start : start + 3] in ("'''", '"""') else text[start]
    index = start + len(quote)
    while index < len(text):
        if text[index] == "\\":
            index += 2
        elif text.startswith(quote, index):
            return index + len(quote)
        else:
            index += 1
    return None


def _unquote(argument: str) -> tuple[str, bool]:
    """Returns the value of a string literal and True; anything else as it is and False."""
    if _LITERAL.match(argument) is None:
        return argument, False
    value = string_value(argument)
    if value is not None:
        return value, True
    if argument[0] in "'\"" and _end_of_string(argument, 0) == len(argument):
        return argument[1:-1], True  # with a line break in a plain string, or a bad escape
    return argument, False
