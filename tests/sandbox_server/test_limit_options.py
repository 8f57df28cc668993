"""Operators set the limits that requests get, and those that they cannot exceed."""

from __future__ import annotations

import subprocess
import sys

import pytest
from rlm_api.sandbox.v1 import execute_service_pb2 as pb
from sandbox_server.limit_options import BadLimitError, read_limits
from sandbox_server.model import MIB, Limits

from tests.sandbox_server.conftest import running_server
from tests.sandbox_server.driver import limits, session


def test_what_is_given_takes_the_place_of_what_was_there() -> None:
    given = ["fuel=1000", "memory_mib=256", "wall_time_seconds=0.5", "output_mib=2", "scratch_mib=8"]
    assert read_limits(given, Limits()) == Limits(1000, 256 * MIB, 0.5, 2 * MIB, 8 * MIB)
    assert read_limits(["fuel=7"], Limits()) == Limits(fuel=7)
    assert read_limits([], Limits()) == Limits()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("speed=1", "give NAME=NUMBER, where NAME is one of fuel, memory_mib"),
        ("fuel", "give NAME=NUMBER"),
        ("fuel=much", "much is not a whole number"),
        ("fuel=1.5", "1.5 is not a whole number"),
        ("wall_time_seconds=soon", "soon is not a number"),
        ("memory_mib=1", "must be from 64 to 4096"),
        ("wall_time_seconds=nan", "must be from 0.001"),
    ],
)
def test_what_cannot_be_read_is_told(given: str, told: str) -> None:
    with pytest.raises(BadLimitError, match=told):
        read_limits([given], Limits())


@pytest.mark.parametrize("flag", ["--default-limit", "--max-limit"])
def test_the_command_tells_it_too(flag: str) -> None:
    command = [sys.executable, "-m", "sandbox_server", "serve", flag, "fuel=0"]
    completed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert completed.returncode == 2
    assert "fuel=0: must be from 1" in completed.stderr
    assert "Traceback" not in completed.stderr


async def test_sessions_get_the_defaults_and_no_more_than_the_greatest() -> None:
    defaults = read_limits(["fuel=20000000000", "memory_mib=128"], Limits())
    greatest = read_limits(["fuel=30000000000", "memory_mib=256", "wall_time_seconds=5"], Limits())
    async with running_server(default_limits=defaults, max_limits=greatest) as stack:
        async with session(stack.stub) as s:
            assert (s.opened.limits.fuel, s.opened.limits.memory_bytes) == (2 * 10**10, 128 * MIB)
            assert s.opened.limits.wall_time.seconds == 5
        async with session(stack.stub, limits=limits(fuel=10**14, memory_bytes=512 * MIB)) as s:
            assert (s.opened.limits.fuel, s.opened.limits.memory_bytes) == (3 * 10**10, 256 * MIB)
        info = await stack.stub.GetServerInfo(pb.GetServerInfoRequest())
        assert (info.default_limits.fuel, info.max_limits.fuel) == (2 * 10**10, 3 * 10**10)
