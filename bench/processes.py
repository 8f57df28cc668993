"""Child processes that the benchmarks measure, or measure against."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

_START_TIMEOUT_SECONDS = 300.0
"""The first start of a sandbox server on a machine builds the guest image."""

_STOP_TIMEOUT_SECONDS = 20.0
_LAST_LINES = 20

# A child must not outlive the benchmarks, not even if those are killed.
_LAUNCHER = """
import os, runpy, sys
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, 15)  # PR_SET_PDEATHSIG, SIGTERM
if os.getppid() != {parent}:
    sys.exit("the parent has gone")
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""


class ChildError(RuntimeError):
    """A child process did not start, or ended; the message has the last lines that it wrote."""


class Child:
    """A process that runs `python -m MODULE`.

    Args:
        process: the process.
        name: for messages.
    """

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        self.process = process
        self._name = name
        self._lines: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
        self._draining: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self.process.pid

    async def wait_for_line(self, pattern: str) -> re.Match[str]:
        """Waits until the process writes a line to stderr in which the pattern is found; returns what was found.

        Raises:
            ChildError: it ended before.
            TimeoutError: it takes too long.
        """
        async with asyncio.timeout(_START_TIMEOUT_SECONDS):
            while line := await self._stderr.readline():
                text = line.decode(errors="replace").rstrip()
                self._lines.append(text)
                found = re.search(pattern, text)
                if found:
                    self._draining = asyncio.create_task(self._drain())
                    return found
        raise self.error("did not start")

    def error(self, what: str) -> ChildError:
        """Returns an error with the last lines that the process wrote."""
        return ChildError("\n".join([f"{self._name} {what}", *self._lines]))

    async def kill(self) -> None:
        """Kills it, and waits for its end."""
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> None:
        """Ends it, kindly at first."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            try:
                await asyncio.wait_for(self.process.wait(), _STOP_TIMEOUT_SECONDS)
            except TimeoutError:
                self.process.kill()
                await self.process.wait()
        if self._draining is not None:
            await self._draining

    async def _drain(self) -> None:
        while line := await self._stderr.readline():
            self._lines.append(line.decode(errors="replace").rstrip())

    @property
    def _stderr(self) -> asyncio.StreamReader:
        if self.process.stderr is None:
            raise RuntimeError("the process was started without a pipe")
        return self.process.stderr


@contextlib.asynccontextmanager
async def running(
    module: str, arguments: Sequence[str] = (), *, talks: bool = False, variables: Mapping[str, str] | None = None
) -> AsyncIterator[Child]:
    """Runs `python -m MODULE ARGUMENTS` until the block ends.

    Args:
        module: the module.
        arguments: of the command line.
        talks: whether it has pipes for stdin and stdout.
        variables: additions to the environment.
    """
    pipe = asyncio.subprocess.PIPE if talks else asyncio.subprocess.DEVNULL
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "RLM_"))}
    for kept in ("RLM_SANDBOX_CACHE",):
        if kept in os.environ:
            environment[kept] = os.environ[kept]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _LAUNCHER.format(parent=os.getpid(), module=module), *arguments),
        stdin=pipe,
        stdout=pipe,
        stderr=asyncio.subprocess.PIPE,
        env=environment | dict(variables or {}),
    )
    child = Child(process, " ".join(["python -m", module, *arguments]))
    try:
        yield child
    finally:
        await child.stop()
