"""A sandbox server as users start it: a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from rlm_api.sandbox.v1 import execute_service_pb2_grpc as pb_grpc
from rlm_common.server import CHANNEL_OPTIONS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class ServerProcess:
    """A server that has said that it listens.

    Args:
        process: the process.
        address: where it listens.
        stub: leads to it.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, address: str, stub: pb_grpc.ExecuteServiceAsyncStub
    ) -> None:
        self.process = process
        self.address = address
        self.stub = stub

    def pids(self) -> list[int]:
        """Returns the server's process and those of its workers."""
        server = self.process.pid
        children = Path(f"/proc/{server}/task/{server}/children").read_text()
        return [server, *map(int, children.split())]


@contextlib.asynccontextmanager
async def server_process(
    listen: str, *arguments: str, preexec: Callable[[], None] | None = None
) -> AsyncIterator[ServerProcess]:
    """Starts a server with one worker; what is left of it at the end of the block is killed.

    Args:
        listen: where.
        arguments: more of the command line.
        preexec: what its process does first.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sandbox_server", "serve", "--listen", listen, "--workers", "1", *arguments),
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=preexec,
    )
    assert process.stderr is not None
    try:
        while b"listens on" not in (line := await process.stderr.readline()):
            assert line, "the server has ended"
        address = line.decode().rpartition(" ")[2].strip()
        async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
            yield ServerProcess(process, address, pb_grpc.ExecuteServiceStub(channel))
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def memory_kib(pid: int, name: str) -> int:
    """Returns a line of a process's status that is about memory, as `VmHWM` (the peak) or `VmRSS`."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise LookupError(name)
