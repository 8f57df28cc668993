"""Where and when a run took place."""

from __future__ import annotations

import datetime as dt
import os
import platform
import subprocess
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

_LOOK_SECONDS = 1.0
_PACKAGES = ("wasmtime", "grpcio", "protobuf", "openai")


@dataclass(frozen=True)
class Machine:
    """Where and when a run took place, for people.

    Attributes:
        busy_before: how much of the processors others used before the run.
        busy_after: how much they used after it.
    """

    date: str
    commit: str
    processor: str
    memory: str
    system: str
    software: str
    busy_before: str = "not looked at"
    busy_after: str = "not looked at"


def describe() -> Machine:
    """Returns what matters of the machine and of the state of the sources."""
    versions = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return Machine(
        date=dt.datetime.now(tz=dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        commit=_commit(),
        processor=f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        memory=f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        system=f"{platform.system()} {platform.release()}",
        software=f"Python {platform.python_version()}, {versions}",
    )


def busy_share() -> float:
    """Returns what share of all processors' time is used just now; this process waits meanwhile."""
    before = _ticks()
    time.sleep(_LOOK_SECONDS)
    idle, total = (after - earlier for after, earlier in zip(_ticks(), before, strict=True))
    return 1 - idle / max(total, 1)


def loop_seconds() -> float:
    """Returns how long ten million additions in Python take now, the shortest of three times.

    Machines are not always equally fast, even where nothing else runs on them that they tell of.
    """
    return min(_time_loop() for _ in range(3))


def _time_loop() -> float:
    start, total = time.perf_counter(), 0
    for number in range(10_000_000):
        total += number
    return time.perf_counter() - start


def _ticks() -> tuple[int, int]:
    """Returns the time that the processors were idle, and all time, since the machine was started."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0, 0
    times = [int(field) for field in stat.read_text().splitlines()[0].split()[1:9]]
    return times[3] + times[4], sum(times)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", "*.py", "*.wit", "*.proto", "*.lock")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit} with changes" if changed else commit


def _git(*arguments: str) -> str:
    directory = Path(__file__).resolve().parent
    done = subprocess.run(["git", *arguments], cwd=directory, check=True, capture_output=True, text=True)
    return done.stdout.strip()
