"""Programs that mean harm, by family. Each says what it tries and how it must end."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Program:
    """A hostile program.

    Attributes:
        name: tells it from the others of its family.
        tries: what it is after.
        code: Python source.
        outcomes: the ways in which it may end.
        says: text that must be in what it prints, or in the error.
        calls_host: whether it calls the host function `ask`, which is never answered.
    """

    name: str
    tries: str
    code: str
    outcomes: tuple[str, ...]
    says: str = ""
    calls_host: bool = False


def program(name: str, tries: str, code: str, *outcomes: str, says: str = "", calls_host: bool = False) -> Program:
    """Returns a program; without outcomes, it must end by itself, well or with an exception."""
    return Program(name, tries, code, outcomes or ("OK", "EXCEPTION"), says, calls_host)
