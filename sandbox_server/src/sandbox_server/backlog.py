"""What a session has said and its client has not taken yet: a cell that is too far ahead of its client waits."""

from __future__ import annotations

import threading

MAX_BACKLOG_CHARS = 1 << 20
"""A cell waits while more than this is under way. One message may go over it."""

TAKEN_STEP_CHARS = MAX_BACKLOG_CHARS // 4
"""The server tells of what the client took once it is this much. Less than the bound: else both would wait."""


class Backlog:
    """Counts the characters of output and of the arguments of host calls. Any thread may use it."""

    def __init__(self) -> None:
        self._chars = 0
        self._lock = threading.Lock()

    def note_said(self, chars: int) -> None:
        """Counts what is sent to the client."""
        with self._lock:
            self._chars += chars

    def note_taken(self, chars: int) -> None:
        """Counts what the client has taken."""
        with self._lock:
            self._chars -= chars

    @property
    def is_full(self) -> bool:
        """Whether nothing more is to be said for now."""
        return self._chars > MAX_BACKLOG_CHARS
