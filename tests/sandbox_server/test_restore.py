"""A killed cell does not cost the session: it stands as it was before that cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from rlm_api.sandbox.v1 import execute_service_pb2 as pb

from tests.sandbox_server.driver import limits, session

if TYPE_CHECKING:
    from rlm_api.sandbox.v1 import execute_service_pb2_grpc as pb_grpc

    Stub = pb_grpc.ExecuteServiceAsyncStub

KILLERS = {
    "DEADLINE": "import time\nbefore = 'changed'\ntime.sleep(100)",
    "OUT_OF_FUEL": "before = 'changed'\nwhile True: pass",
    "TRAP": "import os\nbefore = 'changed'\nos.abort()",
    "EXITED": "import os\nbefore = 'changed'\nos._exit(1)",
}


@pytest.mark.parametrize("expected", KILLERS)
async def test_the_session_stands_as_before_the_killed_cell(stub: Stub, expected: str) -> None:
    async with session(stub) as s:
        await s.run("before = [1]\ndef f(): return before\ng = iter('abc')\nnext(g)")
        await s.run("before.append(2)\nimport random, time, uuid\ntold = (random.random(), time.time(), uuid.uuid4())")
        told = (await s.run("print(told, id(before), hash('x'))")).stdout
        wall_seconds = 0.3 if expected == "DEADLINE" else 30
        cell = await s.run(KILLERS[expected], limits=limits(wall_seconds=wall_seconds, fuel=10**9))
        assert (cell.outcome, cell.state) == (expected, "RESTORED")
        assert cell.result.restoration.replayed_cell_count == 3
        assert cell.result.restoration.fuel > 0
        assert cell.result.restoration.wall_time.ToNanoseconds() > 0
        # The very same objects at the very same places: nothing tells the session from one that was never killed.
        assert (await s.run("print(told, id(before), hash('x'))")).stdout == told
        assert (await s.run("print(f(), next(g))")).stdout == "[1, 2] b\n"


async def test_host_calls_are_not_made_again_and_their_ids_count_on(stub: Stub) -> None:
    asked: list[int] = []

    def ask(number: int) -> str:
        asked.append(number)
        return f"answer {number}"

    async with session(stub, {"ask": ask}) as s:
        await s.run("answers = [ask(1), ask(2)]")
        cell = await s.run("answers.append(ask(3))\nwhile True: pass", limits=limits(wall_seconds=0.3))
        assert cell.state == "RESTORED"
        await s.start("answers.append(ask(4)); print(answers)")
        call = await s.receive_kind("host_call")
        assert call.call_id == 4
        await s.answer(call.call_id, "answer 4")
        assert (await s.finish()).stdout == "['answer 1', 'answer 2', 'answer 4']\n"
        assert asked == [1, 2, 3]


async def test_output_of_cells_that_run_again_is_not_sent_again(stub: Stub) -> None:
    async with session(stub) as s:
        await s.run("print('once')")
        cell = await s.run("print('mine', flush=True)\nwhile True: pass", limits=limits(wall_seconds=0.3))
        assert (cell.state, cell.stdout) == ("RESTORED", "mine\n")
        assert "once" not in (await s.run("1")).stdout


async def test_inputs_that_were_set_later_are_there_again(stub: Stub) -> None:
    async with session(stub, inputs=[pb.Input(name="x", text="first")]) as s:
        await s.run("seen = [x]")
        await s.send(set_inputs=pb.SetInputs(inputs=[pb.Input(name="x", text="second")]))
        await s.receive_kind("inputs_set")
        await s.run("seen.append(x)")
        assert (await s.run("while True: pass", limits=limits(wall_seconds=0.2))).state == "RESTORED"
        assert await s.value("[seen, x]") == [["first", "second"], "second"]


async def test_a_session_can_be_killed_again_and_again(stub: Stub) -> None:
    async with session(stub) as s:
        for number in range(5):
            await s.run(f"x{number} = {number}")
            cell = await s.run("while True: pass", limits=limits(fuel=10**8))
            assert (cell.outcome, cell.state) == ("OUT_OF_FUEL", "RESTORED")
        assert await s.value("[x0, x4]") == [0, 4]


async def test_failed_cells_are_part_of_what_is_restored(stub: Stub) -> None:
    async with session(stub, limits=limits(memory_bytes=100 << 20)) as s:
        await s.run("x = 1\n1 / 0")
        assert (await s.run("y = 2\nz = bytearray(10 ** 9)")).outcome == "OUT_OF_MEMORY"
        assert (await s.run("w = 3\nraise SystemExit")).outcome == "EXITED"
        assert (await s.run("while True: pass", limits=limits(fuel=10**8))).state == "RESTORED"
        assert await s.value("[x, y, w]") == [1, 2, 3]


async def test_a_session_whose_record_is_too_large_is_reset_and_told_why(stub: Stub) -> None:
    async with session(stub, inputs=[pb.Input(name="x", text="given")]) as s:
        await s.run("import os\nfor _ in range(65): os.urandom(1 << 20)")
        cell = await s.run("while True: pass", limits=limits(fuel=10**8))
        assert cell.state == "RESET"
        assert "clock readings" in cell.result.restoration.not_restored_reason
        assert await s.value("[x, 'os' in globals()]") == ["given", False]
