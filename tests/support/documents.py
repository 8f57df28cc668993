"""What is in the Markdown files of this repository: headings, links, tables and code."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_INLINE_CODE = re.compile(r"`[^`\n]*`")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class CodeBlock:
    """A fenced block of code.

    Args:
        document: the file that it is in.
        line: where its code begins.
        language: the word after the fence.
        text: the code.
    """

    document: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def documents() -> list[Path]:
    """Returns all documents."""
    found = [
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "deploy").rglob("*.md"),
    ]
    return sorted(found)


def code_blocks(document: Path, *languages: str) -> list[CodeBlock]:
    """Returns the blocks of a document, in order: those of the languages, or all."""
    text = document.read_text(encoding="utf-8")
    blocks = [
        CodeBlock(document, text.count("\n", 0, found.start()) + 2, found[1], found[2])
        for found in _FENCE.finditer(text)
    ]
    return [block for block in blocks if not languages or block.language in languages]


def commands(block: CodeBlock) -> list[str]:
    """Returns the commands of a block of shell code; each may have several lines."""
    found: list[str] = []
    open_lines: list[str] = []
    for line in block.text.splitlines():
        open_lines.append(line)
        command = "\n".join(open_lines)
        if line.endswith("\\") or not _is_whole(command):
            continue
        if shlex.split(command, comments=True):
            found.append(command)
        open_lines = []
    assert not open_lines, f"{block}: a quotation mark stays open"
    return found


def words(command: str) -> list[list[str]]:
    """Returns the words of each command of a pipeline, without redirections."""
    lexer = shlex.shlex(command.replace("\\\n", " "), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    pipeline: list[list[str]] = [[]]
    tokens = iter(lexer)
    for token in tokens:
        if token == "|":
            pipeline.append([])
        elif token in (">", "<", ">>"):
            next(tokens)
        else:
            pipeline[-1].append(token)
    return pipeline


def links(document: Path) -> list[str]:
    """Returns the targets of a document's links."""
    return _LINK.findall(_INLINE_CODE.sub("", _prose(document)))


def anchors(document: Path) -> set[str]:
    """Returns what a link can name after `#`, by the rules of the common forges."""
    headings = _HEADING.findall(_prose(document))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def tables(document: Path, heading: str) -> Iterator[list[list[str]]]:
    """Yields the tables under a heading: rows of cells without their backticks, the first row being the head.

    Args:
        document: the file.
        heading: the heading's text, without backticks.
    """
    sections = re.split(r"^#+ (.*)$", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    titles = [title.replace("`", "") for title in sections[1::2]]
    assert heading in titles, f"{document} has no heading {heading!r}"
    body = sections[2 * titles.index(heading) + 2]
    for table in re.findall(r"(?:^\|.*\|$\n?)+", body, re.MULTILINE):
        rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()]
        yield [[cell.replace("`", "") for cell in row] for row in (rows[0], *rows[2:])]


def _prose(document: Path) -> str:
    return _FENCE.sub("", document.read_text(encoding="utf-8"))


def _is_whole(command: str) -> bool:
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return False
    return True
