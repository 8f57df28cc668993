"""`rlm config`."""

# ruff: noqa: TC001 - typer reads annotations at run time, and calls commands by keyword

from __future__ import annotations

import json
from typing import Annotated

import typer

from rlm_server.cli import exit_codes
from rlm_server.cli.configuration import read_configuration
from rlm_server.cli.endpoint import choose_endpoint
from rlm_server.cli.options import (
    ApiKeyFileOption,
    BaseUrlOption,
    ConfigOption,
    ModelOption,
    SandboxOption,
    SetOption,
    SubModelOption,
)
from rlm_server.configuration import showing
from rlm_server.settings import SettingsError

config_app = typer.Typer(help="Settings and where they come from.", no_args_is_help=True, rich_markup_mode=None)


@config_app.callback()
def config() -> None:
    """Settings and where they come from."""


@config_app.command()
def show(
    config: ConfigOption = None,
    assignments: SetOption = None,
    sandbox: SandboxOption = None,
    model: ModelOption = None,
    sub_model: SubModelOption = None,
    base_url: BaseUrlOption = None,
    api_key_file: ApiKeyFileOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write a JSON array of name, value and origin.")] = False,
) -> None:
    """Shows the settings that `rlm serve` would have with these options, each with its origin; secrets are masked.

    The output is a configuration file, but for the secrets.

    Exit codes: 0 the settings work; 2 they do not.
    """
    flags = {
        "--sandbox": sandbox,
        "--model": model,
        "--sub-model": sub_model,
        "--base-url": base_url,
        "--api-key-file": api_key_file,
    }
    try:
        configuration = choose_endpoint(read_configuration(config, assignments, flags)).configuration
    except SettingsError as error:
        exit_codes.fail(str(error), exit_codes.BAD_INPUT)
    if as_json:
        found = [
            {"name": ".".join(path), "value": value, "origin": origin}
            for path, value, origin in showing.entries(configuration)
        ]
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        for line in showing.lines(configuration):
            typer.echo(line)
