"""A PostgreSQL server of the tests' own: real, with its own data directory, on a free port."""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

_APT_SECONDS = 300
_END_SECONDS = 30


class PostgresServer:
    """A server that can be killed and started again.

    Args:
        programs: the directory of its programs.
        directory: where its data is.
        user: who runs it; PostgreSQL refuses to be run by root.
    """

    def __init__(self, programs: Path, directory: Path, user: str | None) -> None:
        self._programs = programs
        self._data = directory / "data"
        self._user = user
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = int(one.getsockname()[1])
        self._run("initdb", "--pgdata", str(self._data), "--auth", "trust", "--username", "rlm", "--no-sync")
        self._database_count = 0

    def start(self) -> None:
        """Starts it and waits until it serves."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=200"
        log = str(self._data / "log")
        command = ("pg_ctl", "--pgdata", str(self._data), "--options", options, "--log", log, "--wait", "start")
        for _ in range(20):  # after a kill, what is left of the old one takes a moment to go
            if self._run(*command, check=False):
                return
            time.sleep(0.5)
        raise AssertionError(Path(log).read_text(encoding="utf-8")[-2000:])

    def stop(self, mode: str = "fast") -> None:
        """Stops it, if it runs; with `immediate` as a crash does."""
        self._run("pg_ctl", "--pgdata", str(self._data), "--mode", mode, "--wait", "stop", check=False)

    def kill(self) -> None:
        """Kills all of its processes with SIGKILL."""
        postmaster = int((self._data / "postmaster.pid").read_text().splitlines()[0])
        pids = [postmaster, *_children(postmaster)]  # the first one first, or it would start others
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + _END_SECONDS
        while any(_is_alive(pid) for pid in pids):
            assert time.monotonic() < deadline, "PostgreSQL does not end"
            time.sleep(0.01)

    def new_database(self) -> str:
        """Makes a database; returns its address."""
        self._database_count += 1
        name = f"test_{os.getpid()}_{self._database_count}"
        self._run("createdb", "--host", "127.0.0.1", "--port", str(self.port), "--username", "rlm", name)
        return f"postgresql://rlm@127.0.0.1:{self.port}/{name}"

    def _run(self, program: str, *arguments: str, check: bool = True) -> bool:
        command = [str(self._programs / program), *arguments]
        if self._user is not None:
            # Not by `subprocess`'s own means: it would fork in full, which gRPC's threads do not survive.
            command = ["setpriv", f"--reuid={self._user}", f"--regid={self._user}", "--init-groups", *command]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False, stdin=subprocess.DEVNULL)
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.returncode == 0


def _children(pid: int) -> list[int]:
    return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/stat") if _state(path)[1:] == [str(pid)]]


def _is_alive(pid: int) -> bool:
    return _state(Path(f"/proc/{pid}/stat"))[:1] not in ([], ["Z"])


def _state(path: Path) -> list[str]:
    """Returns the state of a process and the number of its parent; nothing if it is gone."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[:2]
    except OSError:
        return []


@contextlib.contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Runs a server until the block ends; skips the test with the reason where there can be none."""
    programs = _programs()
    if isinstance(programs, str):
        pytest.skip(programs)
    user = None
    if os.geteuid() == 0:
        try:
            user = pwd.getpwnam("postgres").pw_name
        except KeyError:
            pytest.skip("PostgreSQL refuses to be run by root, and there is no user `postgres`")
        if shutil.which("setpriv") is None:
            pytest.skip("PostgreSQL refuses to be run by root, and there is no `setpriv` to become another user")
    with tempfile.TemporaryDirectory(prefix="rlm-pg-", ignore_cleanup_errors=True) as path:
        if user is not None:
            shutil.chown(path, user)
        server = PostgresServer(programs, Path(path), user)
        server.start()
        try:
            yield server
        finally:
            server.stop("immediate")  # which frees its shared memory


@functools.cache
def _programs() -> Path | str:
    """Returns the directory of PostgreSQL's programs, installed first if need be; or why there is none."""
    if found := _find():
        return found
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return "PostgreSQL is not installed, and only root can install it, with apt-get"
    for command in (["update"], ["install", "--yes", "--no-install-recommends", "postgresql"]):
        done = subprocess.run(
            ["apt-get", "--quiet", *command],
            capture_output=True,
            text=True,
            timeout=_APT_SECONDS,
            check=False,
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
        )
        if done.returncode:
            return f"PostgreSQL cannot be installed: {(done.stderr.strip().splitlines() or ['?'])[-1]}"
    return _find() or "PostgreSQL was installed, but has no initdb"


def _find() -> Path | None:
    if program := shutil.which("initdb"):
        return Path(program).resolve().parent
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None
