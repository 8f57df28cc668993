"""Drives pyeryx, in process. The protocol is that of `peers.process`."""

import json
import sys
import threading
import time

import eryx

sessions = {}


def fresh():
    start = time.perf_counter()
    eryx.Session().execute("x = 1")
    return time.perf_counter() - start


def prepare(name, source):
    sessions[name] = eryx.Session()
    sessions[name].execute(source)
    return 0.0


def program(name):
    start = time.process_time()
    sessions[name].execute("answer = run()")
    return time.process_time() - start


def rate(for_seconds, threads):
    counts = [0] * threads
    start = time.perf_counter()

    def work(number):
        while time.perf_counter() - start < for_seconds:
            eryx.Session().execute("x = 1")
            counts[number] += 1

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.perf_counter() - start)


eryx.Session().execute("x = 1")
print("ready", flush=True)
for line in sys.stdin:
    request = json.loads(line)
    try:
        answer = {"value": globals()[request.pop("do")](**request)}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
