"""Reads and writes the binary format that WebAssembly modules and components share: numbers, names, sections.

Source: WebAssembly core specification, chapter "Binary Format".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class UnsupportedFormatError(Exception):
    """The bytes are not WebAssembly, or have something that is not known here."""


class Reader:
    """A position in bytes.

    Args:
        data: the bytes.
        position: where to begin.
        end: where to stop; None is their end.
    """

    def __init__(self, data: bytes, position: int = 0, end: int | None = None) -> None:
        self.data = data
        self.position = position
        self.end = len(data) if end is None else end

    @property
    def at_end(self) -> bool:
        """Whether everything was read."""
        return self.position >= self.end

    def byte(self) -> int:
        """Reads a byte."""
        value = self.data[self.position]
        self.position += 1
        return value

    def take(self, count: int) -> bytes:
        """Reads bytes."""
        taken = self.data[self.position : self.position + count]
        self.position += count
        return taken

    def unsigned(self) -> int:
        """Reads an unsigned number (LEB128)."""
        result = shift = 0
        while True:
            byte = self.byte()
            result |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return result

    def signed(self) -> int:
        """Reads a signed number (LEB128)."""
        result = shift = 0
        while True:
            byte = self.byte()
            result |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return result - (1 << shift) if byte & 0x40 else result

    def name(self) -> str:
        """Reads a name."""
        return self.take(self.unsigned()).decode()

    def since(self, start: int) -> bytes:
        """Returns what was read since a position."""
        return self.data[start : self.position]

    def sections(self) -> Iterator[tuple[int, Reader]]:
        """Yields the number and the content of each section from here to the end."""
        while not self.at_end:
            number = self.byte()
            size = self.unsigned()
            yield number, Reader(self.data, self.position, self.position + size)
            self.position += size


def unsigned(value: int) -> bytes:
    """Encodes an unsigned number."""
    encoded = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        if not value:
            encoded.append(low)
            return bytes(encoded)
        encoded.append(low | 0x80)


def signed(value: int) -> bytes:
    """Encodes a signed number."""
    encoded = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        if value == (-1 if low & 0x40 else 0):
            encoded.append(low)
            return bytes(encoded)
        encoded.append(low | 0x80)


def name(text: str) -> bytes:
    """Encodes a name."""
    return sized(text.encode())


def sized(data: bytes) -> bytes:
    """Encodes bytes with their number before them."""
    return unsigned(len(data)) + data


def vector(items: Iterable[bytes]) -> bytes:
    """Encodes items with their number before them."""
    items = list(items)
    return unsigned(len(items)) + b"".join(items)


def section(number: int, body: bytes) -> bytes:
    """Encodes a section."""
    return bytes([number]) + sized(body)
