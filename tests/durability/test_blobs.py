"""The blob stores: a directory, and an object store."""

from __future__ import annotations

import hashlib
import os
import time
from typing import TYPE_CHECKING

import pytest
from rlm_server.journal.blobs import BlobMissingError, BlobStore

if TYPE_CHECKING:
    from pathlib import Path

DATA = b"some bytes " * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()


def grow_old(tmp_path: Path) -> None:
    """Makes all files older than those that may be about to be used."""
    for path in tmp_path.rglob("*"):
        os.utime(path, (time.time() - 3600, time.time() - 3600))


def test_bytes_come_back_under_their_digest(blobs: BlobStore) -> None:
    blobs.put(DIGEST, DATA)
    blobs.put(DIGEST, DATA)
    assert blobs.get(DIGEST) == DATA
    assert blobs.local_path(DIGEST).read_bytes() == DATA


def test_a_file_is_taken(blobs: BlobStore, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(DATA)
    blobs.put_file(DIGEST, file)
    assert not file.exists()
    assert blobs.get(DIGEST) == DATA


def test_what_is_not_there_is_told(blobs: BlobStore) -> None:
    with pytest.raises(BlobMissingError):
        blobs.get(DIGEST)
    with pytest.raises(BlobMissingError):
        blobs.local_path(DIGEST)
    blobs.delete(DIGEST)


def test_only_what_is_old_is_swept(blobs: BlobStore, tmp_path: Path) -> None:
    blobs.put(DIGEST, DATA)
    assert not list(blobs.digests())
    grow_old(tmp_path)
    assert list(blobs.digests()) == [DIGEST]
    blobs.put(DIGEST, DATA)
    assert not list(blobs.digests())


def test_what_is_deleted_is_gone_and_can_be_stored_again(blobs: BlobStore) -> None:
    blobs.put(DIGEST, DATA)
    blobs.delete(DIGEST)
    with pytest.raises(BlobMissingError):
        blobs.get(DIGEST)
    blobs.put(DIGEST, DATA)
    assert blobs.get(DIGEST) == DATA
