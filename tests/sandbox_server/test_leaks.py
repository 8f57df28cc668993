"""Very many host calls and sandboxes leave memory, threads and files where they were."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rlm_api.sandbox.v1 import execute_service_pb2 as pb

from tests.sandbox_server.conftest import running_server
from tests.sandbox_server.driver import limits, outcome, session
from tests.sandbox_server.guests import Events, Harness
from tests.sandbox_server.processes import memory_kib

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from sandbox_server.wasm.engine import GuestEngine

    from tests.sandbox_server.conftest import Stack

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the memory")

FLAT_KIB = 4 * 1024
"""What memory may grow by while 30,000 calls are made: a leak of 140 bytes for each would be more."""

WORKER_FLAT_KIB = 16 * 1024
"""What a worker's memory may grow by while 1,000 sandboxes live: a leak of 4 pages for each would be more."""

SPARE_THREADS = 4
"""How many more threads a worker may come to have: a sandbox may begin while the thread of another still frees it."""


class Deaf(Events):
    """Keeps nothing."""

    def on_output(self, output: int, text: str) -> int:
        return 2**40

    def on_call_start(self, function: str, arguments: str) -> int:
        return 1

    def poll_answer(self, call_ids: list[int], *, gives_up: bool) -> str | None:
        return '{"id": 1, "value": "%s"}' % ("x" * 1000)


CROSSINGS = {
    "host calls": "for _ in range(COUNT): f('x' * 1000)",
    "output": "for _ in range(COUNT): print('x' * 1000, flush=True)",
    "bytes": "import os\nfor _ in range(COUNT): os.write(1, b'x' * 100)",
    "entropy": "import os\nfor _ in range(COUNT): os.urandom(100)",
    "records": "import time\nfor _ in range(COUNT): time.time()",
    "resources": "import time\nfor _ in range(COUNT): time.sleep(0.000001)",
    "errors": "import socket\nfor _ in range(COUNT):\n    try: socket.socket()\n    except OSError: pass",
}


@pytest.mark.parametrize("crossing", CROSSINGS)
def test_thirty_thousand_crossings_of_the_border_leave_memory_as_it_was(
    engine: GuestEngine, on_thread: ThreadPoolExecutor, crossing: str
) -> None:
    def cross() -> tuple[int, int]:
        harness = Harness(engine, events=Deaf())
        try:
            assert harness.run(CROSSINGS[crossing].replace("COUNT", "1000"))["outcome"] == "OK"
            before = memory_kib(pid, "VmRSS")
            assert harness.run(CROSSINGS[crossing].replace("COUNT", "30_000"))["outcome"] == "OK"
            return before, memory_kib(pid, "VmRSS")
        finally:
            harness.guest.close()

    pid = threading.get_native_id()
    before, after = on_thread.submit(cross).result()
    assert after - before < FLAT_KIB


ENDINGS = {
    "x = 1": "OK",
    "1 / 0": "EXCEPTION",
    "while True: pass": "OUT_OF_FUEL",
    "import os; os._exit(1)": "EXITED",
    "import os; os.abort()": "TRAP",
    "import time; time.sleep(1000)": "DEADLINE",
    "x = bytearray(10 ** 9)": "OUT_OF_MEMORY",
}


def held(stack: Stack) -> tuple[int, int, int]:
    """Returns what the worker has: memory in KiB, threads, files."""
    [pid] = stack.server._binding.drainable._pool.pids  # type: ignore[attr-defined]
    threads = sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())
    try:
        files = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except PermissionError:  # a worker's files are root's to see
        files = 0
    return memory_kib(pid, "RssAnon"), threads, files


async def held_when_quiet(stack: Stack) -> tuple[int, int, int]:
    """Returns what the worker has once that changes no more: the last sandboxes are still freed after their answers."""
    async with asyncio.timeout(30):
        last, quiet_count = held(stack), 0
        while quiet_count < 5:
            await asyncio.sleep(0.02)
            now = held(stack)
            quiet_count = quiet_count + 1 if now == last else 0
            last = now
        return last


def assert_as_it_was(before: tuple[int, int, int], after: tuple[int, int, int]) -> None:
    (memory, threads, files), (memory_after, threads_after, files_after) = before, after
    assert memory_after - memory < WORKER_FLAT_KIB
    assert threads_after <= threads + SPARE_THREADS
    assert files_after <= files


async def test_a_thousand_sandboxes_however_they_end_leave_the_worker_as_it_was() -> None:
    async with running_server(workers=1) as stack:

        async def one(code: str, expected: str) -> None:
            of = limits(wall_seconds=0.02 if expected == "DEADLINE" else 10, fuel=10**7)
            response = await stack.stub.Run(pb.RunRequest(code=code, limits=of))
            assert outcome(response.result) == expected

        async def many(count: int) -> None:
            for _ in range(count):
                await asyncio.gather(*(one(code, expected) for code, expected in ENDINGS.items()))

        await many(30)
        before = await held_when_quiet(stack)
        await many(150)
        assert_as_it_was(before, await held_when_quiet(stack))


async def test_sessions_that_are_killed_and_restored_leave_the_worker_as_it_was() -> None:
    async with running_server(workers=1) as stack:

        async def one() -> None:
            async with session(stack.stub, {"f": lambda: "x" * 10_000}) as s:
                await s.run("x = [f() for _ in range(10)]")
                assert (await s.run("while True: pass", limits=limits(fuel=10**7))).state == "RESTORED"
                assert (await s.run("print(len(x))")).stdout == "10\n"
                await s.send(close=pb.CloseSession())
                await s.call.read()

        async def many(count: int) -> None:
            for _ in range(count):
                await asyncio.gather(*(one() for _ in range(4)))

        await many(10)
        before = await held_when_quiet(stack)
        await many(50)
        assert_as_it_was(before, await held_when_quiet(stack))
