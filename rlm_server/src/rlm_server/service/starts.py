"""Has completions begin in the order in which they came, so many at a time that the processors are busy."""

from __future__ import annotations

import asyncio

_AT_ONCE = 24
"""More than what keeps two processors busy: most of the time one that begins waits for the journal or a sandbox."""

_PATIENCE_SECONDS = 0.1


class Starts:
    """The completions that are about to begin.

    When many come at once and all begin together, all of them begin late; one after the other, most begin early and
    none later, and what each does next comes at another time than what the others do. One that takes long to begin, as
    with a large context, does not keep the others: its turn ends after a moment.

    Args:
        at_once: how many begin at the same time.
        patience_seconds: how long one of them keeps another from beginning.
    """

    def __init__(self, at_once: int = _AT_ONCE, patience_seconds: float = _PATIENCE_SECONDS) -> None:
        self._turns = asyncio.Semaphore(at_once)
        self._patience_seconds = patience_seconds

    async def take_turn(self) -> Start:
        """Waits until it is the caller's turn to begin a completion."""
        await self._turns.acquire()
        return Start(self._turns, self._patience_seconds)


class Start:
    """The turn of one completion; `Starts` makes it.

    Args:
        turns: are given back one.
        patience_seconds: after so long, it ends by itself.
    """

    def __init__(self, turns: asyncio.Semaphore, patience_seconds: float) -> None:
        self._turns = turns
        self._is_over = False
        self._timer = asyncio.get_running_loop().call_later(patience_seconds, self.end)

    def end(self) -> None:
        """Lets the next one begin. Only the first call counts."""
        if not self._is_over:
            self._is_over = True
            self._timer.cancel()
            self._turns.release()
