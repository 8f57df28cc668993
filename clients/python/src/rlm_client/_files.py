"""Files that the root's code has written: how they are asked for, and how they are put together from events."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import completion_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlm_api.rlm.v1 import event_pb2


@dataclass(frozen=True)
class ReturnFiles:
    """Which of the files that the root's code writes to its scratch directory are wanted. `Completion.files` has them.

    Args:
        patterns: match their paths, as `report.csv` or `out/*.png`; `*` matches slashes, too. None at all: every file.
        max_bytes: how large they may be together. Default, and greatest: the server's, 16 MiB.
    """

    patterns: Sequence[str] = ()
    max_bytes: int | None = None

    def to_proto(self) -> pb.ReturnFiles:
        """Returns the message."""
        return pb.ReturnFiles(patterns=self.patterns, max_bytes=self.max_bytes)


@dataclass(frozen=True)
class ReturnedFile:
    """A file that was asked for.

    Args:
        path: its path in the scratch directory, with slashes.
        data: what is in it.
        error: why it was not returned, as that it is too large; empty if it was.
    """

    path: str
    data: bytes = b""
    error: str = ""

    def save(self, directory: Path) -> Path:
        """Writes it below a directory, and returns where; directories are made, and a file that is there is replaced.

        Raises:
            ValueError: it was not returned, or its path leads out of the directory.
            OSError: it cannot be written.
        """
        if self.error:
            raise ValueError(f"{self.path} was not returned: {self.error}")
        parts = PurePosixPath(self.path).parts
        place = directory.joinpath(*parts)
        base = directory.resolve()
        if not parts or ".." in parts or base not in place.resolve().parents:
            raise ValueError(f"{self.path} leads out of the directory")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(self.data)
        return place


class FilesFold:
    """Puts files together from events."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self.files: list[ReturnedFile] = []
        """Those that have come, in order."""

    def add(self, part: event_pb2.FileContent) -> None:
        """Takes the next part."""
        if not part.offset:
            self._parts, self._size = [], 0
        if part.offset == self._size:
            self._parts.append(part.data)
            self._size += len(part.data)
        if not part.last:
            return
        data = b"".join(self._parts)
        is_whole = len(data) == part.size_bytes
        error = part.error or ("" if is_whole else "its beginning is not in this stream; watch from the first event")
        self.files.append(ReturnedFile(part.path, b"" if error else data, error))
        self._parts, self._size = [], 0
