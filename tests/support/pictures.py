"""Small pictures of every type that models take."""

from __future__ import annotations

import struct
import zlib


def png(width: int = 3, height: int = 2, *, padding: int = 0) -> bytes:
    """Returns a PNG, with so many bytes of text in it."""
    rows = b"".join(b"\0" + b"\xff\0\0" * width for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(rows)), _chunk(b"IEND", b"")]
    if padding:
        chunks.insert(1, _chunk(b"tEXt", b"k\0" + b"x" * padding))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


JPEG = (
    b"\xff\xd8\xff\xe0" + struct.pack(">H", 16) + b"JFIF\0" + b"\0" * 9
    + b"\xff\xff\xc2" + struct.pack(">HBHH", 11, 8, 7, 9) + b"\x01\x11\0" + b"\xff\xd9"
)  # fmt: skip
"""Nine pixels wide, seven high; its head only, but that is whole."""

GIF = b"GIF89a" + struct.pack("<HH", 4, 5) + b"\0\0\0;"
WEBP_LOSSY = b"RIFF\x20\0\0\0WEBPVP8 " + b"\0" * 10 + struct.pack("<HH", 6, 8)
WEBP_LOSSLESS = b"RIFF\x20\0\0\0WEBPVP8L" + b"\0" * 4 + b"\x2f" + (10 | 20 << 14).to_bytes(4, "little")
WEBP_EXTENDED = b"RIFF\x20\0\0\0WEBPVP8X" + b"\0" * 8 + (99).to_bytes(3, "little") + (49).to_bytes(3, "little")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
