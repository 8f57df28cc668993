"""Reads a model's reply: blocks of code, or a final answer written as text."""

from __future__ import annotations

from dataclasses import dataclass

from rlm_server.engine.replies.fences import BlockKind, split
from rlm_server.engine.replies.python_source import looks_like_code, parses, split_unfenced
from rlm_server.engine.replies.text_finals import FinalKind, TextFinal, find_final
from rlm_server.engine.replies.tool_markup import code_in_markup

__all__ = ["FinalKind", "Reply", "TextFinal", "parse_reply"]


@dataclass(frozen=True)
class Reply:
    """What a reply holds.

    Args:
        blocks: code in order.
        final: the last final answer in its text.
        is_empty: there is nothing in it, or nothing but thinking.
    """

    blocks: tuple[str, ...]
    final: TextFinal | None
    is_empty: bool = False


def parse_reply(text: str) -> Reply:
    """Reads a reply; takes any text, in time proportional to its length.

    Code is what is fenced as `repl` or `python` and the like. In a reply without that, it is what looks like Python in
    fences without a language, or in the markup of a call of a tool; and without fences, what looks like Python at the
    end of the text. Code is not changed, but for the indentation of its fence, the prompts of a transcript, and line
    ends.
    """
    fenced, prose = split(text)
    blocks = [block.text for block in fenced if block.kind is BlockKind.CODE and block.text.strip()]
    if not blocks:
        unnamed = [block.text for block in fenced if block.kind is BlockKind.UNNAMED]
        blocks = [block for block in unnamed if looks_like_code(block)]
        if not blocks and unnamed:
            prose = "\n".join([prose, *unnamed])  # a FINAL may be fenced, too
        blocks = blocks or _code_in_markup(prose)
        if not fenced and not blocks and (parts := split_unfenced(prose)) is not None:
            prose, code = parts
            blocks = [code]
    if len(blocks) == 1 and (final := _as_final(blocks[0])) is not None:
        return Reply((), final)
    return Reply(tuple(blocks), find_final(prose), is_empty=not fenced and not blocks and not prose.strip())


def _code_in_markup(prose: str) -> list[str]:
    """Returns the code in the markup of calls of tools that is not part of a final answer."""
    blocks = code_in_markup(prose)
    final = find_final(prose) if blocks else None
    return blocks if final is None else [block for block in blocks if block not in final.argument]


def _as_final(block: str) -> TextFinal | None:
    """Returns the final answer that a block is which is no Python: prose between the brackets of a FINAL."""
    stripped = block.strip()
    if not stripped.startswith(("FINAL(", "FINAL_VAR(")) or not stripped.rstrip(".;").endswith(")") or parses(block):
        return None
    return find_final(stripped)
