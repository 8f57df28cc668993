"""When a broken stream is continued, and after what delay."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from rlm_client._errors import CallCancelledError, StatusError, StreamEndedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("rlm_client")

RESUME_SECONDS = 60.0
"""How long a client tries to continue a stream, unless told otherwise."""

_TRIES_WITHOUT_EVENT = 3
_FIRST_DELAY_SECONDS = 0.1
_GREATEST_DELAY_SECONDS = 2.0


class Resuming:
    """Decides about one stream.

    Args:
        patience_seconds: for how long it is tried to continue a stream after it broke; 0 means not at all.
        on_resume: is told, in a sentence for people, each time it is tried; without one it is logged.
    """

    def __init__(self, patience_seconds: float, on_resume: Callable[[str], None] | None) -> None:
        self._patience_seconds = patience_seconds
        self._on_resume = on_resume
        self._broken_seconds: float | None = None
        self._first_error: StatusError | StreamEndedError = StreamEndedError("", 0)
        self._tries = 0
        self.count = 0
        """How often the stream was continued."""

    def has_event(self) -> None:
        """Takes note that an event has come: the stream is whole again."""
        if self._broken_seconds is not None:
            self.count += 1
        self._broken_seconds = None
        self._tries = 0

    def delay_seconds(self, error: StatusError | StreamEndedError, last_sequence: int) -> float:
        """Returns how long to wait before the next try; raises an error if there is to be none.

        Raises:
            StatusError, StreamEndedError: the one that was given, or the one that broke the stream at first.
        """
        delay_seconds = self._next_delay_seconds(error, last_sequence)
        if last_sequence:
            self._tell(f"the stream broke after event {last_sequence} and is continued in {delay_seconds:g} s: {error}")
        else:
            self._tell(f"the call failed before its first event and is made again in {delay_seconds:g} s: {error}")
        return delay_seconds

    def upload_delay_seconds(self, error: StatusError) -> float:
        """Returns how long to wait before an upload that broke is made again; raises the error if it is not to be.

        Raises:
            StatusError: the one that was given, or the one that broke the upload at first.
        """
        delay_seconds = self._next_delay_seconds(error, 0)
        self._tell(f"the upload of a context broke and is begun again in {delay_seconds:g} s: {error}")
        return delay_seconds

    def _next_delay_seconds(self, error: StatusError | StreamEndedError, last_sequence: int) -> float:
        now = time.monotonic()
        if self._broken_seconds is None:
            self._broken_seconds, self._first_error = now, error
        # Before the first event it may be that there is no server at all, which its caller wants to know soon.
        is_hopeless = not last_sequence and (
            self._tries >= _TRIES_WITHOUT_EVENT or getattr(error, "reason", "") not in ("", "DRAINING")
        )
        # A server that shuts down cancels a call that has just come in. Nobody else does, but this client itself.
        is_broken = isinstance(error, UnavailableError | StreamEndedError | CallCancelledError)
        if not is_broken and self._tries:
            raise self._first_error  # as when a server was started again that keeps nothing
        if not is_broken or is_hopeless or now - self._broken_seconds >= self._patience_seconds:
            raise error
        delay_seconds = min(_FIRST_DELAY_SECONDS * 2.0**self._tries, _GREATEST_DELAY_SECONDS)
        self._tries += 1
        return delay_seconds

    def _tell(self, message: str) -> None:
        if self._on_resume is None:
            _log.warning("%s", message)
        else:
            self._on_resume(message)
