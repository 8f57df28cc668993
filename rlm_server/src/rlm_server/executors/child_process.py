"""A sandbox server as a child process of this one, on a Unix socket; one that dies is started again."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import importlib.util
import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rlm_common.own_directory import own_directory

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

_log = logging.getLogger(__name__)

_STOP_GRACE_SECONDS = 10.0
_SOCKET_PREFIX = "rlm-sandbox-socket-"
_SOCKET_NAME = "sandbox.sock"
_MAX_SOCKET_NAME_BYTES = 100
"""Linux takes names of 107 bytes, others somewhat fewer (unix(7))."""

_LAST_LINES = 20

_STEADY_SECONDS = 30.0
"""A child that served this long is started again at once; one that did not, after a delay that doubles each time."""

_FIRST_DELAY_SECONDS = 0.2
_GREATEST_DELAY_SECONDS = 30.0
_SERVICE = "sandbox.v1.ExecuteService"

_PASSED_ENVIRONMENT = ("HOME", "LANG", "LC_ALL", "PATH", "PYTHONPATH", "TMPDIR", "XDG_CACHE_HOME")
"""All that the child is given of the environment. The rest may hold keys."""

# The child must not outlive its parent, not even one that is killed. `prctl(PR_SET_PDEATHSIG)` sees to that on Linux.
# It is called in the child itself, since code between fork and exec is not safe where there are threads.
_LAUNCHER = """
import os, runpy, signal, sys
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != {parent}:
    sys.exit("the parent has gone")
runpy.run_module("sandbox_server", run_name="__main__", alter_sys=True)
"""


class SandboxStartError(OSError):
    """The sandbox server did not start; the message has the last lines that it wrote."""


def _socket_directory() -> AbstractContextManager[Path]:
    """Makes a directory for the socket: among temporary files, unless its name would be too long for a socket's."""
    name = Path(tempfile.gettempdir()) / f"{_SOCKET_PREFIX}12345678" / _SOCKET_NAME
    is_short = len(os.fsencode(name)) <= _MAX_SOCKET_NAME_BYTES
    return own_directory(_SOCKET_PREFIX, None if is_short else Path("/tmp"))  # noqa: S108 - it is made for us alone


class SandboxProcess:
    """Starts a sandbox server and stops it.

    Args:
        start_timeout_seconds: how long it may take until it serves.
    """

    def __init__(self, start_timeout_seconds: float) -> None:
        self._start_timeout_seconds = start_timeout_seconds
        self._resources = contextlib.ExitStack()
        directory = self._resources.enter_context(_socket_directory())
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._last_lines: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
        self.address = f"unix:{directory / _SOCKET_NAME}"
        """Where it serves."""

    async def start(self) -> None:
        """Starts it and waits until it serves. From then on it is started again whenever it ends, until `stop`.

        Raises:
            SandboxStartError: it is not installed, has ended, or takes too long.
        """
        if importlib.util.find_spec("sandbox_server") is None:
            raise SandboxStartError(
                "sandbox_server is not installed: install it (`pip install rlm-server[sandbox]`), or name a running "
                "sandbox server with --sandbox"
            )
        process = await self._launch()
        self._keeper = asyncio.create_task(self._keep(process))

    @property
    def pid(self) -> int | None:
        """The number of the process, None while there is none."""
        return None if self._process is None else self._process.pid

    async def _launch(self) -> asyncio.subprocess.Process:
        self._last_lines.clear()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _LAUNCHER.format(parent=os.getpid()),
            "serve",
            "--listen",
            self.address,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={name: os.environ[name] for name in _PASSED_ENVIRONMENT if name in os.environ},
            start_new_session=True,  # Ctrl-C at a terminal is for the parent, which stops the child in order
        )
        self._process = process
        self._reader = asyncio.create_task(self._read_stderr(process))
        await self._wait_until_healthy(process)
        return process

    async def _keep(self, process: asyncio.subprocess.Process) -> None:
        """Starts it again whenever it ends."""
        delay_seconds = _FIRST_DELAY_SECONDS
        while True:
            started = time.monotonic()
            code = await process.wait()
            self._process = None
            steady = time.monotonic() - started >= _STEADY_SECONDS
            delay_seconds = 0.0 if steady else max(_FIRST_DELAY_SECONDS, delay_seconds)
            _log.error(
                "the sandbox server has ended with code %d, and what ran in it waits to run again; "
                "it is started again in %g s%s",
                code,
                delay_seconds,
                self._told(),
            )
            process, delay_seconds = await self._launch_again(delay_seconds)
            _log.info("the sandbox server serves again")

    async def _launch_again(self, delay_seconds: float) -> tuple[asyncio.subprocess.Process, float]:
        """Tries until it serves; returns it and the delay that a next failure is to have."""
        while True:
            await asyncio.sleep(delay_seconds)
            delay_seconds = min(max(delay_seconds * 2, _FIRST_DELAY_SECONDS), _GREATEST_DELAY_SECONDS)
            try:
                return await self._launch(), delay_seconds
            except OSError as error:
                await self._end()
                _log.error("%s; the next try is in %g s", error, delay_seconds)

    async def stop(self) -> None:
        """Stops it, kindly at first. May be called at any time, more than once."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None
        await self._end()
        await asyncio.to_thread(self._resources.close)

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), _STOP_GRACE_SECONDS)
            except TimeoutError:
                _log.warning("the sandbox server does not stop; it is killed")
                process.kill()
                await process.wait()
        if self._reader is not None:
            await self._reader
            self._reader = None

    async def _wait_until_healthy(self, process: asyncio.subprocess.Process) -> None:
        ended = asyncio.create_task(process.wait())
        healthy = asyncio.create_task(self._check_health())
        try:
            await asyncio.wait({ended, healthy}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                if self._reader is not None:
                    await self._reader
                raise SandboxStartError(f"the sandbox server ended with code {ended.result()}{self._told()}")
            if (problem := healthy.result()) is not None:
                raise SandboxStartError(f"the sandbox server does not serve: {problem}{self._told()}")
        finally:
            for task in (ended, healthy):
                task.cancel()
            await asyncio.gather(ended, healthy, return_exceptions=True)

    async def _check_health(self) -> str | None:
        """Waits until the server serves; returns what is wrong if it does not in time."""
        async with grpc.aio.insecure_channel(self.address) as channel:
            try:
                response = await health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(service=_SERVICE),
                    wait_for_ready=True,
                    timeout=self._start_timeout_seconds,
                )
            except grpc.aio.AioRpcError as error:
                return f"{error.code().name} after {self._start_timeout_seconds:g} s"
        if response.status != health_pb2.HealthCheckResponse.SERVING:
            return "it says that it is not healthy"
        return None

    async def _read_stderr(self, process: asyncio.subprocess.Process) -> None:
        if process.stderr is None:
            raise RuntimeError("the sandbox server was started without a pipe")
        while line := await process.stderr.readline():
            text = line.decode(errors="replace").rstrip()
            self._last_lines.append(text)
            _log.info("sandbox: %s", text)

    def _told(self) -> str:
        return "; its last lines:\n" + "\n".join(self._last_lines) if self._last_lines else ", and wrote nothing"
