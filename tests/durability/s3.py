"""An object store of the tests' own: a real HTTP server with S3's protocol, which checks keys, on a free port."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT = Path(__file__).parents[2]
_PACKAGES = ("moto[s3]==5.2.5", "flask==3.1.3", "flask-cors==6.0.5")
_INSTALL_SECONDS = 300


class S3Server:
    """A server that can be killed and started again, empty.

    Args:
        packages: where moto is.
    """

    def __init__(self, packages: Path) -> None:
        self._packages = packages
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = int(one.getsockname()[1])
        self.url = "s3://rlm/some/prefix"
        self.variables: dict[str, str] = {}
        """What programs need in their environment to use it."""

    def start(self) -> None:
        """Starts it and waits until it serves."""
        program = Path(__file__).with_name("s3_program.py")
        self._process = subprocess.Popen(
            [sys.executable, str(program), str(self.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": str(self._packages)},
            text=True,
        )
        assert self._process.stdout is not None
        told = json.loads(self._process.stdout.readline())
        self.variables = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": told["key"],
            "AWS_SECRET_ACCESS_KEY": told["secret"],
        }

    def kill(self) -> None:
        """Kills it, with all that it has."""
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def running_s3() -> Iterator[S3Server]:
    """Runs a server until the block ends; skips the test with the reason where there can be none."""
    packages = _installed()
    if isinstance(packages, str):
        pytest.skip(packages)
    server = S3Server(packages)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@functools.cache
def _installed() -> Path | str:
    """Returns where moto is, installed first if need be; or why it is not."""
    target = _ROOT / "build" / "s3"
    if (target / "moto").is_dir():
        return target
    fresh = target.with_name(f"s3-{os.getpid()}")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, "--target", str(fresh), *_PACKAGES],
        capture_output=True,
        text=True,
        timeout=_INSTALL_SECONDS,
        check=False,
    )
    if done.returncode:
        shutil.rmtree(fresh, ignore_errors=True)
        return f"moto cannot be installed: {(done.stderr.strip().splitlines() or ['?'])[-1]}"
    try:
        fresh.rename(target)
    except OSError:  # another process was quicker
        shutil.rmtree(fresh)
    return target
