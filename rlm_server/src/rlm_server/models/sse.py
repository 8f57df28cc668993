"""Server-sent events, as chat completion endpoints stream them."""

from __future__ import annotations


class EventDecoder:
    """Splits a stream of bytes into the data of its events."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, received: bytes) -> list[bytes]:
        """Takes the next bytes; returns the data of the events that they complete."""
        *lines, self._rest = (self._rest + received).split(b"\n")
        events = []
        for raw_line in lines:
            line = raw_line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data = []
        return events

    def finish(self) -> list[bytes]:
        """Returns the data of an event that lacks its last empty line at the end of the stream."""
        return self.feed(b"\n\n")
