"""In a control group with little memory, sandboxes that take all they may meet the server's guard, not the kernel."""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from rlm_api.sandbox.v1 import execute_service_pb2 as pb

from tests.sandbox_server.driver import outcome, session
from tests.sandbox_server.processes import server_process

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

LIMIT_BYTES = 1536 << 20
CLIENTS = 16
ROUNDS = 12

FILLERS = (
    "held = bytearray(480 << 20)",
    "held = []\nwhile len(held) < 450: held.append(bytearray(1 << 20))",
    "open('file', 'wb').write(bytes(60 << 20))\nheld = bytearray(400 << 20)",
    "import gc\nfor one in gc.get_objects(): pass\nheld = list(range(8_000_000))",
)


class Group:
    """A control group, of whichever version this machine has."""

    def __init__(self) -> None:
        first = Path("/sys/fs/cgroup/memory")
        is_first = first.is_dir()
        self.directory = (first if is_first else Path("/sys/fs/cgroup")) / f"rlm-test-{uuid.uuid4().hex}"
        self._limit = "memory.limit_in_bytes" if is_first else "memory.max"
        self._kills = "memory.oom_control" if is_first else "memory.events"

    def make(self) -> None:
        self.directory.mkdir()
        (self.directory / self._limit).write_text(str(LIMIT_BYTES))

    def enter(self) -> None:
        (self.directory / "cgroup.procs").write_text(str(os.getpid()))

    def kill_count(self) -> int:
        lines = (self.directory / self._kills).read_text().splitlines()
        return int(dict(line.split() for line in lines)["oom_kill"])


@pytest.fixture
def group() -> Iterator[Group]:
    """A control group that is gone afterwards, if nothing runs in it."""
    made = Group()
    try:
        made.make()
    except OSError as error:
        with contextlib.suppress(OSError):
            made.directory.rmdir()
        pytest.skip(f"no control group with a memory limit can be made here: {error}")
    yield made
    while (made.directory / "cgroup.procs").read_text():
        pass  # the workers of a server that was killed are just ending
    made.directory.rmdir()


async def test_the_kernel_kills_nothing_and_the_server_answers_throughout(group: Group) -> None:
    async with server_process("127.0.0.1:0", "--workers", "2", preexec=group.enter) as server:
        workers = server.pids()
        ends: set[str] = set()

        async def fill(number: int) -> None:
            for turn in range(ROUNDS):
                code = FILLERS[(number + turn) % len(FILLERS)]
                try:
                    if turn % 3:
                        ends.add(outcome((await server.stub.Run(pb.RunRequest(code=code))).result))
                    else:
                        async with session(server.stub) as s:
                            ends.add((await s.run(code)).outcome)
                except grpc.aio.AioRpcError as error:
                    ends.add(error.code().name)

        await asyncio.gather(*map(fill, range(CLIENTS)))
        assert "OUT_OF_MEMORY" in ends
        assert ends <= {"OK", "OUT_OF_MEMORY", "RESOURCE_EXHAUSTED"}, ends
        assert group.kill_count() == 0
        assert server.pids() == workers, "each worker is the one that it was"
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                assert (await server.stub.Run(pb.RunRequest(code="print(1)"))).stdout == "1\n"
                break
