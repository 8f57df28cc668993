"""Calls that code in a sandbox makes of the engine.

HostCallError   an answer to a host call that raises in the sandbox
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class HostCallError(Exception):
    """Answers a host call with an exception in the sandbox.

    Args:
        type_name: an identifier that code can tell errors apart by.
        message: for people.
    """

    def __init__(self, type_name: str, message: str) -> None:
        super().__init__(message)
        self.type_name = type_name
        self.message = message


@dataclass(frozen=True)
class HostCall:
    """A call that code in a sandbox makes. Everything in it comes from that code and is not to be trusted."""

    function: str
    args: list[object]
    kwargs: Mapping[str, object]
