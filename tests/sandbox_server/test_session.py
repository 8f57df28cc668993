"""`Session`: variables that persist, output as it happens, host calls."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import grpc
import pytest
from rlm_api.sandbox.v1 import execute_service_pb2 as pb

from tests.sandbox_server.driver import Cell, Session, limits, session
from tests.support.statuses import assert_status, violated_fields

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rlm_api.sandbox.v1 import execute_service_pb2_grpc as pb_grpc

    Stub = pb_grpc.ExecuteServiceAsyncStub


async def test_variables_functions_and_generators_persist_between_cells(stub: Stub) -> None:
    async with session(stub) as s:
        await s.run("x = 1\ndef f(): return x\ng = iter(range(3))\nnext(g)")
        assert (await s.run("x += 1; print(f(), next(g), _)")).stdout == "2 1 0\n"


async def test_a_failed_cell_keeps_what_it_assigned_before(stub: Stub) -> None:
    async with session(stub) as s:
        assert (await s.run("x = 1\n1 / 0\nx = 2")).outcome == "EXCEPTION"
        assert (await s.run("print(x)")).stdout == "1\n"


async def test_output_comes_while_the_cell_runs_and_before_the_host_call_that_follows_it(stub: Stub) -> None:
    async with session(stub, {"f": lambda: 1}) as s:
        await s.start("print('before', end='')\nf()\nprint('after')")
        assert (await s.receive_kind("output")).text == "before"
        call = await s.receive_kind("host_call")  # the cell waits for this one, so it is still running
        await s.answer(call.call_id, 1)
        assert (await s.finish()).stdout == "after\n"


async def test_a_host_function_is_called_with_its_arguments_and_its_value_comes_back(stub: Stub) -> None:
    async with session(stub, {"add": lambda a, b=0: a + b}) as s:
        cell = await s.run("print(add(1, b=2), add('ü', b='\\ud83d\\ude00'))")
        assert cell.stdout == "3 ü😀\n"
        assert cell.calls[0] == ("add", {"args": [1], "kwargs": {"b": 2}})
        assert cell.result.usage.host_call_count == 2


async def test_a_host_function_has_its_name_and_docstring(stub: Stub) -> None:
    def lookup() -> None:
        """Looks things up."""

    async with session(stub, {"lookup": lookup}) as s:
        assert (await s.run("print(lookup.__name__, lookup.__doc__)")).stdout == "lookup Looks things up.\n"


SCHEMA = {
    "type": "object",
    "properties": {"limit": {"type": "integer", "minimum": 1, "default": 3}, "query": {"type": "string"}},
    "required": ["query"],
}


@pytest.fixture
async def typed(stub: Stub) -> AsyncIterator[Session]:
    """A session with a function that has a schema for its arguments."""
    function = pb.HostFunction(name="search", doc="Finds.", parameters_schema=json.dumps(SCHEMA))
    call = stub.Session()
    opened = Session(call, {"search": lambda **arguments: arguments})
    await opened.send(open=pb.OpenSession(host_functions=[function]))
    await opened.receive_kind("opened")
    yield opened
    call.cancel()


async def test_a_function_with_a_schema_has_a_signature_and_a_docstring(typed: Session) -> None:
    cell = await typed.run("help(search)")
    assert (
        cell.stdout
        == "Help on function search in module __main__:\n\nsearch(query: str, limit: int = 3)\n    Finds.\n\n"
    )


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("search('a')", {"query": "a", "limit": 3}),
        ("search('a', 5)", {"query": "a", "limit": 5}),
        ("search(limit=1, query='a')", {"query": "a", "limit": 1}),
    ],
)
async def test_arguments_that_match_the_schema_arrive_by_name(
    typed: Session, call: str, arguments: dict[str, object]
) -> None:
    assert (await typed.run(call)).calls == [("search", {"args": [], "kwargs": arguments})]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("search()", "missing a required argument: 'query'"),
        ("search(5)", "query must be string"),
        ("search('a', 0)", "limit must be bigger than or equal to 1"),
        ("search('a', 1, 2)", "too many positional arguments"),
        ("search('a', other=1)", "unexpected keyword argument 'other'"),
    ],
)
async def test_arguments_that_do_not_match_are_a_type_error_and_do_not_leave_the_sandbox(
    typed: Session, call: str, message: str
) -> None:
    cell = await typed.run(call)
    assert (cell.result.error.type, cell.calls) == ("TypeError", [])
    assert message in cell.result.error.message


PRELUDE = """
__all__ = ["both", "HostCallError"]
def both(first, second):
    a, b = host_submit("f", first), host_submit("f", second)
    return b.result(), a.result()
"""


async def test_several_host_calls_may_be_open_and_are_answered_in_any_order(stub: Stub) -> None:
    async with session(stub, {"f": str}, prelude=pb.Prelude(source=PRELUDE)) as s:
        await s.start("print(both(1, 2))")
        first, second = await s.receive_kind("host_call"), await s.receive_kind("host_call")
        assert (first.call_id, second.call_id) == (1, 2)
        await s.answer(second.call_id, "two")
        await s.answer(first.call_id, "one")
        assert (await s.finish()).stdout == "('two', 'one')\n"


async def test_a_failed_host_call_is_an_exception_with_a_type_that_code_can_tell(stub: Stub) -> None:
    async with session(stub, {"f": str}, prelude=pb.Prelude(source=PRELUDE)) as s:
        await s.start("try: f()\nexcept HostCallError as error: print(error.type, error)")
        call = await s.receive_kind("host_call")
        error = pb.HostCallError(type="quota", message="no more")
        await s.send(host_call_result=pb.HostCallResult(call_id=call.call_id, error=error))
        assert (await s.finish()).stdout == "quota no more\n"


async def test_arguments_that_json_cannot_carry_are_a_type_error_in_the_sandbox(stub: Stub) -> None:
    async with session(stub, {"f": str}) as s:
        cell = await s.run("f({1, 2})")
        assert cell.result.error.type == "TypeError"
        assert "JSON" in cell.result.error.message
        assert cell.calls == []


async def test_large_arguments_and_answers_travel_in_parts(stub: Stub) -> None:
    async with session(stub, {"f": str}) as s:
        await s.start("x = f('a' * 2_000_000)\nprint(len(x), x[-1])")
        parts = [await s.receive_kind("host_call")]
        while parts[-1].partial:
            parts.append(await s.receive_kind("host_call"))
        assert len(parts) > 1
        assert {part.call_id for part in parts} == {1}
        assert len(json.loads("".join(part.arguments_json for part in parts))["args"][0]) == 2_000_000
        answer = json.dumps("b" * 3_000_000 + "c")
        for start in range(0, len(answer), 400_000):
            more = start + 400_000 < len(answer)
            part = pb.HostCallResult(call_id=1, value_json=answer[start : start + 400_000], partial=more)
            await s.send(host_call_result=part)
        assert (await s.finish()).stdout == "3000001 c\n"


async def test_an_answer_that_is_no_json_ends_the_stream_naming_the_field(stub: Stub) -> None:
    async with session(stub, {"f": str}) as s:
        await s.start("f()")
        call = await s.receive_kind("host_call")
        await s.send(host_call_result=pb.HostCallResult(call_id=call.call_id, value_json="{not json"))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await s.finish()
        assert violated_fields(error.value) == ["host_call_result.value_json"]


async def test_an_unknown_call_id_is_refused_and_one_that_is_over_is_ignored(stub: Stub) -> None:
    async with session(stub, {"f": lambda: 1}) as s:
        await s.run("f()")
        await s.answer(1, 2)
        assert (await s.run("print('on')")).stdout == "on\n"
        await s.answer(99, 2)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await s.receive()
        assert_status(error.value, grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE", domain="sandbox.v1")


async def test_a_call_that_nobody_waited_for_is_abandoned(stub: Stub) -> None:
    prelude = pb.Prelude(source="__all__ = ['fire']\ndef fire(): host_submit('f')")
    async with session(stub, {"f": lambda: 1}, prelude=prelude) as s:
        await s.start("fire()")
        call = await s.receive_kind("host_call")
        assert (await s.receive_kind("host_call_abandoned")).call_id == call.call_id
        assert (await s.finish()).outcome == "OK"


async def test_a_cell_can_be_cancelled_and_the_session_goes_on(stub: Stub) -> None:
    async with session(stub) as s:
        await s.run("x = 1")
        await s.start("print('on', flush=True)\nwhile True: pass", cell_id="endless")
        await s.receive_kind("output")
        await s.send(cancel_cell=pb.CancelCell(cell_id="another"))
        await s.send(cancel_cell=pb.CancelCell(cell_id="endless"))
        cell = await s.finish()
        assert (cell.outcome, cell.state) == ("CANCELLED", "RESTORED")
        assert (await s.run("print(x)")).stdout == "1\n"


async def test_inputs_can_be_set_between_cells(stub: Stub) -> None:
    async with session(stub) as s:
        await s.run("x = 1")
        await s.send(set_inputs=pb.SetInputs(inputs=[pb.Input(name="x", text="new"), pb.Input(name="y", json="[1]")]))
        assert (await s.receive_kind("inputs_set")).usage.fuel > 0
        assert (await s.run("print(x, y)")).stdout == "new [1]\n"


async def test_limits_of_a_cell_override_those_of_the_session(stub: Stub) -> None:
    async with session(stub, limits=limits(output_bytes=10)) as s:
        assert s.opened.limits.output_bytes == 10
        assert (await s.run("print('x' * 20)")).outcome == "OUTPUT_LIMIT"
        assert (await s.run("print('x' * 20)", limits=limits(output_bytes=100))).outcome == "OK"


async def test_a_prelude_gives_the_session_names_and_is_asked_after_each_cell(stub: Stub) -> None:
    source = (
        "__all__ = ['answer', 'stop']\nanswer = {'ready': False}\n"
        "def stop(): raise StopCell\ndef after_cell(): return [answer, sorted(variables)[-1]]"
    )
    async with session(stub, prelude=pb.Prelude(source=source)) as s:
        cell = await s.run("answer['ready'] = True\nanswer_was = answer\nanswer = 3\nstop()\nprint('not reached')")
        assert (cell.outcome, cell.stdout) == ("OK", "")
        assert json.loads(cell.result.after_cell_json)[0] == {"ready": True}
        assert (await s.run("print(answer is answer_was)")).stdout == "True\n"


async def test_a_prelude_that_fails_is_a_bad_request(stub: Stub) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        async with session(stub, prelude=pb.Prelude(source="1 / 0")):
            pass
    assert violated_fields(error.value) == ["open.prelude.source"]
    assert "ZeroDivisionError" in str(error.value.details())


async def test_the_stream_ends_with_ok_when_the_client_closes_it(stub: Stub) -> None:
    for close in ("message", "half-close"):
        async with session(stub) as s:
            if close == "message":
                await s.send(close=pb.CloseSession())
            else:
                await s.call.done_writing()
            assert await s.call.read() is grpc.aio.EOF
            assert await s.call.code() == grpc.StatusCode.OK


async def test_a_half_close_while_a_cell_runs_lets_it_finish(stub: Stub) -> None:
    async with session(stub) as s:
        await s.start("print('done')")
        await s.call.done_writing()
        assert (await s.finish()).stdout == "done\n"


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (None, {"run_cell": pb.RunCell(code="x")}, "INVALID_FIELD"),
        (None, {"close": pb.CloseSession()}, "INVALID_FIELD"),
        (None, {}, "INVALID_FIELD"),
        ({"open": pb.OpenSession()}, {"open": pb.OpenSession()}, "WRONG_STATE"),
        ({"open": pb.OpenSession()}, {}, "INVALID_FIELD"),
    ],
)
async def test_messages_out_of_place_end_the_stream_with_the_reason(
    stub: Stub, first: dict[str, object] | None, second: dict[str, object], reason: str
) -> None:
    call = stub.Session()
    if first is not None:
        await call.write(pb.SessionRequest(**first))
        await call.read()
    await call.write(pb.SessionRequest(**second))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call.read()
    codes = {"WRONG_STATE": grpc.StatusCode.FAILED_PRECONDITION, "NOT_IMPLEMENTED": grpc.StatusCode.UNIMPLEMENTED}
    code = codes.get(reason, grpc.StatusCode.INVALID_ARGUMENT)
    assert_status(error.value, code, reason, domain="sandbox.v1")


@pytest.mark.parametrize("second", [{"run_cell": pb.RunCell(code="x")}, {"set_inputs": pb.SetInputs()}])
async def test_only_one_thing_at_a_time(stub: Stub, second: dict[str, object]) -> None:
    async with session(stub, {"f": lambda: 1}) as s:
        await s.start("f()")
        await s.receive_kind("host_call")
        await s.send(**second)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await s.receive()
        assert_status(error.value, grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE", domain="sandbox.v1")


async def test_sessions_run_side_by_side_and_see_nothing_of_each_other(stub: Stub) -> None:
    async def one(number: int) -> Cell:
        async with session(stub, {"f": lambda x: x}) as s:
            await s.run(f"import builtins; builtins.mine = {number}")
            return await s.run("print(f(mine))")

    cells = await asyncio.gather(*(one(number) for number in range(20)))
    assert [cell.stdout for cell in cells] == [f"{number}\n" for number in range(20)]
