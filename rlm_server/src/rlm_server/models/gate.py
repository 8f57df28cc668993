"""Lets calls to one model pass, no more of them than its profile allows."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import aiolimiter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_MINUTE_SECONDS = 60.0


class Gate:
    """Bounds the calls of all completions of a server to one model. What is None is not bounded.

    The bounds in a minute are leaky buckets: a full minute's worth may come at once after a pause, and then as much as
    drips out.

    Args:
        requests_per_minute: calls that begin in a minute.
        tokens_per_minute: tokens of the calls that begin in a minute.
        max_concurrent_calls: calls that run at once.
    """

    def __init__(
        self,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        max_concurrent_calls: int | None = None,
    ) -> None:
        self._requests = aiolimiter.AsyncLimiter(requests_per_minute, _MINUTE_SECONDS) if requests_per_minute else None
        self._tokens = aiolimiter.AsyncLimiter(tokens_per_minute, _MINUTE_SECONDS) if tokens_per_minute else None
        self._tokens_turn = asyncio.Lock()
        self._slots = asyncio.Semaphore(max_concurrent_calls) if max_concurrent_calls else None

    @contextlib.asynccontextmanager
    async def passing(self, tokens: int) -> AsyncIterator[None]:
        """Holds the place of one call; waits for it as long as it takes.

        Args:
            tokens: how many it is likely to send and make. More than a minute's worth counts as that much.
        """
        async with self._slots or contextlib.nullcontext():
            if self._tokens is not None:
                # The limiter serves small amounts first, so that large ones might wait for ever: here they take turns.
                async with self._tokens_turn:
                    await self._tokens.acquire(min(tokens, self._tokens.max_rate))
            if self._requests is not None:
                await self._requests.acquire()
            yield
