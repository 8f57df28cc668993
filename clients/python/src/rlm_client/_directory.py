"""Directories as contexts: a list of documents, and a list of what was left out."""

from __future__ import annotations

import datetime as dt
import fnmatch
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlm_client._image import media_type_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True)
class SkippedFile:
    """A file that is not in a context.

    Args:
        path: where it is.
        reason: why it was left out, for people.
    """

    path: Path
    reason: str


@dataclass(frozen=True)
class Directory:
    """The text files of a directory.

    Args:
        documents: a dict per file, with `id`, its path in the directory with slashes, `text`, and `metadata`, which has
            `size_bytes` and `modified_time` (UTC, as 2026-11-24T09:30:00Z); sorted by `id`.
        skipped_files: files and directories that were left out.
    """

    documents: list[dict[str, Any]]
    skipped_files: Sequence[SkippedFile]


def read_directory(path: Path, *, glob: str = "*", exclude: Sequence[str] = (), charset: str = "utf-8") -> Directory:
    """Reads the text files of a directory and of those below it.

    Hidden files and directories, symbolic links to directories, binary files and those that cannot be read are left out
    and listed. What the caller's patterns leave out, and `__pycache__`, is not listed.

    Args:
        path: the directory.
        glob: what a file's name, or its path in the directory, must match.
        exclude: patterns; files and directories whose name, or path in the directory, matches one are left out.
        charset: the files' character set. In UTF-8, a byte order mark at the beginning of a file is left out.

    Raises:
        OSError: the directory itself cannot be read.
        LookupError: Python knows no such character set.
    """
    documents: list[dict[str, Any]] = []
    skipped: list[SkippedFile] = []
    for file in _files(path, exclude, skipped):
        name = file.relative_to(path).as_posix()
        if not _matches(file, path, [glob]):
            continue
        if file.name.startswith("."):
            skipped.append(SkippedFile(file, "hidden"))
            continue
        try:
            status = file.stat()
            data = file.read_bytes() if stat.S_ISREG(status.st_mode) else None
        except OSError as error:
            skipped.append(SkippedFile(file, f"cannot be read: {error.strerror or error}"))
            continue
        if data is None:
            skipped.append(SkippedFile(file, "not a regular file"))
        elif b"\0" in data[:8192]:
            is_picture = bool(media_type_of(data))
            skipped.append(
                SkippedFile(file, "a picture, which must be a context of its own" if is_picture else "binary")
            )
        else:
            try:
                text = data.decode("utf-8-sig" if charset == "utf-8" else charset)
                documents.append({"id": name, "text": text, "metadata": _metadata(status)})
            except UnicodeDecodeError as error:
                skipped.append(SkippedFile(file, f"not {charset} at byte {error.start}"))
    documents.sort(key=lambda document: str(document["id"]))
    return Directory(documents, tuple(skipped))


def _metadata(status: os.stat_result) -> dict[str, Any]:
    modified = dt.datetime.fromtimestamp(int(status.st_mtime), dt.UTC)
    return {"size_bytes": status.st_size, "modified_time": modified.strftime("%Y-%m-%dT%H:%M:%SZ")}


def _files(path: Path, exclude: Sequence[str], skipped: list[SkippedFile]) -> Iterator[Path]:
    os.listdir(path)  # noqa: PTH208 - `walk` would pass over a directory that cannot be read

    def note(error: OSError) -> None:
        skipped.append(SkippedFile(Path(error.filename), f"cannot be read: {error.strerror}"))

    for root, directories, names in os.walk(path, onerror=note):
        for name in sorted(directories):
            child = Path(root, name)
            if name == "__pycache__" or _matches(child, path, exclude):
                directories.remove(name)
                continue
            reason = _reason_to_skip(child)
            if reason:
                skipped.append(SkippedFile(child, reason))
                directories.remove(name)
        directories.sort()
        files = (Path(root, name) for name in sorted(names))
        yield from (file for file in files if not _matches(file, path, exclude))


def _matches(entry: Path, directory: Path, patterns: Sequence[str]) -> bool:
    """Tells whether an entry's name, or its path in the directory, matches one of the patterns."""
    texts = (entry.name, entry.relative_to(directory).as_posix())
    return any(fnmatch.fnmatch(text, pattern) for pattern in patterns for text in texts)


def _reason_to_skip(directory: Path) -> str:
    if directory.is_symlink():
        return "a symbolic link to a directory"
    return "hidden" if directory.name.startswith(".") else ""
