"""Worker processes: walled in, replaced when they die, and no more than their own sessions lost with them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from rlm_api.sandbox.v1 import execute_service_pb2 as pb
from sandbox_server.worker import pool
from sandbox_server.worker.process import WorkerOptions, WorkerStartError

from tests.sandbox_server.conftest import Stack, running_server
from tests.sandbox_server.driver import limits, session
from tests.support.statuses import assert_status

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from sandbox_server.worker.pool import WorkerPool


def pool_of(stack: Stack) -> WorkerPool:
    return stack.server._binding.drainable._pool  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
async def test_a_worker_that_dies_takes_its_own_sessions_only_and_is_replaced(number: signal.Signals) -> None:
    async with running_server(workers=2) as stack:
        first, second = pool_of(stack).pids
        async with session(stack.stub) as one, session(stack.stub) as other:
            for held in (one, other):
                await held.start("print('it runs', flush=True)\nwhile True: pass", limits=limits(wall_seconds=2))
                await held.receive_kind("output")
            os.kill(first, number)
            ended = [asyncio.create_task(held.finish()) for held in (one, other)]
            results = await asyncio.gather(*ended, return_exceptions=True)
            [lost] = [result for result in results if isinstance(result, BaseException)]
            assert isinstance(lost, grpc.aio.AioRpcError)
            assert_status(lost, grpc.StatusCode.UNAVAILABLE, "WORKER_LOST", domain="sandbox.v1")
            assert signal.Signals(number).name in str(lost.details())
            [kept] = [result for result in results if not isinstance(result, BaseException)]
            assert kept.outcome == "DEADLINE"
        assert (await stack.stub.Run(pb.RunRequest(code="print(1)"))).stdout == "1\n"
        async with asyncio.timeout(10):
            while len(pool_of(stack).pids) < 2:
                pool_of(stack)._changed.clear()
                await pool_of(stack)._changed.wait()
        assert second in pool_of(stack).pids
        assert first not in pool_of(stack).pids


async def test_a_request_waits_for_the_only_worker_to_be_back() -> None:
    async with running_server(workers=1) as stack:
        [worker] = pool_of(stack)._workers
        os.kill(worker.pid, signal.SIGKILL)
        await asyncio.shield(worker.ended)
        assert (await stack.stub.Run(pb.RunRequest(code="print(1)"))).stdout == "1\n"


class Changed:
    """A module with functions of a test's own, for the pool alone: a server in this process goes by the real ones."""

    def __init__(self, module: ModuleType, **functions: Callable[..., Any]) -> None:
        self._module = module
        vars(self).update(functions)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class Sleeps:
    """Takes note of how long is waited between starts, and does not wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds: list[float] = []
        monkeypatch.setattr(pool, "asyncio", Changed(asyncio, sleep=self._take))

    async def _take(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await asyncio.sleep(0)


class Ended:
    """A worker that took work and then ended."""

    pid = 1

    def __init__(self) -> None:
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.ended.set_result("it was killed")


@pytest.mark.parametrize(("lived_seconds", "delays"), [(2.0, [0.0] * 8), (0.5, [0.0, 0.1, 0.2, 0.4, *[0.5] * 4])])
async def test_workers_that_took_work_are_back_within_a_second_however_many_die(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lived_seconds: float, delays: list[float]
) -> None:
    sleeps, clock = Sleeps(monkeypatch), iter(count(0.0, lived_seconds))
    monkeypatch.setattr(pool, "time", Changed(time, monotonic=lambda: next(clock)))
    done = asyncio.Event()

    async def start(_: object) -> Ended:
        if len(sleeps.seconds) == len(delays):
            done.set()
            await asyncio.Event().wait()
        return Ended()

    monkeypatch.setattr(pool.WorkerProcess, "start", start)
    workers = pool.WorkerPool(WorkerOptions({}, tmp_path, 1))
    worker = Ended()
    workers._workers.append(worker)  # type: ignore[arg-type]
    keeping = asyncio.create_task(workers._keep(worker))  # type: ignore[arg-type]
    await done.wait()
    keeping.cancel()
    assert sleeps.seconds == delays


async def test_workers_that_do_not_come_up_are_tried_less_and_less_often(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sleeps = Sleeps(monkeypatch)
    failures = iter([*[WorkerStartError("it ended")] * 9, None])

    async def start(_: object) -> str:
        if (failure := next(failures)) is not None:
            raise failure
        return "worker"

    monkeypatch.setattr(pool.WorkerProcess, "start", start)
    assert await pool.WorkerPool(WorkerOptions({}, tmp_path, 1))._replace(0.0) == "worker"
    assert sleeps.seconds == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


async def test_sessions_are_spread_over_the_workers() -> None:
    async with running_server(workers=2) as stack, session(stack.stub), session(stack.stub), session(stack.stub):
        assert sorted(len(worker.connection.sessions) for worker in pool_of(stack)._workers) == [1, 2]


async def test_workers_end_with_the_server() -> None:
    async with running_server(workers=2) as stack:
        pids = pool_of(stack).pids
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux'")
async def test_a_worker_has_no_environment_no_new_privileges_and_a_seccomp_filter() -> None:
    os.environ["SECRET_OF_THE_TEST"] = "secret"
    try:
        async with running_server() as stack:
            [pid] = pool_of(stack).pids
            process = Path(f"/proc/{pid}")
            with contextlib.suppress(PermissionError):  # it is root's to see
                assert b"SECRET_OF_THE_TEST" not in (process / "environ").read_bytes()
            status = dict(
                line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line
            )
            assert status["NoNewPrivs"] == "1"
            assert status["Seccomp"] == "2"
            limits_text = (process / "limits").read_text()
            assert [line.split()[4] for line in limits_text.splitlines() if "core file" in line] == ["0"]
    finally:
        del os.environ["SECRET_OF_THE_TEST"]


WALLS = """
import os, socket, subprocess, sys, tempfile, threading
from sandbox_server.worker import jail
readable, outside = sys.argv[1:]
print(",".join(jail.enter(readable)), flush=True)
threading.Thread(target=lambda: None).start()
def try_to(name, action):
    try:
        action()
    except OSError as error:
        print(name, "refused:", error.errno)
    else:
        print(name, "done")
try_to("read inside", lambda: open(readable + "/file").read())
try_to("read outside", lambda: open(outside).read())
try_to("write inside", lambda: open(readable + "/new", "w"))
try_to("list", lambda: os.listdir("/"))
try_to("socket", lambda: socket.socket())
try_to("unix socket", lambda: socket.socket(socket.AF_UNIX))
try_to("fork", lambda: os.fork())
try_to("exec", lambda: os.execv("/bin/true", ["true"]))
try_to("spawn", lambda: os.posix_spawn("/bin/true", ["true"], {}))
try_to("pidfd", lambda: os.pidfd_open(os.getppid()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the walls are Linux'")
async def test_behind_the_walls_there_are_no_files_sockets_or_processes(tmp_path: Path) -> None:
    readable = tmp_path / "readable"
    readable.mkdir()
    (readable / "file").write_text("x")
    outside = tmp_path / "outside"
    outside.write_text("x")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WALLS, str(readable), str(outside)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    walls, *told = output.decode().splitlines()
    assert "no_new_privs" in walls
    assert "seccomp" in walls
    if "landlock" not in walls:
        pytest.skip("this kernel has no Landlock")
    assert told == [
        "read inside done",
        "read outside refused: 13",
        "write inside refused: 13",
        "list refused: 13",
        "socket refused: 1",
        "unix socket refused: 1",
        "fork refused: 1",
        "exec refused: 1",
        "spawn refused: 1",
        "pidfd refused: 1",
    ]
