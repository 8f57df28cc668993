"""The `rlm-sandbox` command."""

from __future__ import annotations

import asyncio
import enum
import json
import os
import platform
import sys
from pathlib import Path
from typing import Annotated

import typer
from rlm_common.addresses import listen_problem
from rlm_common.environment import unknown_sandbox_variables
from rlm_common.logs import configure_logging
from rlm_common.stop_signals import StopSignals

from sandbox_server import limit_options, local_run
from sandbox_server.cli_image import image_app
from sandbox_server.cli_words import EXIT_CODE_TROUBLE, fail, say
from sandbox_server.collecting import collect_seldom
from sandbox_server.heap import Heap
from sandbox_server.image.cache import ImageBuildError, default_cache_directory, find_image, load_or_build_images
from sandbox_server.model import MIB, STANDARD_IMAGE, Limits, Outcome, SandboxSpec
from sandbox_server.server import create_server
from sandbox_server.settings import DEFAULT_LISTEN, Settings
from sandbox_server.worker.process import WorkerStartError

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Runs Python code in WebAssembly sandboxes.")
app.add_typer(image_app, name="image")

_EXIT_CODE_FAILED_CODE = 1

_TRIMMING_SECONDS = 10.0
"""How often a server's process gives back what it has freed, if it has; its workers do so more often."""


class _LogLevel(enum.Enum):
    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


def main() -> None:
    """Runs the command."""
    app(prog_name="rlm-sandbox")


@app.command()
def serve(
    listen: Annotated[
        list[str] | None,
        typer.Option(help="HOST:PORT or unix:PATH; may be repeated.", envvar="RLM_SANDBOX_LISTEN"),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            min=0,
            help="Processes that sandboxes run in; 0 means one for each core of this machine or control group.",
            envvar="RLM_SANDBOX_WORKERS",
        ),
    ] = 0,
    max_sessions: Annotated[
        int, typer.Option(min=1, help="Sandboxes that may live at once.", envvar="RLM_SANDBOX_MAX_SESSIONS")
    ] = 256,
    max_memory_mib: Annotated[
        int,
        typer.Option(
            min=0,
            help="What the memory limits of all sandboxes together may be; 0 means four times the memory of this "
            "machine or control group, as few come near their limit.",
            envvar="RLM_SANDBOX_MAX_MEMORY_MIB",
        ),
    ] = 0,
    memory_reserve_mib: Annotated[
        int,
        typer.Option(
            min=0,
            help="What is left free of the memory of this machine or control group: with less, the cell that has the "
            "most is ended, with less than twice as much, no new sandbox is taken; 0 means a twentieth, but 128 to "
            "1024.",
            envvar="RLM_SANDBOX_MEMORY_RESERVE_MIB",
        ),
    ] = 0,
    max_client_sessions: Annotated[
        int,
        typer.Option(
            min=0, help="Sandboxes that one client may have; 0 means all.", envvar="RLM_SANDBOX_MAX_CLIENT_SESSIONS"
        ),
    ] = 0,
    max_client_memory_mib: Annotated[
        int,
        typer.Option(
            min=0,
            help="What the memory limits of one client's sandboxes may be; 0 means all.",
            envvar="RLM_SANDBOX_MAX_CLIENT_MEMORY_MIB",
        ),
    ] = 0,
    max_client_blob_mib: Annotated[
        int,
        typer.Option(
            min=0,
            help="What one client's uploads may take of the cache; 0 means all.",
            envvar="RLM_SANDBOX_MAX_CLIENT_BLOB_MIB",
        ),
    ] = 0,
    blob_cache_mib: Annotated[
        int, typer.Option(min=1, help="Size of the cache of uploads.", envvar="RLM_SANDBOX_BLOB_CACHE_MIB")
    ] = 2048,
    default_limit: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=NUMBER: a limit of cells whose request gives none; may be repeated. "
            f"Names: {limit_options.NAMES}.",
            envvar="RLM_SANDBOX_DEFAULT_LIMITS",
        ),
    ] = None,
    max_limit: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=NUMBER: the greatest that a limit can be, whatever a request gives; may be repeated.",
            envvar="RLM_SANDBOX_MAX_LIMITS",
        ),
    ] = None,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds that running work may take at shutdown.", envvar="RLM_SANDBOX_GRACE")
    ] = 10.0,
    log_level: Annotated[
        _LogLevel, typer.Option(help="Least severe level shown.", envvar="RLM_SANDBOX_LOG_LEVEL", case_sensitive=False)
    ] = _LogLevel.INFO,
) -> None:
    """Serves sandbox.v1.ExecuteService until SIGTERM or Ctrl-C."""
    _check_environment()
    _check_addresses(listen or [])
    configure_logging(log_level.value)
    heap = Heap(_TRIMMING_SECONDS)
    settings = Settings(
        listen=listen or [DEFAULT_LISTEN],
        default_limits=_read_limits("--default-limit", default_limit, Settings().default_limits),
        max_limits=_read_limits("--max-limit", max_limit, Settings().max_limits),
        workers=workers,
        max_sessions=max_sessions,
        max_memory_bytes=max_memory_mib * MIB,
        memory_reserve_bytes=memory_reserve_mib * MIB,
        max_client_sessions=max_client_sessions,
        max_client_memory_bytes=max_client_memory_mib * MIB,
        max_client_blob_bytes=max_client_blob_mib * MIB,
        max_blob_cache_bytes=blob_cache_mib * MIB,
        grace_seconds=grace,
    )
    try:
        asyncio.run(_serve(settings, heap))
    except asyncio.CancelledError:
        fail("stopped before it served")
    except (ImageBuildError, WorkerStartError, OSError) as error:
        fail(str(error))


def _check_environment() -> None:
    if problems := unknown_sandbox_variables(os.environ):
        raise typer.BadParameter("\n".join(problems), param_hint="environment")


def _check_addresses(addresses: list[str]) -> None:
    for address in addresses:
        if problem := listen_problem(address):
            raise typer.BadParameter(f"{address!r} {problem}", param_hint="--listen")


async def _serve(settings: Settings, heap: Heap) -> None:
    images = await asyncio.to_thread(load_or_build_images, settings.cache_directory, say)  # a signal ends this at once
    signals = StopSignals()
    server = await create_server(settings, images, heap)
    try:
        await server.start()
    except BaseException:
        await server.stop(0.0)
        raise
    heap.start_trimming()
    collect_seldom()
    say(f"sandbox server listens on {', '.join(server.addresses)}")
    await server.serve_until_signal(settings.grace_seconds, signals)


@app.command()
def run(
    file: Annotated[str, typer.Argument(help="A file with Python source, or - for standard input.")],
    input_file: Annotated[
        list[str] | None, typer.Option("--input", help="NAME=PATH: sets a variable to a file's text; may be repeated.")
    ] = None,
    scratch_file: Annotated[
        list[str] | None,
        typer.Option(
            "--file", help="PATH or NAME=PATH: puts a file into the scratch directory, under its own name or another."
        ),
    ] = None,
    output_file: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            help="NAME or NAME=PATH: writes a file of the scratch directory here afterwards; may be repeated.",
        ),
    ] = None,
    fuel: Annotated[
        int, typer.Option(min=1, max=2**62, help="WebAssembly instructions it may execute.")
    ] = Limits().fuel,
    memory_mib: Annotated[int, typer.Option(min=64, max=4096, help="Memory it may have.")] = Limits().memory_bytes
    // MIB,
    scratch_mib: Annotated[int, typer.Option(min=1, max=1024, help="What its files may take.")] = Limits().scratch_bytes
    // MIB,
    timeout: Annotated[
        float, typer.Option(min=0.001, max=1e6, help="Seconds it may take.")
    ] = Limits().wall_time_seconds,
    image: Annotated[str, typer.Option(help="The guest image; see `rlm-sandbox image list`.")] = STANDARD_IMAGE,
    output_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Runs one cell in a fresh sandbox, and shows its result and what it cost.

    Exits with 0 if the cell ended with OK, with its own code if it ended the interpreter, with 1 otherwise.
    """
    code = _decode("standard input", sys.stdin.buffer.read()) if file == "-" else _read_text(Path(file))
    limits = Limits(
        fuel=fuel, memory_bytes=memory_mib * MIB, wall_time_seconds=timeout, scratch_bytes=scratch_mib * MIB
    )
    try:
        spec = SandboxSpec(
            limits=limits,
            inputs=local_run.read_inputs(input_file or []),
            files=local_run.read_files(scratch_file or []),
            image=image,
        )
        outputs = local_run.read_outputs(output_file or [])
        result = local_run.run_cell(code, spec, say, echo=not output_json, outputs=outputs)
    except BrokenPipeError:
        # The reader, as `head`, has seen enough. What is left in the buffer must not fail at the end of the process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(EXIT_CODE_TROUBLE) from None
    except (ImageBuildError, local_run.BadInputError, local_run.NoOutputError, OSError) as error:
        fail(str(error))
    typer.echo(local_run.to_json(result) if output_json else local_run.summary(result), err=not output_json)
    if result.outcome is Outcome.EXITED:
        raise typer.Exit(result.exit_code or 0)
    raise typer.Exit(0 if result.outcome is Outcome.OK else _EXIT_CODE_FAILED_CODE)


@app.command()
def doctor(
    output_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Checks that sandboxes can run here, and says how to mend what is wrong."""
    directory = default_cache_directory()
    image = find_image(directory)
    findings = {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "cache_directory": str(directory),
        "image": image.digest if image else None,
    }
    problem = ""
    if image is None:
        problem = "the sandbox image is not built yet: run `rlm-sandbox image build` (the first start does it too)"
    else:
        try:
            result = local_run.run_cell("40 + 2", SandboxSpec(), say, echo=False)
            findings["trial"] = f"{result.outcome.name} in {result.usage.wall_time_seconds * 1000:.1f} ms"
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what the doctor was asked for
            problem = f"a trial cell failed: {error}; run `rlm-sandbox image build --force`"
    findings["problem"] = problem or None
    if output_json:
        typer.echo(json.dumps(findings))
    else:
        for name, value in findings.items():
            typer.echo(f"{name}: {value}")
    raise typer.Exit(1 if problem else 0)


def _read_limits(flag: str, given: list[str] | None, limits: Limits) -> Limits:
    try:
        return limit_options.read_limits(given or [], limits)
    except limit_options.BadLimitError as error:
        raise typer.BadParameter(str(error), param_hint=flag) from None


def _read_text(path: Path) -> str:
    try:
        return _decode(str(path), path.read_bytes())
    except OSError as error:
        fail(f"{path} cannot be read: {error.strerror}")


def _decode(name: str, source: bytes) -> str:
    try:
        return source.decode()
    except UnicodeDecodeError as error:
        fail(f"{name} is not valid UTF-8 at byte {error.start}")
