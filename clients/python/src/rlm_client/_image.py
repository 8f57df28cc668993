"""Pictures as contexts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rlm_client._errors import ContextError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".webp")
"""Files with these names are taken for pictures where a path is given as a context."""


@dataclass(frozen=True)
class Image:
    """A picture: PNG, JPEG, GIF or WebP.

    Args:
        source: its bytes, or its file.
        media_type: what it is, as `image/png`. Default: what its bytes say.
    """

    source: bytes | Path
    media_type: str = ""

    def read(self) -> tuple[bytes, str]:
        """Returns the bytes and their media type.

        Raises:
            ContextError: the file cannot be read, or the bytes are of no type that is known.
        """
        label = str(self.source) if isinstance(self.source, Path) else "image"
        try:
            data = self.source.read_bytes() if isinstance(self.source, Path) else self.source
        except OSError as error:
            raise ContextError(label, f"cannot be read: {error.strerror or error}") from error
        media_type = self.media_type or media_type_of(data)
        if not media_type:
            raise ContextError(label, "it is no PNG, JPEG, GIF or WebP picture")
        return data, media_type


def media_type_of(data: bytes) -> str:
    """Returns the type of a picture by its bytes; empty if they are of none that is known."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else ""
