"""A server that is told to stop, however early, leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rlm_common.stop_signals import StopSignals

from tests.support.serving import environment

if TYPE_CHECKING:
    from collections.abc import Iterator

WAIT_SECONDS = 60

COMMANDS = {
    "rlm": ("rlm_server.cli", "serve", "--sandbox", "local", "--model", "m", "--base-url", "http://127.0.0.1:1"),
    "rlm-sandbox": ("sandbox_server", "serve", "--workers", "1"),
}
SERVES = {"rlm": "serving addresses=", "rlm-sandbox": "listens on"}


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rlm-") as path:
        yield Path(path)


async def until_it_has_a_directory(directory: Path) -> None:
    while not list(directory.rglob(".lock")):  # noqa: ASYNC110, ASYNC240 - another process makes it
        await asyncio.sleep(0.002)


def left_of(directory: Path) -> set[str]:
    """Returns what a server that has stopped left, other than what it is to keep."""
    return {path.name for path in directory.rglob("*") if path.is_file()} - {"journal.db", "journal-mark"}


@pytest.mark.parametrize("moment", ["has a directory", "says that it serves"])
@pytest.mark.parametrize("program", COMMANDS)
async def test_a_server_that_is_told_to_stop_at_its_first_moment_leaves_nothing(
    program: str, moment: str, directory: Path
) -> None:
    own = ["--data-dir", str(directory / "data")] if program == "rlm" else []
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *COMMANDS[program], "--listen", "127.0.0.1:0", *own),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment() | {"TMPDIR": str(directory)},
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            if moment == "has a directory":
                await until_it_has_a_directory(directory)
            else:
                while SERVES[program] not in (line := (await process.stderr.readline()).decode()):
                    assert line
            process.send_signal(signal.SIGTERM)
            said = (await process.stderr.read()).decode()
            code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert code >= 0, "it died of the signal"
    assert left_of(directory) == set(), said
    assert "Traceback" not in said


async def test_a_signal_during_the_start_cancels_it_and_a_later_one_is_waited_for() -> None:
    async def start(*, hold: bool) -> signal.Signals:
        signals = StopSignals()
        if hold:
            signals.hold()
        os.kill(os.getpid(), signal.SIGTERM)
        return await signals.next()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(start(hold=False))
    assert await start(hold=True) is signal.SIGTERM
    asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
    asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
