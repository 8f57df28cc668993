"""The bounded cache of uploaded bytes, by SHA-256 digest, in files of a directory of its own.

Used from the event loop only; whoever writes or reads the files does so on a thread.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlm_common.own_directory import own_directory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class BlobCacheFullError(Exception):
    """The blob is larger than the cache, or blobs in use leave no room for it.

    Args:
        limit_bytes: how much there may be.
        of_owner: whether it is the owner's share that is full, not the cache.
    """

    def __init__(self, limit_bytes: int, *, of_owner: bool) -> None:
        super().__init__(f"the cache holds at most {limit_bytes} bytes{' for a client' if of_owner else ''}")
        self.limit_bytes = limit_bytes
        self.of_owner = of_owner


class DigestMismatchError(Exception):
    """The bytes do not have the digest that was announced.

    Args:
        actual: the digest that they have.
    """

    def __init__(self, actual: str) -> None:
        super().__init__(f"the bytes have the digest {actual}")
        self.actual = actual


@dataclass
class Blob:
    """Bytes in the cache."""

    sha256: str
    size_bytes: int
    path: Path
    owner: str = ""
    users: int = 0


class BlobCache:
    """Keeps blobs until room is needed, and longer if they are in use.

    Args:
        max_bytes: most that all blobs together may take.
        max_owner_bytes: most that blobs of one owner may take; 0 means all of it.
    """

    def __init__(self, max_bytes: int, max_owner_bytes: int = 0) -> None:
        self.max_bytes = max_bytes
        self.max_owner_bytes = max_owner_bytes
        self._resources = contextlib.ExitStack()
        self.directory = self._resources.enter_context(own_directory("rlm-sandbox-blobs-"))
        """Where the blobs are."""
        self._blobs: OrderedDict[str, Blob] = OrderedDict()
        self._reserved: Counter[str] = Counter()

    def get(self, sha256: str) -> Blob | None:
        """Returns a blob and marks it as recently used; None if it is not there."""
        blob = self._blobs.get(sha256)
        if blob is not None:
            self._blobs.move_to_end(sha256)
        return blob

    @contextlib.contextmanager
    def upload(self, sha256: str, size_bytes: int, owner: str = "") -> Iterator[BlobUpload]:
        """Makes room for a blob and takes its bytes; it is in the cache after `BlobUpload.finish`.

        Raises:
            BlobCacheFullError: there is no room, for this owner or at all.
        """
        if self.max_owner_bytes:
            self._make_room(size_bytes, owner, self.max_owner_bytes)
        self._make_room(size_bytes, None, self.max_bytes)
        self._reserved[owner] += size_bytes
        upload = BlobUpload(self.directory, sha256, size_bytes)
        try:
            yield upload
            if upload.is_complete and sha256 not in self._blobs:
                self._blobs[sha256] = Blob(sha256, size_bytes, upload.keep(), owner)
        finally:
            self._reserved[owner] -= size_bytes
            if not self._reserved[owner]:
                del self._reserved[owner]
            upload.discard()

    def close(self) -> None:
        """Removes everything."""
        self._resources.close()

    def _make_room(self, size_bytes: int, owner: str | None, limit_bytes: int) -> None:
        """Forgets what was used least recently, but nothing at all if that would not make room enough."""
        blobs = [blob for blob in self._blobs.values() if owner is None or blob.owner == owner]
        reserved = self._reserved.total() if owner is None else self._reserved[owner]
        total = sum(blob.size_bytes for blob in blobs) + reserved + size_bytes
        unused = [blob for blob in blobs if blob.users == 0]
        if total - sum(blob.size_bytes for blob in unused) > limit_bytes:
            raise BlobCacheFullError(limit_bytes, of_owner=owner is not None)
        for blob in unused:
            if total <= limit_bytes:
                return
            del self._blobs[blob.sha256]
            blob.path.unlink()
            total -= blob.size_bytes


class BlobUpload:
    """Bytes that are coming in. `write` and `finish` block, and run on a thread."""

    def __init__(self, directory: Path, sha256: str, size_bytes: int) -> None:
        self._path = directory / f"{sha256}-{id(self):x}.part"
        self._final_path = directory / sha256
        self._sha256 = sha256
        self._size_bytes = size_bytes
        self._digest = hashlib.sha256()
        self._file = self._path.open("wb")
        self.received_bytes = 0
        self.is_complete = False

    def write(self, chunk: bytes) -> None:
        """Takes the next bytes."""
        self._digest.update(chunk)
        self._file.write(chunk)
        self.received_bytes += len(chunk)

    def finish(self) -> None:
        """Checks the whole.

        Raises:
            DigestMismatchError: the digest is another.
        """
        self._file.close()
        actual = self._digest.hexdigest()
        if actual != self._sha256:
            raise DigestMismatchError(actual)
        self.is_complete = True

    def keep(self) -> Path:
        """Gives the file its final name and returns that."""
        return self._path.rename(self._final_path)

    def discard(self) -> None:
        """Removes the file, unless it was kept."""
        self._file.close()
        self._path.unlink(missing_ok=True)
