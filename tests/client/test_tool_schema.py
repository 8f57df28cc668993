"""Tools from Python functions: names, descriptions, schemas, sources."""

from __future__ import annotations

from collections.abc import Sequence  # noqa: TC003 - type hints are read at run time
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

import pytest
from rlm_client import Tool, ToolDefinitionError

if TYPE_CHECKING:
    from pathlib import Path


class Place(TypedDict, total=False):
    name: str


def everything(  # noqa: PLR0917
    text: str,
    number: int,
    ratio: float = 0.5,
    flag: bool = False,
    names: list[str] | None = None,
    by_name: dict[str, int] = {},  # noqa: B006
    kind: Literal["a", "b"] = "a",
    anything: Any = None,
    pair: tuple[int, str] = (1, "x"),
    many: Sequence[float] = (),
    place: Place | None = None,
    note: Annotated[str, "what to note"] = "",
    *,
    last: int,
) -> str:
    """Does everything.

    At once.
    """
    return text


def test_a_function_becomes_a_schema_of_its_parameters():
    tool = Tool.served(everything)
    assert (tool.name, tool.description) == ("everything", "Does everything.\n\nAt once.")
    assert tool.schema == {
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "number": {"type": "integer"},
            "ratio": {"type": "number", "default": 0.5},
            "flag": {"type": "boolean", "default": False},
            "names": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
            "by_name": {"type": "object", "additionalProperties": {"type": "integer"}, "default": {}},
            "kind": {"enum": ["a", "b"], "default": "a"},
            "anything": {},
            "pair": {
                "type": "array",
                "prefixItems": [{"type": "integer"}, {"type": "string"}],
                "minItems": 2,
                "default": (1, "x"),
            },
            "many": {"type": "array", "items": {"type": "number"}, "default": ()},
            "place": {
                "anyOf": [
                    {"type": "object", "properties": {"name": {"type": "string"}}, "required": []},
                    {"type": "null"},
                ]
            },
            "note": {"type": "string", "description": "what to note", "default": ""},
            "last": {"type": "integer"},
        },
        "required": ["text", "number", "last"],
        "additionalProperties": False,
    }


def test_further_arguments_are_allowed_where_the_function_takes_them():
    def f(**others: Any) -> None: ...

    assert Tool.served(f).schema == {"type": "object", "properties": {}, "required": [], "additionalProperties": True}


def only_by_position(x: int, /) -> None: ...


def any_number(*x: int) -> None: ...


def of_bytes(x: bytes) -> None: ...


def of_keys(x: dict[int, str]) -> None: ...


def of_nothing(x: NoSuchType) -> None: ...  # type: ignore[name-defined] # noqa: F821


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (only_by_position, "x cannot be given by name"),
        (any_number, "x cannot be given by name"),
        (of_bytes, "parameter x: <class 'bytes'> has no JSON Schema"),
        (of_keys, "must be str"),
        (of_nothing, "NoSuchType"),
    ],
)
def test_a_function_that_cannot_be_a_tool_is_refused_with_the_reason(function: Any, words: str):
    with pytest.raises(ToolDefinitionError, match=words) as refusal:
        Tool.served(function)
    assert function.__name__ in str(refusal.value)


def test_what_is_said_of_a_tool_can_be_set():
    tool = Tool.served(any_name := lambda x: x, name="same", description="", scope="root", timeout_seconds=1.5)
    message = tool.to_proto()
    assert any_name(1) == 1
    assert (message.name, message.description, message.scope, message.client_served) == ("same", "", 1, True)
    assert message.timeout.ToMilliseconds() == 1500


def double(x: int) -> int:
    return 2 * x


def test_a_source_for_the_sandbox_comes_from_text_or_function():
    text = "import re\n\ndef find(x):\n    return re.findall('a', x)\n\ndef _helper(): ..."
    assert Tool.in_sandbox(text).name == "find"
    assert Tool.in_sandbox(double).to_proto().python_source == "def double(x: int) -> int:\n    return 2 * x\n"
    assert Tool.in_sandbox("f = len", name="f").to_proto().python_source == "f = len"


@pytest.mark.parametrize(
    ("source", "words"), [("f = len", "none"), ("def f(): ...\ndef g(): ...", "f, g"), ("def f(:", "no Python in line")]
)
def test_a_source_whose_name_is_not_clear_is_refused(source: str, words: str):
    with pytest.raises(ToolDefinitionError, match=words):
        Tool.in_sandbox(source)


def test_a_function_without_source_is_refused():
    with pytest.raises(ToolDefinitionError, match="a lambda has no source of its own"):
        Tool.in_sandbox(lambda: 1, "one")
    with pytest.raises(ToolDefinitionError, match="a lambda has no name"):
        Tool.served(lambda: 1)
    assert Tool.in_sandbox("async def one():\n    return 1").name == "one"
    with pytest.raises(ToolDefinitionError, match="cannot be found"):
        Tool.in_sandbox(len)


def test_a_file_gives_a_tool_for_each_public_function(tmp_path: Path):
    file = tmp_path / "tools.py"
    file.write_text("def a(): ...\ndef _b(): ...\nclass C:\n    def d(self): ...\ndef e(): ...\n", encoding="utf-8")
    assert [tool.name for tool in Tool.all_in_file(file)] == ["a", "e"]
    file.write_text("x = 1", encoding="utf-8")
    with pytest.raises(ToolDefinitionError, match="defines no public function"):
        Tool.all_in_file(file)
    with pytest.raises(ToolDefinitionError, match="cannot be read"):
        Tool.all_in_file(tmp_path / "missing.py")
