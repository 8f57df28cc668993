"""Servers in processes of their own, to be killed: RLM servers on one journal, and a sandbox server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Self

import sqlalchemy as sa
from rlm_client import AsyncClient
from rlm_server.journal.database import parse_url, sqlite_url

from tests.support.serving import environment

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.support.scripted_model import ScriptedModel

LEASE_SECONDS = 1.0
_START_SECONDS = 60


class Process:
    """A server that can be killed and started again where it was.

    Args:
        command: what to run, after the interpreter.
        listens: what its log says when it serves.
    """

    def __init__(self, command: Sequence[str], listens: str) -> None:
        self._command = [sys.executable, "-m", *command]
        self._listens = listens
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self.log: list[str] = []

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Starts it and waits until it serves."""
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        serves = asyncio.Event()
        self._reader = asyncio.create_task(self._read(self._process, serves))
        async with asyncio.timeout(_START_SECONDS):
            await serves.wait()
        assert self._process.returncode is None, "\n".join(self.log[-30:])

    async def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Sends it a signal and waits for its end."""
        assert self._process is not None
        assert self._reader is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
        await self._process.wait()
        await self._reader

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    async def _read(self, process: asyncio.subprocess.Process, serves: asyncio.Event) -> None:
        assert process.stderr is not None
        while line := await process.stderr.readline():
            self.log.append(line.decode().rstrip())
            if self._listens in self.log[-1]:
                serves.set()
        serves.set()


class Cluster:
    """Some RLM servers on one journal, and one sandbox server, behind one client. Use it with `async with`.

    Args:
        directory: for data and sockets; its path must be short.
        model: what the RLM servers ask.
        count: how many RLM servers there are.
        database: the journal; None means SQLite in the directory.
    """

    def __init__(self, directory: Path, model: ScriptedModel, *, count: int = 2, database: str | None = None) -> None:
        self.directory = directory
        self.database = database or sqlite_url(directory / "journal.db")
        socket_path = f"unix:{directory}/sandbox.sock"
        self.sandbox = Process(
            ["sandbox_server", "serve", "--listen", socket_path, "--workers", "1"], "listens on unix:"
        )
        settings = {"lease_seconds": LEASE_SECONDS, "client_grace_seconds": 20, "model_max_retries": 0}
        self.ports = [_free_port() for _ in range(count)]
        self.servers = [
            Process(
                [
                    *("rlm_server.cli", "serve", "--listen", f"127.0.0.1:{port}", "--sandbox", socket_path),
                    *("--data-dir", str(directory), "--database", self.database, "--base-url", model.base_url),
                    *("--model", "root-model", "--sub-model", "sub-model", "--grace", "1"),
                    *(part for name, value in settings.items() for part in ("--set", f"{name}={value}")),
                ],
                "serving addresses=",
            )
            for port in self.ports
        ]
        self.client = AsyncClient("ipv4:" + ",".join(f"127.0.0.1:{port}" for port in self.ports))
        self._engine = sa.create_engine(parse_url(self.database), poolclass=sa.NullPool)

    async def __aenter__(self) -> Self:
        await asyncio.gather(self.sandbox.start(), *(server.start() for server in self.servers))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        await asyncio.gather(*(server.kill() for server in self.servers), self.sandbox.kill())
        self._engine.dispose()

    def query(self, statement: str) -> list[tuple[object, ...]]:
        """Asks the journal's database."""
        with self._engine.connect() as connection:
            return [tuple(row) for row in connection.execute(sa.text(statement))]

    async def owner_of(self, completion_id: str) -> Process:
        """Returns the live server that runs a completion, once there is one."""
        async with asyncio.timeout(20):
            while True:
                owners = self.query(f"SELECT owner FROM completions WHERE completion_id = '{completion_id}'")
                pid = int(str(owners[0][0]).split("/")[1])
                for server in self.servers:
                    if server.pid == pid:
                        return server
                await asyncio.sleep(0.02)

    def worker_pid(self) -> int:
        """Returns the process in which sandboxes run."""
        listing = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.sandbox.pid)], capture_output=True, text=True, check=True
        )
        return int(listing.stdout.split()[0])

    def kill_worker(self) -> None:
        """Kills the process in which sandboxes run; the sandbox server starts another."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.worker_pid(), signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
