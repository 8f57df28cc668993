"""What a reply is read as."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rlm_server.engine.parsing import FinalKind, TextFinal, parse_reply

VALUE, VARIABLE = FinalKind.VALUE, FinalKind.VARIABLE

REPLIES: dict[str, tuple[str, list[str], TextFinal | None]] = {
    "repl fence": ("```repl\nx = 1\n```", ["x = 1"], None),
    "python fence": ("```python\nx = 1\n```", ["x = 1"], None),
    "py fence in capitals": ("```Python3\nx = 1\n```", ["x = 1"], None),
    "tilde fence": ("~~~repl\nx = 1\n~~~", ["x = 1"], None),
    "space before the language": ("``` repl\nx = 1\n```", ["x = 1"], None),
    "prose around": ("First:\n```repl\nx = 1\n```\nThen more.", ["x = 1"], None),
    "several blocks in order": ("```repl\na\n```\n```python\nb\n```", ["a", "b"], None),
    "other languages are for show": ('```json\n{"a": 1}\n```', [], None),
    "a fence without language is for show": ("```\nx = 1\n```", [], None),
    "unclosed fence": ("```repl\nx = 1\ny = 2", ["x = 1\ny = 2"], None),
    "fence at the end of a line of prose": ("I look: ```repl\nx = 1\n```", ["x = 1"], None),
    "empty block": ("```repl\n\n```", [], None),
    "block on one line": ("```repl print(1)```", ["print(1)"], None),
    "code within a line": ("Use ```repl``` fences.", [], None),
    "indented fence": ("- so:\n  ```repl\n  if x:\n      y()\n  ```", ["if x:\n    y()"], None),
    "indentation of the code stays": ("```repl\n    x = 1\n```", ["    x = 1"], None),
    "carriage returns": ("```repl\r\nx = 1\r\n```\r\n", ["x = 1"], None),
    "longer fence holds a shorter one": ("````repl\ns = '''\n```\n'''\n````", ["s = '''\n```\n'''"], None),
    "fence in a string": (
        "```repl\ns = '''\n```json\n{}\n```\n'''\nprint(s)\n```",
        ["s = '''\n```json\n{}\n```\n'''\nprint(s)"],
        None,
    ),
    "quotes in a comment do not hide the end": (
        "```repl\nx = 1  # it's '''odd\n```\nmore\n```\n",
        ["x = 1  # it's '''odd"],
        None,
    ),
    "fence in a markdown block": ("~~~markdown\n```repl\nx\n```\n~~~", [], None),
    "think section": ("<think>\n```repl\nno()\n```\n</think>\n```repl\nyes()\n```", ["yes()"], None),
    "think section that never ends": ("<think>\n```repl\nno()\n```\nFINAL(no)", [], None),
    "final": ("FINAL(42)", [], TextFinal(VALUE, "42")),
    "final in a sentence is no answer": ("I will write FINAL(x) later.", [], None),
    "final with prose after it on the line is no answer": ("FINAL(x) is what I will write.", [], None),
    "final with a full stop": ("FINAL(42).", [], TextFinal(VALUE, "42")),
    "final after prose": ("So, the answer:\n  FINAL(42)\nDone.", [], TextFinal(VALUE, "42")),
    "final with brackets": ("FINAL(f(x) = (1 + 2))", [], TextFinal(VALUE, "f(x) = (1 + 2)")),
    "final with quotes": ('FINAL("it is (so")', [], TextFinal(VALUE, "it is (so")),
    "final with escapes": (r'FINAL("a\nb")', [], TextFinal(VALUE, "a\nb")),
    "final with triple quotes": ("FINAL('''a\n(b''')", [], TextFinal(VALUE, "a\n(b")),
    "final with an apostrophe": ("FINAL(It's 5 o'clock)", [], TextFinal(VALUE, "It's 5 o'clock")),
    "final with a lone quote": ("FINAL('tis so)", [], TextFinal(VALUE, "'tis so")),
    "final with a smiley in quotes": ('FINAL(He said ":)" and left)', [], TextFinal(VALUE, 'He said ":)" and left')),
    "final over several lines": ("FINAL(a\nb\n\nc)", [], TextFinal(VALUE, "a\nb\n\nc")),
    "final with two strings": ('FINAL("a" + "b")', [], TextFinal(VALUE, '"a" + "b"')),
    "final that is empty": ("FINAL()", [], None),
    "final that is empty quotes": ("FINAL('')", [], None),
    "final that is cut off": ("FINAL(the answer is", [], None),
    "the last final counts": ("FINAL(1)\nNo:\nFINAL(2)", [], TextFinal(VALUE, "2")),
    "final_var": ("FINAL_VAR(result)", [], TextFinal(VARIABLE, "result")),
    "final_var with quotes": ('FINAL_VAR("result")', [], TextFinal(VARIABLE, "result")),
    "final_var with spaces": ("FINAL_VAR( 'result' )", [], TextFinal(VARIABLE, "result")),
    "final in a code block is code": ("```repl\nFINAL(1)\n```", ["FINAL(1)"], None),
    "final in a block for show is no answer": ("```text\nFINAL(1)\n```", [], None),
    "final beside code": ("```repl\nx\n```\nFINAL(1)", ["x"], TextFinal(VALUE, "1")),
    "prose only": ("I will look at the context.", [], None),
    "nothing": ("", [], None),
    "white space": (" \n\n ", [], None),
}


@pytest.mark.parametrize(("text", "blocks", "final"), REPLIES.values(), ids=REPLIES.keys())
def test_a_reply_is_read_as(text: str, blocks: list[str], final: TextFinal | None) -> None:
    reply = parse_reply(text)
    assert list(reply.blocks) == blocks
    assert reply.final == final


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    parse_reply(text)


@given(st.text(alphabet="`~\n'\"#\\() replFINAL_VAR<think>/"))
def test_text_full_of_marks_is_read_without_an_error(text: str) -> None:
    reply = parse_reply(text)
    assert all(block.strip() for block in reply.blocks)


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="()'\"\\\r"), min_size=1))
def test_final_gives_back_any_text_without_marks(answer: str) -> None:
    if answer.strip():
        final = parse_reply(f"FINAL({answer})").final
        assert final is not None
        assert final.argument.split() == answer.split()


def test_a_very_long_reply_is_read_in_reasonable_time() -> None:
    assert parse_reply("```repl\n" + "x = '''\n```\n" * 20_000).blocks
    assert parse_reply("```json\n```\n" * 20_000).blocks == ()
    assert parse_reply("FINAL(\n" * 20_000 + "'" * 3000).final is None
