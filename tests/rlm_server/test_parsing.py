"""What a reply is read as."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rlm_server.engine.replies.parsing import FinalKind, TextFinal, parse_reply

VALUE, VARIABLE = FinalKind.VALUE, FinalKind.VARIABLE

REPLIES: dict[str, tuple[str, list[str], TextFinal | None]] = {
    # Fences
    "repl fence": ("```repl\nx = 1\n```", ["x = 1"], None),
    "python fence": ("```python\nx = 1\n```", ["x = 1"], None),
    "py fence": ("```py\nx = 1\n```", ["x = 1"], None),
    "py fence in capitals": ("```Python3\nx = 1\n```", ["x = 1"], None),
    "tool_code fence": ("```tool_code\nx = 1\n```", ["x = 1"], None),
    "language in braces": ("```{python}\nx = 1\n```", ["x = 1"], None),
    "language with a version": ("```python3.11\nx = 1\n```", ["x = 1"], None),
    "language with attributes": ('```python title="a.py"\nx = 1\n```', ["x = 1"], None),
    "language with a name": ("```repl:step1\nx = 1\n```", ["x = 1"], None),
    "tilde fence": ("~~~repl\nx = 1\n~~~", ["x = 1"], None),
    "tildes do not close backticks": ("```repl\nx = 1\n~~~\n```", ["x = 1\n~~~"], None),
    "space before the language": ("``` repl\nx = 1\n```", ["x = 1"], None),
    "prose around": ("First:\n```repl\nx = 1\n```\nThen more.", ["x = 1"], None),
    "several blocks in order": ("```repl\na\n```\n```python\nb\n```", ["a", "b"], None),
    "several blocks with prose between": ("A\n```repl\na\n```\nB\n~~~py\nb\n~~~\nC", ["a", "b"], None),
    "other languages are for show": ('```json\n{"a": 1}\n```', [], None),
    "shell is for show": ("```bash\nls = 1\n```", [], None),
    "output is for show": ("```output\nx = 1\n```", [], None),
    "unclosed fence": ("```repl\nx = 1\ny = 2", ["x = 1\ny = 2"], None),
    "unclosed fence after a closed one": ("```repl\nx = 1\n```\n```repl\ny = 2", ["x = 1", "y = 2"], None),
    "fence that closes at the end of a line": ("```repl\nx = 1\nprint(x)```", ["x = 1\nprint(x)"], None),
    "fence at the end of a line of prose": ("I look: ```repl\nx = 1\n```", ["x = 1"], None),
    "empty block": ("```repl\n\n```", [], None),
    "block on one line": ("```repl print(1)```", ["print(1)"], None),
    "code within a line": ("Use ```repl``` fences.", [], None),
    "indented fence": ("- so:\n  ```repl\n  if x:\n      y()\n  ```", ["if x:\n    y()"], None),
    "fence indented with a tab": ("1.\t\n\t```repl\n\tif x:\n\t\ty()\n\t```", ["if x:\n\ty()"], None),
    "indented fence around code that is not": ("  ```repl\nif x:\n  y()\n  ```", ["if x:\n  y()"], None),
    "indented fence with an empty line": ("  ```repl\n  a = 1\n\n  b = 2\n  ```", ["a = 1\n\nb = 2"], None),
    "code that is indented as a whole": ("```repl\n    x = 1\n    y = 2\n```", ["x = 1\ny = 2"], None),
    "code that begins too far to the right": ("```repl\n    x = 1\ny = 2\n```", ["    x = 1\ny = 2"], None),
    "carriage returns": ("```repl\r\nx = 1\r\n```\r\n", ["x = 1"], None),
    "longer fence holds a shorter one": ("````repl\ns = '''\n```\n'''\n````", ["s = '''\n```\n'''"], None),
    "fence in a string": (
        "```repl\ns = '''\n```json\n{}\n```\n'''\nprint(s)\n```",
        ["s = '''\n```json\n{}\n```\n'''\nprint(s)"],
        None,
    ),
    "two fences in a string": (
        '```python\np = f"""Do:\n```\nA\n```\nand\n```\nB\n```\n"""\nllm_query(p)\n```\nThen I look.',
        ['p = f"""Do:\n```\nA\n```\nand\n```\nB\n```\n"""\nllm_query(p)'],
        None,
    ),
    "string that never closes ends at the first fence": (
        "```repl\nx = '''abc\n```\nSome prose.",
        ["x = '''abc"],
        None,
    ),
    "quotes in a comment do not hide the end": (
        "```repl\nx = 1  # it's '''odd\n```\nmore\n```\n",
        ["x = 1  # it's '''odd"],
        None,
    ),
    "fence in a markdown block": ("~~~markdown\n```repl\nx\n```\n~~~", [], None),
    "a string may hold a form feed and line separators": (
        "```repl\nx = 'a\x0cb\u2028c\x1dd'\n```",
        ["x = 'a\x0cb\u2028c\x1dd'"],
        None,
    ),
    "trailing white space of code stays": ("```repl\nx = 1  \n\n```", ["x = 1  \n"], None),
    "code that is no Python runs as it is": ("```repl\nx = = 1\n```", ["x = = 1"], None),
    "transcript": (
        "I see:\n```pycon\n>>> x = 1\n>>> for a in b:\n...     c\n1\n```",
        ["x = 1\nfor a in b:\n    c"],
        None,
    ),
    "unclosed fence before another": ("```repl\nx = 1\n```repl\ny = 2\n```", ["x = 1", "y = 2"], None),
    "unclosed fence before prose and another": (
        "```repl\nx = 1\n\nNow I look at y.\n\n```repl\ny = 2\n```",
        ["x = 1\n", "y = 2"],
        None,
    ),
    "unclosed fence before prose": ("```repl\nx = 1\n\nThen I look at it.", ["x = 1\n"], None),
    "unclosed fence before a final": ("```repl\nx = 1\n\nFINAL(It is so.)", ["x = 1\n"], TextFinal(VALUE, "It is so.")),
    "prose after the closing fence": ("```repl\nx = 1\n``` Then I look.", ["x = 1"], None),
    "prose after the closing fence, and another block": (
        "```repl\nx = 1\n``` Then this:\n```repl\ny = 2\n```",
        ["x = 1", "y = 2"],
        None,
    ),
    "unclosed block with an error": ("```repl\nx = = 1\n\ny = 2", ["x = = 1\n\ny = 2"], None),
    "unclosed block with a string of prose": (
        "```repl\nx = '''a\n\nNow I look'''",
        ["x = '''a\n\nNow I look'''"],
        None,
    ),
    "opening fence in a string": (
        "```repl\np = '''\n```repl\nx\n```\n'''\n```",
        ["p = '''\n```repl\nx\n```\n'''"],
        None,
    ),
    "a longer fence that a shorter one ends": ("````repl\nx = 1\n```", ["x = 1\n"], None),
    "language on the next line": ("```\nrepl\nx = 1\n```", ["x = 1"], None),
    # Marks of endpoints and of other formats
    "special token after a fence": ("```repl\nx = 1\n```<|im_end|>", ["x = 1"], None),
    "special tokens after code": ("```repl\nx = 1\n<|eot_id|></s>\n", ["x = 1"], None),
    "special token after a final": ("FINAL(42)<\uff5cend\u2581of\u2581sentence\uff5c>", [], TextFinal(VALUE, "42")),
    "special token in code": ("```repl\nx.split('<|im_end|>')\n```", ["x.split('<|im_end|>')"], None),
    "channels": (
        "<|channel|>analysis<|message|>FINAL(no)<|end|><|start|>assistant<|channel|>final<|message|>FINAL(42)<|return|>",
        [],
        TextFinal(VALUE, "42"),
    ),
    "call of a tool as JSON": (
        '<tool_call>\n{"name": "python", "arguments": {"code": "x = 1\\nprint(x)"}}\n</tool_call>',
        ["x = 1\nprint(x)"],
        None,
    ),
    "call of a tool that has no code": ('<tool_call>\n{"name": "get", "arguments": {"id": 1}}\n</tool_call>', [], None),
    "call of a tool that is no JSON": ("<tool_call>\n{x = 1}\n</tool_call>", [], None),
    "call of a tool with parameters": (
        "<tool_call>\n<function=python>\n<parameter=code>\nx = 1\n</parameter>\n</function>\n</tool_call>",
        ["x = 1"],
        None,
    ),
    "call of a function in XML": (
        '<invoke name="repl">\n<parameter name="code">\nif x:\n    y()\n</parameter>\n</invoke>',
        ["if x:\n    y()"],
        None,
    ),
    "code between tags": ("I look:\n<repl>\nprint(x)\n</repl>", ["print(x)"], None),
    "code after a tag": ("<|python_tag|>print(x)<|eom_id|>", ["print(x)"], None),
    "a word between tags": ("So:\n<code>context</code>", [], None),
    "code between tags in a final": (
        "FINAL(Do:\n<code>\nprint(x)\n</code>\n)",
        [],
        TextFinal(VALUE, "Do:\n<code>\nprint(x)\n</code>"),
    ),
    "final beside the call of a tool": (
        '<tool_call>{"name": "repl", "arguments": {"code": "print(x)"}}</tool_call>\nFINAL(1)',
        ["print(x)"],
        TextFinal(VALUE, "1"),
    ),
    # Fences without a language, and no fences
    "fence without language around code": ("```\nx = 1\nprint(x)\n```", ["x = 1\nprint(x)"], None),
    "fence without language around a value": ("The output is\n```\n['a', 'b']\n```", [], None),
    "fence without language around text": ("```\nThe plan: look first.\n```", [], None),
    "fence without language around text that is Python, too": ("```\nNote: this\n```", [], None),
    "fence without language beside code": ("```repl\nx = 1\n```\nIt gives\n```\ny = 2\n```", ["x = 1"], None),
    "unclosed fence without language": ("```\nprint(len(context))", ["print(len(context))"], None),
    "final in a fence without language": ("```\nFINAL(It is 42)\n```", [], TextFinal(VALUE, "It is 42")),
    "final_var in a fence without language": ("```\nFINAL_VAR(x)\n```", [], TextFinal(VARIABLE, "x")),
    "code without fence": ("x = len(context)\nprint(x)", ["x = len(context)\nprint(x)"], None),
    "code without fence, with empty lines": (
        "import re\n\nx = 1\n\nprint(x)",
        ["import re\n\nx = 1\n\nprint(x)"],
        None,
    ),
    "code without fence after prose": ("I look first.\n\nprint(context[:9])", ["print(context[:9])"], None),
    "code without fence after a colon": ("I look first:\nprint(context[:9])", ["print(context[:9])"], None),
    "code without fence that finishes": ("x = 1\nFINAL(x)", ["x = 1\nFINAL(x)"], None),
    "one call without fence": ("SHOW_VARS()", ["SHOW_VARS()"], None),
    "a word that could be code": ("Done", [], None),
    "a sentence that could be a call": ("Yes (probably)", [], None),
    "prose after code without fence": ("print(1)\n\nThat shows the size of it.", [], None),
    # Thinking
    "think section": ("<think>\n```repl\nno()\n```\n</think>\n```repl\nyes()\n```", ["yes()"], None),
    "think section on one line": ("<think>FINAL(no)</think>FINAL(yes)", [], TextFinal(VALUE, "yes")),
    "thinking section": ("<thinking>no</thinking>\nFINAL(yes)", [], TextFinal(VALUE, "yes")),
    "think section in square brackets": ("[THINK]\nFINAL(no)\n[/THINK]\nFINAL(yes)", [], TextFinal(VALUE, "yes")),
    "think section in the middle": ("So.\n<think>\nFINAL(no)\n</think>\nFINAL(yes)", [], TextFinal(VALUE, "yes")),
    "two think sections": ("<think>a</think>\nB\n<think>FINAL(c)</think>\n```repl\nd()\n```", ["d()"], None),
    "think section that never ends": ("<think>\n```repl\nno()\n```\nFINAL(no)", [], None),
    "think section without its beginning": (
        "I try\n```repl\nno()\n```\n</think>\n```repl\nyes()\n```",
        ["yes()"],
        None,
    ),
    "think section with an attribute": (
        '<think effort="low">\nFINAL(no)\n</think>\nFINAL(yes)',
        [],
        TextFinal(VALUE, "yes"),
    ),
    "think section without its beginning on the line of the answer": (
        "So.</think> FINAL(yes)",
        [],
        TextFinal(VALUE, "yes"),
    ),
    "a tag that is no think section": ("<thought experiment>\nFINAL(yes)", [], TextFinal(VALUE, "yes")),
    "think tags in code are code": (
        "```repl\nre.sub('<think>.*</think>', '', x)\n```",
        ["re.sub('<think>.*</think>', '', x)"],
        None,
    ),
    # FINAL as text
    "final": ("FINAL(42)", [], TextFinal(VALUE, "42")),
    "final in a sentence is no answer": ("I will write FINAL(x) later.", [], None),
    "final with prose after it on the line is no answer": ("FINAL(x) is what I will write.", [], None),
    "final with brackets after it on the line is no answer": ("FINAL(42) as it is (see above)", [], None),
    "final in small letters is no answer": ("So:\n  final(42) it is", [], None),
    "final with a full stop": ("FINAL(42).", [], TextFinal(VALUE, "42")),
    "final after prose": ("So, the answer:\n  FINAL(42)\nDone.", [], TextFinal(VALUE, "42")),
    "final after a label": ("Final answer: FINAL(42)", [], TextFinal(VALUE, "42")),
    "final after a bold label": ("**The answer is:** FINAL(42)", [], TextFinal(VALUE, "42")),
    "final after another label is no answer": ("Later I say: FINAL(42)", [], None),
    "final in bold": ("**FINAL(42)**", [], TextFinal(VALUE, "42")),
    "final as code within a line": ("`FINAL(42)`", [], TextFinal(VALUE, "42")),
    "final in a list": ("- FINAL(42)", [], TextFinal(VALUE, "42")),
    "final with brackets": ("FINAL(f(x) = (1 + 2))", [], TextFinal(VALUE, "f(x) = (1 + 2)")),
    "final with an interval": ("FINAL(It is [0, 1) and so on)", [], TextFinal(VALUE, "It is [0, 1) and so on")),
    "final with a smiley": ("FINAL(Done :))", [], TextFinal(VALUE, "Done :)")),
    "final with a sad smiley": ("FINAL(Not found :( sorry)", [], TextFinal(VALUE, "Not found :( sorry")),
    "final with an interval at the end of a line": (
        "FINAL(It is [0, 1)\nand so on.)",
        [],
        TextFinal(VALUE, "It is [0, 1)\nand so on."),
    ),
    "final with an interval on its first line": (
        "FINAL(It is [0, 1) and\nso on.)",
        [],
        TextFinal(VALUE, "It is [0, 1) and\nso on."),
    ),
    "final with an interval, and prose after it": ("FINAL([0, 1))\n(It is so.)", [], TextFinal(VALUE, "[0, 1)")),
    "final with a smiley at the end of a line": (
        "FINAL(Done :)\nAll is well.)",
        [],
        TextFinal(VALUE, "Done :)\nAll is well."),
    ),
    "final that ends with a smiley's mouth": ("FINAL(Done :)", [], TextFinal(VALUE, "Done :")),
    "final in a heading": ("## FINAL(42)", [], TextFinal(VALUE, "42")),
    "final whose name is in bold": ("**FINAL**(42)", [], TextFinal(VALUE, "42")),
    "final with a space before the bracket": ("FINAL (42)", [], TextFinal(VALUE, "42")),
    "final in a numbered plan is no answer": ("1. Look\n2. FINAL(the total)", [], None),
    "final with literals side by side": ('FINAL("a " "b")', [], TextFinal(VALUE, "a b", is_quoted=True)),
    "final with a raw literal": (r'FINAL(r"\d(")', [], TextFinal(VALUE, r"\d(", is_quoted=True)),
    "final with quotes": ('FINAL("it is (so")', [], TextFinal(VALUE, "it is (so", is_quoted=True)),
    "final with escapes": (r'FINAL("a\nb")', [], TextFinal(VALUE, "a\nb", is_quoted=True)),
    "final with triple quotes": ("FINAL('''a\n(b''')", [], TextFinal(VALUE, "a\n(b", is_quoted=True)),
    "final with a line break in quotes": ("FINAL('a\nb')", [], TextFinal(VALUE, "a\nb", is_quoted=True)),
    "final with an apostrophe": ("FINAL(It's 5 o'clock)", [], TextFinal(VALUE, "It's 5 o'clock")),
    "final with a lone quote": ("FINAL('tis so)", [], TextFinal(VALUE, "'tis so")),
    "final with a smiley in quotes": ('FINAL(He said ":)" and left)', [], TextFinal(VALUE, 'He said ":)" and left')),
    "final over several lines": ("FINAL(a\nb\n\nc)", [], TextFinal(VALUE, "a\nb\n\nc")),
    "final with JSON": ('FINAL({"a": [1, "(x"]})', [], TextFinal(VALUE, '{"a": [1, "(x"]}')),
    "final with two strings": ('FINAL("a" + "b")', [], TextFinal(VALUE, '"a" + "b"')),
    "final with a fenced block in it": (
        "FINAL(Use this:\n```python\nprint(1)\n```\nIt works.)",
        [],
        TextFinal(VALUE, "Use this:\n```python\nprint(1)\n```\nIt works."),
    ),
    "final around a fenced block": ("FINAL(\n```json\n{}\n```\n)", [], TextFinal(VALUE, "```json\n{}\n```")),
    "final that is empty": ("FINAL()", [], None),
    "final that is empty quotes": ("FINAL('')", [], None),
    "final that is cut off": ("FINAL(the answer is", [], None),
    "the last final counts": ("FINAL(1)\nNo:\nFINAL(2)", [], TextFinal(VALUE, "2")),
    "final_var": ("FINAL_VAR(result)", [], TextFinal(VARIABLE, "result")),
    "final_var with quotes": ('FINAL_VAR("result")', [], TextFinal(VARIABLE, "result", is_quoted=True)),
    "final_var with spaces": ("FINAL_VAR( 'result' )", [], TextFinal(VARIABLE, "result", is_quoted=True)),
    "final_var with backticks": ("FINAL_VAR(`result`)", [], TextFinal(VARIABLE, "result")),
    "final_var with an expression": ("FINAL_VAR(x['a'][0])", [], TextFinal(VARIABLE, "x['a'][0]")),
    # FINAL and code
    "final in a code block is code": ("```repl\nFINAL(1)\n```", ["FINAL(1)"], None),
    "final of prose in a code block is text": (
        "```repl\nFINAL(It is the 42nd.)\n```",
        [],
        TextFinal(VALUE, "It is the 42nd."),
    ),
    "final of prose after code in a block is code": (
        "```repl\nx = 1\nFINAL(It is.)\n```",
        ["x = 1\nFINAL(It is.)"],
        None,
    ),
    "final in a comment is code": ("```repl\n# FINAL(1)\nx = 2\n```", ["# FINAL(1)\nx = 2"], None),
    "final in a string is code": ("```repl\ns = '''\nFINAL(1)\n'''\n```", ["s = '''\nFINAL(1)\n'''"], None),
    "final in a block for show is no answer": ("```text\nFINAL(1)\n```", [], None),
    "final after code": ("```repl\nx\n```\nFINAL(1)", ["x"], TextFinal(VALUE, "1")),
    "final before code": ("FINAL(1)\n```repl\nx\n```", ["x"], TextFinal(VALUE, "1")),
    "final_var beside code": ("```repl\nx = 1\n```\nFINAL_VAR(x)", ["x = 1"], TextFinal(VARIABLE, "x")),
    # Nothing to do
    "prose only": ("I will look at the context.", [], None),
    "nothing": ("", [], None),
    "white space": (" \n\n ", [], None),
}


def test_the_table_is_a_large_one() -> None:
    assert len(REPLIES) >= 80


@pytest.mark.parametrize(("text", "blocks", "final"), REPLIES.values(), ids=REPLIES.keys())
def test_a_reply_is_read_as(text: str, blocks: list[str], final: TextFinal | None) -> None:
    reply = parse_reply(text)
    assert list(reply.blocks) == blocks
    assert reply.final == final


@pytest.mark.parametrize(
    ("text", "is_empty"),
    [
        ("", True),
        (" \n", True),
        ("<think>so</think>", True),
        ("<think>so", True),
        ("x</think>\n", True),
        ("a", False),
        ("```\n```", False),
        ("```repl\nx\n```", False),
    ],
)
def test_a_reply_of_nothing_but_thinking_is_empty(text: str, is_empty: bool) -> None:
    assert parse_reply(text).is_empty == is_empty


MARKS = st.text(alphabet="`~\n'\"#\\() replFINAL_VAR<think>/x=:[]*\t\r")
PIECES = st.lists(
    st.sampled_from(
        [
            "```",
            "```repl\n",
            "~~~\n",
            "\n",
            "FINAL(",
            "FINAL_VAR(",
            ")",
            "<think>",
            "</think>",
            "'",
            "'''",
            '"""',
            "x = 1",
            "\\",
            "  ",
            "#",
            "print(1)",
            "Prose, so.",
            "\r\n",
            "[THINK]",
            ">>> ",
            "f'{",
            "}",
            "`",
            "\u2028",
            "\ud800",
            "\0",
        ]
    ),
    max_size=30,
).map("".join)
# Whole statements, no line of which looks like a fence.
STATEMENTS = st.lists(
    st.sampled_from(
        [
            "x = 1",
            "print(x)",
            "for a in b:\n    c(a)",
            "def f():\n\treturn '```'",
            "",
            "# a ``` comment",
            "s = 'it\\'s'",
            "t = '''a\n  b\n'''",
            'u = """```json\n{}"""',
            "FINAL(x)",
            "FINAL_VAR('x')",
            "y = (1,\n     2)",
            "z = 'a\x0cb'",
            "v = f'''\n```\n{x}\n```\n'''",
            "w = '\\\n```x'",
            "k = 'a\u2028b'",
        ]
    ),
    min_size=1,
).map("\n".join)
FENCES = st.sampled_from(["```repl", "```python", "~~~repl", "````py", "``` repl"])


@given(st.one_of(st.text(), MARKS, PIECES))
def test_any_text_is_read_without_an_error(text: str) -> None:
    reply = parse_reply(text)
    assert all(block.strip() for block in reply.blocks)
    assert reply.final is None or reply.final.argument.strip()
    assert not (reply.is_empty and (reply.blocks or reply.final))
    assert parse_reply(text) == reply


@given(STATEMENTS, FENCES)
def test_code_comes_out_exactly_as_it_went_in(code: str, opening: str) -> None:
    if code.strip():
        closing = opening.rstrip(" replython")
        assert parse_reply(f"I do this:\n{opening}\n{code}\n{closing}\nThen I look.").blocks == (code,)


@given(st.lists(STATEMENTS, min_size=1, max_size=4), st.text(alphabet="abc ,.\n"))
def test_blocks_come_out_in_order(codes: list[str], prose: str) -> None:
    text = prose.join(f"\n```repl\n{code}\n```\n" for code in codes)
    assert parse_reply(text).blocks == tuple(code for code in codes if code.strip())


@given(st.one_of(MARKS, PIECES))
def test_what_is_thought_is_never_run_or_taken_for_the_answer(thought: str) -> None:
    thought = thought.replace("</", "< /")
    assert parse_reply(f"<think>{thought}</think>\nFINAL(42)") == parse_reply("FINAL(42)")
    assert parse_reply(f"<think>{thought}").is_empty


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="()'\"\\\r`~"), min_size=1))
def test_final_gives_back_any_text_without_marks(answer: str) -> None:
    if answer.strip():
        final = parse_reply(f"FINAL({answer})").final
        assert final is not None
        assert final.argument == answer.strip()


@given(st.text(min_size=1))
def test_final_gives_back_any_string_literal(answer: str) -> None:
    if answer.strip():
        assert parse_reply(f"FINAL({answer!r})").final == TextFinal(VALUE, answer, is_quoted=True)


@pytest.mark.parametrize(
    "text",
    [
        "```repl\n" + "x = '''\n```\n" * 20_000,
        "```repl\n'''\n" + "```\n'''\n" * 20_000,
        "```json\n```\n" * 20_000,
        "FINAL(\n" * 20_000 + "'" * 3000,
        "FINAL(```\n" * 20_000,
        "x\n\n" * 50_000,
        "x=(\n\n" * 20_000,
        "<think>" * 50_000,
        "</think>x" * 20_000,
        "so, " * 50_000 + "FINAL(",
        "(" * 100_000,
        "```repl\n" + "-" * 100_000 + "x\n```",
        "```repl\n" + '"' * 200_000,
        " " * 300_000,
        "`" * 300_000,
        "```repl\nx = (\n\nNow I look.\n" * 10_000,
        "<tool_call>" * 30_000,
        "<tool_call>{" * 30_000,
        "<code>\n" * 30_000,
        "<|python_tag|>x" * 20_000,
        "x" + "<|im_end|> " * 30_000 + ".",
        "FINAL(It is [0, 1)\n" * 20_000,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_a_hostile_reply_is_read_in_bounded_time(text: str) -> None:
    start_seconds = time.process_time()
    parse_reply(text)
    assert time.process_time() - start_seconds < 5.0
