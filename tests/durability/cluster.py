"""Servers in processes of their own, to be killed: RLM servers on one journal, and sandbox servers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import grpc
import sqlalchemy as sa
from rlm_api.sandbox.v1 import execute_service_pb2 as sandbox_pb
from rlm_api.sandbox.v1 import execute_service_pb2_grpc as sandbox_grpc
from rlm_client import AsyncClient
from rlm_server.journal.blob_users import ANNOUNCEMENT_PREFIX
from rlm_server.journal.blobs import DirectoryBlobs
from rlm_server.journal.database import Database, parse_url, sqlite_url
from rlm_server.journal.store import Journal

from tests.durability.proxy import Proxy
from tests.support.serving import environment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.scripted_model import ScriptedModel

LEASE_SECONDS = 1.0
_START_SECONDS = 60
_QUIET_SECONDS = 15


class Process:
    """A server that can be killed and started again where it was.

    Args:
        command: what to run, after the interpreter.
        listens: what its log says when it serves.
        temporary: its directory for temporary files.
    """

    def __init__(self, command: Sequence[str], listens: str, temporary: Path) -> None:
        self._command = [sys.executable, "-m", *command]
        self._listens = listens
        self._environment = environment() | {"TMPDIR": str(temporary)}
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self.pids: list[int] = []
        """Of all its lives."""
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
            env=self._environment,
            start_new_session=True,  # by which its own processes are found again
        )
        self.pids.append(self._process.pid)
        serves = asyncio.Event()
        self._reader = asyncio.create_task(self._read(self._process, serves))
        async with asyncio.timeout(_START_SECONDS):
            await serves.wait()
        assert self._process.returncode is None, "\n".join(self.log[-30:])

    async def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Sends it a signal and waits for its end."""
        if self._process is None or self._reader is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
        await self._process.wait()
        await self._reader

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def has_processes(self) -> bool:
        """Tells whether any process is left of any of its lives."""
        return any(session in self.pids for session in _sessions())

    async def _read(self, process: asyncio.subprocess.Process, serves: asyncio.Event) -> None:
        assert process.stderr is not None
        while line := await process.stderr.readline():
            self.log.append(line.decode().rstrip())
            if self._listens in self.log[-1]:
                serves.set()
        serves.set()


class Cluster:
    """Some RLM servers on one journal, and sandbox servers, behind one client. Use it with `async with`.

    Every connection goes through a proxy that can cut it.

    Args:
        directory: for data and sockets; its path must be short.
        model: what the RLM servers ask.
        count: how many RLM servers there are.
        sandbox_count: how many sandbox servers there are.
        database: the journal; None means SQLite in the directory.
    """

    def __init__(
        self,
        directory: Path,
        model: ScriptedModel,
        *,
        count: int = 2,
        sandbox_count: int = 1,
        database: str | None = None,
    ) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.temporary = directory / "tmp"
        self.temporary.mkdir()
        self.database = database or sqlite_url(self.data / "journal.db")
        self._model = model
        self._sockets = [f"unix:{directory}/sandbox{number}.sock" for number in range(sandbox_count)]
        self.sandboxes = [
            Process(
                ["sandbox_server", "serve", "--listen", socket_path, "--workers", "1"],
                "listens on unix:",
                self.temporary,
            )
            for socket_path in self._sockets
        ]
        self._ports = [_free_port() for _ in range(count)]
        self.servers: list[Process] = []
        self.to_servers = [Proxy(f"127.0.0.1:{port}") for port in self._ports]
        self.to_sandboxes = [Proxy(socket_path) for socket_path in self._sockets]
        self.to_database: Proxy | None = None
        self._engine = sa.create_engine(parse_url(self.database), poolclass=sa.NullPool)
        self._closing = contextlib.AsyncExitStack()

    @property
    def sandbox(self) -> Process:
        """The first sandbox server."""
        return self.sandboxes[0]

    @property
    def proxies(self) -> list[Proxy]:
        """All connections: of the client, to the sandbox servers, to the database if it is a server."""
        return [*self.to_servers, *self.to_sandboxes, *([self.to_database] if self.to_database else [])]

    async def __aenter__(self) -> Self:
        for proxy in (*self.to_servers, *self.to_sandboxes):
            await self._closing.enter_async_context(proxy)
        database = self.database
        url = parse_url(database)
        if url.port is not None:
            self.to_database = await self._closing.enter_async_context(Proxy(f"{url.host}:{url.port}"))
            database = database.replace(f":{url.port}/", f":{self.to_database.port}/")
        settings = {
            "lease_seconds": LEASE_SECONDS,
            "client_grace_seconds": 20,
            "model_max_retries": 0,
            "storage_patience_seconds": 20,  # of a busy machine
        }
        sandboxes = "ipv4:" + ",".join(f"127.0.0.1:{proxy.port}" for proxy in self.to_sandboxes)
        self.servers = [
            Process(
                [
                    *("rlm_server.cli", "serve", "--listen", f"127.0.0.1:{port}", "--sandbox", sandboxes),
                    *("--data-dir", str(self.data), "--database", database, "--base-url", self._model.base_url),
                    *("--model", "root-model", "--sub-model", "sub-model", "--grace", "1"),
                    *(part for name, value in settings.items() for part in ("--set", f"{name}={value}")),
                ],
                "serving addresses=",
                self.temporary,
            )
            for port in self._ports
        ]
        self.client = AsyncClient("ipv4:" + ",".join(f"127.0.0.1:{proxy.port}" for proxy in self.to_servers))
        await asyncio.gather(*(process.start() for process in (*self.sandboxes, *self.servers)))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        await asyncio.gather(*(process.kill() for process in (*self.servers, *self.sandboxes)))
        await self._closing.aclose()
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

    def losses_of(self, completion_id: str, kills: int = 0) -> int:
        """Returns how often a server has lost a completion's lease, besides so many that were killed.

        That happens on a busy machine, and is like a kill.
        """
        ((epoch,),) = self.query(f"SELECT epoch FROM completions WHERE completion_id = '{completion_id}'")
        return max(0, int(str(epoch)) - 1 - kills)

    def worker_pid(self, number: int = 0) -> int:
        """Returns the process in which a sandbox server's sandboxes run."""
        listing = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.sandboxes[number].pid)], capture_output=True, text=True, check=True
        )
        return int(listing.stdout.split()[0])

    def kill_worker(self, number: int = 0) -> None:
        """Kills the process in which a sandbox server's sandboxes run; the sandbox server starts another."""
        with contextlib.suppress(ProcessLookupError, subprocess.CalledProcessError):
            os.kill(self.worker_pid(number), signal.SIGKILL)

    def describe(self) -> str:
        """Returns what is known of the completions and what the servers have said last, for a test that fails."""
        columns = "completion_id, state, owner, epoch, last_sequence, parked_reason"
        told = [str(row) for row in self.query(f"SELECT {columns} FROM completions")]
        for process in (*self.servers, *self.sandboxes):
            told += [f"--- {process.pids}", *process.log[-40:]]
        return "\n".join(told)

    # --- what must be left in the end: nothing

    async def assert_no_more_than(self, session_count: int) -> None:
        """Asserts that, with all servers up, they hold so many sandboxes at most, and no files of servers that died."""
        left = 0
        for _ in range(_QUIET_SECONDS * 10):
            left = sum([await _session_count(socket_path) for socket_path in self._sockets])
            if left <= session_count:
                break
            await asyncio.sleep(0.1)
        assert left <= session_count, "a sandbox is held for a server or a block that is gone"
        for directories, live in (
            (self.data.glob("rlm-uploads-*"), self.servers),
            (self.data.glob("blobs/new-*"), self.servers),
            (self.temporary.glob("*"), self.sandboxes),
        ):
            assert len(list(directories)) <= len(live), "a server that died has left files"

    async def assert_nothing_left(self) -> None:
        """Asserts that the servers hold nothing any more; stops them, and asserts that they leave nothing behind."""
        assert self.query("SELECT count(*) FROM completions WHERE state = 1") == [(0,)]
        await self.assert_no_more_than(session_count=0)
        await asyncio.gather(*(process.kill(signal.SIGTERM) for process in (*self.servers, *self.sandboxes)))
        async with asyncio.timeout(_QUIET_SECONDS):
            while any(process.has_processes() for process in (*self.servers, *self.sandboxes)):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert not list(self.temporary.rglob("*")), "files are left in the directory for temporary ones"
        await self._sweep()
        self._assert_only_what_is_used()

    async def _sweep(self) -> None:
        """Does what a server does each hour: a blob is stored before the row that names it is committed."""
        for path in self.data.rglob("*"):
            os.utime(path, (time.time() - 3600, time.time() - 3600))
        journal = Journal(
            Database(self.database), DirectoryBlobs(self.data / "blobs"), owner="test", lease_seconds=LEASE_SECONDS
        )
        await journal.payloads.sweep()
        await journal.close()

    def _assert_only_what_is_used(self) -> None:
        uses = [(str(digest), str(user)) for digest, user in self.query("SELECT digest, used_by FROM blob_uses")]
        named = {digest for digest, user in uses if not user.startswith(ANNOUNCEMENT_PREFIX)}
        named |= {str(digest) for (digest,) in self.query("SELECT sha256 FROM contexts")}
        files = [path.relative_to(self.data) for path in self.data.rglob("*") if path.is_file()]
        blobs = {path.name for path in files if path.parts[0] == "blobs"} - {"journal-mark"}
        others = {str(path) for path in files if path.parts[0] != "blobs"}
        assert named <= blobs, f"blobs are missing: {named - blobs}; {uses}"
        # Of what a server has announced that died then, there may be a blob or none.
        announced = {digest for digest, _ in uses} - named
        assert blobs <= named | announced, f"blobs that nobody uses are left: {blobs - named - announced}; {uses}"
        assert others <= {"journal.db", "journal.db-wal", "journal.db-shm"}, others


async def _session_count(address: str) -> int:
    """Returns how many sandboxes a server holds."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: sandbox_grpc.ExecuteServiceAsyncStub = sandbox_grpc.ExecuteServiceStub(channel)
        info = await stub.GetServerInfo(sandbox_pb.GetServerInfoRequest(), wait_for_ready=True)
        return info.session_count


def _sessions() -> list[int]:
    """Returns the session of each live process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                found.append(int(fields[3]))
    return found


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
