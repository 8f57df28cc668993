"""What a sandbox does not have, and what two of them do not share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from google.protobuf import timestamp_pb2
from rlm_api.sandbox.v1 import execute_service_pb2 as pb

from tests.sandbox_server.driver import session

if TYPE_CHECKING:
    from pathlib import Path

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


async def test_two_sessions_with_a_seed_and_a_clock_give_the_same_to_the_byte(stub: Stub) -> None:
    cells = [
        UNPREDICTABLE + CLOCKS,
        "import tempfile\nf = tempfile.NamedTemporaryFile(delete=False)\nprint(f.name, os.stat(f.name).st_mtime_ns)",
        "print(id(f), {object() for _ in range(3)}, random.sample(range(10**6), 5), sorted({'b', 'a'}, key=hash))",
        "import secrets, uuid\nuuid.uuid4(), uuid.uuid1().time, secrets.token_bytes(5), datetime.datetime.now()",
    ]
    seed = pb.Seed(value=5, clock_start_time=timestamp_pb2.Timestamp(seconds=1_000_000_000))
    transcripts = []
    for _ in range(2):
        async with session(stub, seed=seed) as s:
            results = [await s.run(code) for code in cells]
            transcripts.append([(one.outcome, one.stdout, one.stderr, one.result.usage.fuel) for one in results])
    assert transcripts[0] == transcripts[1]
    assert [outcome for outcome, *_ in transcripts[0]] == ["OK"] * 4


async def test_a_fixed_clock_makes_time_reproducible_and_sleeping_free(stub: Stub) -> None:
    seed = pb.Seed(value=1, clock_start_time=timestamp_pb2.Timestamp(seconds=1_000_000_000))
    code = f"{CLOCKS}\ntime.sleep(10_000)\n{CLOCKS}"
    first, second = [await stub.Run(pb.RunRequest(code=code, seed=seed)) for _ in range(2)]
    assert first.stdout == second.stdout
    assert "2001-09-09 01:46" in first.stdout
    assert "2001-09-09 04:33" in first.stdout


async def test_the_environment_is_empty_and_the_arguments_are_those_of_a_repl(stub: Stub) -> None:
    response = await stub.Run(pb.RunRequest(code="import os, sys\nprint(dict(os.environ), sys.argv)"))
    assert response.stdout == "{} ['']\n"


async def test_what_is_written_stays_in_the_sandbox(stub: Stub, tmp_path: Path) -> None:
    name = str(tmp_path / "file")
    code = f"import os\nos.makedirs({str(tmp_path)!r})\nprint(open({name!r}, 'w').write('x'))"
    assert (await stub.Run(pb.RunRequest(code=code))).stdout == "1\n"
    assert not os.path.exists(name)  # noqa: ASYNC240, PTH110 - a look, and no more


LEFT_BEHIND = """
import builtins, decimal, json, linecache, os, random, re, sys, tempfile, types, warnings
SECRET = 'secret-' + 'of-another'
builtins.leak = json.leak = sys.leak = SECRET
sys.modules['leak'] = types.ModuleType('leak')
os.environ['LEAK'] = SECRET
open('leak', 'w').write(SECRET); open('/tmp/leak', 'w').write(SECRET)
linecache.cache[SECRET] = (1, None, [SECRET], SECRET)
re.compile(SECRET); sys.intern(SECRET); warnings.warn(SECRET)
decimal.getcontext().prec = 5
random.seed(1)
sys.setrecursionlimit(50)
sys.path.append(SECRET); sys.argv.append(SECRET)
hoard = [SECRET + str(n) for n in range(10_000)]
"""
LOOK = """
import builtins, decimal, gc, json, linecache, os, re, sys, warnings
part = ''.join(['secret', '-of'])
found = [name for name, there in {
    'builtins': hasattr(builtins, 'leak'), 'json': hasattr(json, 'leak'), 'sys': hasattr(sys, 'leak'),
    'modules': 'leak' in sys.modules, 'environment': dict(os.environ), 'files': os.listdir() + os.listdir('/tmp'),
    'linecache': any(part in name for name in linecache.cache), 'decimal': decimal.getcontext().prec != 28,
    'recursion': sys.getrecursionlimit() != 1000, 'path': sys.path != [''], 'arguments': sys.argv != [''],
    're': any(part in str(key) for key in re._cache), 'globals': 'hoard' in globals(),
    'objects': any(isinstance(o, (list, tuple, dict)) and part in repr(o)[:10_000]
                   for o in gc.get_objects() if type(o) in (list, tuple) and len(o) < 50),
    'memory': part.encode() in bytearray(10**7) or part in ' '.join(sys._getframe().f_code.co_names),
}.items() if there]
print('found', found)
"""


async def test_nothing_of_one_session_is_seen_in_another(stub: Stub) -> None:
    clean = (await stub.Run(pb.RunRequest(code=LOOK))).stdout
    assert clean == "found []\n"
    async with session(stub) as other:
        for _ in range(4):  # there are two workers
            assert (await stub.Run(pb.RunRequest(code=LEFT_BEHIND))).result.outcome == pb.OUTCOME_OK
            async with session(stub) as s:
                await s.run(LEFT_BEHIND)
        assert (await other.run(LOOK)).stdout == clean
    for _ in range(4):
        assert (await stub.Run(pb.RunRequest(code=LOOK))).stdout == clean


@pytest.mark.parametrize(
    "code",
    [
        "open('/etc/passwd')",
        "open('/proc/self/environ')",
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
async def test_there_are_no_host_files_network_processes_or_threads(stub: Stub, code: str) -> None:
    response = await stub.Run(pb.RunRequest(code=code))
    assert response.result.outcome == pb.OUTCOME_EXCEPTION, response
    assert response.result.error.type in {
        *("FileNotFoundError", "PermissionError", "OSError", "URLError", "gaierror"),
        *("AttributeError", "RuntimeError", "ImportError", "ModuleNotFoundError", "NotImplementedError"),
    }, response.result.error
