"""Splits a reply into fenced blocks and the prose around them."""

from __future__ import annotations

import enum
import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlm_server.engine.replies.python_source import parses, without_needless_indentation, without_prompts
from rlm_server.engine.replies.special_tokens import THINKING_TAGS, without_special
from rlm_server.engine.replies.text_finals import find_span_end

if TYPE_CHECKING:
    from collections.abc import Iterator

CODE_LANGUAGES = frozenset(
    {"repl", "python", "python3", "py", "py3", "ipython", "ipython3", "jupyter", "pycon", "pyrepl", "tool_code"}
)
"""Languages of fenced blocks that run; others, as `json` or `text`, are for show."""

_OPENING = re.compile(r"^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})[ \t]*(?P<info>[^\n]*?)[ \t]*$")
_OPENING_AFTER_PROSE = re.compile(r"^(?P<prose>[^`]*[^`\s])[ \t]*(?P<fence>```)(?P<info>\w+)[ \t]*$")
_LANGUAGE = re.compile(r"\{?\.?(\w*)")
_THINKING = re.compile(
    rf"\s*(?:<(?P<tag>{THINKING_TAGS})(?:\s+\w+=[^<>\n]{{0,50}})?>|(?P<bracket>\[THINK\]))",
    re.IGNORECASE,
)
_PROSE = re.compile(r"[A-Z][\w'\u2019]*,? \w|FINAL(?:_VAR)?\(")
_STRING_TOKEN = re.compile(
    r"#[^\n]*|'''|\"\"\"|'(?:[^'\\\n]|\\.)*(?:'|(?=\n)|\Z)|\"(?:[^\"\\\n]|\\.)*(?:\"|(?=\n)|\Z)", re.DOTALL
)
# Each of these looks at all that follows, so that without a bound a hostile reply would take time with its square.
_MAX_ENDS_TO_PARSE = 10
_MAX_FENCES_IN_STRINGS = 20
_MAX_FINALS = 20


class BlockKind(enum.Enum):
    """What a block's fence says about it."""

    CODE = enum.auto()
    UNNAMED = enum.auto()
    FOR_SHOW = enum.auto()


@dataclass(frozen=True)
class Block:
    """A fenced block: its lines without the fence, and without the fence's indentation."""

    kind: BlockKind
    text: str


def split(text: str) -> tuple[list[Block], str]:
    """Returns the blocks of a reply in order, and its prose, with an empty line in the place of each block.

    What models say while they think, in `<think>` sections, is in neither.
    """
    return _Splitter(text).split()


def without_thinking(text: str) -> str:
    """Returns a reply without what the model says while it thinks."""
    return _Splitter(text).without_thinking()


class _Splitter:
    def __init__(self, text: str) -> None:
        self._lines = without_special(text.replace("\r\n", "\n")).split("\n")
        self._index = 0
        self._prose: list[str] = []
        self._blocks: list[Block] = []
        self._finals_left = _MAX_FINALS
        self._fences_in_strings_left = _MAX_FENCES_IN_STRINGS

    def split(self) -> tuple[list[Block], str]:
        while self._index < len(self._lines):
            line = self._lines[self._index]
            if not self._pass_thinking(line) and not self._pass_final(line) and not self._take_block(line):
                self._prose.append(line)
                self._index += 1
        return self._blocks, "\n".join(self._prose)

    def without_thinking(self) -> str:
        while self._index < len(self._lines):
            line = self._lines[self._index]
            if not self._pass_thinking(line):
                self._prose.append(line)
                self._index += 1
        return "\n".join(self._prose)

    def _pass_thinking(self, line: str) -> bool:
        """Passes over a section of thinking that a line begins; one that does not end takes all the rest."""
        opening = _THINKING.match(line)
        if opening is None:
            return False
        end = re.compile(re.escape(f"</{opening['tag']}>" if opening["tag"] else "[/THINK]"), re.IGNORECASE)
        rest, self._index = line[opening.end() :], self._index + 1
        while (closing := end.search(rest)) is None:
            if self._index == len(self._lines):
                return True
            rest, self._index = self._lines[self._index], self._index + 1
        # What follows on the line may be anything, as a fence.
        self._index -= 1
        self._lines[self._index] = rest[closing.end() :]
        return True

    def _pass_final(self, line: str) -> bool:
        """Takes a FINAL that has fenced blocks between its brackets as prose: they are part of the answer."""
        if "FINAL" not in line or not self._finals_left:
            return False
        self._finals_left -= 1
        rest = "\n".join(self._lines[self._index :])
        end = find_span_end(rest)
        if end is None or not re.search(r"`{3}|~{3}", rest[:end]):
            return False
        line_count = rest.count("\n", 0, end) + 1
        self._prose += self._lines[self._index : self._index + line_count]
        self._index += line_count
        return True

    def _take_block(self, line: str) -> bool:
        opening = _OPENING.match(line)
        if opening is None:
            opening = _OPENING_AFTER_PROSE.match(line)
            if opening is None or opening["info"].lower() not in CODE_LANGUAGES:
                return False
            self._prose.append(opening["prose"])
        info, fence = opening["info"], opening["fence"]
        kind = _kind(info)
        rest = info.partition(" ")[2]
        if rest.endswith(fence):  # the whole block is on one line
            body, self._index = [rest.removesuffix(fence)], self._index + 1
        elif "`" in info:  # code within a line of prose
            return False
        else:
            start = self._index + 1
            if not info and start < len(self._lines) and self._lines[start].strip().lower() in CODE_LANGUAGES:
                kind, start = BlockKind.CODE, start + 1  # the language is on a line of its own
            body = self._take_body(start, fence, is_code=kind is not BlockKind.FOR_SHOW)
        self._prose.append("")
        self._blocks.append(_make_block(kind, _without_indent(body, opening.groupdict().get("indent") or "")))
        return True

    def _take_body(self, start: int, fence: str, *, is_code: bool) -> list[str]:
        """Returns the lines of a block, and goes on after it."""
        lines = self._lines
        end = self._find_end(start, fence, is_code=is_code)
        body, self._index = lines[start:end], end + 1
        if end < len(lines) and not _opens_code(lines[end]):
            return body
        # No line closes it: the code may be followed by a fence that is not alone on its line, or by prose.
        body, self._index = _without_late_fence(body, fence), end
        if is_code and (prose_start := _prose_start(body)) < len(body):
            body, self._index = body[:prose_start], start + prose_start
            lines[self._index] = lines[self._index].lstrip(" \t`~")
        return body

    def _find_end(self, start: int, fence: str, *, is_code: bool) -> int:
        """Returns the index of the line that ends a block, or the number of lines if none does.

        It is a fence that closes it, or, of code, one that opens the next block of code.

        A line that looks like the end may be part of a string in the code, as when code prints Markdown. The first that
        is not, and that leaves Python before it, is the end.
        """
        lines = self._lines
        closing = re.compile(rf"[ \t]*{re.escape(fence[0])}{{{len(fence)},}}[ \t]*")
        ends = (
            index
            for index in range(start, len(lines))
            if closing.fullmatch(lines[index]) or (is_code and _opens_code(lines[index]))
        )
        first = next(ends, len(lines))
        if not is_code or first == len(lines) or not _leaves_string_open("\n".join(lines[start:first])):
            return first
        if not self._fences_in_strings_left:
            return first
        self._fences_in_strings_left -= 1
        outside = list(itertools.islice(_outside_strings(lines, start, ends), _MAX_ENDS_TO_PARSE))
        for end in outside:
            if parses("\n".join(lines[start:end])):
                return end
        return outside[0] if outside else first


def _opens_code(line: str) -> bool:
    opening = _OPENING.match(line) if line.lstrip()[:3] in ("```", "~~~") else None
    return opening is not None and "`" not in opening["info"] and _kind(opening["info"]) is BlockKind.CODE


def _kind(info: str) -> BlockKind:
    language = _LANGUAGE.match(info)
    if language is not None and language[1].lower() in CODE_LANGUAGES:
        return BlockKind.CODE
    return BlockKind.FOR_SHOW if info else BlockKind.UNNAMED


def _make_block(kind: BlockKind, text: str) -> Block:
    if kind is not BlockKind.FOR_SHOW:
        text = without_needless_indentation(without_prompts(text))
    return Block(kind, text)


def _outside_strings(lines: list[str], start: int, ends: Iterator[int]) -> Iterator[int]:
    """Yields those of the lines that are in no triple-quoted string."""
    offsets = list(itertools.accumulate((len(line) + 1 for line in lines[start:]), initial=0))
    spans = _string_spans("\n".join(lines[start:]))
    span = next(spans, None)

    def is_inside(index: int) -> bool:
        nonlocal span
        position = offsets[index - start]
        while span is not None and span[1] <= position:
            span = next(spans, None)
        return span is not None and span[0] < position

    return itertools.filterfalse(is_inside, ends)


def _leaves_string_open(code: str) -> bool:
    return any(end > len(code) for _, end in _string_spans(code))


def _string_spans(code: str) -> Iterator[tuple[int, int]]:
    """Yields begin and end of the triple-quoted strings; one that does not close ends beyond the text."""
    position = 0
    while (token := _STRING_TOKEN.search(code, position)) is not None:
        position = token.end()
        if token[0] in ("'''", '"""'):
            end = re.compile(rf"(?:[^\\]|\\.)*?{token[0]}", re.DOTALL).match(code, position)
            position = len(code) + 1 if end is None else end.end()
            yield token.start(), position


def _without_indent(lines: list[str], indent: str) -> str:
    """Returns the lines of a block, without the indentation that its fence has (as in a list) if they have it, too."""
    first = next((line for line in lines if line.strip()), "")
    if indent and first.startswith(indent):
        lines = [line.removeprefix(indent) for line in lines]
    return "\n".join(lines)


def _without_late_fence(lines: list[str], fence: str) -> list[str]:
    """Returns the lines of a block that no line closes, without a fence at the end of the last; it may be shorter."""
    last = max((index for index, line in enumerate(lines) if line.strip()), default=None)
    if last is None or not lines[last].rstrip().endswith(fence[:3]):
        return lines
    return [*lines[:last], lines[last].rstrip().rstrip(fence[0])]


def _prose_start(lines: list[str]) -> int:
    """Returns where the code of a block that no line closes is over; the number of lines if only with the last."""
    if parses("\n".join(lines)):
        return len(lines)
    starts = (
        index
        for index in range(1, len(lines))
        if lines[index].lstrip()[:3] in ("```", "~~~") or (not lines[index - 1].strip() and _PROSE.match(lines[index]))
    )
    for start in itertools.islice(starts, _MAX_ENDS_TO_PARSE):
        if parses("\n".join(lines[:start])):
            return start
    return len(lines)
