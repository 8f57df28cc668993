"""Directories as contexts."""

from __future__ import annotations

import os

import pytest
import rlm_client


def test_documents_are_sorted_by_their_path_with_slashes(tmp_path):
    for name in ("z.txt", "a/b.txt", "a.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    assert [document["id"] for document in rlm_client.read_directory(tmp_path).documents] == [
        "a.txt",
        "a/b.txt",
        "z.txt",
    ]


@pytest.mark.parametrize(("glob", "expected"), [("*.py", ["a.py", "sub/b.py"]), ("sub/*", ["sub/b.py", "sub/c.md"])])
def test_a_pattern_chooses_files_by_name_or_by_path(tmp_path, glob, expected):
    (tmp_path / "sub").mkdir()
    for name in ("a.py", "sub/b.py", "sub/c.md"):
        (tmp_path / name).write_text("x")
    directory = rlm_client.read_directory(tmp_path, glob=glob)
    assert [document["id"] for document in directory.documents] == expected
    assert not directory.skipped_files


def test_what_is_excluded_by_name_or_by_path_is_not_listed(tmp_path):
    for name in ("site-packages/a.py", "lib/b.py", "lib/c.py", "d.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    directory = rlm_client.read_directory(tmp_path, exclude=["site-packages", "lib/c.*"])
    assert [document["id"] for document in directory.documents] == ["d.py", "lib/b.py"]
    assert not directory.skipped_files


def test_line_ends_are_kept(tmp_path):
    (tmp_path / "a").write_bytes(b"x\r\ny\r")
    assert rlm_client.read_directory(tmp_path).documents[0]["text"] == "x\r\ny\r"


def test_hidden_files_are_left_out_and_listed_and_compiled_ones_are_not_listed(tmp_path):
    for name in (".git", "__pycache__"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    (tmp_path / ".env").write_text("secret")
    directory = rlm_client.read_directory(tmp_path)
    assert directory.documents == []
    assert {skipped.path.name: skipped.reason for skipped in directory.skipped_files} == {
        ".git": "hidden",
        ".env": "hidden",
    }


def test_a_link_in_a_circle_is_left_out_and_listed(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "a").write_text("x")
    directory = rlm_client.read_directory(tmp_path)
    assert [document["id"] for document in directory.documents] == ["a"]
    assert [skipped.reason for skipped in directory.skipped_files] == ["a symbolic link to a directory"]


def test_a_broken_link_and_a_pipe_are_left_out_and_listed(tmp_path):
    (tmp_path / "broken").symlink_to(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    directory = rlm_client.read_directory(tmp_path)
    assert directory.documents == []
    assert [skipped.path.name for skipped in directory.skipped_files] == ["broken", "pipe"]


def test_another_character_set_can_be_named(tmp_path):
    (tmp_path / "a").write_bytes(b"caf\xe9")
    assert rlm_client.read_directory(tmp_path, charset="latin-1").documents[0]["text"] == "café"


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfid,name")
    assert rlm_client.read_directory(tmp_path).documents[0]["text"] == "id,name"


def test_size_and_time_of_a_file_are_its_metadata(tmp_path):
    (tmp_path / "a").write_text("é")
    os.utime(tmp_path / "a", (1_700_000_000, 1_700_000_000.9))
    (document,) = rlm_client.read_directory(tmp_path).documents
    assert document == {
        "id": "a",
        "text": "é",
        "metadata": {"size_bytes": 2, "modified_time": "2023-11-14T22:13:20Z"},
    }


def test_a_directory_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        rlm_client.read_directory(tmp_path / "none")
