"""The RPCs that a server is serving."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from collections.abc import Sequence

_Context = grpc.aio.ServicerContext[Any, Any]


class RunningCalls:
    """Knows whether RPCs run that are worth waiting for.

    Args:
        ignored_services: full names of services whose RPCs do not count, since they may go on for ever.
    """

    def __init__(self, ignored_services: Sequence[str] = ()) -> None:
        self._ignored = tuple(f"/{name}/" for name in ignored_services)
        self._count = 0
        self._none_left = asyncio.Event()
        self._none_left.set()

    def add(self, method: str, context: _Context) -> None:
        """Counts an RPC until its caller has been told its status.

        Args:
            method: its full name, as `/sandbox.v1.ExecuteService/Run`.
            context: the RPC's.
        """
        if method.startswith(self._ignored):
            return
        self._count += 1
        self._none_left.clear()
        context.add_done_callback(self._remove)  # type: ignore[arg-type]  # the stubs ask for one class of callables

    async def wait_until_none_is_left(self) -> None:
        """Waits until no RPC runs any more."""
        await self._none_left.wait()

    def _remove(self, _: _Context) -> None:
        self._count -= 1
        if not self._count:
            self._none_left.set()
