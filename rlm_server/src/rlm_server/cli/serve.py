"""`rlm serve`."""

# ruff: noqa: TC001, TC003 - typer reads annotations at run time, and calls commands by keyword

from __future__ import annotations

import asyncio
import gc
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rlm_common.logs import configure_logging
from rlm_common.stop_signals import StopSignals

from rlm_server.cli import exit_codes
from rlm_server.cli.configuration import microdollars, read_configuration
from rlm_server.cli.data_directory import with_data_dir
from rlm_server.cli.endpoint import STAND_IN_NOTICE, choose_endpoint, started
from rlm_server.cli.options import (
    ApiKeyFileOption,
    BaseUrlOption,
    ConfigOption,
    MaxCostOption,
    MaxDepthOption,
    MaxInputTokensOption,
    MaxIterationsOption,
    MaxOutputTokensOption,
    MaxSubcallsOption,
    ModelOption,
    PromptsDirOption,
    SandboxOption,
    SetOption,
    SubModelOption,
    TimeoutOption,
)
from rlm_server.masking import without_secrets
from rlm_server.settings import DEFAULT_LISTEN_ADDRESS, SettingsError

if TYPE_CHECKING:
    from rlm_server.cli.endpoint import Endpoint
    from rlm_server.settings import Settings

_log = logging.getLogger("rlm_server")


def serve(
    config: ConfigOption = None,
    assignments: SetOption = None,
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
    max_cost: MaxCostOption = None,
    max_input_tokens: MaxInputTokensOption = None,
    max_output_tokens: MaxOutputTokensOption = None,
    timeout: TimeoutOption = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir", metavar="DIR", help="Where completions and contexts are kept. [rlm in $XDG_DATA_HOME]"
        ),
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            "--database", metavar="URL", help="The journal, as postgresql://HOST/NAME. [a file in the data directory]"
        ),
    ] = None,
    prompts_dir: PromptsDirOption = None,
    prompts: Annotated[
        str | None,
        typer.Option("--prompts", metavar="SET", help="Set of texts for models where a request names none. [v1]"),
    ] = None,
    grace: Annotated[
        float | None,
        typer.Option("--grace", metavar="SECONDS", help="How long running completions may go on at shutdown. [30]"),
    ] = None,
    log_level: Annotated[
        str | None, typer.Option("--log-level", help="Least severe level that is logged. [INFO]")
    ] = None,
) -> None:
    """Serves rlm.v1.CompletionService until SIGTERM or SIGINT. Limits are those of requests that give none."""
    flags = {
        "--listen": listen,
        "--sandbox": sandbox,
        "--model": model,
        "--sub-model": sub_model,
        "--base-url": base_url,
        "--api-key-file": api_key_file,
        "--max-depth": max_depth,
        "--max-iterations": max_iterations,
        "--max-subcalls": max_subcalls,
        "--max-cost": microdollars(max_cost),
        "--max-input-tokens": max_input_tokens,
        "--max-output-tokens": max_output_tokens,
        "--timeout": timeout,
        "--data-dir": data_dir,
        "--database": database,
        "--prompts-dir": prompts_dir,
        "--prompts": prompts,
        "--grace": grace,
        "--log-level": log_level,
    }
    try:
        endpoint = choose_endpoint(read_configuration(config, assignments, flags))
        configure_logging(endpoint.settings.log_level)
        asyncio.run(_serve(endpoint))
    except asyncio.CancelledError:
        exit_codes.fail("stopped before it served", exit_codes.CANCELLED)
    except SettingsError as error:
        exit_codes.fail(str(error), exit_codes.BAD_INPUT)
    except OSError as error:
        exit_codes.fail(str(error), exit_codes.FAILED)


def _collect_garbage_less() -> None:
    """Keeps what the program consists of out of garbage collections, and lets those come less often.

    They took a seventh of the processor time of a server with many calls at once, most of it for what stays for ever.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _endpoint_of(settings: Settings) -> str:
    """Returns where the default model is."""
    profile = settings.models.get(settings.default_model)
    return without_secrets((profile and profile.base_url) or settings.base_url or "OpenAI")


async def _serve(endpoint: Endpoint) -> None:
    from rlm_server.server import create_server  # noqa: PLC0415 - half a second, which other commands need not wait

    signals = StopSignals()
    async with started(endpoint) as chosen:
        settings = with_data_dir(chosen, os.environ)
        server = await create_server(settings)
        try:
            await server.start()
        except BaseException:
            await server.stop(0.0)
            raise
        _collect_garbage_less()
        _log.info(
            "serving addresses=%s sandbox=%s model=%s sub_model=%s endpoint=%s data_dir=%s",
            ",".join(server.addresses),
            settings.sandbox or "child process",
            settings.default_model,
            settings.sub_model,
            _endpoint_of(settings),
            settings.data_dir or "none, so nothing outlives this server",
        )
        if endpoint.is_demo:
            _log.warning("%s", STAND_IN_NOTICE)
        await server.serve_until_signal(signals)
