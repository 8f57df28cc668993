"""What a guest was told from outside, in order, so that it can be told the same again.

A guest is deterministic but for clocks, entropy and the answers to its host calls. With those on record, its cells can
be run again and leave the same memory behind, byte for byte: that is how a session is rebuilt after a kill.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sandbox_server.wasm.capi import TrapError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox_server.wasm.clock import Clock, Entropy

_READING_BYTES = 8


class ReplayDivergedError(TrapError):
    """A guest that ran again asked for something that it did not ask for the first time; it ends with a trap."""


@dataclass
class Recording:
    """What a guest was told during one step, such as a cell.

    Attributes:
        readings: of both clocks, in nanoseconds.
        entropy: random bytes, one item for each request.
        answers: to host calls, as the guest got them.
        first_call_id: what the next host call was numbered when the step began.
        size_bytes: about how much memory the recording takes.
        is_whole: whether everything is in it; there is a limit.
    """

    readings: array[int] = field(default_factory=lambda: array("q"))
    entropy: list[bytes] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    first_call_id: int = 1
    size_bytes: int = 0
    is_whole: bool = True


class Tape:
    """Stands between a guest and what it may learn from outside: records that, or plays it again.

    Used on the thread that runs the guest.

    Args:
        clock: the clocks, while recording.
        entropy: the random bytes, while recording.
        max_bytes: most that one recording may take; what comes after that is lost to it, and it is not whole.
    """

    def __init__(self, clock: Clock, entropy: Entropy, max_bytes: int) -> None:
        self._clock = clock
        self._entropy = entropy
        self._max_bytes = max_bytes
        self._recording = Recording()
        self._replay: _Replay | None = None

    @property
    def is_replaying(self) -> bool:
        """Whether the guest is told what it was told before."""
        return self._replay is not None

    def record(self, first_call_id: int) -> Recording:
        """Begins a recording and returns it; it grows until the next begins."""
        self._replay = None
        self._recording = Recording(first_call_id=first_call_id)
        return self._recording

    def replay(self, recording: Recording) -> None:
        """Begins to play a recording."""
        self._replay = _Replay(recording)

    def monotonic_ns(self) -> int:
        """Returns the monotonic clock's reading."""
        return self._reading(self._clock.monotonic_ns)

    def wall_ns(self) -> int:
        """Returns the time since the Unix epoch."""
        return self._reading(self._clock.wall_ns)

    def real_wait_ns(self, until_monotonic_ns: int) -> int:
        """Returns how long a guest that sleeps until the given reading has really to wait."""
        return 0 if self.is_replaying else self._clock.real_wait_ns(until_monotonic_ns)

    def random_bytes(self, count: int) -> bytes:
        """Returns `count` random bytes."""
        if self._replay is not None:
            return self._replay.next_entropy(count)
        data = self._entropy.random_bytes(count)
        if self._has_room(len(data)):
            self._recording.entropy.append(data)
        return data

    def note_answer(self, answer: str) -> str:
        """Records the answer to a host call and returns it."""
        if self._has_room(len(answer) + 1):
            self._recording.answers.append(answer)
        return answer

    def next_answer(self) -> str:
        """Returns the answer that the guest was given at this point.

        Raises:
            ReplayDivergedError: it was given none.
        """
        if self._replay is None:
            raise RuntimeError("nothing is being replayed")
        return self._replay.next_answer()

    def _reading(self, read: Callable[[], int]) -> int:
        if self._replay is not None:
            return self._replay.next_reading()
        reading = read()
        if self._has_room(_READING_BYTES):
            self._recording.readings.append(reading)
        return reading

    def _has_room(self, size_bytes: int) -> bool:
        recording = self._recording
        recording.size_bytes += size_bytes
        recording.is_whole = recording.is_whole and recording.size_bytes <= self._max_bytes
        return recording.is_whole


class _Replay:
    """The position in a recording."""

    def __init__(self, recording: Recording) -> None:
        self._readings = iter(recording.readings)
        self._entropy = iter(recording.entropy)
        self._answers = iter(recording.answers)

    def next_reading(self) -> int:
        reading = next(self._readings, None)
        if reading is None:
            raise ReplayDivergedError("it read a clock more often than before")
        return reading

    def next_entropy(self, count: int) -> bytes:
        data = next(self._entropy, None)
        if data is None or len(data) != count:
            raise ReplayDivergedError("it asked for other random bytes than before")
        return data

    def next_answer(self) -> str:
        answer = next(self._answers, None)
        if answer is None:
            raise ReplayDivergedError("it waited for more host calls than before")
        return answer
