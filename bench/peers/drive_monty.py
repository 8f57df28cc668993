"""Drives pydantic-monty, whose interpreters are processes of its pool. The protocol is that of `peers.process`."""

import contextlib
import json
import sys
import time
from pathlib import Path

import pydantic_monty

stack = contextlib.ExitStack()
pool = stack.enter_context(pydantic_monty.Monty(min_processes=2, max_processes=64))
sessions = {}


def fresh():
    start = time.perf_counter()
    with pool.checkout() as session:
        session.feed_run("x = 1")
        return time.perf_counter() - start


def prepare(name, source):
    sessions[name] = stack.enter_context(pool.checkout())
    sessions[name].feed_run(source)
    return 0.0


def program(name):
    start = used_by(sessions[name].worker_pid)
    sessions[name].feed_run("answer = run()")
    return used_by(sessions[name].worker_pid) - start


def used_by(pid):
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


fresh()
print("ready", flush=True)
for line in sys.stdin:
    request = json.loads(line)
    try:
        answer = {"value": globals()[request.pop("do")](**request)}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
stack.close()
