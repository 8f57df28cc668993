"""`rlm demo-model`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rlm_common.logs import configure_logging

from rlm_server.cli import exit_codes
from rlm_server.demo_model import Behaviour, DemoModelSettings


def demo_model(
    listen: Annotated[str, typer.Option("--listen", metavar="HOST:PORT", help="Port 0 takes a free one.")] = (
        "127.0.0.1:8080"
    ),
    behaviour: Annotated[
        str, typer.Option("--behaviour", help="As latency_seconds=1&fault=429&fault_every=3; see docs/demo-model.md.")
    ] = "",
) -> None:
    """Serves the demo model: a fixed program that stands in for a language model, over OpenAI's API."""
    from rlm_server.demo_model.__main__ import serve as serve_demo_model  # noqa: PLC0415 - of no use to other commands

    configure_logging()
    try:
        chosen = Behaviour().overridden(behaviour) if behaviour else Behaviour()
        asyncio.run(serve_demo_model(listen, DemoModelSettings(chosen)))
    except ValueError as error:
        exit_codes.fail(str(error), exit_codes.BAD_INPUT)
    except OSError as error:
        exit_codes.fail(f"cannot listen on {listen}: {error.strerror or error}", exit_codes.FAILED)
