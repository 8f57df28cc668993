"""One cell in a fresh sandbox in this process, without a server: what `rlm-sandbox run` does."""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_server.image.cache import default_cache_directory, load_or_build_image
from sandbox_server.model import (
    CellResult,
    FileSource,
    Input,
    Limits,
    Outcome,
    SandboxSpec,
    Stream,
    ValueFormat,
    VariableQuery,
)
from sandbox_server.sandbox import SandboxOpenError
from sandbox_server.session import SandboxFactory, Session
from sandbox_server.wasm.engine import THREAD_STACK_BYTES, GuestEngine
from sandbox_server.wasm.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class BadInputError(Exception):
    """An input cannot be used; the message says why."""


def read_inputs(arguments: Sequence[str]) -> list[Input]:
    """Reads arguments of the form NAME=PATH.

    Raises:
        BadInputError: one is of another form.
    """
    inputs = []
    for argument in arguments:
        name, separator, path = argument.partition("=")
        if not separator or not name.isidentifier():
            raise BadInputError(f"--input {argument}: give NAME=PATH, where NAME is a Python identifier")
        if not Path(path).is_file():
            raise BadInputError(f"--input {argument}: there is no file {path}")
        inputs.append(Input(name, ValueFormat.TEXT, FileSource(path)))
    return inputs


def run_cell(
    code: str, inputs: Sequence[Input], limits: Limits, progress: Callable[[str], None], *, echo: bool
) -> CellResult:
    """Runs a cell.

    Args:
        code: Python source.
        inputs: variables.
        limits: what bounds it.
        progress: is told, in a line for people, if the image has to be built first.
        echo: whether output goes to this process's stdout and stderr.

    Raises:
        BadInputError: an input is not what it says.
        ImageBuildError: the image could not be built.
    """
    image = load_or_build_image(default_cache_directory(), progress)
    watchdog = Watchdog()

    def work() -> CellResult:
        factory = SandboxFactory(GuestEngine(image.path), watchdog)
        session = Session(factory, SandboxSpec(limits=limits, inputs=inputs), _Echo() if echo else None)
        try:
            session.open()
            return session.run_once(code, limits, VariableQuery())
        except SandboxOpenError as error:
            raise BadInputError(f"{error.field}: {error.message}") from None
        finally:
            session.close()

    previous = threading.stack_size(THREAD_STACK_BYTES)
    try:
        with ThreadPoolExecutor(max_workers=1) as threads:
            return threads.submit(work).result()
    finally:
        threading.stack_size(previous)
        watchdog.close()


def summary(result: CellResult) -> str:
    """Returns the end of a cell and what it cost, for people."""
    lines = []
    if result.error is not None and result.outcome is not Outcome.EXITED:
        lines.append(result.error.traceback.rstrip() or f"{result.error.type}: {result.error.message}")
    usage = result.usage
    dropped = f", {usage.output_dropped_bytes} bytes of output dropped" if usage.output_dropped_bytes else ""
    exit_code = "" if result.exit_code is None else f" with code {result.exit_code}"
    memory = f"{usage.memory_bytes / 2**20:.0f} MiB" if usage.memory_bytes else "unknown"
    lines.append(
        f"[{result.outcome.name}{exit_code}; {usage.wall_time_seconds * 1000:.1f} ms, "
        f"{usage.cpu_time_seconds * 1000:.1f} ms of processor, {usage.fuel:,} fuel, memory {memory}{dropped}]"
    )
    return "\n".join(lines)


def to_json(result: CellResult) -> str:
    """Returns a result as JSON."""
    members = dataclasses.asdict(result)
    members["outcome"] = result.outcome.name
    return json.dumps(members, indent=2)


class _Echo:
    """Passes output on as it comes."""

    def on_output(self, output: int, text: str) -> None:
        stream = sys.stderr if output == Stream.STDERR else sys.stdout
        stream.write(text)
        stream.flush()

    def on_host_call(self, call_id: int, function: str, arguments_json: str) -> None:
        """There are no host functions."""
