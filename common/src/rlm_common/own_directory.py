"""Directories of processes' own, side by side, where those that a killed process left behind are removed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOCK_NAME = ".lock"


@contextlib.contextmanager
def own_directory(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """Makes a directory that is removed, with all that is in it, when the block ends.

    A process that is killed cannot remove its own. So each process locks a file in its directory, which the kernel
    unlocks when the process ends in whatever way; and each, before it makes its own, removes those that nobody locks.

    Args:
        prefix: what its name begins with. Only this function may make directories whose names begin so.
        parent: where it is made. Default: the system's directory for temporary files.
    """
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    for path in parent.glob(f"{prefix}*"):
        _remove_if_abandoned(path)
    path, lock = _make(prefix, parent)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _make(prefix: str, parent: Path) -> tuple[Path, int]:
    """Returns a new directory, and the descriptor that has its lock."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            lock = os.open(path / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            continue  # somebody took it for abandoned before there was a lock
        with contextlib.suppress(OSError):  # where files cannot be locked, nothing is taken for abandoned either
            fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock).st_nlink:
            return path, lock
        os.close(lock)  # somebody had the lock before, and has removed it all


def _remove_if_abandoned(path: Path) -> None:
    """Removes a directory whose process is gone."""
    with contextlib.suppress(OSError):  # it is somebody else's, or is being removed already
        if path.is_symlink() or path.stat().st_uid != os.geteuid():
            return
        try:
            lock = os.open(path / _LOCK_NAME, os.O_RDWR | os.O_NOFOLLOW)
        except FileNotFoundError:
            path.rmdir()  # only if it is empty: its process ended before it had a lock
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)
