"""What processes use, as Linux tells in /proc."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROC = Path("/proc")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_SAMPLING_SECONDS = 0.02


def family(pid: int) -> list[int]:
    """Returns a process and all that descend from it, itself first."""
    parents = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int(_stat_fields(int(entry.name))[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def cpu_seconds(pid: int) -> float:
    """Returns the processor time that a process has used, in user and kernel mode, all its threads together."""
    fields = _stat_fields(pid)
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


def pss_bytes(pid: int) -> int:
    """Returns the memory of a process, with its share of what it has in common with others.

    If Linux keeps the shares from us, as of a process that may not be debugged, it is all of what is in common.
    """
    try:
        return _kib(_PROC / str(pid) / "smaps_rollup", "Pss:") * 1024
    except PermissionError:
        return _kib(_PROC / str(pid) / "status", "VmRSS:") * 1024


class MemoryWatch:
    """Keeps the greatest memory that a family of processes was seen to use, together and each."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stopped = threading.Event()
        self.peak_bytes = 0
        self.peak_by_process: dict[int, int] = {}

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watches until the block ends."""
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            thread.join()

    def _watch(self) -> None:
        while True:
            stopped = self._stopped.wait(_SAMPLING_SECONDS)
            self._look()
            if stopped:
                return

    def _look(self) -> None:
        total = 0
        for pid in family(self._pid):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                used = pss_bytes(pid)
                total += used
                self.peak_by_process[pid] = max(used, self.peak_by_process.get(pid, 0))
        self.peak_bytes = max(self.peak_bytes, total)


def _stat_fields(pid: int) -> list[str]:
    """Returns the fields after the name, which may hold spaces: the state, the parent, ..."""
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def _kib(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return 0


def rss_bytes(pid: int) -> int:
    """Returns the resident memory of a process, all of what it shares with others included."""
    return _kib(_PROC / str(pid) / "status", "VmRSS:") * 1024


def threads(pid: int) -> int:
    """Returns how many threads a process has."""
    return sum(1 for _ in (_PROC / str(pid) / "task").iterdir())


def descriptors(pid: int) -> int | None:
    """Returns how many files a process has open; None if Linux keeps that from us."""
    try:
        return sum(1 for _ in (_PROC / str(pid) / "fd").iterdir())
    except PermissionError:
        return None
