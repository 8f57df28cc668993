"""The `--context` options, read."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rlm_client import ContextError, Part, SkippedFile, prepare, read_directory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlm_client import PreparedContext

_NAMED = re.compile(r"([^\W\d]\w*)=(.+)", re.DOTALL)
_STDIN = "-"


def read_contexts(
    arguments: Sequence[str], *, glob: str, exclude: Sequence[str], charset: str | None
) -> tuple[PreparedContext, Sequence[SkippedFile]]:
    """Returns the context that the options name, read and checked, and the files of directories that are not in it.

    Args:
        arguments: each a file, a directory, `-` for standard input, or one of those after `NAME=`.
        glob: what files of directories must match.
        exclude: what files and directories in directories must not match.
        charset: character set of the files; None means UTF-8.

    Raises:
        ContextError: something cannot be read.
    """
    used_charset = charset or "utf-8"
    if not arguments:
        return prepare(None), ()
    parts: list[Part] = []
    skipped: list[SkippedFile] = []
    if sum(_split(argument)[1] == _STDIN for argument in arguments) > 1:
        raise ContextError("-", "standard input can be given only once")
    for argument in arguments:
        name, place = _split(argument)
        path = Path(place)
        try:
            if place == _STDIN:
                parts.append(Part(name, sys.stdin.buffer.read(), charset=used_charset))
            elif path.is_dir():
                directory = read_directory(path, glob=glob, exclude=exclude, charset=used_charset)
                skipped += directory.skipped_files
                if not directory.documents:
                    raise ContextError(place, f"no text files there match {glob!r}")
                parts.append(Part(name, directory.documents))
            else:
                parts.append(Part(name, path, charset=used_charset))
        except OSError as error:
            raise ContextError(place, f"cannot be read: {error.strerror or error}") from error
        except LookupError:
            raise ContextError(place, f"Python knows no character set {charset!r}") from None
    return prepare(parts), skipped


def _split(argument: str) -> tuple[str, str]:
    """Returns the name, or an empty string, and the place. A path that exists is never taken for a name."""
    named = _NAMED.fullmatch(argument)
    if named and not Path(argument).exists():
        return named[1], named[2]
    return "", argument
