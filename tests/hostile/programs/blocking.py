"""Programs that wait for what never comes."""

from tests.hostile.programs import program

PROGRAMS = [
    program("sleep", "sleeps", "import time\ntime.sleep(10 ** 6)", "DEADLINE"),
    program("many sleeps", "sleeps a little, often", "import time\nwhile True: time.sleep(0.001)", "DEADLINE"),
    program(
        "select", "waits for nothing", "import select\nselect.select([], [], [], 10 ** 6)", "DEADLINE", "EXCEPTION"
    ),
    program(
        "poll",
        "waits for stdin",
        "import select\np = select.poll()\np.register(0)\np.poll(10 ** 9)",
        "OK",
        "DEADLINE",
        "EXCEPTION",
    ),
    program("asyncio.sleep", "sleeps in a loop", "import asyncio\nasyncio.run(asyncio.sleep(10 ** 6))", "DEADLINE"),
    program(
        "asyncio for ever",
        "waits for an event",
        "import asyncio\nasyncio.run(asyncio.Event().wait())",
        "EXCEPTION",
        says="cannot come",
    ),
    program(
        "asyncio spin",
        "never yields to the end",
        "import asyncio\nasync def f():\n    while True: await asyncio.sleep(0)\nasyncio.run(f())",
        "DEADLINE",
    ),
    program("stdin", "reads it", "import sys\nsys.stdin.read()", "EXCEPTION", says="standard input"),
    program("input", "asks somebody", "input('? ')", "EXCEPTION", says="standard input"),
    program("os.read", "reads descriptor 0", "import os\nprint(os.read(0, 10))", "OK", "EXCEPTION"),
    program("host call", "calls and is never answered", "ask('anybody?')", "DEADLINE", calls_host=True),
    program(
        "lock",
        "locks itself out",
        "import threading\nl = threading.Lock()\nl.acquire()\nl.acquire()",
        "DEADLINE",
        "EXCEPTION",
        "TRAP",
    ),
    program("queue", "waits for an empty queue", "import queue\nqueue.Queue().get()", "DEADLINE", "EXCEPTION", "TRAP"),
    program("join", "waits for itself", "import threading\nthreading.main_thread().join()", "EXCEPTION"),
    program(
        "barrier", "waits for others", "import threading\nthreading.Barrier(2).wait()", "DEADLINE", "EXCEPTION", "TRAP"
    ),
    program(
        "sched",
        "schedules for later",
        "import sched\ns = sched.scheduler()\ns.enter(10 ** 6, 1, print)\ns.run()",
        "DEADLINE",
    ),
    program(
        "future",
        "waits for a future",
        "import concurrent.futures\nconcurrent.futures.Future().result()",
        "DEADLINE",
        "EXCEPTION",
        "TRAP",
    ),
    program(
        "clock",
        "waits on the clock",
        "import time\nt = time.monotonic()\nwhile time.monotonic() < t + 10 ** 6: pass",
        "DEADLINE",
    ),
]
