"""`rlm doctor`."""

# ruff: noqa: TC001 - typer reads annotations at run time

from __future__ import annotations

import asyncio
import os
from typing import Annotated

import typer

from rlm_server.cli import checks, exit_codes
from rlm_server.cli.endpoint import EndpointError, choose_endpoint
from rlm_server.cli.options import ApiKeyFileOption, BaseUrlOption, ModelOption
from rlm_server.settings import DEFAULT_LISTEN_ADDRESS


def doctor(
    listen: Annotated[str, typer.Option("--listen", metavar="HOST:PORT", help="Where `rlm serve` shall listen.")] = (
        DEFAULT_LISTEN_ADDRESS
    ),
    model: ModelOption = None,
    base_url: BaseUrlOption = None,
    api_key_file: ApiKeyFileOption = None,
) -> None:
    """Checks Python, sandbox, ports and model endpoint, and says how to mend what is amiss.

    Exit codes: 0 all that is essential works; 1 something essential does not.
    """
    results = [checks.python(), checks.port(listen), checks.sandbox()]
    try:
        endpoint = choose_endpoint(
            model=model, sub_model=None, base_url=base_url, api_key_file=api_key_file, environment=os.environ
        )
    except EndpointError as error:
        results.append(checks.Result("endpoint", checks.State.FAILED, "the options do not fit", str(error)))
    else:
        results.append(checks.key(endpoint))
        results.append(asyncio.run(checks.endpoint(endpoint)))
    for result in results:
        typer.echo(f"{result.state.value:7} {result.name}: {result.finding}")
        if result.remedy:
            typer.echo(f"        {result.remedy}")
    if any(result.state is checks.State.FAILED for result in results):
        raise typer.Exit(exit_codes.UNFINISHED)
