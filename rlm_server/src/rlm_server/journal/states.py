"""Where a completion is in its life."""

from __future__ import annotations

import enum

from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_api.rlm.v1 import event_pb2


class State(enum.IntEnum):
    """`rlm.v1.CompletionState`."""

    RUNNING = pb.COMPLETION_STATE_RUNNING
    PARKED = pb.COMPLETION_STATE_PARKED
    SUCCEEDED = pb.COMPLETION_STATE_SUCCEEDED
    FAILED = pb.COMPLETION_STATE_FAILED
    CANCELLED = pb.COMPLETION_STATE_CANCELLED

    @property
    def is_running(self) -> bool:
        """Whether a server runs it, or is going to."""
        return self is State.RUNNING

    @property
    def has_ended(self) -> bool:
        """Whether it cannot change any more."""
        return self not in (State.RUNNING, State.PARKED)


def state_of(reason: event_pb2.FinishReason.ValueType) -> State:
    """Returns the state of a completion that has ended for a reason."""
    if reason == event_pb2.FINISH_REASON_ANSWERED:
        return State.SUCCEEDED
    if reason == event_pb2.FINISH_REASON_CANCELLED:
        return State.CANCELLED
    return State.FAILED
