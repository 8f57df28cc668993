"""How a server keeps at what it does, though its storage is away or its tasks are cancelled."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, TypeVar

from rlm_server.journal.store import StorageUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

_log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

_RETRY_DELAY_SECONDS = 1.0


class Background:
    """What a server does for as long as it lives, whatever goes wrong in between."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begins to do something again and again."""
        self._tasks.append(asyncio.create_task(_again_and_again(work)))

    async def close(self) -> None:
        """Ends it all."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _again_and_again(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    while True:
        try:
            await work()
        except Exception:  # noqa: BLE001 - without it completions would be lost that could go on
            _log.exception("what the server does all the time failed, and is begun again")
        await asyncio.sleep(_RETRY_DELAY_SECONDS)


async def with_patience(read: Callable[[], Awaitable[_Result]]) -> _Result:
    """Reads from the journal, until it can be read."""
    while True:
        try:
            return await read()
        except StorageUnavailableError as error:
            _log.warning("a completion waits: %s", error)
            await asyncio.sleep(_RETRY_DELAY_SECONDS)


async def all_of(task: asyncio.Task[_Result]) -> _Result:
    """Waits for a task and passes a cancellation on to it; what it makes of that counts."""
    while True:
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.done():
                raise
            task.cancel()
            await asyncio.wait({task})
            if task.cancelled():
                raise
