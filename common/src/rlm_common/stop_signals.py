"""SIGTERM and SIGINT, which end a server in order: from before it holds anything until it has given all back."""

from __future__ import annotations

import asyncio
import logging
import signal

_log = logging.getLogger(__name__)

_NUMBERS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """What the signals do to a program from now on.

    A program that dies of a signal leaves behind what it has made. So make this first, in the task that starts the
    server: until `hold` a signal cancels that task, and a second one ends the program as it is; after `hold` they wait
    for `next`.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._starting = asyncio.current_task()
        self._received: asyncio.Queue[signal.Signals] = asyncio.Queue()
        for number in _NUMBERS:
            self._loop.add_signal_handler(number, self._receive, number)

    def hold(self) -> None:
        """Has signals wait for `next` instead of cancelling the start, which is over."""
        self._starting = None

    async def next(self) -> signal.Signals:
        """Returns the next signal that nobody has had, once it has come."""
        return await self._received.get()

    def _receive(self, number: signal.Signals) -> None:
        if self._starting is None:
            self._received.put_nowait(number)
            return
        _log.info("%s: stopping before the start is over", number.name)
        self._starting.cancel()
        for one in _NUMBERS:
            self._loop.remove_signal_handler(one)
