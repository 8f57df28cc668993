"""The file that has what the memory of an image's guests begins with.

It has a head of `PAGE_BYTES`, so that what follows can be mapped, then the bytes of the memory from its first page that
is not zero to the last.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PAGE_BYTES = 65536
"""A page of WebAssembly's, which is a multiple of any machine's."""

_HEAD = struct.Struct("<8sQ")
_MAGIC = b"rlmmem01"


@dataclass(frozen=True)
class MemoryImage:
    """What a memory begins with.

    Attributes:
        path: the file.
        address: where in the memory its bytes belong; a multiple of `PAGE_BYTES`.
        size: how many they are; likewise.
    """

    path: Path
    address: int
    size: int

    @property
    def file_offset(self) -> int:
        """Where in the file the bytes begin."""
        return PAGE_BYTES

    @classmethod
    def read(cls, path: Path) -> MemoryImage:
        """Reads the head of a file.

        Raises:
            OSError: it cannot be read.
            ValueError: it is none of these files.
        """
        with path.open("rb") as file:
            head = file.read(_HEAD.size)
        if len(head) != _HEAD.size or not head.startswith(_MAGIC):
            raise ValueError(f"{path} is not the image of a memory")
        return cls(path, _HEAD.unpack(head)[1], path.stat().st_size - PAGE_BYTES)


def encode(parts: list[tuple[int, bytes]]) -> bytes:
    """Returns the file for parts of a memory, each with its address; they must not overlap."""
    start = min(address for address, _ in parts) // PAGE_BYTES * PAGE_BYTES
    end = max(address + len(part) for address, part in parts)
    content = bytearray(-(-(end - start) // PAGE_BYTES) * PAGE_BYTES)
    for address, part in parts:
        content[address - start : address - start + len(part)] = part
    return _HEAD.pack(_MAGIC, start).ljust(PAGE_BYTES, b"\0") + content


def path_for(compiled_image: Path) -> Path:
    """Returns where the file of a compiled image is."""
    return compiled_image.with_suffix(".memory")
