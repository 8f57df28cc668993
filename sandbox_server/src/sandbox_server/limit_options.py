"""Reads limits from the command line, as `memory_mib=256`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sandbox_server.model import MIB, Limits

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class _Kind:
    """A limit as it is given.

    Attributes:
        field: of `Limits`.
        unit: what one of it is.
        least: that can be given.
        greatest: likewise.
    """

    field: str
    unit: int
    least: float
    greatest: float
    whole: bool = True


_KINDS = {
    "fuel": _Kind("fuel", 1, 1, 2**62),
    "memory_mib": _Kind("memory_bytes", MIB, 64, 4096),
    "wall_time_seconds": _Kind("wall_time_seconds", 1, 0.001, 1e6, whole=False),
    "output_mib": _Kind("output_bytes", MIB, 1, 1024),
    "scratch_mib": _Kind("scratch_bytes", MIB, 1, 4096),
}

NAMES = ", ".join(_KINDS)


class BadLimitError(Exception):
    """A limit cannot be read; the message says why."""


def read_limits(given: Sequence[str], limits: Limits) -> Limits:
    """Returns limits with those changed that were given, each as NAME=NUMBER.

    Raises:
        BadLimitError: one is of another form, unknown or out of range.
    """
    for one in given:
        name, separator, text = one.partition("=")
        kind = _KINDS.get(name)
        if kind is None or not separator:
            raise BadLimitError(f"{one}: give NAME=NUMBER, where NAME is one of {NAMES}")
        try:
            number = int(text) if kind.whole else float(text)
        except ValueError:
            raise BadLimitError(f"{one}: {text} is not a {'whole ' if kind.whole else ''}number") from None
        if not kind.least <= number <= kind.greatest:
            raise BadLimitError(f"{one}: must be from {kind.least} to {kind.greatest}")
        change: dict[str, Any] = {kind.field: number * kind.unit}
        limits = dataclasses.replace(limits, **change)
    return limits
