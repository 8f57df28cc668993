"""A cell on a thread that is killed: whenever that happens, the cell has one result and the thread ends."""

from __future__ import annotations

import asyncio
import itertools
import queue
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from rlm_api.rlm.v1 import event_pb2
from rlm_server.engine.ports.executors import Prelude
from rlm_server.executors.local_kill import MAX_KILLS, CellKilled, KillableRegion
from rlm_server.executors.local_thread import CellThread
from rlm_server.executors.namespace import Namespace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from rlm_server.engine.ports.sessions import CellResult

ROUNDS = 2000
WAIT_SECONDS = 30

# A kill that is raised in a finalizer is dropped by Python, which warns of it; it is sent again then.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def threads_alternate_often() -> Iterator[None]:
    """Lets threads run so short a time that every place between two instructions is met sooner or later."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


class Cell:
    """A cell that can be watched.

    Args:
        code: calls `tell` when it gets where the test waits for it, and `wait` to wait for `go_on`; it can also call
            the host function `ask`.
        answer: answers `ask`.
    """

    def __init__(self, code: str, answer: Callable[[str, str], Awaitable[str]] | None = None) -> None:
        self._told: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._go_on: queue.SimpleQueue[None] = queue.SimpleQueue()
        namespace = Namespace()
        names: dict[str, object] = {"tell": self._told.put, "wait": self._go_on.get}
        namespace.start(
            names, Prelude(""), ["ask"], lambda *args: self.thread.host_submit(*args).result(), lambda *args: None
        )
        self.thread = CellThread(namespace, "<cell>", code, 10_000, answer or self._refuse)
        self.outputs: list[str] = []

    async def _refuse(self, function: str, arguments_json: str) -> str:
        raise AssertionError("the cell must not call the host")

    async def run(self, wall_time_seconds: float = WAIT_SECONDS) -> CellResult:
        """Runs it; returns when its thread has ended."""
        result = await self.run_without_its_thread(wall_time_seconds)
        await self.ended()
        return result

    async def run_without_its_thread(self, wall_time_seconds: float) -> CellResult:
        """Runs it; returns even if its thread goes on."""

        async def take(_: object, text: str) -> None:
            self.outputs.append(text)

        async with asyncio.TaskGroup() as group:
            group.create_task(self.thread.pass_output_on(take))
            return await self.thread.run(wall_time_seconds)

    async def ended(self) -> None:
        """Waits for the end of its thread."""
        thread = self.thread._thread
        await asyncio.to_thread(thread.join, WAIT_SECONDS)
        assert not thread.is_alive()

    async def told(self) -> str:
        """Waits for what the code tells."""
        return await asyncio.to_thread(self._told.get, timeout=WAIT_SECONDS)

    def go_on(self) -> None:
        """Lets the code go on that has called `wait`."""
        self._go_on.put(None)

    async def kill_when_told(self, spins: int) -> bool:
        """Kills it from another thread, a number of instructions after the code has told something."""

        def kill() -> bool:
            self._told.get(timeout=WAIT_SECONDS)
            for _ in range(spins):
                pass
            return self.thread._region.kill()

        return await asyncio.to_thread(kill)


async def test_a_kill_around_the_end_of_the_code_kills_it_or_leaves_its_result(threads_alternate_often: None) -> None:
    outcomes = {event_pb2.CODE_OUTCOME_CANCELLED: 0, event_pb2.CODE_OUTCOME_OK: 0}
    for number in range(ROUNDS):
        cell = Cell("tell(1)\n7")
        result, is_killed = await asyncio.gather(cell.run(), cell.kill_when_told(number % 500))
        expected = event_pb2.CODE_OUTCOME_CANCELLED if is_killed else event_pb2.CODE_OUTCOME_OK
        assert result.outcome == expected
        assert is_killed or cell.outputs == ["7\n"]
        outcomes[result.outcome] += 1
    assert min(outcomes.values()) > ROUNDS // 100, "the kills missed the end of the code"


async def test_a_kill_at_the_very_beginning_is_not_lost(threads_alternate_often: None) -> None:
    for _ in range(ROUNDS):
        cell = Cell("while True: pass")
        running = asyncio.create_task(cell.run())
        await asyncio.sleep(0)  # its thread is being started
        assert cell.thread.kill()
        assert (await running).outcome == event_pb2.CODE_OUTCOME_CANCELLED


async def test_a_deadline_around_the_end_of_the_code_gives_its_result_or_says_that_the_variables_are_lost(
    threads_alternate_often: None,
) -> None:
    times = itertools.cycle(step * 20e-6 for step in range(100))
    outcomes = {(await Cell("for _ in range(2000): pass").run(next(times))).outcome for _ in range(ROUNDS)}
    assert outcomes == {event_pb2.CODE_OUTCOME_DEADLINE, event_pb2.CODE_OUTCOME_OK}


async def test_a_kill_while_a_host_call_begins_leaves_no_one_waiting(threads_alternate_often: None) -> None:
    async def answer(function: str, arguments_json: str) -> str:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    for number in range(ROUNDS):
        cell = Cell("tell(1)\nask()", answer)
        result, is_killed = await asyncio.gather(cell.run(), kill_soon(cell, number % 8))
        assert is_killed
        assert result.outcome == event_pb2.CODE_OUTCOME_CANCELLED


async def kill_soon(cell: Cell, turns_of_the_loop: int) -> bool:
    await cell.told()
    for _ in range(turns_of_the_loop):
        await asyncio.sleep(0)
    return cell.thread.kill()


async def test_code_that_catches_the_kill_and_goes_on_is_killed_again() -> None:
    cell = Cell("for _ in range(5):\n    try:\n        tell(1)\n        while True: pass\n    except: pass")
    result, is_killed = await asyncio.gather(cell.run(), kill_soon(cell, 0))
    assert is_killed
    assert result.outcome == event_pb2.CODE_OUTCOME_CANCELLED


async def test_code_that_catches_the_kill_and_ends_is_killed_all_the_same() -> None:
    cell = Cell("try:\n    tell(1)\n    while True: pass\nexcept BaseException:\n    print('caught')")
    result, is_killed = await asyncio.gather(cell.run(), kill_soon(cell, 0))
    assert is_killed
    assert result.outcome == event_pb2.CODE_OUTCOME_CANCELLED
    assert cell.outputs == ["caught\n"]


@pytest.mark.parametrize("use", ["print('late')", "ask()"])
async def test_code_that_outlives_its_cell_can_neither_write_nor_call_the_host(use: str) -> None:
    stubborn = (
        f"tell(0)\nfor _ in range({MAX_KILLS}):\n    try:\n        tell(1)\n        while True: pass\n    except: pass"
    )
    cell = Cell(f"{stubborn}\nwait()\ntry:\n    {use}\nexcept BaseException as error:\n    tell(type(error).__name__)")
    running = asyncio.create_task(cell.run_without_its_thread(WAIT_SECONDS))
    assert await kill_soon(cell, 0)
    running.cancel()
    await asyncio.wait({running})
    cell.go_on()
    assert [await cell.told() for _ in range(MAX_KILLS + 1)][-1] == "CellKilled"
    await cell.ended()
    assert cell.outputs == []


async def test_a_failure_to_answer_a_host_call_is_raised_and_ends_the_thread() -> None:
    async def answer(function: str, arguments_json: str) -> str:
        raise LookupError("the engine is broken")

    cell = Cell("ask()\nwhile True: pass", answer)
    with pytest.raises(LookupError, match="the engine is broken"):
        await cell.thread.run(WAIT_SECONDS)
    await cell.ended()


async def test_an_exception_whose_text_cannot_be_had_is_a_result() -> None:
    result = await Cell("class E(Exception):\n    def __str__(self): raise SystemExit\nraise E").run()
    assert (result.outcome, result.error_type) == (event_pb2.CODE_OUTCOME_EXCEPTION, "E")
    assert result.error_message == "(no text: SystemExit)"


def test_a_thread_is_hit_inside_the_region_or_not_at_all(threads_alternate_often: None) -> None:
    ends = set()
    for number in range(ROUNDS):
        region = KillableRegion()
        told: queue.SimpleQueue[str] = queue.SimpleQueue()
        thread = threading.Thread(target=run_in, args=(region, told))
        thread.start()
        told.get()
        for _ in range(number % 400):
            pass
        is_killed = any(region.kill() for _ in range(MAX_KILLS))
        thread.join(WAIT_SECONDS)
        expected = "killed" if is_killed else "not killed"
        assert [told.get_nowait(), told.get_nowait()] == [expected, "untouched"]
        ends.add(expected)
    assert ends == {"killed", "not killed"}, "the kills missed the end of the region"


def run_in(region: KillableRegion, told: Any) -> None:
    def inside() -> None:
        told.put("inside")
        for _ in range(1000):
            pass

    try:
        region.run(inside)
        told.put("not killed")
    except CellKilled:
        told.put("killed")
    for _ in range(100):
        pass
    told.put("untouched")


def test_a_region_that_was_killed_before_is_not_entered() -> None:
    region = KillableRegion()
    assert region.kill()
    entered: list[int] = []
    with pytest.raises(CellKilled):
        region.run(lambda: entered.append(1))
    assert entered == []


def test_a_region_that_was_left_is_not_killed_any_more() -> None:
    region = KillableRegion()
    assert region.run(lambda: 7) == 7
    assert not region.kill()
