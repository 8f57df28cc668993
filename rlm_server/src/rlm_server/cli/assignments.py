"""Options of the form NAME=VALUE: any limit, and what is passed to models."""

from __future__ import annotations

import dataclasses
import difflib
from typing import TYPE_CHECKING, Any

from rlm_client import Limits, Sampling

from rlm_server.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_LIMITS = {
    field.name.replace("cell_", "cell.").removesuffix("_seconds"): (
        field.name,
        "float" if "seconds" in field.name else "int",
    )
    for field in dataclasses.fields(Limits)
}
_SAMPLING = {
    "temperature": ("temperature", "float"),
    "top_p": ("top_p", "float"),
    "max_output_tokens": ("max_output_tokens", "int"),
    "reasoning_effort": ("reasoning_effort", "text"),
}
_KINDS = {"int": (int, "a whole number"), "float": (float, "a number"), "text": (str, "a text")}


def read_limits(options: Sequence[str], flags: Mapping[str, Any]) -> Limits:
    """Returns what `--limit` options say, and the flags that limits have of their own.

    Args:
        options: each `NAME=NUMBER`; the names are those of `rlm.v1.Limits`, as `cell.fuel`. Times are in seconds.
        flags: values of flags by the fields of `Limits`; None where there is none.

    Raises:
        SettingsError: an option is none, names no limit, or one that a flag gives, too.
    """
    found = _read("--limit", options, _LIMITS, "limit")
    for name, value in flags.items():
        if value is not None and name in found:
            raise SettingsError(
                f"--limit gives {name.removesuffix('_seconds')}, which another option gives, too: leave one out"
            )
    return Limits(**{name: value for name, value in flags.items() if value is not None}, **found)


def read_sampling(flag: str, options: Sequence[str]) -> Sampling | None:
    """Returns what the options with a flag, as `--sampling`, say; None if there are none.

    Raises:
        SettingsError: an option is none, or names nothing that is passed to models.
    """
    return Sampling(**_read(flag, options, _SAMPLING, "parameter")) if options else None


def _read(flag: str, options: Sequence[str], known: Mapping[str, tuple[str, str]], what: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for option in options:
        name, separator, text = option.partition("=")
        if not separator:
            raise SettingsError(f"{flag} {option}: give NAME=VALUE, as {next(iter(known))}=1")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(known)}"
            raise SettingsError(f"{flag} {option}: there is no {what} {name!r}; {hint}")
        field, kind = known[name]
        convert, description = _KINDS[kind]
        try:
            found[field] = convert(text)
        except ValueError:
            raise SettingsError(f"{flag} {option}: {text!r} is no {description.removeprefix('a ')}") from None
    return found
