"""Running the `rlm` command as people do: as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.fake_completion_service import FakeCompletionService, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def service() -> FakeCompletionService:
    return FakeCompletionService()


@pytest.fixture
def target(service: FakeCompletionService) -> Iterator[str]:
    with serving(service) as address:
        yield address


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment of a machine without any key or configuration file."""
    hidden = {"OPENAI_API_KEY", "OPENAI_BASE_URL"}
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return kept | {"COLUMNS": "200", "RLM_CONFIG": ""}


@pytest.fixture
def start_rlm(environment: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """A function that starts `rlm` with arguments; what still runs at the end of the test is killed."""
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **variables: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "rlm_server.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment | variables,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def run_rlm(environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A function that runs `rlm` with arguments to its end."""

    def run(*arguments: str, stdin: bytes = b"", **variables: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "rlm_server.cli", *arguments],
            input=stdin,
            capture_output=True,
            env=environment | variables,
            timeout=100,
            check=False,
        )
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    return run
