"""A peer in a process of its own, that is told what to do by lines of JSON.

It says `ready`, and then answers each request with a line, `{"value": ...}` or `{"error": ...}`:
- `{"do": "fresh"}`: makes a new sandbox and runs `x = 1` in it; seconds.
- `{"do": "prepare", "name": ..., "source": ...}`: runs a program's source in a sandbox that stays.
- `{"do": "program", "name": ...}`: runs its `run()` there; seconds of processor time.
- `{"do": "rate", "for_seconds": ..., "threads": ...}`: does `fresh` over and over on threads; how many a second.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_START_TIMEOUT_SECONDS = 120.0
_ANSWER_TIMEOUT_SECONDS = 120.0


class PeerError(Exception):
    """A peer did not do what it was told; the message is its own."""


class Peer:
    """A peer that runs.

    Args:
        process: its process.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, command: Sequence[str], directory: str) -> Peer:
        """Starts one.

        Raises:
            PeerError: it does not come up.
        """
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL, cwd=directory
        )
        peer = cls(process)
        line = await peer._read(_START_TIMEOUT_SECONDS)
        if line.strip() != b"ready":
            await peer.stop()
            raise PeerError(f"{command[0]} did not start")
        return peer

    async def ask(self, do: str, **arguments: Any) -> float:
        """Has it do something.

        Raises:
            PeerError: it cannot.
        """
        if self._process.stdin is None:
            raise RuntimeError("the peer has no pipe")
        self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        await self._process.stdin.drain()
        line = await self._read(_ANSWER_TIMEOUT_SECONDS)
        if not line:
            raise PeerError("it ended")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return float(answer["value"])

    async def stop(self) -> None:
        """Ends it."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def _read(self, timeout_seconds: float) -> bytes:
        if self._process.stdout is None:
            raise RuntimeError("the peer has no pipe")
        try:
            return await asyncio.wait_for(self._process.stdout.readline(), timeout_seconds)
        except TimeoutError:
            raise PeerError(f"it did not answer within {timeout_seconds:g} s") from None
