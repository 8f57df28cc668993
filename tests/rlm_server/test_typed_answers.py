"""Answers that must match a JSON Schema."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import duration_pb2
from rlm_api.rlm.v1 import limits_pb2
from rlm_server.engine.answers.answer import Answer, AnswerForm
from rlm_server.engine.answers.answer_schema import AnswerSchema
from rlm_server.engine.schemas.json_schema import InvalidSchemaError, JsonSchema

if TYPE_CHECKING:
    from tests.support.rlm_stack import Events, Stack

LOOK = "```repl\nprint(context)\n```"
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
ADA = {"name": "Ada", "age": 36}


async def complete(stack: Stack, *replies: str, schema: object = PERSON, **fields: Any) -> Events:
    return await stack.complete(LOOK, *replies, answer_schema=json.dumps(schema), **fields)


@pytest.mark.parametrize(
    "reply",
    [
        "```repl\nFINAL({'name': 'Ada', 'age': 36})\n```",
        "```repl\np = dict(name='Ada', age=36)\nFINAL_VAR('p')\n```",
        "```repl\nanswer['content'] = {'name': 'Ada', 'age': 36}\nanswer['ready'] = True\n```",
        "```repl\nimport json\nFINAL(json.dumps({'name': 'Ada', 'age': 36}))\n```",
        "```repl\nfrom dataclasses import *\n@dataclass\nclass P:\n  name: str\n  age: int\nFINAL(P('Ada', 36))\n```",
        'FINAL({"name": "Ada", "age": 36})',
        'FINAL(\n```json\n{"name": "Ada", "age": 36}\n```\n)',
        'FINAL(\'{"name": "Ada", "age": 36}\')',
    ],
)
async def test_a_value_that_matches_is_given_as_json(stack: Stack, reply: str) -> None:
    events = await complete(stack, reply)
    assert json.loads(events.finished.answer_json) == ADA
    assert json.loads(events.answer.removeprefix("```json").removesuffix("```")) == ADA
    assert events.warnings == []


@pytest.mark.parametrize(
    ("schema", "value", "expected"),
    [
        ({"type": "boolean"}, "True", "true"),
        ({"type": "null"}, "None", "null"),
        ({"type": "number"}, "1.5", "1.5"),
        ({"type": "integer"}, "10**30", str(10**30)),
        ({"type": "array", "items": {"type": "integer"}}, "(1, 2)", "[1, 2]"),
        ({"type": "array", "uniqueItems": True}, "{3, 1}", "[1, 3]"),
        ({"type": "string"}, "'42'", '"42"'),
        ({"type": ["string", "integer"]}, "'42'", '"42"'),
        ({"type": "integer"}, "'42'", "42"),
        ({"enum": ["yes", "no"]}, "'yes'", '"yes"'),
        ({"type": "string", "format": "date"}, "__import__('datetime').date(2026, 11, 24)", '"2026-11-24"'),
        ({"type": "array"}, "{'a': 1}.keys()", '["a"]'),
        ({"type": "array"}, "__import__('collections').deque([1])", "[1]"),
        ({"type": "array"}, "__import__('array').array('i', [1])", "[1]"),
        ({"type": "object"}, "str({'a': True})", '{"a": true}'),
    ],
)
async def test_python_values_become_json(local_stack: Stack, schema: object, value: str, expected: str) -> None:
    events = await complete(local_stack, f"```repl\nFINAL({value})\n```", schema=schema)
    assert events.reason == "ANSWERED"
    assert events.finished.answer_json == expected


@pytest.mark.parametrize(
    ("schema", "argument", "expected"),
    [
        ({"type": "string"}, "It is 42", '"It is 42"'),
        ({"type": "string"}, "42", '"42"'),
        ({"type": ["string", "integer"]}, "42", "42"),
        ({"type": ["string", "integer"]}, "'42'", '"42"'),
        ({"type": "boolean"}, "true", "true"),
        ({"type": "boolean"}, "True", "true"),
        ({"type": ["string", "null"]}, "None", "null"),
        ({"type": "object"}, "{'a': (1, None)}", '{"a": [1, null]}'),
        ({"type": "string"}, "True", '"True"'),
    ],
)
async def test_words_in_a_reply_are_read_as_json_first(
    local_stack: Stack, schema: object, argument: str, expected: str
) -> None:
    assert (await complete(local_stack, f"FINAL({argument})", schema=schema)).finished.answer_json == expected


async def test_a_mismatch_is_shown_to_the_model_to_mend(stack: Stack) -> None:
    events = await complete(
        stack,
        "```repl\nFINAL({'name': 'Ada', 'age': -1, 'born': 1815})\n```",
        "FINAL(Ada, 36)",
        "```repl\nFINAL({'name': 'Ada', 'age': 36})\n```",
    )
    assert json.loads(events.finished.answer_json) == ADA
    assert events.warnings == ["ANSWER_MISMATCH"] * 2
    shown = stack.shown_to_root(3)
    assert "does not match the JSON Schema" in shown
    assert "- $.age: -1 is less than the minimum of 0" in shown
    assert "'born' was unexpected" in shown
    assert "After 4 more such answers" in shown
    assert '- $: "Ada, 36" is not of type "object"' in stack.shown_to_root(4)


@pytest.mark.parametrize(
    ("schema", "answer", "told"),
    [
        ({"type": "object"}, "{'mean': float('nan')}", "it has a NaN or Infinity, for which JSON has no number"),
        ({"type": "string", "format": "uuid"}, "'1234'", '- $: "1234" is not a "uuid"'),
        (
            {"type": "string", "format": "date-time"},
            "'2026-01-31 09:30'",
            'is not a "date-time" (with seconds and an offset, as 2026-01-31T09:30:00Z)',
        ),
        ({"type": "array"}, "[x for x in 'ab'], (x for x in 'ab')", "TypeError: this is a generator, not a value"),
    ],
)
async def test_what_is_wrong_is_said_so_that_it_can_be_mended(
    local_stack: Stack, schema: object, answer: str, told: str
) -> None:
    await complete(local_stack, f"```repl\nFINAL(({answer}))\n```", LOOK, schema=schema)
    assert told in local_stack.shown_to_root(3)


async def test_too_many_mismatches_end_with_the_last_answer_and_no_json(local_stack: Stack) -> None:
    events = await complete(local_stack, *[f"FINAL(nobody {n})" for n in range(9)])
    assert (events.reason, events.finished.answer, events.finished.partial) == ("NO_PROGRESS", "nobody 4", True)
    assert events.finished.answer_json == ""
    assert "5 answers were not taken" in events.finished.error


async def test_a_partial_answer_that_matches_is_json_too(local_stack: Stack) -> None:
    code = "answer['content'] = {'name': 'Ada', 'age': 36}"
    events = await complete(local_stack, f"```repl\n{code}\n```", limits=limits_pb2.Limits(max_iterations=2))
    assert (events.reason, json.loads(events.finished.answer_json)) == ("MAX_ITERATIONS", ADA)


@pytest.mark.parametrize("reply", ["FINAL(Ada, I think)", "```repl\nFINAL({'name': 'Ada'})\n```"])
async def test_a_draft_that_matches_outlives_later_answers_that_do_not(local_stack: Stack, reply: str) -> None:
    draft = f"```repl\nanswer['content'] = {ADA}\n```"
    limits = limits_pb2.Limits(max_iterations=3)
    events = await complete(local_stack, draft, reply, "It may be Ada.", limits=limits)
    assert (events.reason, json.loads(events.finished.answer_json)) == ("MAX_ITERATIONS", ADA)
    assert events.warnings == ["ANSWER_MISMATCH", "NO_LAST_ANSWER"]


async def test_a_partial_answer_at_the_end_of_the_time_is_json_too(local_stack: Stack) -> None:
    code = "answer['content'] = {'name': 'Ada', 'age': 36}"
    limits = limits_pb2.Limits(wall_time=duration_pb2.Duration(seconds=1))
    events = await complete(local_stack, f"```repl\n{code}\n```", "```repl\nwhile True: pass\n```", limits=limits)
    assert (events.reason, json.loads(events.finished.answer_json)) == ("WALL_TIME", ADA)


async def test_the_prompt_tells_the_schema_to_the_root_and_children_answer_with_text(local_stack: Stack) -> None:
    child = "```repl\ncontext\nFINAL('Ada, 36')\n```"
    code = "name, age = rlm_query('p').split(', ')\nFINAL({'name': name, 'age': int(age)})"
    events = await complete(local_stack, f"```repl\n{code}\n```", child)
    assert json.loads(events.finished.answer_json) == ADA
    root, _, of_child = local_stack.model.conversations
    assert json.dumps(PERSON) in root[0]["content"]
    assert "JSON Schema" not in of_child[0]["content"]


async def test_without_a_schema_there_is_no_json(local_stack: Stack) -> None:
    events = await local_stack.complete(LOOK, "FINAL({})")
    assert (events.answer, events.finished.answer_json) == ("{}", "")


def tree_of(*kinds: str) -> dict[str, Any]:
    node = {"type": "object", "properties": {"child": {"anyOf": [{"$ref": "#/$defs/any"}, {"type": "null"}]}}}
    return {
        "$defs": {"any": {"anyOf": [{"$ref": f"#/$defs/{kind}"} for kind in kinds]}, **dict.fromkeys(kinds, node)},
        "$ref": "#/$defs/any",
    }


def doubling(levels: int) -> dict[str, Any]:
    definitions: dict[str, Any] = {"d0": {"type": "string"}}
    for level in range(1, levels):
        definitions[f"d{level}"] = {"anyOf": [{"$ref": f"#/$defs/d{level - 1}"}] * 2}
    return {"$defs": definitions, "$ref": f"#/$defs/d{levels - 1}"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is no JSON Schema"),
        ("{", "is no JSON Schema"),
        ("[]", "is no JSON object"),
        ('"string"', "is no JSON object"),
        ('{"type": "text"}', r"is no JSON Schema: \$.type"),
        ('{"minimum": "1"}', r"is no JSON Schema: \$.minimum"),
        ('{"pattern": "("}', r"is no JSON Schema: \$.pattern"),
        ('{"$ref": "https://example.com/schema"}', "only #/... within the schema"),
        ('{"items": {"$ref": "file:///etc/passwd"}}', "only #/... within the schema"),
        ('{"$ref": "#/$defs/nothing"}', "leads nowhere"),
        ('{"$id": "https://example.com/"}', r"\$id is not taken"),
        ('{"$dynamicRef": "#x"}', r"\$dynamicRef is not taken"),
        ('{"$schema": "https://example.com/draft"}', "is no JSON Schema"),
        (json.dumps(tree_of("a", "b")), "2 alternatives here lead back here"),
        (json.dumps(doubling(30)), "has more than 10,000 ways"),
        ('{"not":' * 500 + "{}" + "}" * 500, "nested too deeply|Recursion"),
        ('{"not":' * 50_000 + "{}" + "}" * 50_000, "nested too deeply|Recursion"),
    ],
)
def test_a_schema_that_is_none_or_not_taken_says_why(text: str, problem: str) -> None:
    with pytest.raises(InvalidSchemaError, match=problem):
        JsonSchema.parse(text)


@pytest.mark.parametrize(
    ("schema", "value", "matches"),
    [
        ({}, {"any": ["thing"]}, True),
        (tree_of("a"), {"child": {"child": {"child": None}}}, True),
        (tree_of("a"), {"child": {"child": 3}}, False),
        ({"properties": {"next": {"$ref": "#"}, "kids": {"items": {"$ref": "#"}}}}, {"next": {"kids": [{}]}}, True),
        ({"properties": {"next": {"$ref": "#"}, "kids": {"type": "array"}}}, {"next": {"kids": 1}}, False),
        ({"$ref": "#"}, 1, True),
        ({"definitions": {"x/y": {"type": "null"}}, "$ref": "#/definitions/x~1y"}, None, True),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "null"}]}, [None], True),
        (doubling(10), "text", True),
        ({"pattern": "^(a+)+$"}, "a" * 40 + "b", False),
        ({"pattern": "^(?=(a+)+$)(a|a)*\\1$"}, "a" * 40 + "b", False),
    ],
)
def test_schemas_of_many_kinds_are_taken_and_checked(schema: object, value: object, *, matches: bool) -> None:
    checked = AnswerSchema(JsonSchema.parse(json.dumps(schema))).check(Answer(json.dumps(value), AnswerForm.JSON))
    assert bool(checked.json_text) == matches
    assert bool(checked.problem) != matches


@pytest.mark.parametrize("text", ["[NaN]", "Infinity", "[" * 100_000, "[" * 300 + "]" * 300, "{", '"\\ud800"'])
def test_what_is_no_json_or_too_deep_is_a_problem_and_no_error(text: str) -> None:
    schema = AnswerSchema(JsonSchema.parse('{"type": "array"}'))
    assert schema.check(Answer(text, AnswerForm.JSON)).problem


def test_problems_are_bounded_and_name_the_place_in_the_alternative_that_is_nearest() -> None:
    item = {"anyOf": [{"type": "null"}, {"properties": {"n": {"type": "integer"}}, "type": "object"}]}
    schema = AnswerSchema(JsonSchema.parse(json.dumps({"items": item})))
    problem = schema.check(Answer(json.dumps([{"n": "x" * 5000}] * 50), AnswerForm.JSON)).problem
    assert problem.startswith('- $[0].n: "xxx')
    assert problem.endswith("\n- and more")
    assert len(problem) < 5000


async def test_a_wrong_schema_is_a_bad_request_that_names_the_field(local_stack: Stack) -> None:
    from tests.rlm_server.test_validation import refusal
    from tests.support.statuses import violated_fields

    for schema in ('{"type": 1}', "x" * 100_001):
        error = await refusal(local_stack, {"answer_schema": schema})
        assert violated_fields(error) == ["answer_schema"]
