"""The sandbox server as a child process: its environment, its end, and what is said when it fails."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
import signal
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rlm_server.executors import child_process
from rlm_server.executors.child_process import SandboxProcess, SandboxStartError
from rlm_server.server import create_server
from rlm_server.settings import Settings

from tests.support.rlm_stack import Events, running_stack
from tests.support.scripted_model import ScriptedReply

if TYPE_CHECKING:
    from tests.support.scripted_model import ScriptedModel

HEALTHY = """
import json, os, sys, time
from concurrent import futures
import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
address = sys.argv[sys.argv.index("--listen") + 1]
print("building the image", file=sys.stderr, flush=True)
with open(os.environ["TMPDIR"] + "/environment.json", "w") as file:
    json.dump({"pid": os.getpid(), "environment": dict(os.environ)}, file)
server = grpc.server(futures.ThreadPoolExecutor(2))
servicer = health.HealthServicer()
servicer.set("sandbox.v1.ExecuteService", health_pb2.HealthCheckResponse.SERVING)
health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
server.add_insecure_port(address)
server.start()
server.wait_for_termination()
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a sandbox_server of the test's own before the real one."""

    def write(source: str) -> Path:
        package = tmp_path / "sandbox_server"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "__main__.py").write_text(textwrap.dedent(source))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        return tmp_path

    return write


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_it_serves_when_start_returns_and_is_gone_when_stop_returns(install: Any) -> None:
    directory = install(HEALTHY)
    process = SandboxProcess(30)
    await process.start()
    told = json.loads((directory / "environment.json").read_text())
    assert is_alive(told["pid"])
    await process.stop()
    assert not is_alive(told["pid"])
    assert not Path(process.address.removeprefix("unix:")).parent.exists()
    await process.stop()


async def test_it_gets_nothing_of_the_environment_that_may_hold_keys(
    install: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = install(HEALTHY)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    process = SandboxProcess(30)
    await process.start()
    await process.stop()
    environment = json.loads((directory / "environment.json").read_text())["environment"]
    assert "secret" not in environment.values()
    assert set(environment) <= {*child_process._PASSED_ENVIRONMENT, "LC_CTYPE"}


async def test_a_child_that_ends_is_told_with_its_last_lines(install: Any) -> None:
    install("import sys\nprint('no wasmtime here', file=sys.stderr)\nsys.exit(3)")
    process = SandboxProcess(30)
    with pytest.raises(SandboxStartError, match=r"ended with code 3; its last lines:\nno wasmtime here"):
        await process.start()
    await process.stop()


async def test_a_long_name_of_the_directory_of_temporary_files_is_no_trouble(
    install: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(HEALTHY)
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    process = SandboxProcess(30)
    await process.start()
    assert len(process.address) < 107
    await process.stop()


async def test_a_child_that_never_serves_is_told_and_stopped(install: Any) -> None:
    install("import signal\nsignal.pause()")
    process = SandboxProcess(1.0)
    with pytest.raises(SandboxStartError, match="does not serve: DEADLINE_EXCEEDED after 1 s"):
        await process.start()
    await process.stop()


async def test_a_missing_sandbox_server_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    process = SandboxProcess(1.0)
    with pytest.raises(SandboxStartError, match="pip install rlm-server"):
        await process.start()
    await process.stop()


async def test_a_server_whose_sandbox_does_not_start_says_so_and_can_be_stopped(install: Any) -> None:
    install("import sys\nsys.exit('broken')")
    server = await create_server(Settings(default_model="m", listen=("127.0.0.1:0",), base_url="http://127.0.0.1:1"))
    with pytest.raises(SandboxStartError, match="broken"):
        await server.start()
    await server.stop(0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent has gone")
async def test_it_does_not_outlive_a_parent_that_is_killed(install: Any) -> None:
    directory = install(HEALTHY)
    source = """
    import asyncio, signal
    from rlm_server.executors.child_process import SandboxProcess
    async def main():
        await SandboxProcess(30).start()
        print("ready", flush=True)
        await asyncio.Event().wait()
    asyncio.run(main())
    """
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(source), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    assert await parent.stdout.readline() == b"ready\n"
    pid = json.loads((directory / "environment.json").read_text())["pid"]
    descriptor = os.pidfd_open(pid)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(descriptor, ended.set)
    parent.kill()
    await parent.wait()
    await asyncio.wait_for(ended.wait(), 10)
    asyncio.get_running_loop().remove_reader(descriptor)
    os.close(descriptor)


async def wait_until_it_serves(address: str) -> None:
    """Waits, on a channel of its own that is quick to connect again, until the sandbox server is healthy."""
    async with grpc.aio.insecure_channel(address, options=[("grpc.max_reconnect_backoff_ms", 100)]) as channel:
        request = health_pb2.HealthCheckRequest(service="sandbox.v1.ExecuteService")
        await health_pb2_grpc.HealthStub(channel).Check(request, wait_for_ready=True, timeout=30)


async def test_when_the_child_is_killed_a_new_child_serves_and_what_ran_goes_on_in_it(
    model: ScriptedModel, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_stack(model, sandbox=None) as stack:
        child = stack.server._sandbox_process
        assert child is not None
        assert child.pid is not None
        first = child.pid
        assert (await stack.run_code("print('before')")).output == "before\n"
        events = []
        code = "x = 'kept'\n", "print(x, flush=True)\nprint(llm_query('?'))"
        wait = asyncio.Event()
        replies = [
            f"```repl\n{code[0]}\n```",
            f"```repl\n{code[1]}\n```",
            ScriptedReply("sub", release=wait),
            "FINAL(end)",
        ]
        async for response in stack.start(replies):
            events.append(response.event)
            if response.event.WhichOneof("kind") == "output" and not wait.is_set():
                os.kill(first, signal.SIGKILL)
                wait.set()
        told = Events(events)
        assert (told.answer, told.output) == ("end", "kept\nsub\n")
        assert [one.replayed_cell_count for one in told.of("sandbox_restored")] == [1]
        await wait_until_it_serves(child.address)
        assert (await stack.run_code("print('after')")).output == "after\n"
        assert child.pid not in {None, first}
    assert "has ended with code -9" in caplog.text


async def test_a_child_that_cannot_come_up_again_is_tried_again_and_can_be_stopped_meanwhile(
    install: Any, caplog: pytest.LogCaptureFixture
) -> None:
    directory = install(HEALTHY)
    process = SandboxProcess(30)
    await process.start()
    (directory / "sandbox_server" / "__main__.py").write_text("import sys; sys.exit('broken')")
    told = asyncio.Event()
    handler = logging.Handler()
    handler.emit = lambda record: told.set() if "the next try is in" in record.getMessage() else None  # type: ignore[method-assign]
    logging.getLogger(child_process.__name__).addHandler(handler)
    try:
        os.kill(process.pid or 0, signal.SIGKILL)
        await asyncio.wait_for(told.wait(), 30)
    finally:
        logging.getLogger(child_process.__name__).removeHandler(handler)
    assert "broken" in caplog.text
    await process.stop()
    assert process.pid is None
