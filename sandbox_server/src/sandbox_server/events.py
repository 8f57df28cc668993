"""What a running guest says: output, within its limit, and calls of host functions."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox_server.backlog import Backlog
    from sandbox_server.tape import Tape


MAX_OPEN_CALLS = 10_000
"""How many host calls of a cell may be unanswered at once."""

MAX_OPEN_BYTES = 128 * 1024 * 1024
"""Most that their arguments may have together, and likewise the answers that the cell has not taken yet."""


class SandboxListener(Protocol):
    """Hears what a running cell does. Called on the thread that runs it; must be quick and must not raise."""

    def on_output(self, output: int, text: str) -> None:
        """Text was written, within the limit."""

    def on_host_call(self, call_id: int, function: str, arguments_json: str) -> None:
        """A host function was called; `Sandbox.answer` answers it."""


class CellEvents:
    """Takes what a guest says and keeps to the limit of output, whatever the guest believes.

    Nobody hears of it while the tape is played: it was heard the first time.

    Args:
        listener: hears it.
        tape: records the answers to host calls, and gives them when it is played.
        backlog: counts what is said; None if nobody tells what was taken.
    """

    def __init__(self, listener: SandboxListener | None, tape: Tape, backlog: Backlog | None = None) -> None:
        self._listener = listener
        self._tape = tape
        self._backlog = backlog
        self._answers: dict[int, str] = {}
        self._answer_bytes = 0
        self._open: dict[int, int] = {}
        self._open_bytes = 0
        self._lock = threading.Lock()
        self._running = False
        self._room = 0
        self.next_call_id = 1
        self.output_bytes = 0
        self.dropped_bytes = 0
        self.call_count = 0
        self.wake: Callable[[], None] | None = None

    def start_cell(self, output_limit_bytes: int) -> None:
        """Begins to count."""
        self._room = output_limit_bytes
        self.output_bytes = 0
        self.dropped_bytes = 0
        self.call_count = 0
        self._running = True

    def end_cell(self) -> None:
        """Forgets the answers that the cell did not wait for."""
        self._running = False
        with self._lock:
            self._answers.clear()
            self._open.clear()
            self._answer_bytes = self._open_bytes = 0

    def on_output(self, output: int, text: str) -> int:
        """Takes output; returns how many more bytes are wanted."""
        size = len(text.encode())
        if size > self._room:
            kept = text.encode()[: self._room].decode("utf-8", "ignore")
            self.dropped_bytes += size - len(kept.encode())
            text, size = kept, len(kept.encode())
            self._room = size  # nothing more, though a few bytes of a cut character were left
        self._room -= size
        self.output_bytes += size
        if text and self._listener is not None and not self._tape.is_replaying:
            self._note_said(len(text))
            self._listener.on_output(output, text)
        return self._room

    def on_call_start(self, function: str, arguments: str) -> int:
        """Begins a host call; returns its id."""
        call_id = self.next_call_id
        self.next_call_id += 1
        self.call_count += 1
        if self._tape.is_replaying:
            return call_id
        if self._listener is None or not self._running:
            self._refuse(call_id, "no_cell", "host functions can be called from cells only")
        elif not self._open_call(call_id, len(arguments)):
            message = f"at most {MAX_OPEN_CALLS} calls may be unanswered, with {MAX_OPEN_BYTES} characters of arguments"
            self._refuse(call_id, "too_many_calls", message)
        else:
            self._note_said(len(arguments))
            self._listener.on_host_call(call_id, function, arguments)
        return call_id

    @property
    def is_ahead(self) -> bool:
        """Whether the client has yet to take so much that the guest must wait."""
        return self._backlog is not None and self._backlog.is_full

    def _note_said(self, chars: int) -> None:
        if self._backlog is not None:
            self._backlog.note_said(chars)

    def answer(self, call_id: int, answer: str) -> None:
        """Takes the answer to a host call; on any thread."""
        with self._lock:
            self._open_bytes -= self._open.pop(call_id, 0)
            if self._answer_bytes + len(answer) > max(MAX_OPEN_BYTES, len(answer)):
                message = f"the answers that the code has not waited for yet have over {MAX_OPEN_BYTES} characters"
                answer = error_answer(call_id, "too_many_answers", message)
            self._answers[call_id] = answer
            self._answer_bytes += len(answer)
        if self.wake is not None:
            self.wake()

    def _open_call(self, call_id: int, size: int) -> bool:
        """Counts a call, unless there are too many; what is sent on waits in memory until the client takes it."""
        with self._lock:
            if len(self._open) >= MAX_OPEN_CALLS or self._open_bytes + size > MAX_OPEN_BYTES:
                return False
            self._open[call_id] = size
            self._open_bytes += size
            return True

    def _refuse(self, call_id: int, error_type: str, message: str) -> None:
        self.answer(call_id, error_answer(call_id, error_type, message))

    def poll_answer(self, call_ids: list[int], *, gives_up: bool) -> str | None:
        """Returns an answer to one of the calls. If there is none yet, None, or an empty one for a guest that gives up.

        Raises:
            ReplayDivergedError: the tape is played, and the guest did not wait here before.
        """
        if self._tape.is_replaying:
            return self._tape.next_answer()
        with self._lock:
            for call_id in call_ids:
                answer = self._answers.pop(call_id, None)
                if answer is not None:
                    self._answer_bytes -= len(answer)
                    return self._tape.note_answer(answer)
        return self._tape.note_answer("") if gives_up else None


def error_answer(call_id: int, error_type: str, message: str) -> str:
    """Returns the answer that raises an exception in the guest."""
    return json.dumps({"id": call_id, "error": {"type": error_type, "message": message}})
