"""The `rlm` command: its subcommands, put together."""

from __future__ import annotations

import typer

from rlm_server.cli.chat import chat
from rlm_server.cli.complete import complete
from rlm_server.cli.completions import completions_app
from rlm_server.cli.config import config_app
from rlm_server.cli.conversations import conversations_app
from rlm_server.cli.demo_model import demo_model
from rlm_server.cli.doctor import doctor
from rlm_server.cli.models import models
from rlm_server.cli.prompts import prompts
from rlm_server.cli.serve import serve

_app = typer.Typer(
    name="rlm",
    help="Recursive language models: ask questions of contexts of any size.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_app.command()(complete)
_app.command()(chat)
_app.command()(serve)
_app.command("demo-model")(demo_model)
_app.command()(doctor)
_app.command()(models)
_app.command()(prompts)
_app.add_typer(completions_app, name="completions")
_app.add_typer(config_app, name="config")
_app.add_typer(conversations_app, name="conversations")


def main() -> None:
    """Runs the command that the arguments name, and exits."""
    _app()
