"""What is under way in a session: a cell that runs, a file that is read."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from rlm_server.engine.ports.sessions import FileContent

if TYPE_CHECKING:
    from rlm_api.rlm.v1 import event_pb2
    from rlm_api.sandbox.v1 import execute_service_pb2 as pb

    from rlm_server.engine.ports.sessions import OutputHandler


async def ignore_output(stream: event_pb2.OutputStream.ValueType, text: str) -> None:
    """Does nothing with it."""


class Cell:
    """The cell that runs.

    Attributes:
        is_sent: whether the sandbox server has been told of it.
        is_awaited: whether somebody waits for its result.
    """

    def __init__(self, cell_id: str, on_output: OutputHandler) -> None:
        self.cell_id = cell_id
        self.on_output = on_output
        self.is_sent = False
        self.is_awaited = True
        self.result: asyncio.Future[pb.CellResult] = asyncio.get_running_loop().create_future()

    def abandon(self) -> None:
        """Takes note that nobody waits for it any more, though it may still run."""
        self.is_awaited = False
        self.on_output = ignore_output

    def finish(self, result: pb.CellResult) -> None:
        """Sets the result, unless the cell has failed before."""
        if not self.result.done():
            self.result.set_result(result)


class Reading:
    """A file that is being read.

    Args:
        max_bytes: of a larger one nothing is kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._data = bytearray()
        self.content: asyncio.Future[FileContent] = asyncio.get_running_loop().create_future()

    def take(self, chunk: pb.FileChunk) -> None:
        """Takes the next part."""
        if len(self._data) <= self._max_bytes:
            self._data += chunk.data
        if not chunk.last or self.content.done():
            return
        problem = chunk.error
        if not problem and len(self._data) > self._max_bytes:
            problem = f"it has more than {self._max_bytes:,} bytes"
        self.content.set_result(FileContent(b"" if problem else bytes(self._data), problem))
