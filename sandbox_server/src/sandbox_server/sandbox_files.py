"""The files of a sandbox, as its owner sees them: put in before a cell, told of and read after it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_server.model import FileContent, FileInput, ScratchFile
from sandbox_server.wasm.scratch import Scratch
from sandbox_server.wasm.scratch_nodes import FileError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_LISTED = 200
"""How many changed files a result tells of."""

MAX_RETURNED_BYTES = 2 * 1024 * 1024
"""Most that the files which a result returns may have together."""

_PART_BYTES = 1024 * 1024

_REASONS = {
    "insufficient-space": "there is no room for it within the {quota} bytes of the scratch directory",
    "is-directory": "it is a directory",
    "name-too-long": "it has a name that is too long, or too many directories",
    "no-entry": "there is no such file",
    "not-directory": "it goes through a file as if that were a directory",
}


class NoFileError(Exception):
    """A file cannot be had or made; the message says why.

    Args:
        index: which of several it was.
    """

    def __init__(self, message: str, index: int = 0) -> None:
        super().__init__(message)
        self.index = index


class SandboxFiles:
    """The files of a sandbox.

    Args:
        quota_bytes: most that they may take.
        now_ns: tells the guest's time since the Unix epoch.

    Attributes:
        scratch: the same files as the guest sees them.
    """

    def __init__(self, quota_bytes: int, now_ns: Callable[[], int]) -> None:
        self._quota_bytes = quota_bytes
        self.scratch = Scratch(quota_bytes, now_ns)

    def put(self, files: Sequence[FileInput]) -> None:
        """Puts files in.

        Raises:
            NoFileError: there is no room for one, or no place.
        """
        for index, one in enumerate(files):
            try:
                self._put(one)
            except FileError as error:
                raise NoFileError(self._reason(error), index) from None

    def start_cell(self) -> None:
        """Forgets what was changed before."""
        self.scratch.forget_changes()

    def changed(self) -> tuple[list[ScratchFile], int]:
        """Returns the files that the cell changed, and how many more there are."""
        changed = self.scratch.changed_files()
        told = [ScratchFile(file.path, len(file.data)) for file in islice(changed, MAX_LISTED)]
        return told, sum(1 for _ in changed)

    def read(self, path: str, offset: int, count: int) -> tuple[bytes, int]:
        """Returns a part of a file, and the size of the whole.

        Raises:
            NoFileError: there is no such file.
        """
        try:
            file = self.scratch.get(path)
        except FileError as error:
            raise NoFileError(self._reason(error)) from None
        return self.scratch.read(file, offset, count), len(file.data)

    def read_all(self, paths: Sequence[str]) -> list[FileContent]:
        """Returns files, as far as they have no more than `MAX_RETURNED_BYTES` together."""
        contents = []
        room = MAX_RETURNED_BYTES
        for path in paths:
            try:
                data, size = self.read(path, 0, room)
            except NoFileError as error:
                contents.append(FileContent(path, error=str(error)))
                continue
            if size > room:
                message = (
                    f"it has {size} bytes, and {room} are left of the {MAX_RETURNED_BYTES} for all that is returned"
                )
                contents.append(FileContent(path, error=message))
                continue
            room -= size
            contents.append(FileContent(path, data))
        return contents

    def _put(self, one: FileInput) -> None:
        if isinstance(one.source, bytes):
            self.scratch.put(one.path, one.source)
            return
        self.scratch.put(one.path, b"")
        position = 0
        with Path(one.source.path).open("rb") as file:
            while part := file.read(_PART_BYTES):
                self.scratch.write(self.scratch.get(one.path), position, part)
                position += len(part)

    def _reason(self, error: FileError) -> str:
        return _REASONS.get(error.code, error.code).format(quota=self._quota_bytes)
