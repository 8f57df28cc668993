"""One cell in a fresh sandbox in this process, without a server: what `rlm-sandbox run` does."""

from __future__ import annotations

import dataclasses
import json
import keyword
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
    inputs: list[Input] = []
    for argument in arguments:
        name, separator, path = argument.partition("=")
        if not separator or not name.isidentifier() or keyword.iskeyword(name) or name.startswith("__"):
            raise BadInputError(f"--input {argument}: give NAME=PATH, where NAME is a name that a variable can have")
        if any(name == other.name for other in inputs):
            raise BadInputError(f"--input {argument}: {name} is given twice")
        if not Path(path).exists() or Path(path).is_dir():
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
        OSError: the output could not be written.
    """
    image = load_or_build_image(default_cache_directory(), progress)
    watchdog = Watchdog()
    output = _Echo() if echo else None
    session = Session(
        SandboxFactory(GuestEngine(image.path), watchdog), SandboxSpec(limits=limits, inputs=inputs), output
    )
    if output is not None:
        output.on_failure = session.kill

    def work() -> CellResult:
        try:
            session.open()
            return session.run_once(code, limits, VariableQuery())
        except SandboxOpenError as error:
            raise BadInputError(f"{_argument(error.field, inputs)}: {error.message}") from None
        finally:
            session.close()

    previous = threading.stack_size(THREAD_STACK_BYTES)
    try:
        with ThreadPoolExecutor(max_workers=1) as threads:
            running = threads.submit(work)
            try:
                result = running.result()
            except KeyboardInterrupt:
                session.kill()
                raise
    finally:
        threading.stack_size(previous)
        watchdog.close()
    if output is not None and output.failure is not None:
        raise output.failure
    return result


def _argument(field: str, inputs: Sequence[Input]) -> str:
    """Returns what a field of a sandbox is called on the command line."""
    names = {f"inputs[{index}]": f"--input {one.name}" for index, one in enumerate(inputs)}
    return names.get(field, field)


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
    """Passes output on as it comes, until it cannot be written any more."""

    def __init__(self) -> None:
        self.failure: OSError | None = None
        self.on_failure: Callable[[], None] | None = None

    def on_output(self, output: int, text: str) -> None:
        if self.failure is not None:
            return
        stream = sys.stderr if output == Stream.STDERR else sys.stdout
        try:
            stream.write(text)
            stream.flush()
        except OSError as error:
            self.failure = error
            if self.on_failure is not None:
                self.on_failure()

    def on_host_call(self, call_id: int, function: str, arguments_json: str) -> None:
        """There are no host functions."""
