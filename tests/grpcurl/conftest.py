"""Fixtures: grpcurl, and both servers for it."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.documents import ROOT
from tests.support.serving import both_servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_NEITHER_GO_NOR_GRPCURL = 127


@pytest.fixture(scope="session")
def grpcurl() -> str:
    """The program; it is built if there is none, which takes about a minute, once."""
    done = subprocess.run([ROOT / "scripts/grpcurl.sh", "--where"], capture_output=True, text=True, check=False)
    if done.returncode == _NEITHER_GO_NOR_GRPCURL:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="session")
def servers() -> Iterator[tuple[str, str]]:
    """The addresses of an RLM server with the demo model, and of its sandbox server."""
    with both_servers() as addresses:
        yield addresses


@pytest.fixture
def run(grpcurl: str, servers: tuple[str, str]) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """A function that runs a command line of the documents, against the real servers' addresses."""

    def run_command(command: str) -> subprocess.CompletedProcess[str]:
        real = command.replace("localhost:50051", servers[0]).replace("localhost:50052", servers[1])
        real = re.sub(r"^grpcurl\b", lambda _: f"'{grpcurl}'", real)
        return subprocess.run(["bash", "-c", real], capture_output=True, text=True, timeout=60, check=False)

    return run_command
