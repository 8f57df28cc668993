"""Answers as values of types, on the client's side."""

from __future__ import annotations

import collections.abc
import datetime as dt
import enum
import json
import subprocess
import sys
import typing
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pydantic
import pytest
from rlm_api.rlm.v1 import event_pb2
from rlm_client import AnswerTypeError, AnswerValueError
from rlm_client._answer_types import resolve

from tests.support.fake_completion_service import ending_with, finished


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Option(typing.TypedDict, total=False):
    name: typing.Required[str]
    weight: float


@dataclass(frozen=True)
class Leaf:
    name: str
    colour: Colour = Colour.RED


@dataclass(frozen=True)
class Node:
    label: Annotated[str, "what it is called"]
    leaves: list[Leaf]
    parent: Node | None = None
    tags: frozenset[str] = frozenset()
    options: dict[str, Option] = field(default_factory=dict)
    when: dt.date | None = None
    ratio: float = 0.0
    kind: Literal["a", "b", 3] = "a"
    span: tuple[int, int] = (0, 0)


class Person(pydantic.BaseModel):
    name: str
    age: int = pydantic.Field(ge=0)

    @pydantic.field_validator("name")
    @classmethod
    def must_be_capitalised(cls, name: str) -> str:
        if not name[:1].isupper():
            raise ValueError("must begin with a capital letter")
        return name


NODE_JSON = """{"label": "n", "leaves": [{"name": "l", "colour": "blue"}], "parent": {"label": "p", "leaves": []},
 "tags": ["x", "y"], "options": {"o": {"name": "q", "weight": 1}}, "when": "2026-11-24", "ratio": 2, "kind": 3,
 "span": [1, 2]}"""


def test_a_dataclass_of_many_kinds_is_built_from_json():
    value = resolve(Node).read(NODE_JSON)
    assert value == Node(
        label="n",
        leaves=[Leaf("l", Colour.BLUE)],
        parent=Node("p", []),
        tags=frozenset({"x", "y"}),
        options={"o": {"name": "q", "weight": 1.0}},
        when=dt.date(2026, 11, 24),
        ratio=2.0,
        kind=3,
        span=(1, 2),
    )
    assert isinstance(value.ratio, float)


def test_its_schema_says_what_the_server_checks():
    from rlm_server.engine.answers.answer import Answer, AnswerForm
    from rlm_server.engine.answers.answer_schema import AnswerSchema
    from rlm_server.engine.schemas.json_schema import JsonSchema

    schema = json.loads(resolve(Node).schema_json)
    assert schema["$ref"] == "#/$defs/Node"
    node = schema["$defs"]["Node"]
    assert node["required"] == ["label", "leaves"]
    assert node["properties"]["label"] == {"type": "string", "description": "what it is called"}
    checker = AnswerSchema(JsonSchema.parse(json.dumps(schema)))
    assert checker.check(Answer(NODE_JSON, AnswerForm.JSON)).json_text
    assert (
        "is not one of" in checker.check(Answer('{"label": "n", "leaves": [], "kind": "c"}', AnswerForm.JSON)).problem
    )


@pytest.mark.parametrize(
    ("answer_type", "text", "value"),
    [
        (int, "1", 1),
        (int, "3.0", 3),
        (Literal[1, 2], "2.0", 2),
        (float, "1", 1.0),
        (bool, "true", True),
        (str, '"x"', "x"),
        (list[int], "[1]", [1]),
        (tuple[str, ...], '["a"]', ("a",)),
        (set[int], "[1, 2]", {1, 2}),
        (collections.abc.Sequence[str], '["a"]', ["a"]),
        (dict[str, list[int]], '{"a": [1]}', {"a": [1]}),
        (list, "[1, null]", [1, None]),
        (Colour, '"red"', Colour.RED),
        (Option, '{"name": "n"}', {"name": "n"}),
        (Literal[1, "1"], '"1"', "1"),
        (int | str | None, "null", None),
        (int | str, '"1"', "1"),
        (list[Leaf | int], '[1, {"name": "l"}]', [1, Leaf("l")]),
        (dt.datetime, '"2026-11-24T10:00:00Z"', dt.datetime(2026, 11, 24, 10, tzinfo=dt.UTC)),
        (Any, '{"a": 1}', {"a": 1}),
        ({"type": "object"}, '{"a": 1}', {"a": 1}),
        (Person, '{"name": "Ada", "age": 36}', Person(name="Ada", age=36)),
        (list[Person], '[{"name": "Ada", "age": 36}]', [Person(name="Ada", age=36)]),
    ],
)
def test_values_of_each_type_are_built_from_json(answer_type: Any, text: str, value: object):
    built = resolve(answer_type).read(text)
    assert built == value
    assert type(built) is type(value)
    json.loads(resolve(answer_type).schema_json)


@pytest.mark.parametrize(
    ("answer_type", "text"),
    [
        (int, "true"),
        (int, '"1"'),
        (bool, "1"),
        (list[int], '["1"]'),
        (Leaf, "{}"),
        (Leaf, '{"name": "l", "size": 1}'),
        (Colour, '"green"'),
        (Literal["a"], '"b"'),
        (int | None, '"1"'),
        (tuple[int, int], "[1]"),
        (dt.date, '"soon"'),
    ],
)
def test_json_that_does_not_fit_is_refused(answer_type: Any, text: str):
    with pytest.raises((ValueError, TypeError)):
        resolve(answer_type).read(text)


@pytest.mark.parametrize("answer_type", [object(), len, {"a": object()}, {1, 2}])
def test_what_has_no_schema_is_refused(answer_type: Any):
    with pytest.raises(AnswerTypeError):
        resolve(answer_type)


async def test_a_completion_has_the_value(client, service):
    service.events = ending_with(finished('{"name": "l"}', answer_json='{"name": "l"}'))
    completion = await client.completion("text", "?", answer_type=Leaf)
    assert completion.value == Leaf("l")
    assert completion.answer_json == '{"name": "l"}'
    assert json.loads(service.requests[0].answer_schema)["$ref"] == "#/$defs/Leaf"


async def test_a_stream_has_it_too(client, service):
    service.events = ending_with(finished("[1, 2]", answer_json="[1, 2]"))
    async with await client.stream("text", "?", answer_type={"type": "array"}) as stream:
        assert (await stream.result()).value == [1, 2]


async def test_a_completion_without_an_answer_that_matches_has_no_value(client, service):
    service.events = ending_with(finished("so far", event_pb2.FINISH_REASON_NO_PROGRESS, partial=True))
    completion = await client.completion("text", "?", answer_type=Leaf)
    assert (completion.value, completion.answer) == (None, "so far")


async def test_an_answer_that_the_model_s_own_checks_refuse_is_an_error_where_it_is_taken(client, service):
    service.events = ending_with(finished("x", answer_json='{"name": "ada", "age": 36}'))
    completion = await client.completion("text", "?", answer_type=Person)
    with pytest.raises(AnswerValueError, match="capital letter"):
        _ = completion.value
    assert completion.answer_json == '{"name": "ada", "age": 36}'


async def test_without_a_type_none_is_asked_for(client, service):
    assert (await client.completion("text", "?")).value is None
    assert service.requests[0].answer_schema == ""


async def test_a_type_without_a_schema_is_refused_before_anything_is_sent(client, service):
    with pytest.raises(AnswerTypeError):
        await client.completion("text", "?", answer_type=subprocess.Popen)
    assert service.requests == []


async def test_whether_a_look_is_required_is_sent_only_if_it_is_said(client, service):
    for look_required in (None, True, False):
        await client.completion("text", "?", look_required=look_required)
    assert [one.HasField("look_required") for one in service.requests] == [False, True, True]
    assert [one.look_required for one in service.requests] == [False, True, False]


def test_the_client_does_without_pydantic():
    code = (
        "import sys; sys.modules['pydantic'] = None\n"
        "import dataclasses, rlm_client\nfrom rlm_client._answer_types import resolve\n"
        "P = dataclasses.make_dataclass('P', [('n', int)])\nprint(resolve(P).read('{\"n\": 1}'))\n"
        "try:\n    resolve(complex)\nexcept rlm_client.AnswerTypeError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "P(n=1)"
    assert "with pydantic installed" in done.stdout


def test_type_checkers_know_the_type_of_the_value(tmp_path):
    file = tmp_path / "typed.py"
    file.write_text(
        "from dataclasses import dataclass\nfrom typing import Any, assert_type\n"
        "from rlm_client import AsyncClient, Client, Completion\n"
        "@dataclass\nclass P:\n    n: int\n"
        "def f(client: Client) -> Completion:\n"
        "    assert_type(client.completion('c', 'q', answer_type=P).value, P | None)\n"
        "    assert_type(client.completion('c', 'q', answer_type=list[int]).value, list[int] | None)\n"
        "    assert_type(client.completion('c', 'q', answer_type={'type': 'array'}).value, Any | None)\n"
        "    assert_type(client.stream('c', 'q', answer_type=P).result().value, P | None)\n"
        "    return client.completion('c', 'q')\n"
        "async def g(client: AsyncClient) -> None:\n"
        "    assert_type((await client.completion('c', 'q', answer_type=P)).value, P | None)\n"
        "    async with await client.stream('c', 'q', answer_type=P) as stream:\n"
        "        assert_type((await stream.result()).value, P | None)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("value", "complaint"),
    [('{"type": "integer"}', "a text is no type; give a JSON Schema as a dict"), (Leaf("l"), "has no JSON Schema")],
)
def test_what_is_no_type_is_told(value, complaint):
    with pytest.raises(AnswerTypeError, match=complaint):
        resolve(value)


def test_a_function_is_no_type() -> None:
    with pytest.raises(AnswerTypeError, match="is a function; give a type"):
        resolve(lambda: 1)
