"""Directories of processes' own, and what becomes of those whose process was killed."""

from __future__ import annotations

import concurrent.futures
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rlm_common.own_directory import own_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

_HOLDER = """
import sys
from pathlib import Path
from rlm_common.own_directory import own_directory
with own_directory("of-", Path(sys.argv[1])) as path:
    (path / "file").write_text("x")
    print(path, flush=True)
    sys.stdin.read()
"""


def start_holder(parent: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(parent)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_it_is_removed_with_what_is_in_it(tmp_path: Path) -> None:
    with own_directory("of-", tmp_path) as path:
        (path / "file").write_text("x")
        assert path.parent == tmp_path
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    process, left = start_holder(tmp_path)
    end(process)
    assert (left / "file").exists()
    with own_directory("of-", tmp_path) as path:
        assert list(tmp_path.iterdir()) == [path]


def test_what_a_live_process_has_is_left_alone(tmp_path: Path) -> None:
    process, held = start_holder(tmp_path)
    try:
        with own_directory("of-", tmp_path):
            assert (held / "file").exists()
    finally:
        end(process)


def test_other_names_are_left_alone_and_so_is_what_is_no_directory_of_ours(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "of-file").write_text("x")
    (tmp_path / "of-full").mkdir()
    (tmp_path / "of-full" / "file").write_text("x")
    (tmp_path / "of-link").symlink_to(tmp_path / "other")
    with own_directory("of-", tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["of-file", "of-full", "of-link", "other"]


def test_many_at_once_do_not_take_each_others(tmp_path: Path) -> None:
    def use(_: int) -> bool:
        with own_directory("of-", tmp_path) as path:
            (path / "file").write_text("x")
            return (path / "file").exists()

    def all_uses() -> Iterator[bool]:
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            yield from threads.map(use, range(200))

    assert all(all_uses())
    assert not list(tmp_path.iterdir())
