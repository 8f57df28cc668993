"""What a block of code writes, whatever becomes of the sandbox that it runs in."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlm_api.rlm.v1 import event_pb2

    from rlm_server.engine.ports.sessions import OutputHandler


class BlockOutput:
    """What a block writes. What it wrote in a sandbox that died is not passed on again.

    Args:
        on_output: gets it; None if nobody does.
    """

    def __init__(self, on_output: OutputHandler | None) -> None:
        self._on_output = on_output
        self.written: list[tuple[int, str]] = []
        self._to_skip: dict[int, int] = {}

    def begin_again(self) -> None:
        """Takes note that the block is begun once more."""
        self._to_skip = {}
        for stream, text in self.written:
            self._to_skip[stream] = self._to_skip.get(stream, 0) + len(text)

    async def take(self, stream: event_pb2.OutputStream.ValueType, text: str) -> None:
        """Takes the next part."""
        skipped = min(self._to_skip.get(stream, 0), len(text))
        if skipped:
            self._to_skip[stream] -= skipped
            text = text[skipped:]
        if text:
            self.written.append((stream, text))
            if self._on_output is not None:
                await self._on_output(stream, text)
