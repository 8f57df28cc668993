"""Every wrong field of every request is refused with a status that names it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf import duration_pb2, timestamp_pb2
from rlm_api.sandbox.v1 import execute_service_pb2 as pb

from tests.sandbox_server.driver import session
from tests.support.statuses import assert_status, violated_fields

if TYPE_CHECKING:
    from rlm_api.sandbox.v1 import execute_service_pb2_grpc as pb_grpc

    Stub = pb_grpc.ExecuteServiceAsyncStub

TOO_LONG = "x = 1\n" * 200_000

BAD_LIMITS = [
    ({"fuel": -1}, "fuel"),
    ({"memory_bytes": -1}, "memory_bytes"),
    ({"memory_bytes": 1 << 20}, "memory_bytes"),
    ({"output_bytes": -1}, "output_bytes"),
    ({"wall_time": duration_pb2.Duration(seconds=-1)}, "wall_time"),
]
BAD_INPUTS = [
    ([pb.Input(name="", text="")], "[0].name"),
    ([pb.Input(name="not a name", text="")], "[0].name"),
    ([pb.Input(name="1x", text="")], "[0].name"),
    ([pb.Input(name="class", text="")], "[0].name"),
    ([pb.Input(name="__builtins__", text="")], "[0].name"),
    ([pb.Input(name="x" * 10_000, text="")], "[0].name"),
    ([pb.Input(name="x", text="1"), pb.Input(name="x", text="2")], "[1].name"),
    ([pb.Input(name="x")], "[0]"),
    ([pb.Input(name="x", json="{not json")], "[0]"),
    ([pb.Input(name="x", blob=pb.BlobInput(sha256="abc"))], "[0].blob.sha256"),
    ([pb.Input(name="x", blob=pb.BlobInput(sha256="0" * 64, format=99))], "[0].blob.format"),  # type: ignore[arg-type]
    ([pb.Input(name=f"x{number}", text="") for number in range(101)], ""),
]
BAD_SEEDS = [(pb.Seed(clock_start_time=timestamp_pb2.Timestamp(seconds=-1)), "seed.clock_start_time")]
BAD_QUERIES = [
    (pb.VariableQuery(preview_chars=-1), "variables.preview_chars"),
    (pb.VariableQuery(preview_chars=10_001), "variables.preview_chars"),
    (pb.VariableQuery(json_values=[""]), "variables.json_values[0]"),
    (pb.VariableQuery(json_values=["x"] * 101), "variables.json_values"),
]
BAD_SCHEMAS = [
    "not json",
    "[]",
    '{"type": "array"}',
    '{"properties": []}',
    '{"properties": {"a": 1}}',
    '{"properties": {"not a name": {}}}',
    '{"properties": {"class": {}}}',
    '{"properties": {"a": {"type": "no such type"}}}',
    '{"properties": {"a": {"$ref": "http://127.0.0.1/schema"}}}',
    '{"properties": {"a": {"pattern": "("}}}',
    '{"description": "' + "x" * 70_000 + '"}',
]

RUN = [
    ({"code": ""}, "code"),
    ({"code": TOO_LONG}, "code"),
    *(({"limits": pb.Limits(**fields)}, f"limits.{path}") for fields, path in BAD_LIMITS),
    *(({"inputs": inputs}, f"inputs{path}") for inputs, path in BAD_INPUTS),
    *(({"variables": query}, path) for query, path in BAD_QUERIES),
    *(({"seed": seed}, path) for seed, path in BAD_SEEDS),
]
OPEN = [
    *(({"limits": pb.Limits(**fields)}, f"open.limits.{path}") for fields, path in BAD_LIMITS),
    *(({"inputs": inputs}, f"open.inputs{path}") for inputs, path in BAD_INPUTS),
    *(({"seed": seed}, f"open.{path}") for seed, path in BAD_SEEDS),
    ({"prelude": pb.Prelude(source=TOO_LONG)}, "open.prelude.source"),
    ({"host_functions": [pb.HostFunction(name="")]}, "open.host_functions[0].name"),
    ({"host_functions": [pb.HostFunction(name="a-b")]}, "open.host_functions[0].name"),
    ({"host_functions": [pb.HostFunction(name="def")]}, "open.host_functions[0].name"),
    ({"host_functions": [pb.HostFunction(name="_f")]}, "open.host_functions[0].name"),
    ({"host_functions": [pb.HostFunction(name="f")] * 2}, "open.host_functions[1].name"),
    *(
        (
            {"host_functions": [pb.HostFunction(name="f", parameters_schema=schema)]},
            "open.host_functions[0].parameters_schema",
        )
        for schema in BAD_SCHEMAS
    ),
    ({"host_functions": [pb.HostFunction(name=f"f{number}") for number in range(101)]}, "open.host_functions"),
]
CELL = [
    ({"code": ""}, "run_cell.code"),
    ({"code": TOO_LONG}, "run_cell.code"),
    ({"code": "x", "cell_id": "x" * 101}, "run_cell.cell_id"),
    *(
        ({"code": "x", "limits": pb.Limits(**fields)}, f"run_cell.limits.{path}")
        for fields, path in BAD_LIMITS
        if path != "memory_bytes"
    ),
    *(({"code": "x", "variables": query}, f"run_cell.{path}") for query, path in BAD_QUERIES),
]


def assert_refused(error: grpc.aio.AioRpcError, field: str) -> None:
    assert_status(error, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", domain="sandbox.v1")
    assert violated_fields(error) == [field], error.details()


@pytest.mark.parametrize(("fields", "field"), RUN, ids=lambda value: value if isinstance(value, str) else "")
async def test_run(stub: Stub, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.Run(pb.RunRequest(**({"code": "x = 1"} | fields)))
    assert_refused(error.value, field)


@pytest.mark.parametrize(("fields", "field"), OPEN, ids=lambda value: value if isinstance(value, str) else "")
async def test_open(stub: Stub, fields: dict[str, Any], field: str) -> None:
    call = stub.Session()
    await call.write(pb.SessionRequest(open=pb.OpenSession(**fields)))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call.read()
    assert_refused(error.value, field)


@pytest.mark.parametrize(("fields", "field"), CELL, ids=lambda value: value if isinstance(value, str) else "")
async def test_run_cell(stub: Stub, fields: dict[str, Any], field: str) -> None:
    async with session(stub) as s:
        await s.send(run_cell=pb.RunCell(**fields))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await s.receive()
        assert_refused(error.value, field)


@pytest.mark.parametrize(
    ("inputs", "field"),
    [([], ""), *BAD_INPUTS],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_set_inputs(stub: Stub, inputs: list[pb.Input], field: str) -> None:
    async with session(stub) as s:
        await s.send(set_inputs=pb.SetInputs(inputs=inputs))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await s.receive()
        assert_refused(error.value, f"set_inputs.inputs{field}")


async def test_an_empty_host_call_result(stub: Stub) -> None:
    async with session(stub, {"f": str}) as s:
        await s.start("f()")
        call = await s.receive_kind("host_call")
        await s.send(host_call_result=pb.HostCallResult(call_id=call.call_id))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await s.receive()
        assert_refused(error.value, "host_call_result.result")


@pytest.mark.parametrize("sha256", ["", "abc", "0" * 63, "G" * 64, "A" * 64])
async def test_get_blob(stub: Stub, sha256: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.GetBlob(pb.GetBlobRequest(sha256=sha256))
    assert_refused(error.value, "sha256")


async def test_all_wrong_fields_are_named_at_once(stub: Stub) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.Run(pb.RunRequest(code="", limits=pb.Limits(fuel=-1), inputs=[pb.Input(name="1", text="")]))
    assert violated_fields(error.value) == ["code", "limits.fuel", "inputs[0].name"]


async def test_limits_over_the_servers_greatest_are_lowered_to_it(stub: Stub) -> None:
    info = await stub.GetServerInfo(pb.GetServerInfoRequest())
    greatest = pb.Limits(
        fuel=2**62,
        memory_bytes=2**62,
        output_bytes=2**62,
        scratch_bytes=2**62,
        wall_time=duration_pb2.Duration(seconds=10**9),
    )
    async with session(stub, limits=greatest) as s:
        assert s.opened.limits == info.max_limits


async def test_absent_limits_are_the_servers_defaults(stub: Stub) -> None:
    info = await stub.GetServerInfo(pb.GetServerInfoRequest())
    async with session(stub) as s:
        assert s.opened.limits == info.default_limits


@pytest.mark.parametrize("how", ["run", "open"])
async def test_an_unknown_image_is_not_found_and_the_known_ones_are_listed(stub: Stub, how: str) -> None:
    async def ask() -> None:
        if how == "run":
            await stub.Run(pb.RunRequest(code="x = 1", image="numpy"))
        else:
            async with session(stub, image="numpy"):
                pass

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await ask()
    assert_status(
        error.value,
        grpc.StatusCode.NOT_FOUND,
        "IMAGE_NOT_FOUND",
        domain="sandbox.v1",
        image="numpy",
        available="standard",
    )
