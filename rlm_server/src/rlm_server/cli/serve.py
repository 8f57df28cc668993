"""`rlm serve`."""

# ruff: noqa: TC001, TC003 - typer reads annotations at run time, and calls commands by keyword

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
from pathlib import Path
from typing import Annotated

import typer
from rlm_common.logs import configure_logging

from rlm_server.cli import exit_codes
from rlm_server.cli.endpoint import STAND_IN_NOTICE, Endpoint, EndpointError, choose_endpoint, started
from rlm_server.cli.options import (
    ApiKeyFileOption,
    BaseUrlOption,
    MaxDepthOption,
    MaxIterationsOption,
    MaxSubcallsOption,
    ModelOption,
    PromptsDirOption,
    SandboxOption,
    SubModelOption,
    TimeoutOption,
)
from rlm_server.engine.limits import CompletionLimits
from rlm_server.engine.prompts import DEFAULT_PROMPTS
from rlm_server.server import create_server
from rlm_server.settings import DEFAULT_LISTEN_ADDRESS, Settings, SettingsError

_log = logging.getLogger("rlm_server")


def serve(
    listen: Annotated[
        list[str] | None,
        typer.Option("--listen", metavar="ADDRESS", help=f"May be given several times. [{DEFAULT_LISTEN_ADDRESS}]"),
    ] = None,
    sandbox: SandboxOption = None,
    model: ModelOption = None,
    sub_model: SubModelOption = None,
    base_url: BaseUrlOption = None,
    api_key_file: ApiKeyFileOption = None,
    max_depth: MaxDepthOption = None,
    max_iterations: MaxIterationsOption = None,
    max_subcalls: MaxSubcallsOption = None,
    timeout: TimeoutOption = None,
    prompts_dir: PromptsDirOption = None,
    prompts: Annotated[
        str, typer.Option("--prompts", metavar="SET", help="Set of texts for models where a request names none.")
    ] = DEFAULT_PROMPTS,
    grace: Annotated[
        float, typer.Option("--grace", metavar="SECONDS", help="How long running completions may go on at shutdown.")
    ] = 30.0,
    log_level: Annotated[str, typer.Option("--log-level", help="Least severe level that is logged.")] = "INFO",
) -> None:
    """Serves rlm.v1.CompletionService until SIGTERM or SIGINT. Limits are those of requests that give none."""
    configure_logging(log_level)
    usual = CompletionLimits()
    limits = dataclasses.replace(
        usual,
        max_depth=usual.max_depth if max_depth is None else max_depth,
        max_iterations=usual.max_iterations if max_iterations is None else max_iterations,
        max_subcalls=usual.max_subcalls if max_subcalls is None else max_subcalls,
        wall_time_seconds=usual.wall_time_seconds if timeout is None else timeout,
    )
    try:
        endpoint = choose_endpoint(
            model=model, sub_model=sub_model, base_url=base_url, api_key_file=api_key_file, environment=os.environ
        )
        asyncio.run(
            _serve(endpoint, tuple(listen or [DEFAULT_LISTEN_ADDRESS]), sandbox, limits, prompts_dir, prompts, grace)
        )
    except (EndpointError, SettingsError) as error:
        exit_codes.fail(str(error), exit_codes.BAD_INPUT)
    except OSError as error:
        exit_codes.fail(str(error), exit_codes.FAILED)


async def _serve(
    endpoint: Endpoint,
    listen: tuple[str, ...],
    sandbox: str | None,
    limits: CompletionLimits,
    prompts_dir: Path | None,
    prompts: str,
    grace: float,
) -> None:
    async with started(endpoint) as ready:
        settings = Settings(
            default_model=ready.model,
            default_sub_model=ready.sub_model,
            listen=listen,
            sandbox=sandbox,
            base_url=ready.base_url,
            api_key=ready.api_key,
            stand_in_models=ready.stand_in_models,
            default_limits=limits,
            prompts_dir=prompts_dir,
            default_prompts=prompts,
            grace_seconds=grace,
        )
        server = await create_server(settings)
        try:
            await server.start()
        except BaseException:
            await server.stop(0.0)
            raise
        _log.info(
            "serving addresses=%s sandbox=%s model=%s sub_model=%s endpoint=%s",
            ",".join(server.addresses),
            sandbox or "child process",
            settings.default_model,
            settings.sub_model,
            settings.base_url or "OpenAI",
        )
        if endpoint.is_demo:
            _log.warning("%s", STAND_IN_NOTICE)
        await server.serve_until_signal()
