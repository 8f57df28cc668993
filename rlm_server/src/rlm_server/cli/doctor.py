"""`rlm doctor`."""

# ruff: noqa: TC001 - typer reads annotations at run time

from __future__ import annotations

import asyncio
import os
from typing import Annotated

import typer

from rlm_server.cli import exit_codes
from rlm_server.cli.configuration import read_configuration
from rlm_server.cli.endpoint import choose_endpoint
from rlm_server.cli.options import ApiKeyFileOption, BaseUrlOption, ConfigOption, ModelOption, SetOption
from rlm_server.settings import DEFAULT_LISTEN_ADDRESS, SettingsError


def doctor(
    config: ConfigOption = None,
    assignments: SetOption = None,
    listen: Annotated[
        str | None, typer.Option("--listen", metavar="HOST:PORT", help="Where `rlm serve` shall listen.")
    ] = None,
    model: ModelOption = None,
    base_url: BaseUrlOption = None,
    api_key_file: ApiKeyFileOption = None,
) -> None:
    """Checks Python, configuration, sandbox, ports and model endpoint, and says how to mend what is amiss.

    Exit codes: 0 all that is essential works; 1 something essential does not.
    """
    from rlm_server.cli import checks  # noqa: PLC0415 - they import the openai package, which is slow

    flags = {
        "--listen": [listen] if listen else None,
        "--model": model,
        "--base-url": base_url,
        "--api-key-file": api_key_file,
    }
    results = [checks.python()]
    try:
        endpoint = choose_endpoint(read_configuration(config, assignments, flags))
        key = endpoint.settings.resolved_api_key()
    except SettingsError as error:
        remedy = "Mend the file, variables or options; `rlm config show` shows where each setting comes from."
        results += [
            checks.Result("settings", checks.State.FAILED, str(error), remedy),
            checks.port(listen or DEFAULT_LISTEN_ADDRESS),
            checks.sandbox(),
        ]
    else:
        results += [checks.port(address) for address in endpoint.settings.listen if not address.startswith("unix")]
        results.append(checks.sandbox())
        if not endpoint.settings.models:
            results.append(checks.key(key, is_demo=endpoint.is_demo))
        results += asyncio.run(checks.models(endpoint, os.environ))
    for result in results:
        typer.echo(f"{result.state.value:7} {result.name}: {result.finding}")
        if result.remedy:
            typer.echo(f"        {result.remedy}")
    if any(result.state is checks.State.FAILED for result in results):
        raise typer.Exit(exit_codes.UNFINISHED)
