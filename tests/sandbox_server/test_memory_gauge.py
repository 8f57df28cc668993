"""What is free is told by whatever is tightest: the machine, or a control group of either version."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from sandbox_server.memory_gauge import MemoryGauge
from sandbox_server.memory_guard import default_reserve_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Opener = Callable[[Path], MemoryGauge]

GIB = 1 << 30
MIB = 1 << 20


def write(root: Path, **files: str | int) -> None:
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(content))


def machine(root: Path, total: int, free: int) -> None:
    lines = f"MemTotal: {total // 1024} kB\nMemFree: 1 kB\nMemAvailable: {free // 1024} kB\n"
    write(root, proc__meminfo=lines)


def version_2(root: Path, group: str, *, limit: int | str, used: int, of_files: int = 0) -> None:
    directory = root / "sys/fs/cgroup" / group.strip("/")
    stat = f"anon 5\nfile {of_files}\ninactive_file {of_files // 2}\nactive_file {of_files - of_files // 2}\n"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "memory.max").write_text(f"{limit}\n")
    (directory / "memory.current").write_text(f"{used}\n")
    (directory / "memory.stat").write_text(stat)


@pytest.fixture
def opened() -> Iterator[Opener]:
    """Makes gauges that are closed afterwards."""
    with contextlib.ExitStack() as stack:
        yield lambda root: stack.enter_context(contextlib.closing(MemoryGauge(root)))


def test_a_machine_tells_what_programs_can_still_have(tmp_path: Path, opened: Opener) -> None:
    machine(tmp_path, 8 * GIB, 3 * GIB)
    gauge = opened(tmp_path)
    assert (gauge.total_bytes, gauge.free_bytes()) == (8 * GIB, 3 * GIB)
    machine(tmp_path, 8 * GIB, 1 * GIB)
    assert gauge.free_bytes() == 1 * GIB


def test_a_container_has_what_its_group_has_left_and_files_can_be_dropped(tmp_path: Path, opened: Opener) -> None:
    machine(tmp_path, 8 * GIB, 6 * GIB)
    version_2(tmp_path, "/", limit=2 * GIB, used=GIB + 300 * MIB, of_files=GIB)
    gauge = opened(tmp_path)
    assert (gauge.total_bytes, gauge.free_bytes()) == (2 * GIB, 2 * GIB - 300 * MIB)
    version_2(tmp_path, "/", limit=2 * GIB, used=3 * GIB)
    assert gauge.free_bytes() == 0


def test_a_group_within_others_has_no_more_than_each_of_them(tmp_path: Path, opened: Opener) -> None:
    machine(tmp_path, 8 * GIB, 6 * GIB)
    write(tmp_path, proc__self__cgroup="0::/team.slice/sandbox.service\n")
    version_2(tmp_path, "/team.slice", limit=3 * GIB, used=2 * GIB)
    version_2(tmp_path, "/team.slice/sandbox.service", limit=2 * GIB, used=GIB // 2)
    gauge = opened(tmp_path)
    assert (gauge.total_bytes, gauge.free_bytes()) == (2 * GIB, GIB)


def test_groups_of_the_first_version_are_read_too(tmp_path: Path, opened: Opener) -> None:
    machine(tmp_path, 8 * GIB, 6 * GIB)
    write(tmp_path, proc__self__cgroup="7:pids:/\n4:cpu,memory:/box\n0::/\n")
    box = tmp_path / "sys/fs/cgroup/memory/box"
    box.mkdir(parents=True)
    (box / "memory.limit_in_bytes").write_text(str(GIB))
    (box / "memory.usage_in_bytes").write_text(str(GIB // 2))
    (box / "memory.stat").write_text(f"inactive_file 1\ntotal_inactive_file {100 * MIB}\ntotal_active_file {MIB}\n")
    gauge = opened(tmp_path)
    assert (gauge.total_bytes, gauge.free_bytes()) == (GIB, GIB // 2 + 101 * MIB)


@pytest.mark.parametrize("limit", ["max", 9223372036854771712])
def test_a_group_without_a_limit_is_as_good_as_none(tmp_path: Path, opened: Opener, limit: int | str) -> None:
    machine(tmp_path, 8 * GIB, 3 * GIB)
    version_2(tmp_path, "/", limit=limit, used=7 * GIB)
    gauge = opened(tmp_path)
    assert (gauge.total_bytes, gauge.free_bytes()) == (8 * GIB, 3 * GIB)


def test_where_the_system_says_nothing_all_is_free(tmp_path: Path, opened: Opener) -> None:
    gauge = opened(tmp_path)
    assert gauge.free_bytes() == gauge.total_bytes > 2**28


def test_a_twentieth_is_left_free_within_bounds() -> None:
    reserves = [default_reserve_bytes(total) // MIB for total in (GIB, 8 * GIB, 64 * GIB)]
    assert reserves == [128, 409, 1024]
