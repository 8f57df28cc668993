"""Reads a model's reply: blocks of code, or a final answer written as text."""

from __future__ import annotations

import ast
import enum
import itertools
import re
from dataclasses import dataclass

CODE_LANGUAGES = frozenset({"repl", "python", "python3", "py", "py3"})
"""Languages of fenced blocks that run; others, as `json` or `text`, are for show."""

_FENCE_OPENING = re.compile(r"^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})[ \t]*(?P<info>[^\r\n]*?)[ \t]*$")
_FENCE_AFTER_PROSE = re.compile(r"^(?P<prose>[^`]*[^`\s])[ \t]*(?P<fence>```)(?P<info>\w+)[ \t]*$")
_THINKING = re.compile(r"\A\s*<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL)
_FINAL_OPENING = re.compile(r"^[ \t]*(?P<function>FINAL_VAR|FINAL)\(", re.MULTILINE)
_AFTER_FINAL = re.compile(r"[ \t]*[.;]?[ \t]*(?=\n|\Z)")
_STRING_TOKEN = re.compile(
    r"#[^\n]*|'''|\"\"\"|'(?:[^'\\\n]|\\.)*(?:'|(?=\n)|\Z)|\"(?:[^\"\\\n]|\\.)*(?:\"|(?=\n)|\Z)", re.DOTALL
)
_MAX_FENCE_CANDIDATES = 50
_MAX_FINAL_CANDIDATES = 20


class FinalKind(enum.Enum):
    """What a final answer in a reply's text gives."""

    VALUE = enum.auto()
    VARIABLE = enum.auto()


@dataclass(frozen=True)
class TextFinal:
    """`FINAL(...)` or `FINAL_VAR(...)` in the text of a reply; `argument` is without quotes around the whole."""

    kind: FinalKind
    argument: str


@dataclass(frozen=True)
class Reply:
    """What a reply holds: blocks of code in order, and the last final answer in its text."""

    blocks: tuple[str, ...]
    final: TextFinal | None


def parse_reply(text: str) -> Reply:
    """Reads a reply. Reasoning in `<think>` tags at its beginning is passed over."""
    lines = _THINKING.sub("", text, count=1).splitlines()
    blocks: list[str] = []
    prose: list[str] = []
    index = 0
    while index < len(lines):
        opening = _FENCE_OPENING.match(lines[index])
        if opening is None:
            opening = _FENCE_AFTER_PROSE.match(lines[index])
            if opening is None or opening["info"].lower() not in CODE_LANGUAGES:
                prose.append(lines[index])
                index += 1
                continue
            prose.append(opening["prose"])
        language, _, rest = opening["info"].partition(" ")
        is_code = language.lower() in CODE_LANGUAGES
        if rest.endswith(opening["fence"]):  # the whole block is on one line
            body, index = [rest.removesuffix(opening["fence"])], index + 1
        elif "`" in opening["info"]:  # code within a line of prose
            prose.append(lines[index])
            index += 1
            continue
        else:
            end = _find_closing(lines, index + 1, opening["fence"], is_code=is_code)
            body, index = lines[index + 1 : end], end + 1
        prose.append("")
        if is_code:
            code = _without_indent(body, opening.groupdict().get("indent") or "")
            if code.strip():
                blocks.append(code)
    return Reply(tuple(blocks), _find_final("\n".join(prose)))


def _find_closing(lines: list[str], start: int, fence: str, *, is_code: bool) -> int:
    """Returns the index of the line that closes a fence, or the number of lines if none does.

    A line that looks like the end may be part of a string in the code, as when code prints Markdown. The first one that
    leaves no triple-quoted string open is the end.
    """
    closing = re.compile(rf"[ \t]*{re.escape(fence[0])}{{{len(fence)},}}[ \t]*")
    candidates = (index for index in range(start, len(lines)) if closing.fullmatch(lines[index]))
    first = next(candidates, len(lines))
    if not is_code or not _leaves_string_open("\n".join(lines[start:first])):
        return first
    for end in itertools.islice(candidates, _MAX_FENCE_CANDIDATES):
        if not _leaves_string_open("\n".join(lines[start:end])):
            return end
    return first


def _leaves_string_open(code: str) -> bool:
    position = 0
    while (token := _STRING_TOKEN.search(code, position)) is not None:
        position = token.end()
        if token[0] in ("'''", '"""'):
            end = re.compile(rf"(?:[^\\]|\\.)*?{token[0]}", re.DOTALL).match(code, position)
            if end is None:
                return True
            position = end.end()
    return False


def _without_indent(lines: list[str], indent: str) -> str:
    """Returns the lines of a block, without the indentation that its fence has (as in a list)."""
    return "\n".join(line.removeprefix(indent) if indent else line for line in lines).rstrip()


def _find_final(prose: str) -> TextFinal | None:
    found: TextFinal | None = None
    position = 0
    for opening in list(_FINAL_OPENING.finditer(prose))[-_MAX_FINAL_CANDIDATES:]:
        start = opening.end()
        end = _find_balanced_end(prose, start) if start > position else None
        if end is None or _AFTER_FINAL.match(prose, end + 1) is None:
            continue
        kind = FinalKind.VARIABLE if opening["function"] == "FINAL_VAR" else FinalKind.VALUE
        argument = _unquote(prose[start:end].strip())
        if argument:
            found = TextFinal(kind, argument)
            position = end
    return found


def _find_balanced_end(text: str, start: int) -> int | None:
    """Returns the position of the bracket that closes the one before `start`."""
    end = _scan_to_end(text, start, quotes_count=True)
    # An apostrophe or inch sign is no quote: where quotes never close, they are read as plain characters.
    return _scan_to_end(text, start, quotes_count=False) if end is None else end


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


def _unquote(argument: str) -> str:
    """Returns the value of a string literal; anything else as it is."""
    if argument[:1] not in ("'", '"') or _end_of_string(argument, 0) != len(argument):
        return argument
    try:
        value = ast.literal_eval(argument)
    except (SyntaxError, ValueError):  # a line break in a plain string, or a bad escape
        return argument[1:-1]
    return str(value)
