"""The worker processes of a server: spreads sessions over them, and replaces one that dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING

from sandbox_server.worker.connection import WorkerConnection, WorkerLostError
from sandbox_server.worker.process import WorkerOptions, WorkerProcess, WorkerStartError
from sandbox_server.worker.session import WorkerSession

if TYPE_CHECKING:
    from sandbox_server.events import SandboxListener
    from sandbox_server.model import SandboxSpec

_log = logging.getLogger(__name__)

_STEADY_SECONDS = 1.0
"""A worker that took work for this long is replaced at once. So is the first that did not; the next after a delay that
doubles each time."""

_FIRST_DELAY_SECONDS = 0.1
_GREATEST_DELAY_SECONDS = 0.5
"""Of a worker that took work: with its start its successor is back within a second."""

_GREATEST_START_DELAY_SECONDS = 10.0
"""Between tries to start a worker that do not succeed."""

_PATIENCE_SECONDS = 5.0
"""How long a session waits for a worker if none is up."""


class WorkerPool:
    """Worker processes.

    Args:
        options: how many, and what each is started with.
    """

    def __init__(self, options: WorkerOptions) -> None:
        self._options = options
        self._workers: list[WorkerProcess] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()
        self._turn = 0

    @property
    def pids(self) -> list[int]:
        """The processes that are up."""
        return [worker.pid for worker in self._workers]

    async def start(self) -> None:
        """Starts the processes.

        Raises:
            WorkerStartError: one did not come up.
        """
        starts = (WorkerProcess.start(self._options) for _ in range(self._options.worker_count))
        results = await asyncio.gather(*starts, return_exceptions=True)
        self._workers = [result for result in results if isinstance(result, WorkerProcess)]
        for result in results:
            if isinstance(result, BaseException):
                await self.close()
                raise result
        self._keepers = [asyncio.create_task(self._keep(worker)) for worker in self._workers]

    async def close(self) -> None:
        """Ends the processes and what runs in them."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await asyncio.gather(*(worker.kill() for worker in self._workers))
        self._workers = []

    async def relieve(self) -> int:
        """Ends what runs in a sandbox that has much memory; returns how much it had, or 0 if none runs.

        It is the one that has the most in its process, which is the largest that has one.
        """
        for worker in sorted(self._workers, key=lambda one: one.resident_bytes(), reverse=True):
            with contextlib.suppress(WorkerLostError):
                memory_bytes = await worker.connection.relieve()
                if memory_bytes:
                    return memory_bytes
        return 0

    async def session(self, spec: SandboxSpec, listener: SandboxListener | None) -> WorkerSession:
        """Returns a session, not open yet, in the process that has the fewest.

        Raises:
            WorkerLostError: no process is up, nor comes up in time.
        """
        return WorkerSession(await self._connection(), spec, listener)

    async def _connection(self) -> WorkerConnection:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not self._workers:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), deadline - time.monotonic())
            except TimeoutError:
                raise WorkerLostError("no sandbox worker is up") from None
        self._turn += 1
        turn = self._turn
        workers = self._workers
        return min(
            (workers[(turn + index) % len(workers)].connection for index in range(len(workers))),
            key=lambda connection: len(connection.sessions),
        )

    async def _keep(self, worker: WorkerProcess) -> None:
        """Replaces a worker, which takes work, whenever it ends."""
        delay_seconds = 0.0
        while True:
            ready_seconds = time.monotonic()
            how = await asyncio.shield(worker.ended)
            self._workers.remove(worker)
            _log.error("worker %d is lost with its sessions: %s; it is replaced", worker.pid, how)
            if time.monotonic() - ready_seconds >= _STEADY_SECONDS:
                delay_seconds = 0.0
            worker = await self._replace(delay_seconds)
            delay_seconds = _longer(delay_seconds, _GREATEST_DELAY_SECONDS)
            self._workers.append(worker)
            self._changed.set()

    async def _replace(self, delay_seconds: float) -> WorkerProcess:
        while True:
            await asyncio.sleep(delay_seconds)
            try:
                return await WorkerProcess.start(self._options)
            except (WorkerStartError, OSError):
                delay_seconds = _longer(delay_seconds, _GREATEST_START_DELAY_SECONDS)
                _log.exception("a worker does not come up; the next try is in %g s", delay_seconds)


def _longer(delay_seconds: float, greatest_seconds: float) -> float:
    return min(max(delay_seconds * 2, _FIRST_DELAY_SECONDS), greatest_seconds)
