"""The two servers as people start them: processes of their own, by their commands."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_START_SECONDS = 100
_STOP_SECONDS = 30
_PROGRAMS = {"rlm": "rlm_server.cli", "rlm-sandbox": "sandbox_server"}
_HIDDEN = ("OPENAI_API_KEY", "OPENAI_BASE_URL")


def environment() -> dict[str, str]:
    """Returns the environment of a machine without key or configuration, with our commands on its path."""
    variables = {name: value for name, value in os.environ.items() if name not in _HIDDEN}
    commands = os.path.dirname(sys.executable)  # noqa: PTH120 - a link must not be followed out of the environment
    return variables | {
        "PATH": f"{commands}{os.pathsep}{variables.get('PATH', '')}",
        "COLUMNS": "120",
        "RLM_CONFIG": "",
    }


@contextlib.contextmanager
def serving(*command: str, listens: str, variables: Mapping[str, str] | None = None) -> Iterator[str]:
    """Runs a server until the block ends, and yields what it listens on.

    Args:
        command: the program, `rlm` or `rlm-sandbox`, and its arguments.
        listens: pattern of the line that it logs when it serves, with one group.
        variables: additions to the environment.
    """
    program, *arguments = command
    with tempfile.TemporaryDirectory(prefix="rlm-data-") as data_home:
        yield from _serving(program, arguments, listens, {"XDG_DATA_HOME": data_home} | dict(variables or {}))


def _serving(program: str, arguments: list[str], listens: str, variables: Mapping[str, str]) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", _PROGRAMS[program], *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment() | dict(variables),
    )
    lines: queue.Queue[str | None] = queue.Queue()
    reader = threading.Thread(target=_read, args=(process, lines), daemon=True)
    reader.start()
    try:
        said = []
        while (line := lines.get(timeout=_START_SECONDS)) is not None:
            said.append(line)
            if found := re.search(listens, line):
                yield found[1]
                break
        else:
            raise AssertionError(f"{program} ended:\n{''.join(said)}")
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        finally:
            process.kill()
            process.wait()
            reader.join()


@contextlib.contextmanager
def both_servers() -> Iterator[tuple[str, str]]:
    """Runs an RLM server with the demo model and its sandbox server; yields their addresses, in this order."""
    with (
        serving(
            "rlm-sandbox", "serve", "--listen", "127.0.0.1:0", "--workers", "1", listens=r"listens on (\S+)"
        ) as sandbox,
        serving(
            *("rlm", "serve", "--listen", "127.0.0.1:0", "--sandbox", sandbox, "--model", "demo-model"),
            listens=r"serving addresses=(\S+) ",
        ) as rlm,
    ):
        yield rlm, sandbox


def _read(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    assert process.stderr is not None
    with process.stderr:
        for line in process.stderr:
            lines.put(line)
    lines.put(None)
