"""A program on a terminal, as people have it in front of them."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from tests.support.serving import environment

if TYPE_CHECKING:
    from collections.abc import Iterator

_SECONDS = 60

_TAKE_TERMINAL = """
import os, sys
os.open(os.ttyname(0), os.O_RDWR)  # which makes it that of this session, so that its Ctrl-C is for this process
os.execv(sys.executable, [sys.executable, "-m", "rlm_server.cli", *sys.argv[1:]])
"""


class Screen:
    """What a program shows, and the keys that it is given.

    Args:
        process: runs, in a session of its own.
        master: the terminal's other side.
    """

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self._master = master
        self._shown = ""

    def wait_for(self, pattern: str) -> str:
        """Waits until something is shown, and returns all that was shown since it was last waited for."""
        deadline = time.monotonic() + _SECONDS
        while (found := re.search(pattern, self._shown)) is None:
            ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{pattern!r} was not shown:\n{self._shown}"
            self._shown += os.read(self._master, 65536).decode(errors="replace")
        shown, self._shown = self._shown[: found.end()], self._shown[found.end() :]
        return shown

    def type(self, text: str) -> None:
        """Presses keys; `\\x03` is Ctrl-C."""
        os.write(self._master, text.encode())

    def end(self) -> int:
        """Waits for the program's end and returns its exit code."""
        with contextlib.suppress(OSError):  # EIO: nobody has the other side open
            self.wait_for(r"(?!)")
        return self.process.wait(_SECONDS)


@contextlib.contextmanager
def on_terminal(*arguments: str) -> Iterator[Screen]:
    """Runs `rlm` on a terminal, and kills it at the end of the block if it still runs."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", _TAKE_TERMINAL, *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment() | {"TERM": "xterm", "NO_COLOR": "1"},
        start_new_session=True,
    )
    os.close(slave)
    try:
        yield Screen(process, master)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(master)
