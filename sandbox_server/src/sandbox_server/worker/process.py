"""Starts a worker process and tells how it ended."""

from __future__ import annotations

import asyncio
import collections
import logging
import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_server.worker.connection import WorkerConnection, WorkerLostError

if TYPE_CHECKING:
    from collections.abc import Mapping

_log = logging.getLogger(__name__)

_START_TIMEOUT_SECONDS = 60.0
_END_TIMEOUT_SECONDS = 1.0
_LAST_LINES = 20

_PASSED_ENVIRONMENT = ("LANG", "LC_ALL", "PYTHONPATH")
"""All that a worker is given of the environment: what it takes to find the modules."""

# A worker must not outlive the server, not even one that is killed. Its socket tells it, if it reads; this does anyway.
_LAUNCHER = """
import os, sys
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
if os.getppid() != {parent}:
    sys.exit("the server has gone")
from sandbox_server.worker.main import main
main({images!r}, {directory!r}, {max_sessions}, {memory!r}, {socket})
"""


class WorkerStartError(Exception):
    """A worker process did not come up; the message has the last lines that it wrote."""


@dataclass(frozen=True)
class WorkerOptions:
    """What a worker is started with.

    Attributes:
        images: the compiled images by name.
        readable_directory: the only place from which it may read files.
        max_sessions: how many sessions it may have to hold.
        worker_count: how many workers there are.
        memory_floor_bytes: as long as no more than this is free, sandboxes get no more memory.
        system_root: where `proc` and `sys` are.
    """

    images: Mapping[str, Path]
    readable_directory: Path
    max_sessions: int
    worker_count: int = 1
    memory_floor_bytes: int = 0
    system_root: Path = Path("/")


class WorkerProcess:
    """A process that runs, or did.

    Args:
        process: the process.
        connection: leads to it.
    """

    def __init__(self, process: asyncio.subprocess.Process, connection: WorkerConnection) -> None:
        self._process = process
        self.connection = connection
        self._last_lines: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
        self._reader = asyncio.create_task(self._read_stderr())
        self.ended = asyncio.create_task(self._wait())
        """Done when the process has ended; its result says how."""
        connection.closed.add_done_callback(lambda _: self._expect_the_end())

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    @classmethod
    async def start(cls, options: WorkerOptions) -> WorkerProcess:
        """Starts a process and waits until it takes work.

        Raises:
            WorkerStartError: it did not come up.
        """
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                _LAUNCHER.format(
                    parent=os.getpid(),
                    images={name: str(path) for name, path in options.images.items()},
                    directory=str(options.readable_directory),
                    max_sessions=options.max_sessions,
                    memory=(str(options.system_root), options.memory_floor_bytes, options.worker_count),
                    socket=theirs.fileno(),
                ),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                env={name: os.environ[name] for name in _PASSED_ENVIRONMENT if name in os.environ},
                start_new_session=True,  # Ctrl-C at a terminal is for the server, which ends its workers in order
            )
        finally:
            theirs.close()
        connection = WorkerConnection()
        await asyncio.get_running_loop().create_connection(lambda: connection, sock=ours)
        worker = cls(process, connection)
        try:
            walls = await asyncio.wait_for(connection.ready, _START_TIMEOUT_SECONDS)
        except (TimeoutError, WorkerLostError) as error:
            how = await worker.kill()
            lines = "\n".join(worker._last_lines)
            raise WorkerStartError(f"a sandbox worker did not come up: {how or error}\n{lines}".rstrip()) from None
        except BaseException:
            await worker.kill()
            raise
        _log.info("worker %d is up; walls: %s", worker.pid, ", ".join(walls))
        return worker

    def resident_bytes(self) -> int:
        """Returns how much memory the process has; 0 where the system does not say."""
        try:
            pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        except (OSError, IndexError):
            return 0
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    async def kill(self) -> str:
        """Ends the process at once; returns how it ended."""
        self._kill_if_it_runs()
        return await asyncio.shield(self.ended)

    def _expect_the_end(self) -> None:
        """Kills the process if it does not end by itself, now that its socket is closed."""
        # Not at once: `kill` would collect the exit code of one that is just dying, and `_wait` would not learn it.
        asyncio.get_running_loop().call_later(_END_TIMEOUT_SECONDS, self._kill_if_it_runs)

    def _kill_if_it_runs(self) -> None:
        if self._process.returncode is None:
            self._process.kill()

    async def _wait(self) -> str:
        code = await self._process.wait()
        how = f"it was killed by {signal.Signals(-code).name}" if code < 0 else f"it ended with code {code}"
        self.connection.lose(how)
        await self._reader
        return how

    async def _read_stderr(self) -> None:
        if self._process.stderr is None:
            raise RuntimeError("the worker was started without a pipe")
        while line := await self._process.stderr.readline():
            text = line.decode(errors="replace").rstrip()
            self._last_lines.append(text)
            _log.warning("worker %d: %s", self.pid, text)
