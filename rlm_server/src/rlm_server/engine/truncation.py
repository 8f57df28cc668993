"""Long output, cut from the middle, with the exact count of what was cut."""

from __future__ import annotations

from collections import deque


class HeadAndTail:
    """Keeps the beginning and the end of text that comes in parts, in bounded memory.

    Args:
        limit_chars: how many characters to keep, at least 2: half from the beginning, half from the end.
    """

    def __init__(self, limit_chars: int) -> None:
        self._head_limit = limit_chars - limit_chars // 2
        self._tail_limit = limit_chars // 2
        self._head: list[str] = []
        self._head_chars = 0
        self._tail: deque[str] = deque()
        self._tail_chars = 0
        self.total_chars = 0
        """How many characters were written."""

    def write(self, text: str) -> None:
        """Appends text."""
        self.total_chars += len(text)
        room = self._head_limit - self._head_chars
        if room > 0:
            self._head.append(text[:room])
            self._head_chars += len(self._head[-1])
            text = text[room:]
        if text:
            self._tail.append(text)
            self._tail_chars += len(text)
            while self._tail_chars - len(self._tail[0]) >= self._tail_limit:
                self._tail_chars -= len(self._tail.popleft())

    @property
    def hidden_chars(self) -> int:
        """How many characters `render` leaves out."""
        return max(0, self.total_chars - self._head_limit - self._tail_limit)

    def render(self) -> str:
        """Returns the text; where something was cut out, a line tells how much."""
        head = "".join(self._head)
        tail = "".join(self._tail)
        if not self.hidden_chars:
            return head + tail
        shown = tail[len(tail) - self._tail_limit :]
        return f"{head}\n... [{self.hidden_chars:,} characters cut] ...\n{shown}"


def cut_middle(text: str, limit_chars: int) -> str:
    """Returns the text with its middle cut out if it is longer than the limit."""
    kept = HeadAndTail(limit_chars)
    kept.write(text)
    return kept.render()
