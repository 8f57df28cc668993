"""What results tell of variables, whatever these are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from rlm_api.sandbox.v1 import execute_service_pb2 as pb

from tests.sandbox_server.driver import limits, outcome, session

if TYPE_CHECKING:
    from rlm_api.sandbox.v1 import execute_service_pb2_grpc as pb_grpc

    Stub = pb_grpc.ExecuteServiceAsyncStub

ALL = pb.VariableQuery(include_all=True)


async def told(stub: Stub, code: str, query: pb.VariableQuery = ALL) -> dict[str, pb.Variable]:
    response = await stub.Run(pb.RunRequest(code=code, variables=query))
    assert outcome(response.result) == "OK", response.result.error
    return {one.name: one for one in response.result.variables}


@pytest.mark.parametrize(
    ("value", "type_name", "size", "preview"),
    [
        ("None", "NoneType", -1, "None"),
        ("True", "bool", -1, "True"),
        ("2.5", "float", -1, "2.5"),
        ("'ü'", "str", 1, "'ü'"),
        ("b'\\xff'", "bytes", 1, "b'\\xff'"),
        ("[]", "list", 0, "[]"),
        ("{'a': [1]}", "dict", 1, "{'a': [1]}"),
        ("range(5)", "range", 5, "range(0, 5)"),
        ("__import__('collections').Counter('aab')", "collections.Counter", 2, "Counter({'a': 2, 'b': 1})"),
        ("__import__('decimal').Decimal('1.10')", "decimal.Decimal", -1, "Decimal('1.10')"),
        ("'\\ud800'", "str", 1, "'\\ud800'"),
    ],
)
async def test_type_size_and_preview(stub: Stub, value: str, type_name: str, size: int, preview: str) -> None:
    x = (await told(stub, f"x = {value}"))["x"]
    assert (x.type, x.size, x.preview, x.preview_truncated) == (type_name, size, preview, False)


@pytest.mark.parametrize(
    "value", ["'x' * 10**7", "b'x' * 10**7", "[1] * 10**6", "dict.fromkeys(range(10**5))", "10**4000"]
)
async def test_a_long_preview_is_cut_and_says_so(stub: Stub, value: str) -> None:
    x = (await told(stub, f"x = {value}", pb.VariableQuery(include_all=True, preview_chars=50)))["x"]
    assert len(x.preview) == 50
    assert x.preview_truncated


async def test_what_refers_to_itself_has_a_preview(stub: Stub) -> None:
    variables = await told(stub, "x = []\nx.append(x)\ny = {}\ny['y'] = y")
    assert "..." in variables["x"].preview
    assert "..." in variables["y"].preview


async def test_modules_private_names_and_unchanged_inputs_are_not_listed(stub: Stub) -> None:
    request = pb.RunRequest(
        code="import json\nfrom math import pi\n_x = 1\nchanged = 2",
        inputs=[pb.Input(name="same", text="x"), pb.Input(name="changed", text="x")],
        variables=ALL,
    )
    assert [one.name for one in (await stub.Run(request)).result.variables] == ["changed", "pi"]


async def test_unchanged_inputs_are_listed_on_request(stub: Stub) -> None:
    request = pb.RunRequest(
        code="y = 2",
        inputs=[pb.Input(name="same", text="abc")],
        variables=pb.VariableQuery(include_all=True, include_inputs=True),
    )
    variables = (await stub.Run(request)).result.variables
    assert [(one.name, one.type, one.size) for one in variables] == [("same", "str", 3), ("y", "int", -1)]


async def test_at_most_two_hundred_are_listed_and_the_others_counted(stub: Stub) -> None:
    query = pb.VariableQuery(include_all=True, json_values=["x999"])
    response = await stub.Run(pb.RunRequest(code="for i in range(1000): globals()[f'x{i}'] = i", variables=query))
    assert len(response.result.variables) == 201
    assert response.result.variables_omitted_count == 800  # of 1001, as there is `i`, too


async def test_names_that_are_none_are_not_listed(stub: Stub) -> None:
    code = "g = globals()\ng[5] = g['a b'] = g[''] = g['x' * 100_000] = g['é'] = 1\ndel g"
    assert set(await told(stub, code)) == {"é"}


HOSTILE = """
class Meta(type):
    def __getattribute__(cls, name):
        if name == "__qualname__": raise SystemExit
        return type.__getattribute__(cls, name)
class Named(metaclass=Meta): pass
class Repr:
    def __repr__(self): raise SystemExit(3)
class Len:
    def __len__(self): raise KeyboardInterrupt
class Items(dict):
    def items(self): raise GeneratorExit
class _Text(BaseException):
    def __str__(self): raise self
class Raises(dict):
    def items(self): raise _Text
named, represented, sized, items, raises = Named(), Repr(), Len(), Items(a=1), Raises(a=1)
Long = type('x' * 10**6, (), {'__module__': 'm' * 10**6})
long = Long()
del Meta, Named, Repr, Len, Items, Raises, Long
"""


async def test_values_that_resist_are_described_all_the_same(stub: Stub) -> None:
    query = pb.VariableQuery(include_all=True, json_values=["items", "raises"])
    variables = await told(stub, HOSTILE, query)
    assert set(variables) == {"named", "represented", "sized", "items", "raises", "long"}
    assert variables["named"].type == "?"
    assert variables["represented"].preview == "<Repr: repr() raised SystemExit>"
    assert variables["sized"].size == -1
    assert variables["items"].json_error == "JSON cannot express it: "
    assert variables["raises"].json_error == "JSON cannot express it: _Text"
    assert len(variables["long"].type) < 3000


async def test_what_repr_writes_belongs_to_the_cell_that_it_describes(stub: Stub) -> None:
    code = "class A:\n    def __repr__(self): print('seen', end=''); return 'A'\na = A()"
    async with session(stub) as s:
        assert (await s.run(code, variables=pb.VariableQuery(json_values=["a"]))).stdout == "seen"
        assert (await s.run("print('next')")).stdout == "next\n"


async def test_the_output_limit_holds_for_what_repr_writes(stub: Stub) -> None:
    code = "class A:\n    def __repr__(self): print('x' * 10**6, end=''); return 'A'\na = A()"
    request = pb.RunRequest(code=code, variables=ALL, limits=limits(output_bytes=100))
    response = await stub.Run(request)
    assert outcome(response.result) == "OUTPUT_LIMIT"
    assert response.stdout == "x" * 100
    assert response.result.usage.output_dropped_bytes == 10**6 - 100


async def test_describing_is_within_the_limits_of_the_cell(stub: Stub) -> None:
    code = "class A:\n    def __repr__(self):\n        while True: pass\na = A()"
    request = pb.RunRequest(code=code, variables=ALL, limits=limits(wall_seconds=0.2))
    assert outcome((await stub.Run(request)).result) == "DEADLINE"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("None", None),
        ("(1, 2)", [1, 2]),
        ("{1: 2, None: 3}", {"1": 2, "null": 3}),
        ("'\\n\"ü😀'", '\n"ü😀'),
        ("2 ** 100", 2**100),
    ],
)
async def test_values_as_json(stub: Stub, value: str, expected: object) -> None:
    x = (await told(stub, f"x = {value}", pb.VariableQuery(json_values=["x"])))["x"]
    assert x.json_error == ""
    assert json.loads(x.json) == expected


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("{1, 2}", "set is not JSON serializable"),
        ("float('nan')", "not JSON compliant"),
        ("[float('inf')]", "not JSON compliant"),
        ("{(1, 2): 3}", "keys must be str"),
        ("'\\ud800'", "surrogates not allowed"),
        ("[x := [], x.append(x)] and x", "Circular reference"),
        ("open", "builtin_function_or_method is not JSON serializable"),
    ],
)
async def test_why_a_value_is_not_json(stub: Stub, value: str, reason: str) -> None:
    x = (await told(stub, f"x = {value}", pb.VariableQuery(json_values=["x"])))["x"]
    assert not x.HasField("json")
    assert reason in x.json_error


async def test_variables_are_told_after_an_exception_too(stub: Stub) -> None:
    response = await stub.Run(pb.RunRequest(code="x = 1\n1 / 0", variables=ALL))
    assert outcome(response.result) == "EXCEPTION"
    assert [one.name for one in response.result.variables] == ["x"]
