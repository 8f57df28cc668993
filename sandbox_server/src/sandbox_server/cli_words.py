"""What the commands say to people, and how they give up."""

from __future__ import annotations

from typing import NoReturn

import typer

EXIT_CODE_TROUBLE = 3
"""The command could not do its work."""


def say(line: str) -> None:
    """Writes a line to stderr."""
    typer.echo(line, err=True)


def fail(message: str) -> NoReturn:
    """Says why the command cannot go on, and ends it."""
    say(f"rlm-sandbox: {message}")
    raise typer.Exit(EXIT_CODE_TROUBLE)
