"""The tree of files in the host's memory."""

from __future__ import annotations

import contextlib
import gc
import random
import weakref
from typing import TYPE_CHECKING

import pytest
from sandbox_server.wasm.scratch import LISTED_NAME_BYTES, NODE_BYTES, Scratch
from sandbox_server.wasm.scratch_nodes import Directory, File, FileError

if TYPE_CHECKING:
    from collections.abc import Callable

QUOTA = 100_000


@pytest.fixture
def scratch() -> Scratch:
    return Scratch(QUOTA, lambda: 1_700_000_000_000_000_000)


def make_file(scratch: Scratch, path: str, data: bytes = b"") -> File:
    scratch.put(path, data)
    return scratch.get(path)


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(FileError) as error:
        action()
    return error.value.code


def test_what_was_put_in_can_be_read(scratch: Scratch) -> None:
    scratch.put("a/b/c.txt", b"hello")
    assert scratch.read(scratch.get("a/b/c.txt"), 1, 3) == b"ell"
    scratch.put("a/b/c.txt", b"other")
    assert scratch.get("a/b/c.txt").data == b"other"


def test_everything_counts_until_it_is_gone(scratch: Scratch) -> None:
    make_file(scratch, "d/file", b"12345")
    assert scratch.used_bytes == 2 * NODE_BYTES + len("d") + len("file") + 5
    scratch.remove_file(scratch.root, "d/file")
    scratch.remove_directory(scratch.root, "d")
    assert scratch.used_bytes == 0


def test_a_deleted_file_counts_as_long_as_it_is_open(scratch: Scratch) -> None:
    file = make_file(scratch, "file", b"12345")
    scratch.begin_use(file)
    scratch.remove_file(scratch.root, "file")
    assert (scratch.used_bytes, scratch.read(file, 0, 9)) == (5, b"12345")
    scratch.end_use(file)
    assert scratch.used_bytes == 0


def test_writing_beyond_the_quota_is_refused_and_changes_nothing(scratch: Scratch) -> None:
    file = make_file(scratch, "file", b"12345")
    used = scratch.used_bytes
    assert code_of(lambda: scratch.write(file, 5, bytes(QUOTA))) == "insufficient-space"
    assert code_of(lambda: scratch.write(file, 10**15, b"x")) == "insufficient-space"
    assert code_of(lambda: scratch.resize(file, 2**63)) == "insufficient-space"
    assert (file.data, scratch.used_bytes) == (b"12345", used)


def test_files_without_content_are_not_for_nothing(scratch: Scratch) -> None:
    for number in range(QUOTA // (NODE_BYTES + 3)):
        scratch.put(f"{number:03}", b"")
    assert code_of(lambda: scratch.put("x", b"")) == "insufficient-space"


def test_a_gap_is_filled_with_zeros(scratch: Scratch) -> None:
    file = make_file(scratch, "file", b"ab")
    scratch.write(file, 5, b"c")
    assert file.data == b"ab\0\0\0c"
    scratch.resize(file, 1)
    scratch.resize(file, 3)
    assert file.data == b"a\0\0"


@pytest.mark.parametrize("path", ["..", "../..", "a/../..", "/", ".", "./.", "tmp/.."])
def test_no_path_leads_above_the_root(scratch: Scratch, path: str) -> None:
    scratch.make_directory(scratch.root, "a")
    assert scratch.find(scratch.root, path) is scratch.root
    assert code_of(lambda: scratch.find(scratch.root, f"{path}/etc/passwd")) == "no-entry"


def test_tmp_is_always_there_and_not_listed(scratch: Scratch) -> None:
    tmp = scratch.find(scratch.root, "tmp")
    assert isinstance(tmp, Directory)
    assert scratch.begin_listing(scratch.root) == []
    assert code_of(lambda: scratch.make_directory(scratch.root, "tmp")) == "exist"
    assert code_of(lambda: scratch.remove_directory(scratch.root, "tmp")) == "busy"
    assert code_of(lambda: scratch.rename(scratch.root, "tmp", scratch.root, "other")) == "busy"
    assert make_file(scratch, "tmp/x").path == "tmp/x"


def test_what_is_wrong_is_said_as_posix_does(scratch: Scratch) -> None:
    root = scratch.root
    make_file(scratch, "file")
    make_file(scratch, "full/x")
    scratch.make_directory(root, "empty")
    assert code_of(lambda: scratch.remove_file(root, "dev/null")) == "busy"
    assert code_of(lambda: scratch.open(root, "dev/other", create=True)) == "not-permitted"
    assert code_of(lambda: scratch.rename(root, "file", root, "dev/null")) == "busy"
    assert code_of(lambda: scratch.rename(root, "dev/null", root, "file")) == "busy"
    assert code_of(lambda: scratch.find(root, "nothing")) == "no-entry"
    assert code_of(lambda: scratch.find(root, "file/x")) == "not-directory"
    assert code_of(lambda: scratch.find(root, "file/")) == "not-directory"
    assert code_of(lambda: scratch.open(root, "file", create=True, exclusive=True)) == "exist"
    assert code_of(lambda: scratch.open(root, "new/", create=True)) == "is-directory"
    assert code_of(lambda: scratch.open(root, "empty", truncate=True)) == "is-directory"
    assert code_of(lambda: scratch.open(root, "x" * 256, create=True)) == "name-too-long"
    assert code_of(lambda: scratch.remove_directory(root, "full")) == "not-empty"
    assert code_of(lambda: scratch.remove_directory(root, "file")) == "not-directory"
    assert code_of(lambda: scratch.remove_directory(root, ".")) == "not-empty"
    assert code_of(lambda: scratch.remove_file(root, "empty")) == "is-directory"
    assert code_of(lambda: scratch.rename(root, "full", root, "full/deeper")) == "invalid"
    assert code_of(lambda: scratch.rename(root, "file", root, "empty")) == "is-directory"
    assert code_of(lambda: scratch.rename(root, "empty", root, "file")) == "not-directory"
    assert code_of(lambda: scratch.rename(root, "empty", root, "full")) == "not-empty"


def test_a_rename_replaces_what_is_there_and_costs_nothing(scratch: Scratch) -> None:
    make_file(scratch, "old", b"12345")
    make_file(scratch, "new", b"1")
    used = scratch.used_bytes
    scratch.rename(scratch.root, "old", scratch.root, "new")
    assert scratch.get("new").data == b"12345"
    assert scratch.used_bytes == used - NODE_BYTES - 1 - len("old")


def test_a_rename_without_room_for_the_longer_name_loses_nothing(scratch: Scratch) -> None:
    file = make_file(scratch, "a")
    make_file(scratch, "target", b"kept")
    scratch.resize(file, QUOTA - scratch.used_bytes)
    assert code_of(lambda: scratch.rename(scratch.root, "a", scratch.root, "longer")) == "insufficient-space"
    assert scratch.get("a") is file


def test_directories_do_not_nest_for_ever(scratch: Scratch) -> None:
    directory = scratch.root
    for _ in range(64):
        directory = scratch.make_directory(directory, "d")
    assert code_of(lambda: scratch.make_directory(directory, "d")) == "name-too-long"
    scratch.make_directory(scratch.root, "other")
    assert code_of(lambda: scratch.rename(scratch.root, "other", directory, "x")) == "name-too-long"


def test_nothing_is_made_in_a_directory_that_was_removed(scratch: Scratch) -> None:
    directory = scratch.make_directory(scratch.root, "d")
    scratch.remove_directory(scratch.root, "d")
    assert code_of(lambda: scratch.open(directory, "x", create=True)) == "no-entry"


def test_listings_count_while_they_are_open(scratch: Scratch) -> None:
    for number in range(10):
        make_file(scratch, f"{number}")
    used = scratch.used_bytes
    entries = scratch.begin_listing(scratch.root)
    assert scratch.used_bytes == used + 10 * LISTED_NAME_BYTES
    scratch.end_listing(len(entries))
    assert scratch.used_bytes == used


def test_changes_are_told_in_order_and_only_of_what_is_left(scratch: Scratch) -> None:
    make_file(scratch, "before")
    make_file(scratch, "d/moved")
    scratch.forget_changes()
    make_file(scratch, "b", b"1")
    make_file(scratch, "a", b"1")
    make_file(scratch, "gone", b"1")
    scratch.remove_file(scratch.root, "gone")
    scratch.rename(scratch.root, "d", scratch.root, "e")
    assert [file.path for file in scratch.changed_files()] == ["b", "a", "e/moved"]


def test_filling_a_file_with_zeros_can_be_broken_off() -> None:
    scratch = Scratch(1 << 40, lambda: 0)
    file = make_file(scratch, "file", b"x")
    scratch.is_interrupted = lambda: len(file.data) > 1 << 21
    assert code_of(lambda: scratch.resize(file, 1 << 39)) == "interrupted"
    assert len(file.data) < 1 << 22
    assert scratch.used_bytes == NODE_BYTES + len("file") + len(file.data)


def test_all_of_it_is_freed_at_once() -> None:
    scratch = Scratch(QUOTA, lambda: 0)
    gone = weakref.ref(make_file(scratch, "a/b/file", b"x"))
    gc.disable()
    try:
        scratch.close()
        assert gone() is None
    finally:
        gc.enable()


def test_whatever_is_done_the_count_is_what_is_there(scratch: Scratch) -> None:
    chance = random.Random(7)
    names = ["a", "b", "a/b", "a/c", "b/a", "tmp/a", "tmp"]
    open_files: list[File] = []
    for _ in range(5000):
        path, other = chance.choice(names), chance.choice(names)
        actions: list[Callable[[], object]] = [
            lambda path=path: scratch.put(path, bytes(chance.randrange(2000))),
            lambda path=path: scratch.make_directory(scratch.root, path),
            lambda path=path: scratch.remove_directory(scratch.root, path),
            lambda path=path: scratch.remove_file(scratch.root, path),
            lambda path=path, other=other: scratch.rename(scratch.root, path, scratch.root, other),
            lambda path=path: scratch.write(scratch.get(path), chance.randrange(3000), b"xyz"),
            lambda path=path: open_files.append(scratch.get(path)) or scratch.begin_use(open_files[-1]),  # type: ignore[func-returns-value]
            lambda: open_files and scratch.end_use(open_files.pop(0)),
        ]
        with contextlib.suppress(FileError):
            chance.choice(actions)()
        assert scratch.used_bytes == count(scratch, open_files) <= QUOTA


def count(scratch: Scratch, open_files: list[File]) -> int:
    """Returns what the quota should count, by a walk."""
    total, left, seen = 0, [scratch.root, scratch.find(scratch.root, "tmp")], set()
    while left:
        node = left.pop()
        if isinstance(node, Directory):
            for child in node.entries.values():
                total += NODE_BYTES + len(child.name.encode())
                left.append(child)
        else:
            seen.add(node)
    return total + sum(len(file.data) for file in seen | set(open_files))
