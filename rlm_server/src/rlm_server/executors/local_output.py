"""What a cell writes, on its way from the cell's thread to the event loop."""

from __future__ import annotations

import asyncio
import collections
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import event_pb2

from rlm_server.executors.local_kill import CellKilled

if TYPE_CHECKING:
    from rlm_server.engine.ports.sessions import OutputHandler

_MAX_PART_CHARS = 8 * 1024


class OutputLimitReached(BaseException):
    """Is raised in a cell that writes too much."""


class CellOutput:
    """The output of one cell. What writes takes no lock, since a thread that is killed might keep it.

    Args:
        loop: where the output is passed on.
        limit_bytes: how much may be written.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limit_bytes: int) -> None:
        self._loop = loop
        self._limit_bytes = limit_bytes
        self._used_bytes = 0
        self._parts: collections.deque[tuple[event_pb2.OutputStream.ValueType, str]] = collections.deque()
        self._written = asyncio.Event()
        self._is_waking = False
        self._draining = asyncio.Lock()
        self._ended = False
        self._handler: OutputHandler | None = None
        self.dropped_bytes = 0
        """What was written beyond the limit."""

    def write_stdout(self, text: str) -> None:
        """Takes what the cell writes, on its thread.

        Raises:
            OutputLimitReached: it is more than the limit.
            CellKilled: the cell is over.
        """
        self._write(event_pb2.OUTPUT_STREAM_STDOUT, text)

    def write_stderr(self, text: str) -> None:
        """Does the same with the other stream."""
        self._write(event_pb2.OUTPUT_STREAM_STDERR, text)

    def _write(self, stream: event_pb2.OutputStream.ValueType, text: str) -> None:
        if self._ended:
            raise CellKilled
        encoded = text.encode(errors="replace")
        room = self._limit_bytes - self._used_bytes
        if len(encoded) > room:
            text = encoded[:room].decode(errors="ignore")
            self.dropped_bytes += len(encoded) - room
        self._used_bytes += min(len(encoded), room)
        self._parts.append((stream, text))
        if text.endswith("\n") and not self._is_waking:
            # As a terminal, line by line; the rest is passed on when the cell ends or calls the host.
            self._is_waking = True
            self._loop.call_soon_threadsafe(self._written.set)
        if len(encoded) > room:
            raise OutputLimitReached(f"the block wrote more than {self._limit_bytes:,} bytes and was stopped")

    def end(self) -> None:
        """Takes nothing more."""
        self._ended = True
        self._written.set()

    async def pass_on(self, handler: OutputHandler) -> None:
        """Passes on what is written, as it is written, until `end`."""
        self._handler = handler
        while not self._ended:
            await self._written.wait()
            self._written.clear()
            await self.drain()
        await self.drain()

    async def drain(self) -> None:
        """Passes on what is there."""
        async with self._draining:
            self._is_waking = False  # before the parts are taken, so that what comes after wakes again
            joined: list[tuple[event_pb2.OutputStream.ValueType, list[str]]] = []
            for _ in range(len(self._parts)):
                stream, text = self._parts.popleft()
                if not joined or joined[-1][0] != stream:
                    joined.append((stream, []))
                joined[-1][1].append(text)
            for stream, texts in joined:
                text = "".join(texts)
                for start in range(0, len(text), _MAX_PART_CHARS):
                    if self._handler is not None:
                        await self._handler(stream, text[start : start + _MAX_PART_CHARS])
