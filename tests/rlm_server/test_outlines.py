"""What a model is told of its context before it has looked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_server.engine.repl import outlines
from rlm_server.engine.repl.outlines import TextScan, outline_json, outline_text

if TYPE_CHECKING:
    from tests.support.rlm_stack import Stack


@pytest.mark.parametrize(
    ("text", "size", "details"),
    [
        ("abc", "3 characters", "all of it: 'abc'"),
        ("a\nb", "3 characters in 2 lines", "all of it: 'a\\nb'"),
        ("a\nb\n", "4 characters in 2 lines", "all of it: 'a\\nb\\n'"),
        ("\n", "1 character in 1 line", "all of it: '\\n'"),
        ("a" * 250 + "b" * 250, "500 characters", f"begins: '{'a' * 240}'\nends: '{'b' * 120}'"),
    ],
)
def test_a_text_is_told_by_size_lines_head_and_tail(text: str, size: str, details: str) -> None:
    outline = outline_text(text)
    assert (outline.type_name, outline.size, outline.details) == ("str", size, details)
    assert outline.size_chars == len(text)


@given(st.lists(st.text(max_size=200)))
def test_the_outline_of_a_text_does_not_depend_on_how_it_comes_in(parts: list[str]) -> None:
    scan = TextScan()
    for part in parts:
        scan.feed(part)
    assert scan.size_chars == 0 or scan.outline() == outline_text("".join(parts))


def test_a_list_of_documents_is_told_by_keys_sizes_first_and_last() -> None:
    documents: list[dict[str, Any]] = [{"id": f"{n}.txt", "text": "x" * n, "metadata": {"n": n}} for n in range(1790)]
    del documents[3]["metadata"]
    text = json.dumps(documents)
    outline = outline_json(text)
    assert (outline.type_name, outline.size) == ("list", f"1,790 dicts, {len(text):,} characters as JSON")
    assert outline.details.splitlines() == [
        "keys: 'id' (str), 'text' (str), 'metadata' (dict, in 1,789 of them)",
        "text in each: 5 ([0]) to 1,797 ([1789]) characters, 901 on average",
        "[0]: {'id': '0.txt', 'text': '', 'metadata': {1 key}}",
        f"[1789]: {{'id': '1789.txt', 'text': '{'x' * 80}'..., 'metadata': {{1 key}}}}",
    ]


@pytest.mark.parametrize(
    ("value", "type_name", "size", "details"),
    [
        (
            {"a": "text", "b": [1, 2], "c": {"d": None}, "e": 1.5, "f": [1, "x"]},
            "dict",
            "5 keys",
            "'a': str, 4 characters: 'text'\n'b': list, 2 ints\n'c': dict, 1 key\n'e': 1.5\n'f': list, 2 items",
        ),
        ({}, "dict", "0 keys", ""),
        ([], "list", "no items", ""),
        ([[1], [2, 3]], "list", "2 lists", "[0]: [1 item]\n[1]: [2 items]"),
        (
            [1, "a", None, True],
            "list",
            "4 items (1 int, 1 str, 1 None, 1 bool)",
            "text in each: 0 ([0]) to 1 ([1]) characters, 0 on average\n[0]: 1\n[3]: True",
        ),
        (3.5, "float", "", "value: 3.5"),
        (None, "NoneType", "", "value: null"),
    ],
)
def test_json_is_told_by_its_shape(value: object, type_name: str, size: str, details: str) -> None:
    outline = outline_json(json.dumps(value))
    characters = f"{len(json.dumps(value)):,} characters as JSON"
    assert (outline.type_name, outline.size) == (type_name, f"{size}, {characters}" if size else characters)
    assert outline.details == details


def test_a_json_text_is_told_as_a_text() -> None:
    assert outline_json('"a\\nb"').size == "3 characters in 2 lines"


def test_of_very_many_objects_the_first_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlines, "_MAX_TRACKED_OBJECTS", 10)
    outline = outline_json(json.dumps([{"a": "x" * n} for n in range(30)]))
    assert outline.details.startswith("keys: 'a' (str) (of the first 10 only)\ntext in each: 0 ([0]) to 29 ([29])")


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "[1,]", ""])
def test_what_is_no_json_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"it is not (usable )?JSON: "):
        outline_json(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=30) | st.dictionaries(st.text(), inner, max_size=30),
    max_leaves=100,
)


@given(json_values)
def test_every_value_has_an_outline_of_bounded_length(value: object) -> None:
    outline = outline_json(json.dumps(value))
    assert outline.type_name == type(value).__name__
    assert len(outline.details) < 8000


def test_a_number_of_too_many_digits_is_told_with_the_remedy() -> None:
    with pytest.raises(ValueError, match="a number in it has over 4,300 digits, which Python does not read; quote it"):
        outline_json(f"[{'9' * 5000}]")


def test_a_wide_value_has_an_outline_of_bounded_length() -> None:
    wide = {f"{'k' * 200}{n}": "v" * 1000 for n in range(1000)}
    assert "and 980 more keys" in outline_json(json.dumps(wide)).details
    assert "and 980 more" in outline_json(json.dumps([wide] * 3)).details
    assert max(len(outline_json(json.dumps(one)).details) for one in (wide, [wide] * 3)) < 8000


# --- over gRPC


def told(stack: Stack) -> str:
    return stack.model.conversations[0][1]["content"].partition("The REPL holds:\n")[2].partition("\n\n[Turn")[0]


async def test_each_part_is_told_with_its_shape(local_stack: Stack) -> None:
    parts = [
        pb.ContextPart(name="notes", text="one\ntwo", description="of May"),
        pb.ContextPart(name="orders", documents=pb.Documents(documents=[pb.Document(id="a", text="A")])),
    ]
    await local_stack.complete("FINAL(x)", contexts=parts)
    assert told(local_stack).splitlines() == [
        "- `notes`: str, 7 characters in 2 lines: of May",
        "  all of it: 'one\\ntwo'",
        "- `orders`: list, 1 dict, 42 characters as JSON",
        "  keys: 'id' (str), 'text' (str), 'metadata' (dict)",
        "  [0]: {'id': 'a', 'text': 'A', 'metadata': {0 keys}}",
        "- `context`: a dict of all of these by name",
    ]


async def test_many_parts_share_the_room_for_samples(local_stack: Stack) -> None:
    few = [pb.ContextPart(text="x" * 1000) for _ in range(30)]
    await local_stack.complete("FINAL(x)", contexts=few)
    assert len(told(local_stack)) < 12_000
    assert "characters cut" in told(local_stack)


async def test_very_many_parts_are_told_by_size_only(local_stack: Stack) -> None:
    await local_stack.complete("FINAL(x)", contexts=[pb.ContextPart(text="x" * 1000) for _ in range(100)])
    assert len(told(local_stack).splitlines()) == 101


async def test_a_child_is_told_the_shape_of_its_context(local_stack: Stack) -> None:
    code = "```repl\nFINAL(rlm_query('count', context=[{'a': 'b'}] * 3))\n```"
    events = await local_stack.complete(code, "FINAL(3)")
    assert events.answer == "3"
    assert "- `context`: list, 3 dicts, 36 characters as JSON" in local_stack.model.conversations[1][1]["content"]


async def test_a_context_that_code_forges_fails_that_call_alone(local_stack: Stack) -> None:
    code = (
        "h = rlm_query.__globals__['host_call']\n"
        "r = h('rlm_query', prompts=['p'], model=None, contexts=[{'format': 'json', 'text': '{'}])\n"
        "FINAL(r[0]['kind'])"
    )
    events = await local_stack.run_code(code)
    assert events.answer == "bad_call"
    assert events.of("subcall_finished")[0].error.startswith("the context cannot be used: it is not JSON")
