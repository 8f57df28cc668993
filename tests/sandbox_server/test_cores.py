"""A container has the cores that its groups give it, not those of its host."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest
from sandbox_server.cores import available_cores

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")

MACHINE = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1


def group(root: Path, path: str, **files: str) -> None:
    directory = root / "sys/fs/cgroup" / path
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name.replace("__", ".")).write_text(content)


def test_without_groups_all_that_the_process_may_run_on_count(tmp_path: Path) -> None:
    assert available_cores(tmp_path) == MACHINE


@pytest.mark.parametrize(
    ("cpu_max", "cores"),
    [("max 100000", MACHINE), ("100000 100000", 1), ("20000 100000", 1), ("6400000 100000", MACHINE)],
)
def test_a_group_of_the_second_version(tmp_path: Path, cpu_max: str, cores: int) -> None:
    group(tmp_path, "", cpu__max=cpu_max)
    assert available_cores(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", MACHINE), ("50000", 1)])
def test_a_group_of_the_first_version(tmp_path: Path, quota: str, cores: int) -> None:
    group(tmp_path, "cpu", cpu__cfs_quota_us=quota, cpu__cfs_period_us="100000")
    assert available_cores(tmp_path) == cores


def test_the_group_around_it_counts_too(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/team/box\n")
    group(tmp_path, "team", cpu__max="100000 100000")
    group(tmp_path, "team/box", cpu__max="max 100000")
    assert available_cores(tmp_path) == 1
