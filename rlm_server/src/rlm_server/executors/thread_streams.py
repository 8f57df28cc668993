"""`sys.stdout` and `sys.stderr` for each thread apart, so that cells on threads do not mix their output."""

from __future__ import annotations

import contextlib
import sys
import threading
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_lock = threading.Lock()
_sinks: dict[int, tuple[Callable[[str], None], Callable[[str], None]]] = {}
_routers: list[_Router] = []


class _Router:
    """Stands in for a stream: threads that have a sink write there, others to the stream itself."""

    def __init__(self, original: TextIO, index: int) -> None:
        self.original = original
        self._index = index

    def write(self, text: str) -> int:
        sinks = _sinks.get(threading.get_ident())
        if sinks is None:
            return self.original.write(text)
        sinks[self._index](text)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if threading.get_ident() not in _sinks:
            self.original.flush()

    def isatty(self) -> bool:
        return threading.get_ident() not in _sinks and self.original.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)


@contextlib.contextmanager
def redirected(write_stdout: Callable[[str], None], write_stderr: Callable[[str], None]) -> Iterator[None]:
    """Redirects what the calling thread writes."""
    ident = threading.get_ident()
    with _lock:
        if not _sinks:
            _routers[:] = [_Router(sys.stdout, 0), _Router(sys.stderr, 1)]
            sys.stdout, sys.stderr = _routers
        _sinks[ident] = (write_stdout, write_stderr)
    try:
        yield
    finally:
        with _lock:
            del _sinks[ident]
            if not _sinks:
                stdout, stderr = _routers
                # Whoever has put other streams there meanwhile keeps them.
                sys.stdout = stdout.original if sys.stdout is stdout else sys.stdout
                sys.stderr = stderr.original if sys.stderr is stderr else sys.stderr
