"""`rlm conversations`."""

# ruff: noqa: TC001 - typer reads annotations at run time

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated

import typer
from rlm_client import Client, RlmError

from rlm_server.cli import exit_codes, words
from rlm_server.cli.options import ServerOption
from rlm_server.settings import DEFAULT_LISTEN_ADDRESS

if TYPE_CHECKING:
    from collections.abc import Iterator

conversations_app = typer.Typer(help="The conversations that a server keeps.", no_args_is_help=True)

_IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The conversation's id.")]


@conversations_app.command("list")
def list_conversations(server: ServerOption = None) -> None:
    """Lists conversations, latest first: id, number of completions, when it expires, the first question."""
    with _connected(server) as client:
        for one in client.list_conversations():
            state = f"expires {one.expire_time:%H:%M:%S} UTC" if one.expire_time else "a completion runs"
            lost = ", variables lost" if one.variables_lost else ""
            question = words.one_line(one.query_preview, 60)
            typer.echo(f"{one.conversation_id}  {len(one.completion_ids)} completions, {state}{lost}  {question}")


@conversations_app.command("variables")
def variables(conversation_id: _IdArgument, server: ServerOption = None) -> None:
    """Lists the variables of a conversation: name, type, size, beginning."""
    with _connected(server) as client:
        found = client.variables(conversation_id)
    for text in words.variables(found):
        typer.echo(text)


@conversations_app.command("close")
def close(conversation_id: _IdArgument, server: ServerOption = None) -> None:
    """Ends a conversation and frees its sandbox; a completion that runs in it is cancelled."""
    with _connected(server) as client:
        client.close_conversation(conversation_id)


@contextlib.contextmanager
def _connected(server: str | None) -> Iterator[Client]:
    target = server or DEFAULT_LISTEN_ADDRESS
    try:
        with Client(target) as client:
            yield client
    except RlmError as error:
        exit_codes.fail(exit_codes.message_of(error, target), exit_codes.of_error(error))
