"""Variables that a session is given."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class ValueFormat(enum.StrEnum):
    """How an input becomes a Python value."""

    TEXT = "text"
    JSON = "json"
    BYTES = "bytes"


@dataclass(frozen=True)
class StoredBytes:
    """Bytes in a file, which are UTF-8 if they are text, named by their SHA-256 digest in hexadecimal."""

    path: Path
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class InputValue:
    """A variable of a session: text, a JSON document or bytes, at hand or in a file."""

    name: str
    format: ValueFormat
    value: str | bytes | StoredBytes

    @property
    def size_bytes(self) -> int:
        """Returns how large it is; of text at hand, how many characters it has."""
        return len(self.value) if isinstance(self.value, str | bytes) else self.value.size_bytes
