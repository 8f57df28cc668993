"""How much memory there is, and how much of it is free: of the machine, or of this process's control groups.

Source: proc(5), cgroups(7), and the kernel's documentation of both versions of the memory controller. What a control
group uses counts the pages of files that the kernel can drop at any time; those are free here.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from sandbox_server import control_groups
from sandbox_server.control_groups import Version

_MOST_BYTES = 1 << 16


@dataclass(frozen=True)
class _Names:
    """What files of a group are called.

    Attributes:
        limit: the file with the limit; "max", or more than there is, means none.
        usage: the file with what is used.
        droppable: lines of `memory.stat` with what of that are pages of files.
    """

    limit: str
    usage: str
    droppable: frozenset[str]


_NAMES = {
    Version.SECOND: _Names("memory.max", "memory.current", frozenset(("inactive_file", "active_file"))),
    Version.FIRST: _Names(
        "memory.limit_in_bytes", "memory.usage_in_bytes", frozenset(("total_inactive_file", "total_active_file"))
    ),
}


class _File:
    """A small file that the kernel writes anew at each reading; open, as some processes may not open any later."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)

    def read(self) -> str:
        return os.pread(self._file.fileno(), _MOST_BYTES, 0).decode()

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True)
class _Group:
    names: _Names
    limit_bytes: int
    usage: _File
    stat: _File

    def free_bytes(self) -> int:
        used = int(self.usage.read())
        droppable = 0
        for line in self.stat.read().splitlines():
            name, _, value = line.partition(" ")
            if name in self.names.droppable:
                droppable += int(value)
        return self.limit_bytes - max(0, used - droppable)


class MemoryGauge:
    """Tells how much memory there is. Where the system does not say, all of it is free.

    Args:
        root: where `proc` and `sys` are.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._meminfo: _File | None = None
        with contextlib.suppress(OSError):
            self._meminfo = _File(root / "proc/meminfo")
        machine_bytes = self._of_machine("MemTotal")
        if machine_bytes is None:
            machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self._groups = _find_groups(root, machine_bytes)
        self.total_bytes = min([machine_bytes, *(group.limit_bytes for group in self._groups)])
        """What this process and its children may have together."""

    def free_bytes(self) -> int:
        """Returns what they may still take before the kernel has to kill something; not negative."""
        free = self.total_bytes
        available = self._of_machine("MemAvailable")
        if available is not None:
            free = min(free, available)
        for group in self._groups:
            with contextlib.suppress(OSError):  # as when this process was moved out of the group, and that is gone
                free = min(free, group.free_bytes())
        return max(0, free)

    def close(self) -> None:
        """Closes what it reads."""
        for file in (self._meminfo, *(file for group in self._groups for file in (group.usage, group.stat))):
            if file is not None:
                file.close()

    def _of_machine(self, name: str) -> int | None:
        if self._meminfo is not None:
            for line in self._meminfo.read().splitlines():
                if line.startswith(f"{name}:"):
                    return int(line.split()[1]) * 1024
        return None


def _find_groups(root: Path, machine_bytes: int) -> list[_Group]:
    """Returns the groups that this process is in, and those around these, as far as they have less than the machine."""
    groups = []
    for version, directory in control_groups.find(root, "memory"):
        names = _NAMES[version]
        with contextlib.suppress(OSError, ValueError):  # it is not there, or has no limit
            limit_bytes = int((directory / names.limit).read_text())
            if limit_bytes < machine_bytes:
                groups.append(
                    _Group(names, limit_bytes, _File(directory / names.usage), _File(directory / "memory.stat"))
                )
    return groups
