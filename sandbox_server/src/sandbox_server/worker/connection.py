"""The server's end of the socket that it shares with a worker process."""

from __future__ import annotations

import asyncio
import itertools
import logging
from typing import TYPE_CHECKING, Protocol

import msgspec

from sandbox_server.worker import protocol as wire

if TYPE_CHECKING:
    from collections.abc import Iterator

_log = logging.getLogger(__name__)


class WorkerLostError(Exception):
    """The process that held a session died; the message says how."""


class MessageTaker(Protocol):
    """A session on the server's side."""

    def take(self, message: wire.FromWorker) -> None:
        """Takes a message that its session in the worker sent."""

    def lose(self, error: WorkerLostError) -> None:
        """Hears that the worker is gone, and the session with it."""


class WorkerConnection(asyncio.Protocol):
    """Sends messages to a worker, and hands those that come from it to their sessions."""

    def __init__(self) -> None:
        self.ready: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        """Which walls are up around the worker, when it is."""
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the socket is closed. What became of the process is for others to find out, and to tell `lose`."""
        self.sessions: dict[int, MessageTaker] = {}
        self.loss: WorkerLostError | None = None
        self._relief: asyncio.Future[int] | None = None
        self._numbers = itertools.count(1)
        self._transport: asyncio.WriteTransport | None = None
        self._buffer = bytearray()

    def add(self, session: MessageTaker) -> int:
        """Registers a session; returns its number."""
        number = next(self._numbers)
        self.sessions[number] = session
        return number

    def send(self, message: wire.ToWorker) -> None:
        """Sends a message.

        Raises:
            WorkerLostError: nobody is there to take it.
        """
        if self.loss is not None:
            raise self.loss
        if self._transport is None:
            raise RuntimeError("the worker is not connected")
        self._transport.write(wire.encode(message))

    async def relieve(self) -> int:
        """Ends what runs in the session that has the most memory; returns how much it had, or 0 if none runs.

        Raises:
            WorkerLostError: the worker is gone.
        """
        if self._relief is None:
            self.send(wire.Relieve(0))
            self._relief = asyncio.get_running_loop().create_future()
        return await asyncio.shield(self._relief)

    def lose(self, reason: str) -> None:
        """Tells all sessions that the worker is gone."""
        if self.loss is not None:
            return
        self.loss = WorkerLostError(reason)
        if self._transport is not None:
            self._transport.close()
        for waited in (self.ready, self._relief):
            if waited is not None and not waited.done():
                waited.set_exception(self.loss)
        for session in list(self.sessions.values()):
            session.lose(self.loss)
        self.sessions.clear()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        if not isinstance(transport, asyncio.WriteTransport):
            raise TypeError("the transport cannot be written to")
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Takes the next bytes."""
        self._buffer += data
        try:
            for message in self._take_messages():
                self._dispatch(message)
        except (msgspec.DecodeError, _TooLargeError) as error:
            # It is not ours any more, whatever it is.
            _log.exception("a worker sent what is no message; it is given up")
            self.lose(f"it sent what is no message: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        """Hears that the socket is closed."""
        if exc is not None:
            _log.debug("the socket of a worker failed: %s", exc)
        self.closed.set_result(None)

    def _take_messages(self) -> Iterator[wire.FromWorker]:
        buffer = self._buffer
        position = 0
        header = wire.HEADER.size
        while len(buffer) - position >= header:
            (size,) = wire.HEADER.unpack_from(buffer, position)
            if size > wire.MAX_MESSAGE_BYTES:
                raise _TooLargeError(f"{size} bytes are too many for a message")
            end = position + header + size
            if len(buffer) < end:
                break
            with memoryview(buffer) as view:
                message = wire.from_worker_decoder.decode(view[position + header : end])
            position = end
            yield message
        if position:
            del buffer[:position]

    def _dispatch(self, message: wire.FromWorker) -> None:
        if isinstance(message, wire.Ready):
            if not self.ready.done():
                self.ready.set_result(list(message.walls))
            return
        if isinstance(message, wire.Relieved):
            if self._relief is not None and not self._relief.done():
                self._relief.set_result(message.memory_bytes)
            self._relief = None
            return
        session = self.sessions.get(message.session)
        if session is not None:
            session.take(message)


class _TooLargeError(Exception):
    pass
