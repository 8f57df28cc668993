"""The command lines of both programs: what commands and flags there are, and whether arguments fit them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer.main
from rlm_server.cli import app as rlm_app
from sandbox_server.cli import app as sandbox_app
from typer.core import TyperGroup, TyperOption

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PROGRAMS: dict[str, Any] = {
    "rlm": typer.main.get_command(rlm_app._app),
    "rlm-sandbox": typer.main.get_command(sandbox_app),
}


def command_of(words: Sequence[str]) -> tuple[Any, list[str]]:
    """Returns the command that words begin with, as `rlm serve`, and the words after it.

    Raises:
        KeyError: there is no such command.
    """
    command, rest = PROGRAMS[words[0]], list(words[1:])
    while isinstance(command, TyperGroup):
        command = command.commands[rest.pop(0)]
    return command, rest


def read(words: Sequence[str]) -> dict[str, Any]:
    """Has the real command line read words, and returns the values of its parameters; nothing is run.

    Raises:
        Exception: it would refuse them.
    """
    command, arguments = command_of(words)
    values: dict[str, Any] = command.make_context(words[0], arguments).params
    return values


def options(name: str) -> dict[str, TyperOption]:
    """Returns the options of a command but `--help`, by their long flag."""
    command, rest = command_of(name.split())
    assert not rest
    return {
        next(flag for flag in one.opts if flag.startswith("--")): one
        for one in command.params
        if isinstance(one, TyperOption) and "--help" not in one.opts
    }


def all_commands() -> Iterator[str]:
    """Yields all commands, as `rlm-sandbox image build`."""
    waiting = list(PROGRAMS.items())
    while waiting:
        name, command = waiting.pop()
        if isinstance(command, TyperGroup):
            waiting += [(f"{name} {child}", one) for child, one in command.commands.items()]
        else:
            yield name
