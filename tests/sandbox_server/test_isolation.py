"""What a sandbox does not have, and what two of them do not share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from google.protobuf import timestamp_pb2
from rlm_api.sandbox.v1 import execute_service_pb2 as pb

if TYPE_CHECKING:
    from rlm_api.sandbox.v1 import execute_service_pb2_grpc as pb_grpc

    Stub = pb_grpc.ExecuteServiceAsyncStub

UNPREDICTABLE = """
import random, os, uuid, secrets, time, tempfile
print(random.random(), os.urandom(8), uuid.uuid4(), secrets.token_hex(), hash('x'), {'a', 'b', 'c', 'd', 'e'})
"""
CLOCKS = "import time, datetime\nprint(time.time_ns(), time.monotonic_ns(), datetime.datetime.now())"


async def test_entropy_is_unpredictable_by_default(stub: Stub) -> None:
    outputs = {(await stub.Run(pb.RunRequest(code=UNPREDICTABLE))).stdout for _ in range(3)}
    assert len(outputs) == 3


async def test_a_seed_makes_entropy_reproducible_to_the_byte(stub: Stub) -> None:
    runs = [
        (await stub.Run(pb.RunRequest(code=UNPREDICTABLE, seed=pb.Seed(value=value)))).stdout for value in (7, 7, 8)
    ]
    assert runs[0] == runs[1] != runs[2]


async def test_a_fixed_clock_makes_time_reproducible_and_sleeping_free(stub: Stub) -> None:
    seed = pb.Seed(value=1, clock_start_time=timestamp_pb2.Timestamp(seconds=1_000_000_000))
    code = f"{CLOCKS}\ntime.sleep(10_000)\n{CLOCKS}"
    first, second = [await stub.Run(pb.RunRequest(code=code, seed=seed)) for _ in range(2)]
    assert first.stdout == second.stdout
    assert "2001-09-09 01:46" in first.stdout
    assert "2001-09-09 04:33" in first.stdout


async def test_the_environment_and_the_arguments_are_empty(stub: Stub) -> None:
    response = await stub.Run(pb.RunRequest(code="import os, sys\nprint(dict(os.environ), sys.argv)"))
    assert response.stdout == "{} []\n"


@pytest.mark.parametrize(
    "code",
    [
        "open('/etc/passwd')",
        "open('/proc/self/environ')",
        "open('x', 'w')",
        "import os; os.listdir('/')",
        "import os; os.listdir('.')",
        "import os; os.stat('/')",
        "import socket; socket.create_connection(('127.0.0.1', 80))",
        "import socket; socket.getaddrinfo('localhost', 80)",
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1')",
        "import subprocess; subprocess.run(['ls'])",
        "import os; os.system('ls')",
        "import os; os.fork()",
        "import threading; threading.Thread(target=print).start()",
        "import multiprocessing; multiprocessing.Process(target=print).start()",
        "import ctypes",
    ],
)
async def test_there_are_no_files_network_processes_or_threads(stub: Stub, code: str) -> None:
    response = await stub.Run(pb.RunRequest(code=code))
    assert response.result.outcome == pb.OUTCOME_EXCEPTION, response
    assert response.result.error.type in {
        *("FileNotFoundError", "PermissionError", "OSError", "URLError", "gaierror"),
        *("AttributeError", "RuntimeError", "ImportError", "ModuleNotFoundError", "NotImplementedError"),
    }, response.result.error
