"""Pictures: which kinds there are, and what their bytes tell of them."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TypeAlias

MEDIA_TYPES = ("image/png", "image/jpeg", "image/gif", "image/webp")
"""What models take."""

DEFAULT_MAX_IMAGE_BYTES = 10 * 1024 * 1024
"""How large a picture may be where the operator says nothing."""

_JPEG_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class ImageError(ValueError):
    """Bytes that are no usable picture; the message says why, and the remedy."""


@dataclass(frozen=True)
class ImageInfo:
    """What a picture's bytes tell of it; width and height are in pixels."""

    media_type: str
    width: int
    height: int
    size_bytes: int


@dataclass(frozen=True)
class Image:
    """A picture whose bytes were checked; `check_image` makes it."""

    data: bytes
    info: ImageInfo


Content: TypeAlias = "str | tuple[str | Image, ...]"
"""What a message says: text, or texts and pictures in order."""


def check_image(data: bytes, media_type: str, max_bytes: int) -> Image:
    """Returns a picture.

    Args:
        data: its bytes.
        media_type: what it is said to be, as `image/png`; empty leaves it to the bytes.
        max_bytes: how large it may be.

    Raises:
        ImageError: it is too large, of no known type, or of another than is said.
    """
    if len(data) > max_bytes:
        raise ImageError(f"it has {len(data):,} bytes; at most {max_bytes:,} are allowed: scale it down")
    found = _media_type_of(data)
    if media_type and media_type not in MEDIA_TYPES:
        raise ImageError(f"{media_type[:50]!r} is no type that models take; use one of {', '.join(MEDIA_TYPES)}")
    if not found:
        raise ImageError(f"its bytes are none of {', '.join(MEDIA_TYPES)}")
    if media_type and found != media_type:
        raise ImageError(f"its bytes are {found} and not {media_type}")
    width, height = _size_of(data, found)
    return Image(data, ImageInfo(found, width, height, len(data)))


def text_of(content: Content) -> str:
    """Returns the text of a message; where it has a picture, its type stands in brackets."""
    if isinstance(content, str):
        return content
    return "\n\n".join(part if isinstance(part, str) else f"[{part.info.media_type}]" for part in content)


def images_of(content: Content) -> list[Image]:
    """Returns the pictures of a message."""
    return [] if isinstance(content, str) else [part for part in content if isinstance(part, Image)]


def _media_type_of(data: bytes) -> str:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else ""


def _size_of(data: bytes, media_type: str) -> tuple[int, int]:
    """Returns width and height in pixels.

    Raises:
        ImageError: the bytes end before they tell.
    """
    try:
        if media_type == "image/png":
            width, height = struct.unpack_from(">II", data, 16)
        elif media_type == "image/gif":
            width, height = struct.unpack_from("<HH", data, 6)
        elif media_type == "image/jpeg":
            width, height = _jpeg_size(data)
        else:
            width, height = _webp_size(data)
    except (struct.error, IndexError):
        width = height = 0
    if not width or not height:
        raise ImageError(f"it is no whole {media_type}: its size cannot be read")
    return width, height


def _jpeg_size(data: bytes) -> tuple[int, int]:
    position = 2
    while data[position] == 0xFF:
        marker = data[position + 1]
        if marker in _JPEG_SIZE_MARKERS:
            height, width = struct.unpack_from(">HH", data, position + 5)
            return width, height
        if marker == 0xFF:  # padding
            position += 1
            continue
        position += 2 + int(struct.unpack_from(">H", data, position + 2)[0])
    return 0, 0


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF
