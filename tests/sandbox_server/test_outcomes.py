"""How cells end: whatever code does wrong is a result, never an RPC error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from rlm_api.sandbox.v1 import execute_service_pb2 as pb

from tests.sandbox_server.driver import limits, outcome, session

if TYPE_CHECKING:
    from rlm_api.sandbox.v1 import execute_service_pb2_grpc as pb_grpc

    Stub = pb_grpc.ExecuteServiceAsyncStub

SHORT = limits(wall_seconds=0.3, fuel=10**15)


async def run(stub: Stub, code: str, of: pb.Limits | None = None) -> pb.RunResponse:
    return await stub.Run(pb.RunRequest(code=code, limits=of))


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(1000)",
        "import asyncio; asyncio.run(asyncio.sleep(1000))",
        "x = 7 ** (10 ** 8)",
        "sum(range(10 ** 12))",
        "import re; re.match('(a+)+$', 'a' * 40 + 'b')",
        "import select; select.select([], [], [], 1000)",
    ],
)
async def test_what_takes_too_long_is_killed_on_time_wherever_it_is(stub: Stub, code: str) -> None:
    response = await run(stub, code, SHORT)
    result = response.result
    assert outcome(result) == "DEADLINE", result.error
    assert result.error.message == "it took longer than 0.3 s"
    assert 300 <= result.usage.wall_time.ToMilliseconds() < 2000


async def test_fuel_is_exact_and_its_end_kills(stub: Stub) -> None:
    code = "for i in range(100_000): pass"
    first, second = await run(stub, code, limits(fuel=10**9)), await run(stub, code, limits(fuel=10**9))
    assert outcome(first.result) == "OK"
    assert first.result.usage.fuel == second.result.usage.fuel
    short = await run(stub, code, limits(fuel=first.result.usage.fuel // 2))
    assert outcome(short.result) == "OUT_OF_FUEL"
    assert short.result.usage.fuel == first.result.usage.fuel // 2
    assert str(first.result.usage.fuel // 2) in short.result.error.message


@pytest.mark.parametrize(
    "code",
    [
        "x = bytearray(10 ** 9)",
        "x = []\nwhile True: x.append(bytearray(100_000))",
        "x = 'a'\nwhile True: x += x",
        "x = [0] * 10 ** 8",
        "x = {}\nfor i in range(10 ** 9): x[i] = str(i)",
    ],
)
async def test_out_of_memory_is_an_outcome_that_the_session_survives(stub: Stub, code: str) -> None:
    async with session(stub, limits=limits(memory_bytes=200 << 20)) as s:
        await s.run("before = 1")
        cell = await s.run(code)
        if cell.outcome == "TRAP":  # no memory was left to raise the exception with
            assert cell.state == "RESTORED"
        else:
            assert cell.outcome == "OUT_OF_MEMORY", cell.result.error
            assert cell.result.error.type == "MemoryError"
        assert (await s.run("x = None; print(before)")).stdout == "1\n"


async def test_output_is_cut_at_its_limit_and_the_rest_is_counted(stub: Stub) -> None:
    response = await run(stub, "for i in range(10 ** 9): print('x' * 99)", limits(output_bytes=1000))
    assert outcome(response.result) == "OUTPUT_LIMIT"
    assert response.stdout == ("x" * 99 + "\n") * 10
    assert response.result.usage.output_bytes == 1000
    assert response.result.usage.output_dropped_bytes > 0


async def test_one_huge_line_is_cut_and_counted_to_the_byte(stub: Stub) -> None:
    response = await run(stub, "print('ü' * 10_000_000)", limits(output_bytes=1001))
    assert outcome(response.result) == "OUTPUT_LIMIT"
    assert response.stdout == "ü" * 500
    assert response.result.usage.output_dropped_bytes == 2 * 10_000_000 - 1000


async def test_the_limit_holds_for_what_is_written_past_sys_stdout(stub: Stub) -> None:
    response = await run(stub, "import os\nfor _ in range(100): os.write(1, b'x' * 100)", limits(output_bytes=250))
    assert outcome(response.result) == "OUTPUT_LIMIT"
    assert response.stdout == "x" * 250
    assert response.result.usage.output_dropped_bytes == 100 * 100 - 250


async def test_code_that_catches_everything_is_stopped_by_the_output_limit_nevertheless(stub: Stub) -> None:
    code = "while True:\n    try: print('x' * 100)\n    except BaseException: pass"
    response = await run(stub, code, limits(output_bytes=1000, wall_seconds=0.5))
    assert outcome(response.result) in {"OUTPUT_LIMIT", "DEADLINE"}
    assert len(response.stdout) <= 1000


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("raise SystemExit", 0),
        ("import sys; sys.exit(3)", 3),
        ("import sys; sys.exit('no')", 1),
        ("import os; os._exit(0)", 0),
        ("import os; os._exit(1)", 1),
    ],
)
async def test_ending_the_interpreter_is_an_outcome_with_the_exit_code(stub: Stub, code: str, exit_code: int) -> None:
    response = await run(stub, code)
    assert outcome(response.result) == "EXITED"
    assert response.result.exit_code == exit_code


@pytest.mark.parametrize(
    "code",
    [
        "import os; os.abort()",
        "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(): f()\nf()",
    ],
)
async def test_a_broken_interpreter_is_a_trap(stub: Stub, code: str) -> None:
    response = await run(stub, code, limits(wall_seconds=30))
    assert outcome(response.result) == "TRAP", response.result.error


@pytest.mark.parametrize(
    "code",
    [
        "def f(): f()\nf()",
        "(" * 1000 + ")" * 1000,
        "x = []\nfor _ in range(10 ** 5): x = [x]\nrepr(x)",
        "class A:\n    def __repr__(self): return repr(self)\nA()",
        "import json\njson.loads('[' * 10 ** 5)",
    ],
)
async def test_deep_recursion_is_an_exception_that_the_session_survives(stub: Stub, code: str) -> None:
    async with session(stub) as s:
        await s.run("kept = 1")
        cell = await s.run(code)
        assert cell.outcome == "EXCEPTION", cell.result.error
        assert cell.state == "KEPT"
        assert (await s.run("print(kept)")).stdout == "1\n"


async def test_an_exception_whose_text_fails_is_told_all_the_same(stub: Stub) -> None:
    response = await run(stub, "class E(Exception):\n    def __str__(self): raise ValueError\nraise E")
    assert outcome(response.result) == "EXCEPTION"
    assert response.result.error.type == "E"
    assert "ValueError" in response.result.error.message


async def test_a_giant_message_is_cut_in_the_middle_and_says_so(stub: Stub) -> None:
    response = await run(stub, "raise ValueError('x' * 10 ** 6)")
    assert "characters cut" in response.result.error.message
    assert len(response.result.error.message) < 9000
    assert len(response.result.error.traceback) < 34_000
