"""Completions that a server keeps, running or done."""

from __future__ import annotations

import datetime as dt
import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import completion_service_pb2 as pb

from rlm_client._completion import Completion, from_finished

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rlm_api.rlm.v1 import limits_pb2


class CompletionState(enum.StrEnum):
    """Where a completion is in its life; `rlm.v1.CompletionState` without the prefix."""

    UNSPECIFIED = "UNSPECIFIED"
    """A state that this client does not know, as the server is newer."""
    RUNNING = "RUNNING"
    PARKED = "PARKED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @classmethod
    def from_proto(cls, value: pb.CompletionState.ValueType) -> CompletionState:
        """Returns the member for the contract's value."""
        try:
            return cls(pb.CompletionState.Name(value).removeprefix("COMPLETION_STATE_"))
        except ValueError:
            return cls.UNSPECIFIED

    def to_proto(self) -> pb.CompletionState.ValueType:
        """Returns the contract's value."""
        return pb.CompletionState.Value(f"COMPLETION_STATE_{self}")


@dataclass(frozen=True)
class StoredCompletion:
    """What a server knows of a completion.

    Args:
        completion_id: its id.
        state: where it is in its life.
        query: the question.
        model: the root's model.
        create_time: when it began.
        end_time: when it ended; None while it has not.
        last_sequence: number of its latest event.
        usage: what it has used.
        result: what it came to; None while it has not ended.
        labels: the request's.
        parked_reason: what a parked one waits for.
        nodes: the tree of its calls, in order of their start; empty in listings.
        conversation_id: the conversation that it belongs to, or empty.
    """

    completion_id: str
    state: CompletionState
    query: str
    model: str
    create_time: dt.datetime
    end_time: dt.datetime | None
    last_sequence: int
    usage: limits_pb2.Usage
    result: Completion[None] | None
    labels: Mapping[str, str]
    parked_reason: str
    nodes: Sequence[pb.CompletionNode]
    conversation_id: str = ""

    @classmethod
    def from_proto(cls, message: pb.Completion) -> StoredCompletion:
        """Returns what a message says."""
        result = None
        if message.HasField("finished"):
            result = from_finished(message.completion_id, message.finished, message.last_sequence)
        utc = dt.UTC
        return cls(
            completion_id=message.completion_id,
            state=CompletionState.from_proto(message.state),
            query=message.query,
            model=message.model,
            create_time=message.create_time.ToDatetime(utc),
            end_time=message.end_time.ToDatetime(utc) if message.HasField("end_time") else None,
            last_sequence=message.last_sequence,
            usage=message.usage,
            result=result,
            labels=dict(message.labels),
            parked_reason=message.parked_reason,
            nodes=tuple(message.nodes),
            conversation_id=message.conversation_id,
        )


def list_request(
    states: Sequence[CompletionState], labels: Mapping[str, str], page_size: int
) -> pb.ListCompletionsRequest:
    """Returns the request of the first page."""
    return pb.ListCompletionsRequest(
        states=[state.to_proto() for state in states], labels=dict(labels), page_size=page_size
    )
