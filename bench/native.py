"""A native interpreter that runs the programs."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

_SCRIPT = Path(__file__).parent / "floors" / "native.py"


class NativePrograms:
    """A process of the base interpreter, `-I`, that runs programs. An asynchronous context manager.

    Args:
        sources: name to source.
        python: the interpreter; None is that of the virtual environment in use.
    """

    def __init__(self, sources: Mapping[str, str], python: str | None = None) -> None:
        self._sources = sources
        self._python = python or getattr(sys, "_base_executable", sys.executable)
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(dict(self._sources), file)
            file.flush()
            self._process = await asyncio.create_subprocess_exec(
                *(self._python, "-I", str(_SCRIPT), file.name),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            if self._process.stderr is None or not await self._process.stderr.readline():
                raise RuntimeError("the native interpreter did not start")
        return self

    async def __aexit__(self, *_exception: object) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            await self._process.wait()

    async def run(self, name: str) -> float:
        """Runs a program; returns the seconds of processor time that it took."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise RuntimeError("the native interpreter is not running")
        process.stdin.write(f"{name}\n".encode())
        await process.stdin.drain()
        line = await process.stdout.readline()
        if not line:
            raise RuntimeError(f"the native interpreter ended in {name}")
        return float(line)
