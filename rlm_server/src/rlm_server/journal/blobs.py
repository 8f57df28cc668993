"""Bytes that are too large for a row, stored under their SHA-256 digest: in a directory, or in an object store.

All methods block, so they are used on threads.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator


_YOUNG_SECONDS = 60.0
_MARK_NAME = "journal-mark"
_CONNECT_TIMEOUT = "5s"
_RETRIES = {"max_retries": 3, "retry_timeout": dt.timedelta(seconds=10)}
"""Of a request to an object store. Who asks waits longer where it may, and is refused in time where not."""


class BlobMissingError(Exception):
    """A blob that should be there is not."""


class BlobStore(Protocol):
    """Where blobs are."""

    def put(self, digest: str, data: bytes) -> None:
        """Stores bytes whose digest is known. Once it returns they outlive a crash."""

    def put_file(self, digest: str, path: Path) -> None:
        """Stores a file whose digest is known, and takes the file away."""

    def get(self, digest: str) -> bytes:
        """Returns the bytes.

        Raises:
            BlobMissingError: there are none.
        """

    def local_path(self, digest: str) -> Path:
        """Returns a file that has the bytes.

        Raises:
            BlobMissingError: there are none.
        """

    def delete(self, digest: str) -> None:
        """Forgets bytes that nobody uses, if there are any."""

    def digests(self) -> Iterator[str]:
        """Yields the digest of every blob that has been there for more than a minute."""

    def mark(self) -> str | None:
        """Returns what was written into the store to know it by; None if nothing was."""

    def set_mark(self, mark: str) -> None:
        """Writes something into the store to know it by, if nothing was written yet."""


class DirectoryBlobs:
    """Blobs as files.

    Args:
        directory: is made if it is not there.
        incoming: where files are until they are complete, on the same file system. Default: the directory itself.
        durable: whether `put` waits for the disk.
    """

    def __init__(self, directory: Path, *, incoming: Path | None = None, durable: bool = True) -> None:
        self._directory = directory
        self._incoming = incoming or directory
        self._durable = durable
        directory.mkdir(parents=True, exist_ok=True)

    def put(self, digest: str, data: bytes) -> None:
        """Stores bytes; see `BlobStore.put`."""
        if not self._makes_young(digest):
            self._keep(self._written(data), self._path(digest))

    def put_file(self, digest: str, path: Path) -> None:
        """Stores a file; see `BlobStore.put_file`."""
        if self._makes_young(digest):
            path.unlink()
            return
        if path.stat().st_dev != self._directory.stat().st_dev:
            path = Path(shutil.move(path, self._written(b"")))
        self._keep(path, self._path(digest))

    def get(self, digest: str) -> bytes:
        """Returns the bytes; see `BlobStore.get`."""
        return self.local_path(digest).read_bytes()

    def local_path(self, digest: str) -> Path:
        """Returns the file; see `BlobStore.local_path`."""
        path = self._path(digest)
        if not path.exists():
            raise BlobMissingError(f"{self._directory} has no blob {digest}")
        return path

    def delete(self, digest: str) -> None:
        """Forgets the bytes; see `BlobStore.delete`."""
        self._path(digest).unlink(missing_ok=True)

    def digests(self) -> Iterator[str]:
        """Yields what has been there for a minute; see `BlobStore.digests`."""
        for path in self._directory.glob("??/*"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < time.time() - _YOUNG_SECONDS:
                    yield path.name

    def mark(self) -> str | None:
        """Returns the mark; see `BlobStore.mark`."""
        try:
            return (self._directory / _MARK_NAME).read_text()
        except FileNotFoundError:
            return None

    def set_mark(self, mark: str) -> None:
        """Writes the mark; see `BlobStore.set_mark`."""
        written = self._written(mark.encode())
        try:
            if self._durable:
                _sync(written)
            with contextlib.suppress(FileExistsError):
                (self._directory / _MARK_NAME).hardlink_to(written)
        finally:
            written.unlink()

    def _makes_young(self, digest: str) -> bool:
        """Returns whether the bytes are there already; if so, they are as if they had been stored now."""
        try:
            os.utime(self._path(digest))
        except FileNotFoundError:
            return False
        return True

    def _path(self, digest: str) -> Path:
        return self._directory / digest[:2] / digest

    def _written(self, data: bytes) -> Path:
        """Returns a new file with these bytes."""
        with tempfile.NamedTemporaryFile(dir=self._incoming, prefix="new-", delete=False) as file:
            try:
                file.write(data)
                file.flush()
            except OSError:  # the disk is full, and must not be kept so by what cannot be used
                Path(file.name).unlink()
                raise
        return Path(file.name)

    def _keep(self, written: Path, path: Path) -> None:
        """Gives a written file its name, so that there is all of it or nothing after a crash."""
        path.parent.mkdir(exist_ok=True)
        if self._durable:
            _sync(written)
        written.replace(path)
        if self._durable:
            _sync(path.parent)


class ObjectBlobs:
    """Blobs in an object store that speaks S3's protocol, or another that the `obstore` package knows.

    What the store refuses, and that it cannot be reached, is an OSError.

    Args:
        url: as `s3://BUCKET/PREFIX`. Region, endpoint and keys come from the usual variables, as `AWS_ENDPOINT_URL`.
        cache: a directory for blobs that are needed as files.
    """

    def __init__(self, url: str, cache: Path) -> None:
        import obstore.store  # noqa: PLC0415 - takes a moment, and few need it

        client_options: dict[str, Any] = {"connect_timeout": _CONNECT_TIMEOUT}
        if "AWS_ENDPOINT_URL" in os.environ:
            client_options["allow_http"] = True
        options: dict[str, Any] = {}
        if not url.startswith(("file:", "memory:")):
            options = {"client_options": client_options, "retry_config": _RETRIES}
        self._store: Any = obstore.store.from_url(url, **options)
        self._cache = DirectoryBlobs(cache, durable=False)

    def check(self) -> None:
        """Finds out whether the store can be used."""
        with _as_os_error():
            next(iter(self._store.list(chunk_size=1)), None)

    def put(self, digest: str, data: bytes) -> None:
        """Stores bytes; see `BlobStore.put`."""
        with _as_os_error():
            self._store.put(_key(digest), data)

    def put_file(self, digest: str, path: Path) -> None:
        """Stores a file; see `BlobStore.put_file`."""
        with _as_os_error():
            self._store.put(_key(digest), path)
        self._cache.put_file(digest, path)

    def get(self, digest: str) -> bytes:
        """Returns the bytes; see `BlobStore.get`."""
        try:
            with _as_os_error():
                return bytes(self._store.get(_key(digest)).bytes())
        except FileNotFoundError:
            raise BlobMissingError(f"the object store has no blob {digest}") from None

    def local_path(self, digest: str) -> Path:
        """Returns a file; see `BlobStore.local_path`."""
        try:
            return self._cache.local_path(digest)
        except BlobMissingError:
            self._cache.put(digest, self.get(digest))
            return self._cache.local_path(digest)

    def delete(self, digest: str) -> None:
        """Forgets the bytes; see `BlobStore.delete`."""
        self._cache.delete(digest)
        with contextlib.suppress(FileNotFoundError), _as_os_error():
            self._store.delete(_key(digest))

    def digests(self) -> Iterator[str]:
        """Yields what has been there for a minute; see `BlobStore.digests`.

        Files of blobs that the store has no more, as another server deleted them, are removed in the end.
        """
        stored: set[str] = set()
        with _as_os_error():
            for page in self._store.list():
                for one in page:
                    directory, _, digest = str(one["path"]).rpartition("/")
                    if not directory:
                        continue  # the mark
                    stored.add(digest)
                    if one["last_modified"].timestamp() < time.time() - _YOUNG_SECONDS:
                        yield digest
        for digest in self._cache.digests():
            if digest not in stored:
                self._cache.delete(digest)

    def mark(self) -> str | None:
        """Returns the mark; see `BlobStore.mark`."""
        try:
            with _as_os_error():
                return bytes(self._store.get(_MARK_NAME).bytes()).decode()
        except FileNotFoundError:
            return None

    def set_mark(self, mark: str) -> None:
        """Writes the mark; see `BlobStore.set_mark`."""
        with _as_os_error():
            if self.mark() is None:
                self._store.put(_MARK_NAME, mark.encode())


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    """Makes the errors of an object store what those of a directory are."""
    from obstore.exceptions import BaseError  # noqa: PLC0415 - as above

    try:
        yield
    except BaseError as error:
        raise OSError((str(error).strip().splitlines() or [type(error).__name__])[0]) from error


def _key(digest: str) -> str:
    return f"{digest[:2]}/{digest}"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
