"""What the container images run besides the servers."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from sandbox_server.image.cache import default_cache_directory, load_or_build_image

from tests.support.documents import ROOT
from tests.support.serving import environment, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SERVICE = "sandbox.v1.ExecuteService"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving(
        "rlm-sandbox", "serve", "--listen", "127.0.0.1:0", "--workers", "1", listens=r"listens on (\S+)"
    ) as it:
        yield it


def healthcheck(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "deploy/docker/healthcheck.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("service", [(), (SERVICE,)])
def test_a_server_that_serves_is_healthy(server: str, service: tuple[str, ...]) -> None:
    done = healthcheck(server, *service)
    assert (done.returncode, done.stderr) == (0, f"{server}: SERVING\n")


def test_a_service_that_the_server_does_not_have_is_not_healthy(server: str) -> None:
    done = healthcheck(server, "rlm.v1.CompletionService")
    assert (done.returncode, done.stderr) == (1, f"{server}: NOT_FOUND\n")


def test_a_server_that_is_not_there_is_not_healthy(tmp_path: Path) -> None:
    done = healthcheck(f"unix:{tmp_path}/nobody.sock")
    assert done.returncode == 1
    assert done.stderr.endswith(": UNAVAILABLE\n")


def test_the_entry_point_puts_the_image_into_an_empty_cache(tmp_path: Path) -> None:
    directory = default_cache_directory()
    load_or_build_image(directory, print)
    cache = tmp_path / "cache"
    cache.mkdir()
    variables = {"GUEST_IMAGE": str(directory), "RLM_SANDBOX_CACHE": str(cache)}
    for _ in range(2):  # a container that is started again finds its links
        done = subprocess.run(
            ["sh", ROOT / "deploy/docker/sandbox-entrypoint.sh", "image", "build"],
            env=environment() | variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "is in" in done.stderr
        assert "building" not in done.stderr
        assert "compiling" not in done.stderr
    assert all(path.is_symlink() for path in cache.iterdir())
