"""A network that can be cut, and that can stop passing anything on without a word."""

from __future__ import annotations

import asyncio
from typing import Self


class Proxy:
    """Passes bytes on to a server, until it is told to cut its connections or to stall. Use it with `async with`.

    Args:
        target: where to: `unix:PATH`, or `HOST:PORT`.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self.delay_seconds = 0.0
        """How long each piece is held up, in both directions."""
        self.is_down = False
        """Whether new connections are broken off at once, as where there is no server."""
        self.cut_count = 0
        self.passed_bytes = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        self._flows.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Cuts all connections, as a network does: without a word."""
        self.cut_count += len(self._writers)
        for writer in self._writers:
            writer.transport.abort()

    def stall(self) -> None:
        """Passes nothing on from now on; connections stay, and new ones are taken, too."""
        self._flows.clear()

    def flow(self) -> None:
        """Passes on again, what has come meanwhile first."""
        self._flows.set()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_down:
            writer.transport.abort()
            return
        try:
            if self._target.startswith("unix:"):
                far_reader, far_writer = await asyncio.open_unix_connection(self._target.removeprefix("unix:"))
            else:
                host, _, port = self._target.rpartition(":")
                far_reader, far_writer = await asyncio.open_connection(host, int(port))
        except OSError:  # the server is down
            writer.transport.abort()
            return
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            self._writers.add(sink)
            task = asyncio.create_task(self._pass_on(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                await self._flows.wait()
                self.passed_bytes += len(data)
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            self._writers.discard(sink)
            sink.transport.abort()
