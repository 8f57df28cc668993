"""Messages on their way to the client of a session. Used on the event loop only."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from rlm_api.sandbox.v1 import execute_service_pb2 as pb

from sandbox_server.backlog import TAKEN_STEP_CHARS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

_MAX_OUTPUT_CHARS = 8 * 1024
"""A message's text has at most this many characters, which is at most 32 KiB of UTF-8."""

_MAX_ARGUMENT_CHARS = 512 * 1024
"""A host call's arguments over this come in parts."""

_DRAINED_BELOW = 64
"""A new cell waits until fewer messages than this wait, so that a client which does not read can't fill the memory."""


class Outbox:
    """A queue that the stream empties. Output that piles up is joined.

    A cell waits while there is too much of it, see `backlog`.
    """

    def __init__(self) -> None:
        self._taken_chars = 0
        self._messages: deque[pb.SessionResponse] = deque()
        self._changed = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._half_sent_call = 0
        self._closed = False
        self._error: Exception | None = None
        self.cell_id = ""

    def put(self, message: pb.SessionResponse) -> None:
        """Adds a message."""
        self._messages.append(message)
        if len(self._messages) >= _DRAINED_BELOW:
            self._drained.clear()
        self._changed.set()

    def on_output(self, output: int, text: str) -> None:
        """Adds output of the running cell."""
        stream = pb.OUTPUT_STREAM_STDERR if output == pb.OUTPUT_STREAM_STDERR else pb.OUTPUT_STREAM_STDOUT
        last = self._messages[-1].output if self._messages and self._messages[-1].HasField("output") else None
        if last is not None and last.stream == stream and len(last.text) + len(text) <= _MAX_OUTPUT_CHARS:
            last.text += text
            return
        for start in range(0, len(text), _MAX_OUTPUT_CHARS):
            part = text[start : start + _MAX_OUTPUT_CHARS]
            self.put(pb.SessionResponse(output=pb.Output(cell_id=self.cell_id, stream=stream, text=part)))

    def on_host_call(self, call_id: int, function: str, arguments_json: str) -> None:
        """Adds a host call of the running cell."""
        starts = range(0, max(1, len(arguments_json)), _MAX_ARGUMENT_CHARS)
        for start in starts:
            part = arguments_json[start : start + _MAX_ARGUMENT_CHARS]
            call = pb.HostCall(
                call_id=call_id,
                cell_id=self.cell_id,
                function=function,
                arguments_json=part,
                partial=start != starts[-1],
            )
            self.put(pb.SessionResponse(host_call=call))

    def take_back_host_calls(self) -> set[int]:
        """Removes the host calls that wait to be sent, as their cell is over; returns those of which nothing was sent.

        A client that is busy with what it has got learns the sooner that the cell is over, and begins none of the rest.
        """
        waiting = [one.host_call for one in self._messages if one.HasField("host_call")]
        if not waiting:
            return set()
        self._taken_chars += sum(len(one.arguments_json) for one in waiting)
        self._messages = deque(one for one in self._messages if not one.HasField("host_call"))
        if len(self._messages) < _DRAINED_BELOW:
            self._drained.set()
        return {one.call_id for one in waiting} - {self._half_sent_call}

    def close(self, error: Exception | None = None) -> None:
        """Ends the stream after what is in the queue, with an error if one is given."""
        self._closed = True
        self._error = self._error or error
        self._changed.set()

    async def wait_until_drained(self) -> None:
        """Waits until the client has taken nearly everything."""
        await self._drained.wait()

    async def messages(self, on_taken: Callable[[int], None]) -> AsyncIterator[pb.SessionResponse]:
        """Yields messages until `close`.

        Args:
            on_taken: hears, now and then, how many more characters of output and arguments the client has taken.

        Raises:
            Exception: the error that `close` was given.
        """
        while True:
            if self._messages:
                message = self._messages.popleft()
                if len(self._messages) < _DRAINED_BELOW:
                    self._drained.set()
                if message.HasField("host_call"):
                    self._half_sent_call = message.host_call.call_id if message.host_call.partial else 0
                yield message
                self._note_taken(message, on_taken)
            elif self._closed:
                if self._error is not None:
                    raise self._error
                return
            else:
                self._changed.clear()
                await self._changed.wait()

    def _note_taken(self, message: pb.SessionResponse, on_taken: Callable[[int], None]) -> None:
        kind = message.WhichOneof("response")
        if kind == "output":
            self._taken_chars += len(message.output.text)
        elif kind == "host_call":
            self._taken_chars += len(message.host_call.arguments_json)
        if self._taken_chars >= TAKEN_STEP_CHARS:
            on_taken(self._taken_chars)
            self._taken_chars = 0
