"""`rlm models`."""

# ruff: noqa: TC001 - typer reads annotations at run time

from __future__ import annotations

import typer
from rlm_client import Client, RlmError

from rlm_server.cli import exit_codes
from rlm_server.cli.options import ServerOption
from rlm_server.settings import DEFAULT_LISTEN_ADDRESS


def models(server: ServerOption = None) -> None:
    """Lists the models that a server has, one per line."""
    target = server or DEFAULT_LISTEN_ADDRESS
    try:
        with Client(target) as client:
            found = client.models()
    except RlmError as error:
        exit_codes.fail(exit_codes.message_of(error, target), exit_codes.of_error(error))
    for model in found.models:
        notes = []
        if model.name == found.default_model:
            notes.append("default")
        if model.name == found.default_sub_model:
            notes.append("default for sub-calls")
        if model.stand_in:
            notes.append("a stand-in, no language model")
        if model.context_window_tokens:
            notes.append(f"window of {model.context_window_tokens:,} tokens")
        if model.HasField("price"):
            notes.append(f"${model.price.input:g} in, ${model.price.output:g} out per million tokens")
        if model.fallbacks:
            notes.append(f"falls back on {', '.join(model.fallbacks)}")
        typer.echo(f"{model.name} ({'; '.join(notes)})" if notes else model.name)
    if found.any_model_allowed:
        typer.echo("and any other that the endpoint has")
