"""What the host keeps on a guest's behalf is bounded, and so is every message to a client."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from rlm_api.sandbox.v1 import execute_service_pb2 as pb
from sandbox_server.events import MAX_OPEN_BYTES, CellEvents
from sandbox_server.tape import Tape
from sandbox_server.wasm.clock import Entropy, RealClock

from tests.sandbox_server.driver import limits, outcome, session

if TYPE_CHECKING:
    from rlm_api.sandbox.v1 import execute_service_pb2_grpc as pb_grpc

    Stub = pb_grpc.ExecuteServiceAsyncStub

MIB = 1 << 20


async def test_values_together_stay_within_a_message(stub: Stub) -> None:
    names = [f"x{number}" for number in range(20)]
    code = "for n in range(20): globals()[f'x{n}'] = 'a' * 900_000"
    response = await stub.Run(pb.RunRequest(code=code, variables=pb.VariableQuery(json_values=names)))
    told = response.result.variables
    assert [one.name for one in told] == names
    assert sum(len(one.json) for one in told) <= 4 * MIB
    assert [bool(one.json) for one in told] == [True] * 4 + [False] * 16
    assert "together would take over" in told[-1].json_error


async def test_previews_together_stay_within_a_message(stub: Stub) -> None:
    code = "for n in range(200): globals()[f'x{n}'] = '\\U0001f600' * 10_000"
    query = pb.VariableQuery(include_all=True, preview_chars=10_000)
    result = (await stub.Run(pb.RunRequest(code=code, variables=query))).result
    assert result.ByteSize() < 5 * MIB
    assert len(result.variables) + result.variables_omitted_count == 201  # `n` too


async def test_a_prelude_that_returns_too_much_is_told_so(stub: Stub) -> None:
    prelude = pb.Prelude(source="__all__ = []\ndef after_cell(): return 'x' * 5_000_000")
    async with session(stub, prelude=prelude) as s:
        cell = await s.run("print(1)")
        assert (cell.outcome, cell.stdout, cell.result.after_cell_json) == ("OK", "1\n", "")
        assert "5000002 bytes of JSON" in cell.result.after_cell_error


async def test_a_run_returns_at_most_what_fits_a_message(stub: Stub) -> None:
    request = pb.RunRequest(code="print('x' * 10**7)", limits=limits(output_bytes=64 * MIB))
    response = await stub.Run(request)
    assert (outcome(response.result), len(response.stdout)) == ("OUTPUT_LIMIT", 4 * MIB)


async def test_calls_that_nobody_answers_do_not_pile_up(stub: Stub) -> None:
    code = """
import host_calls
big, refused = [host_calls.host_submit('ask', 'x' * 10**7) for _ in range(20)], 0
for call in reversed(big):
    try: call.result()
    except host_calls.HostCallError as error: refused += error.type == 'too_many_calls'; last = error.type
    if last != 'too_many_calls': break
    last = ''
    if refused == 7: break
print(refused)
"""
    async with session(stub, {"ask": str}) as s:
        await s.start(code, limits=limits(wall_seconds=60))
        message = await s.receive()
        while message.WhichOneof("response") == "host_call":
            message = await s.receive()
        assert message.output.text == "7\n"


def test_calls_and_answers_count_until_they_are_taken() -> None:
    heard: list[int] = []

    class Listener:
        def on_output(self, output: int, text: str) -> None: ...

        def on_host_call(self, call_id: int, function: str, arguments_json: str) -> None:
            heard.append(call_id)

    events = CellEvents(Listener(), Tape(RealClock(), Entropy(None), 1 << 40))
    events.start_cell(0)
    half = "x" * (MAX_OPEN_BYTES // 2 + 1)
    assert [events.on_call_start("f", half), events.on_call_start("f", half)] == [1, 2]
    assert heard == [1]
    assert json.loads(events.poll_answer([2], gives_up=False) or "")["error"]["type"] == "too_many_calls"
    events.answer(1, half)
    assert [events.on_call_start("f", half), events.on_call_start("f", "")] == [3, 4]
    assert heard == [1, 3, 4]
    events.answer(3, half)
    assert json.loads(events.poll_answer([3], gives_up=False) or "")["error"]["type"] == "too_many_answers"
    assert events.poll_answer([1], gives_up=False) == half
    events.answer(4, half)
    assert events.poll_answer([4], gives_up=False) == half


@pytest.mark.parametrize(
    "code",
    [
        (
            "app._HANDLERS['run'] = lambda r: {'outcome': 'OK', 'output_dropped_bytes': 0, 'variables': [],"
            " 'after_cell_json': '[' * 10**5 + ']' * 10**5}"
        ),
        (
            "app._HANDLERS['run'] = lambda r: {'outcome': 'OK', 'output_dropped_bytes': 0, 'variables':"
            " [{'name': 'x' * 60_000, 'type': 'y' * 60_000, 'size': 1, 'preview': 'z' * 60_000}] * 300}"
        ),
        (
            "app._HANDLERS['run'] = lambda r: {'outcome': 'OK', 'output_dropped_bytes': 0, 'variables': [],"
            " 'after_cell_json': '\"' + 'x' * 50_000_000 + '\"'}"
        ),
        "wit_world.emit(1, 'x' * 50_000_000)",
        "wit_world.call_start('f' * 10**6, '{}')",
    ],
)
async def test_a_forged_message_is_cut_or_ends_its_guest_and_the_stream_goes_on(stub: Stub, code: str) -> None:
    async with session(stub, {"ask": str}) as s:
        await s.run("kept = 1")
        await s.run(f"import app, wit_world\n{code}", limits=limits(memory_bytes=0))
        last = await s.run("print('forged')")
        assert last.result.ByteSize() < 5 * MIB
        assert last.outcome in {"OK", "TRAP", "EXCEPTION"}
    assert (await stub.Run(pb.RunRequest(code="print(1)"))).stdout == "1\n"
