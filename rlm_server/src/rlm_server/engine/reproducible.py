"""What makes the events of a completion with a seed the same each time, byte for byte but for the completion's id.

Given the same replies of models and results of tools: events have no durations, and the time that they carry counts
them; text that a model or a block wrote comes in pieces that depend on the text alone, and not on how it arrived;
sandboxes have seeds of their own, made of the completion's and the node's place, and clocks that start at one time;
sub-calls are made one at a time, in the order in which code made them, and code goes on when they are answered; models
are told nothing of the time that is left.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, TypeVar

from google.protobuf import timestamp_pb2
from rlm_api.rlm.v1 import event_pb2, limits_pb2

if TYPE_CHECKING:
    from google.protobuf.message import Message

CLOCK_START_NS = 1_767_225_600 * 10**9
"""Where the clocks of sandboxes start, and the times of events: 2026-01-01, as nanoseconds since the epoch."""

_PIECE_CHARS = 16 * 1024
_NANOSECONDS_PER_EVENT = 1_000_000
_TIMES = ("wall_time", "cpu_time", "time_to_first_token")

_Kind = TypeVar("_Kind", bound="Message")


def node_seed(seed: int, node_id: str) -> int:
    """Returns the seed of a node's sandbox, which fits a signed integer of 64 bits."""
    digest = hashlib.sha256(f"{seed}/{node_id}".encode()).digest()
    return int.from_bytes(digest[:8], signed=True)


def event_time(sequence: int) -> timestamp_pb2.Timestamp:
    """Returns the time that an event carries."""
    timestamp = timestamp_pb2.Timestamp()
    timestamp.FromNanoseconds(CLOCK_START_NS + sequence * _NANOSECONDS_PER_EVENT)
    return timestamp


def without_times(kind: _Kind) -> _Kind:
    """Returns a copy of what an event tells, without how long anything took."""
    copy = _copy(kind)
    fields = kind.DESCRIPTOR.fields_by_name
    for name in _TIMES:
        if name in fields:
            copy.ClearField(name)
    usage = getattr(copy, "usage", None)
    if isinstance(usage, limits_pb2.Usage) and copy.HasField("usage"):
        usage.ClearField("sandbox_cpu_time")
    return copy


class TextPieces:
    """Joins the deltas of one text and cuts it where only its length says."""

    def __init__(self) -> None:
        self._node_id = ""
        self._delta: event_pb2.OutputDelta | event_pb2.ModelTextDelta | None = None

    def take(self, node_id: str, kind: Message) -> list[tuple[str, event_pb2.OutputDelta | event_pb2.ModelTextDelta]]:
        """Takes what the next event is to tell; returns the deltas that are complete, each with its node.

        A delta is kept until it is full, or something else comes, which goes after what this returns.
        """
        if not isinstance(kind, event_pb2.OutputDelta | event_pb2.ModelTextDelta):
            return self.flush()
        complete = [] if self._continues(node_id, kind) else self.flush()
        if self._delta is None:
            self._node_id, self._delta = node_id, _copy(kind)
        else:
            self._delta.text += kind.text
        while len(self._delta.text) > _PIECE_CHARS:
            full = _copy(self._delta)
            full.text = full.text[:_PIECE_CHARS]
            self._delta.text = self._delta.text[_PIECE_CHARS:]
            complete.append((node_id, full))
        return complete

    def flush(self) -> list[tuple[str, event_pb2.OutputDelta | event_pb2.ModelTextDelta]]:
        """Returns the delta that is kept, if there is one, and keeps none."""
        kept = [] if self._delta is None else [(self._node_id, self._delta)]
        self._delta = None
        return kept

    def _continues(self, node_id: str, kind: event_pb2.OutputDelta | event_pb2.ModelTextDelta) -> bool:
        kept = self._delta
        if kept is None or node_id != self._node_id or type(kept) is not type(kind):
            return False
        names = [name for name in kind.DESCRIPTOR.fields_by_name if name != "text"]
        return all(getattr(kept, name) == getattr(kind, name) for name in names)


def _copy(message: _Kind) -> _Kind:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy
