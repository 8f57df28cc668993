"""Conversations, as plain dataclasses: what a completion wants of one, and what a server tells of them."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlm_client._options import to_duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlm_api.rlm.v1 import completion_service_pb2 as pb


@dataclass(frozen=True)
class KeepConversation:
    """Keeps the REPL of a completion for later ones, or goes on with one that was kept.

    Args:
        conversation_id: the conversation to go on with; empty begins a new one, whose id `Completion.conversation_id`
            then is.
        time_to_live_seconds: how long it is kept after each use. Default: what it was, or the server's.
    """

    conversation_id: str = ""
    time_to_live_seconds: float | None = None

    def add_to(self, request: pb.CompleteRequest) -> None:
        """Sets the fields of a request."""
        request.conversation_id = self.conversation_id
        request.keep_conversation = not self.conversation_id
        if self.time_to_live_seconds is not None:
            request.conversation_time_to_live.CopyFrom(to_duration(self.time_to_live_seconds))


@dataclass(frozen=True)
class ConversationInfo:
    """A conversation that a server keeps.

    Args:
        conversation_id: its id.
        completion_ids: its completions, first to last.
        query_preview: the beginning of its first question.
        create_time: when it began.
        expire_time: when it will be closed if it is not used; None while a completion runs in it.
        time_to_live_seconds: how long it is kept after each use.
        running_completion_id: the completion that runs in it, or empty.
        variables_lost: whether code of earlier completions cost variables when it ran again in another sandbox.
    """

    conversation_id: str
    completion_ids: Sequence[str]
    query_preview: str
    create_time: dt.datetime
    expire_time: dt.datetime | None
    time_to_live_seconds: float
    running_completion_id: str
    variables_lost: bool

    @classmethod
    def from_proto(cls, message: pb.Conversation) -> ConversationInfo:
        """Returns what a message says."""
        return cls(
            conversation_id=message.conversation_id,
            completion_ids=tuple(message.completion_ids),
            query_preview=message.query_preview,
            create_time=message.create_time.ToDatetime(dt.UTC),
            expire_time=message.expire_time.ToDatetime(dt.UTC) if message.HasField("expire_time") else None,
            time_to_live_seconds=message.time_to_live.ToNanoseconds() / 1e9,
            running_completion_id=message.running_completion_id,
            variables_lost=message.variables_lost,
        )


@dataclass(frozen=True)
class Variables:
    """The variables of a conversation's REPL.

    Args:
        variables: name, type, size (`len()`, or -1) and the beginning of `repr()` of each; at most 200.
        omitted_count: how many more there are.
        variables_lost: whether code of earlier completions cost variables when it ran again in another sandbox.
        error: why they could not be listed; empty if they could.
    """

    variables: Sequence[pb.ReplVariable]
    omitted_count: int
    variables_lost: bool
    error: str

    @classmethod
    def from_proto(cls, response: pb.ListVariablesResponse) -> Variables:
        """Returns what a response says."""
        return cls(tuple(response.variables), response.omitted_count, response.variables_lost, response.error)
