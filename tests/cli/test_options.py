"""Options that hold more than one value, as functions of the program read them."""

from __future__ import annotations

import sys

import pytest
from rlm_api.rlm.v1 import limits_pb2
from rlm_client import ContextError, ToolDefinitionError
from rlm_server.cli.assignments import read_limits, read_sampling
from rlm_server.cli.contexts import read_contexts
from rlm_server.cli.tools import read_tools
from rlm_server.settings import SettingsError


def test_every_limit_of_the_contract_can_be_given_by_its_name():
    names = {field.name for field in limits_pb2.Limits.DESCRIPTOR.fields if field.name != "cell"}
    names |= {f"cell.{field.name}" for field in limits_pb2.CellLimits.DESCRIPTOR.fields}
    limits = read_limits([f"{name}=7" for name in sorted(names)], {}).to_proto()
    assert len(limits.ListFields()) == len(limits_pb2.Limits.DESCRIPTOR.fields)
    assert len(limits.cell.ListFields()) == len(limits_pb2.CellLimits.DESCRIPTOR.fields)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("max_dept=1", "--limit max_dept=1: there is no limit 'max_dept'; did you mean max_depth?"),
        ("max_depth", "--limit max_depth: give NAME=VALUE, as max_depth=1"),
        ("max_depth=two", "--limit max_depth=two: 'two' is no whole number"),
        ("wall_time=soon", "--limit wall_time=soon: 'soon' is no number"),
        ("max_subcalls=2", "--limit gives max_subcalls, which another option gives, too: leave one out"),
    ],
)
def test_a_limit_that_is_wrong_is_told_with_the_remedy(option, message):
    with pytest.raises(SettingsError) as error:
        read_limits([option], {"max_subcalls": 5, "max_depth": None})
    assert str(error.value) == message


def test_sampling_is_read_by_name_and_absent_without_options():
    assert read_sampling("--sampling", []) is None
    assert read_sampling("--sampling", ["top_p=0.5", "reasoning_effort=low"]).reasoning_effort == "low"
    with pytest.raises(SettingsError, match=r"there is no parameter 'top_k'; did you mean top_p\?"):
        read_sampling("--sub-sampling", ["top_k=4"])


@pytest.mark.parametrize(
    ("describe", "message"),
    [
        ("nove=a novel", "--describe nove: no context has this name; there are: context"),
        ("novel", "--describe novel: is no NAME=TEXT"),
    ],
)
def test_a_description_of_nothing_is_told_with_the_names_there_are(tmp_path, describe, message):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ContextError) as error:
        read_contexts([str(tmp_path / "a.txt")], descriptions=[describe])
    assert message in str(error.value)


def test_tools_have_the_scope_that_stands_before_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tools.py").write_text("def one() -> int: return 1\nasync def _no(): pass\n")
    tools = read_tools(["root=tools.py"], ["children=tools.py", "tools.py"])
    assert [(tool.name, tool.scope, tool.function is not None) for tool in tools] == [
        ("one", "root", False),
        ("one", "children", True),
        ("one", "all", True),
    ]
    assert tools[1].function() == 1


def test_a_file_that_is_served_can_import_its_neighbours_and_have_dataclasses(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "modules", {**sys.modules})
    (tmp_path / "neighbour_of_tools.py").write_text("N = 7")
    (tmp_path / "json.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nimport neighbour_of_tools\n"
        "@dataclass\nclass P:\n    n: int\ndef number() -> int:\n    return P(neighbour_of_tools.N).n\n"
    )
    (tool,) = read_tools([], [str(tmp_path / "json.py")])
    assert tool.function() == 7
    assert "loads" in vars(sys.modules["json"])


@pytest.mark.parametrize(
    ("in_sandbox", "served", "message"),
    [
        (["broken.py"], [], "broken.py: the source of a tool is no Python in line 2: "),
        (["nowhere.py"], [], "nowhere.py cannot be read"),
        ([], ["nowhere.py"], "nowhere.py is no Python file that is there"),
        ([], ["broken.py"], "broken.py cannot be imported: SyntaxError"),
        ([], ["raises.py"], "raises.py cannot be imported: ZeroDivisionError: division by zero"),
        ([], ["exits.py"], "exits.py cannot be imported: SystemExit: 3"),
        ([], ["empty.py"], "empty.py defines no public function"),
        ([], ["odd.py"], "odd"),
    ],
)
def test_a_file_without_tools_is_told(tmp_path, monkeypatch, in_sandbox, served, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text("x = 1\ndef f(")
    (tmp_path / "raises.py").write_text("1 / 0")
    (tmp_path / "exits.py").write_text("raise SystemExit(3)")
    (tmp_path / "empty.py").write_text("from os import getcwd")
    (tmp_path / "odd.py").write_text("def odd(a: open): pass")
    with pytest.raises(ToolDefinitionError) as error:
        read_tools(in_sandbox, served)
    assert message in str(error.value)
