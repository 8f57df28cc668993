"""`rlm prompts`, and the options of `rlm complete` for texts."""

# ruff: noqa: TC001 - typer reads annotations at run time

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rlm_client import Client, ContextError, PromptSets, RlmError

from rlm_server.cli import exit_codes
from rlm_server.cli.options import PromptsDirOption, ServerOption
from rlm_server.engine.prompts import PromptError, load_library
from rlm_server.service.prompts import describe_prompts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlm_api.rlm.v1 import completion_service_pb2 as pb


def prompts(
    set_name: Annotated[str | None, typer.Argument(metavar="[SET]", help="Shows the texts of this set.")] = None,
    text_name: Annotated[str | None, typer.Argument(metavar="[TEXT]", help="Shows only this text, as it is.")] = None,
    server: ServerOption = None,
    prompts_dir: PromptsDirOption = None,
) -> None:
    """Lists the sets of texts that models are given, or shows one; without --server those that come with this program.

    To change a text, write `rlm prompts v1 system > system.txt`, edit it, and give it as `--prompt system=system.txt`
    to `rlm complete`, or put it into DIR/SET/system.txt for `rlm serve --prompts-dir DIR`.
    """
    found = _find(server, prompts_dir)
    if set_name is None:
        _list(found)
        return
    chosen = next((one for one in found.sets if one.name == set_name), None)
    if chosen is None:
        names = ", ".join(one.name for one in found.sets)
        exit_codes.fail(f"there is no set {set_name!r}; there are: {names}", exit_codes.BAD_INPUT)
    if text_name is None:
        for text in chosen.prompts:
            typer.echo(f"{_heading(text)}\n{text.text}\n")
        return
    wanted = next((one for one in chosen.prompts if one.name == text_name), None)
    if wanted is None:
        names = ", ".join(one.name for one in chosen.prompts)
        exit_codes.fail(f"there is no text {text_name!r}; there are: {names}", exit_codes.BAD_INPUT)
    typer.echo(wanted.text)


def read_overrides(arguments: Sequence[str]) -> dict[str, str]:
    """Returns the texts that options `NAME=FILE` name, read.

    Raises:
        ContextError: one is not of that form, or its file cannot be read.
    """
    texts = {}
    for argument in arguments:
        name, is_named, place = argument.partition("=")
        if not is_named:
            raise ContextError(argument, "is no NAME=FILE, as in system=system.txt")
        try:
            texts[name] = Path(place).read_text(encoding="utf-8").rstrip("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ContextError(place, f"cannot be read: {error}") from error
    return texts


def _find(server: str | None, prompts_dir: Path | None) -> PromptSets:
    if server is not None and prompts_dir is not None:
        exit_codes.fail("--prompts-dir is for this program's own texts, not a server's", exit_codes.BAD_INPUT)
    try:
        if server is None:
            return PromptSets.from_proto(describe_prompts(load_library(prompts_dir)))
        with Client(server) as client:
            return client.prompts()
    except RlmError as error:
        exit_codes.fail(exit_codes.message_of(error, server or ""), exit_codes.of_error(error))
    except (PromptError, OSError) as error:
        exit_codes.fail(str(error), exit_codes.BAD_INPUT)


def _list(found: PromptSets) -> None:
    for one in found.sets:
        notes = ["default"] if one.name == found.default_name else []
        if one.from_operator:
            notes.append("the operator's")
        suffix = f" ({'; '.join(notes)})" if notes else ""
        typer.echo(f"{one.name}{suffix}: {', '.join(text.name for text in one.prompts)}")
    typer.echo("\nNotes for models, the first that fits counts:")
    for note in found.model_notes:
        typer.echo(f"{note.family}: {', '.join(note.patterns)}")


def _heading(text: pb.Prompt) -> str:
    placeholders = [f"${name}" for name in text.required_placeholders]
    placeholders += [f"${name} (optional)" for name in text.optional_placeholders]
    return f"== {text.name}" + (f" needs {', '.join(placeholders)}" if placeholders else "")
