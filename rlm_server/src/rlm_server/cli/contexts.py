"""The `--context` options, read."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rlm_client import ContextError, Part, SkippedFile, prepare, read_directory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rlm_client import PreparedContext

_NAMED = re.compile(r"([^\W\d]\w*)=(.+)", re.DOTALL)
_STDIN = "-"


def read_contexts(
    arguments: Sequence[str],
    *,
    glob: str = "*",
    exclude: Sequence[str] = (),
    charset: str | None = None,
    descriptions: Sequence[str] = (),
    parse_json: bool = False,
) -> tuple[PreparedContext, Sequence[SkippedFile]]:
    """Returns the context that the options name, read and checked, and the files of directories that are not in it.

    Args:
        arguments: each a file, a directory, `-` for standard input, or one of those after `NAME=`.
        glob: what files of directories must match.
        exclude: what files and directories in directories must not match.
        charset: character set of the files; None means UTF-8.
        descriptions: each `NAME=TEXT`, what the model is told of the context of that name.
        parse_json: files named `*.json` become the values that they hold.

    Raises:
        ContextError: something cannot be read.
    """
    used_charset = charset or "utf-8"
    described = dict(map(_description, descriptions))
    if not arguments:
        return prepare(None), ()
    parts: list[Part] = []
    skipped: list[SkippedFile] = []
    if sum(_split(argument)[1] == _STDIN for argument in arguments) > 1:
        raise ContextError("-", "standard input can be given only once")
    for argument in arguments:
        name, place = _split(argument)
        path = Path(place)
        if not argument:
            raise ContextError("--context", "it is empty; name a file, a directory, or - for standard input")
        if not name and "=" in argument and not path.exists():
            raise ContextError(argument, "there is no such file; in NAME=PATH the name has letters, digits and _ only")
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
                is_json = parse_json and path.suffix.lower() == ".json"
                parts.append(Part(name, path, charset=used_charset, is_json=is_json))
        except OSError as error:
            raise ContextError(place, f"cannot be read: {error.strerror or error}") from error
        except LookupError:
            raise ContextError(place, f"Python knows no character set {charset!r}; give one as iso-8859-1") from None
    return prepare(_with_descriptions(parts, described)), skipped


def _with_descriptions(parts: Sequence[Part], described: Mapping[str, str]) -> list[Part]:
    single = "context" if len(parts) == 1 else None
    names = [part.name or single for part in parts]
    for name in described:
        if name not in names:
            known = ", ".join(str(one) for one in names if one) or "none; give them as --context NAME=FILE"
            raise ContextError(f"--describe {name}", f"no context has this name; there are: {known}")
    return [
        dataclasses.replace(part, description=described.get(name or "", ""))
        for part, name in zip(parts, names, strict=True)
    ]


def _description(option: str) -> tuple[str, str]:
    name, separator, text = option.partition("=")
    if not separator or not name:
        raise ContextError(f"--describe {option}", "is no NAME=TEXT, as in terms='our terms of trade'")
    return name, text


def _split(argument: str) -> tuple[str, str]:
    """Returns the name, or an empty string, and the place. A path that exists is never taken for a name."""
    named = _NAMED.fullmatch(argument)
    if named and not Path(argument).exists():
        return named[1], named[2]
    return "", argument
