"""The completions that run on this server: how many there may be, and what becomes of them when it shuts down."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import grpc
from rlm_common.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

_RETRY_DELAY_SECONDS = 1.0


class RunningCompletions:
    """Admits completions and owns their tasks, so that none outlives the server.

    Args:
        max_concurrent: how many there may be at once.
    """

    def __init__(self, max_concurrent: int) -> None:
        self._max_concurrent = max_concurrent
        self._count = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False

    @contextlib.contextmanager
    def admitted(self) -> Iterator[None]:
        """Holds the place of one completion.

        Raises:
            ServiceError: RESOURCE_EXHAUSTED if there is none, UNAVAILABLE if the server shuts down.
        """
        if self._draining:
            raise ServiceError(
                grpc.StatusCode.UNAVAILABLE,
                "DRAINING",
                "the server is shutting down; try another",
                retry_delay_seconds=_RETRY_DELAY_SECONDS,
            )
        if self._count >= self._max_concurrent:
            raise ServiceError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "TOO_MANY_COMPLETIONS",
                f"the server runs {self._max_concurrent} completions, as many as it may; try again later",
                metadata={"limit": str(self._max_concurrent)},
                retry_delay_seconds=_RETRY_DELAY_SECONDS,
            )
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1

    def start(self, completion: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Runs a completion in a task of its own.

        It has one of its own since the task of an RPC may be cancelled at a point where it does not run this server's
        code, and what would free things there then runs late.
        """
        task = asyncio.create_task(completion)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def drain(self) -> None:
        """Admits no more."""
        self._draining = True

    async def close(self) -> None:
        """Cancels what still runs and waits for its end."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
