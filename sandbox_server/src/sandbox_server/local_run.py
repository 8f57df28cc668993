"""One cell in a fresh sandbox in this process, without a server: what `rlm-sandbox run` does."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import keyword
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_server.beginnings import Beginnings
from sandbox_server.image import package_set
from sandbox_server.image.cache import default_cache_directory, load_or_build_image
from sandbox_server.model import (
    STANDARD_IMAGE,
    CellResult,
    FileInput,
    FileSource,
    Input,
    Outcome,
    SandboxSpec,
    Stream,
    ValueFormat,
    VariableQuery,
)
from sandbox_server.opening import SandboxOpenError
from sandbox_server.sandbox_files import NoFileError
from sandbox_server.session import SandboxFactory, Session
from sandbox_server.wasm.engine import THREAD_STACK_BYTES, GuestEngine
from sandbox_server.wasm.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sandbox_server.image.cache import CompiledImage


_PART_BYTES = 1024 * 1024


class BadInputError(Exception):
    """An input cannot be used; the message says why."""


class NoOutputError(Exception):
    """A file that was to be written is not there; the message says which."""


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


def read_files(arguments: Sequence[str]) -> list[FileInput]:
    """Reads arguments of the form PATH or NAME=PATH.

    Raises:
        BadInputError: there is no such file, or two would have the same name.
    """
    files: list[FileInput] = []
    for argument in arguments:
        name, separator, path = argument.partition("=")
        path = path if separator else name
        if not Path(path).is_file():
            raise BadInputError(f"--file {argument}: there is no file {path}")
        name = name if separator else Path(path).name
        if any(name == other.path for other in files):
            raise BadInputError(f"--file {argument}: {name} is given twice")
        files.append(FileInput(name, FileSource(path)))
    return files


def read_outputs(arguments: Sequence[str]) -> dict[str, Path]:
    """Reads arguments of the form NAME or NAME=PATH; returns where each file of the scratch directory goes.

    Raises:
        BadInputError: there is no directory to write it to.
    """
    outputs: dict[str, Path] = {}
    for argument in arguments:
        name, separator, path = argument.partition("=")
        target = Path(path if separator else Path(name).name)
        if not target.name or not target.parent.is_dir():
            raise BadInputError(f"--output {argument}: there is no directory to write it to")
        outputs[name] = target
    return outputs


def _find_image(name: str, progress: Callable[[str], None]) -> CompiledImage:
    cache = default_cache_directory()
    if name == STANDARD_IMAGE:
        return load_or_build_image(cache, progress)
    kept = {packages.name: packages for packages in package_set.find_all(cache)}
    if name not in kept:
        raise BadInputError(
            f"--image {name}: there is none of that name; there are: {', '.join([STANDARD_IMAGE, *kept])}"
        )
    return load_or_build_image(cache, progress, kept[name])


def run_cell(
    code: str,
    spec: SandboxSpec,
    progress: Callable[[str], None],
    *,
    echo: bool,
    outputs: Mapping[str, Path] | None = None,
) -> CellResult:
    """Runs a cell.

    Args:
        code: Python source.
        spec: limits, variables and files.
        progress: is told, in a line for people, if the image has to be built first.
        echo: whether output goes to this process's stdout and stderr.
        outputs: files of the scratch directory to where they are written afterwards, unless the cell was killed.

    Raises:
        BadInputError: an input is not what it says.
        NoOutputError: a file that was to be written is not there.
        ImageBuildError: the image could not be built.
        OSError: the output could not be written.
    """
    image = _find_image(spec.image, progress)
    watchdog = Watchdog()
    output = _Echo() if echo else None
    engine = GuestEngine(image.path)
    session = Session(SandboxFactory(engine, watchdog, Beginnings(engine)), spec, output)
    if output is not None:
        output.on_failure = session.kill

    def work() -> CellResult:
        try:
            session.open()
            result = session.run_once(code, spec.limits, VariableQuery())
            if result.completed:
                for name, target in (outputs or {}).items():
                    _write(session, name, target)
        except SandboxOpenError as error:
            raise BadInputError(f"{_argument(error.field, spec)}: {error.message}") from None
        else:
            return result
        finally:
            session.close()

    previous = threading.stack_size(THREAD_STACK_BYTES)
    try:
        with ThreadPoolExecutor(max_workers=1) as threads:
            try:
                result = threads.submit(work).result()
            except KeyboardInterrupt:
                session.kill()
                raise
    finally:
        threading.stack_size(previous)
        watchdog.close()
    if output is not None and output.failure is not None:
        raise output.failure
    return result


def _write(session: Session, name: str, target: Path) -> None:
    position, size = 0, 1
    with contextlib.ExitStack() as stack:
        file = None
        while position < size:
            try:
                part, size = session.read_file(name, position, _PART_BYTES)
            except NoFileError as error:
                raise NoOutputError(f"--output {name}: {error}") from None
            file = file or stack.enter_context(target.open("wb"))
            file.write(part)
            position += len(part)


def _argument(field: str, spec: SandboxSpec) -> str:
    """Returns what a field of a sandbox is called on the command line."""
    names = {f"inputs[{index}]": f"--input {one.name}" for index, one in enumerate(spec.inputs)}
    names |= {f"files[{index}]": f"--file {one.path}" for index, one in enumerate(spec.files)}
    return names.get(field, field)


def summary(result: CellResult) -> str:
    """Returns the end of a cell and what it cost, for people."""
    lines = []
    if result.error is not None and result.outcome is not Outcome.EXITED:
        lines.append(result.error.traceback.rstrip() or f"{result.error.type}: {result.error.message}")
    usage = result.usage
    dropped = f", {usage.output_dropped_bytes} bytes of output dropped" if usage.output_dropped_bytes else ""
    exit_code = "" if result.exit_code is None else f" with code {result.exit_code}"
    omitted = f" and {result.files_omitted_count} more" if result.files_omitted_count else ""
    if result.files:
        told = ", ".join(f"{file.path} ({file.size_bytes} bytes)" for file in result.files)
        lines.append(f"[files: {told}{omitted}]")
    lines.append(
        f"[{result.outcome.name}{exit_code}; {usage.wall_time_seconds * 1000:.1f} ms, "
        f"{usage.cpu_time_seconds * 1000:.1f} ms of processor, {usage.fuel:,} fuel, "
        f"memory {usage.memory_bytes / 2**20:.0f} MiB{dropped}]"
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
