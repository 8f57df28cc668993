"""What a completion came to, and how it is put together from its events."""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic

from rlm_api.rlm.v1 import event_pb2
from typing_extensions import TypeVar

from rlm_client._answer_types import read_value
from rlm_client._errors import CompletionParkedError, StreamEndedError
from rlm_client._files import FilesFold, ReturnedFile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rlm_api.rlm.v1 import completion_service_pb2 as pb
    from rlm_api.rlm.v1 import limits_pb2

    from rlm_client._directory import SkippedFile


class FinishReason(enum.StrEnum):
    """Why a completion ended; `rlm.v1.FinishReason` without the prefix."""

    UNSPECIFIED = "UNSPECIFIED"
    """A reason that this client does not know, as the server is newer."""
    ANSWERED = "ANSWERED"
    MAX_ITERATIONS = "MAX_ITERATIONS"
    WALL_TIME = "WALL_TIME"
    MAX_TOKENS = "MAX_TOKENS"
    MAX_COST = "MAX_COST"
    MAX_SUBCALLS = "MAX_SUBCALLS"
    MAX_ERRORS = "MAX_ERRORS"
    CANCELLED = "CANCELLED"
    MODEL_ERROR = "MODEL_ERROR"
    SANDBOX_ERROR = "SANDBOX_ERROR"
    NO_PROGRESS = "NO_PROGRESS"
    INTERNAL_ERROR = "INTERNAL_ERROR"
    CONTEXT_TOO_LONG = "CONTEXT_TOO_LONG"

    @classmethod
    def from_proto(cls, value: event_pb2.FinishReason.ValueType) -> FinishReason:
        """Returns the member for the contract's value."""
        try:
            return cls(event_pb2.FinishReason.Name(value).removeprefix("FINISH_REASON_"))
        except ValueError:
            return cls.UNSPECIFIED


T = TypeVar("T", default=Any)


@dataclass(frozen=True)
class Completion(Generic[T]):
    """A completion that has ended.

    Args:
        completion_id: the server's name for it.
        answer: the answer, or the best partial one; may be empty.
        finish_reason: why it ended.
        partial: whether `answer` is not one that the model declared final.
        error: what went wrong, for people; empty if nothing did.
        usage: what the whole tree of calls used.
        iterations: turns that the root took.
        wall_time_seconds: how long it took.
        event_count: number of its events.
        skipped_files: files of directories in the context that were left out.
        answer_json: the answer as JSON, if a type was asked for and the answer, a partial one too, matches it.
        read: makes the value of it; None if no type was asked for.
        conversation_id: the conversation that it belongs to, or empty.
        files: those that were asked for with `return_files`, in the order in which code wrote them first; of one that
            cannot be returned, as it is too large, the reason.
    """

    completion_id: str
    answer: str
    finish_reason: FinishReason
    partial: bool
    error: str
    usage: limits_pb2.Usage
    iterations: int
    wall_time_seconds: float
    event_count: int
    skipped_files: Sequence[SkippedFile]
    answer_json: str = ""
    read: Callable[[str], T] | None = field(default=None, repr=False, compare=False)
    conversation_id: str = ""
    files: Sequence[ReturnedFile] = field(default=(), repr=False)

    @property
    def value(self) -> T | None:
        """The answer as a value of the type that was asked for; None if there is none, or no type was asked for.

        Raises:
            AnswerValueError: it matches the type's schema, but not what the type checks besides.
        """
        return None if self.read is None or not self.answer_json else read_value(self.read, self.answer_json)


@dataclass(frozen=True)
class Models:
    """The models that a server has.

    Args:
        models: those that requests can name.
        default_model: the root's where a request names none.
        default_sub_model: the sub-calls' where a request names none.
        any_model_allowed: whether requests may name others, too.
    """

    models: Sequence[pb.Model]
    default_model: str
    default_sub_model: str
    any_model_allowed: bool

    @classmethod
    def from_proto(cls, response: pb.ListModelsResponse) -> Models:
        """Returns what a response says."""
        return cls(
            tuple(response.models),
            response.default_model,
            response.default_sub_model,
            response.any_model_allowed,
        )


def from_finished(
    completion_id: str,
    finished: event_pb2.CompletionFinished,
    event_count: int,
    skipped_files: Sequence[SkippedFile] = (),
    read: Callable[[str], Any] | None = None,
) -> Completion[Any]:
    """Returns what a completion came to that ended with this."""
    return Completion(
        completion_id=completion_id,
        answer=finished.answer,
        finish_reason=FinishReason.from_proto(finished.finish_reason),
        partial=finished.partial,
        error=finished.error,
        usage=finished.usage,
        iterations=finished.iterations,
        wall_time_seconds=finished.wall_time.ToNanoseconds() / 1e9,
        event_count=event_count,
        skipped_files=tuple(skipped_files),
        answer_json=finished.answer_json,
        read=read,
    )


class EventFold:
    """Follows the events of a stream until it can tell what the completion came to."""

    def __init__(self, skipped_files: Sequence[SkippedFile], read: Callable[[str], Any] | None = None) -> None:
        self._skipped_files = tuple(skipped_files)
        self._read = read
        self._last: event_pb2.Event | None = None
        self._count = 0
        self._files = FilesFold()
        self.conversation_id = ""
        """The conversation that the completion belongs to; empty until its first event has come."""

    def add(self, event: event_pb2.Event) -> None:
        """Takes note of the next event."""
        if event.WhichOneof("kind") == "started":
            self.conversation_id = event.started.conversation_id
        elif event.WhichOneof("kind") == "file_content":
            self._files.add(event.file_content)
        self._last = event
        self._count += 1

    @property
    def completion_id(self) -> str:
        """The completion's id; empty before the first event."""
        return self._last.completion_id if self._last is not None else ""

    @property
    def last_sequence(self) -> int:
        """Number of the last event that has come; 0 before the first."""
        return self._last.sequence if self._last is not None else 0

    @property
    def has_ended(self) -> bool:
        """Whether there will be no more events: the completion is finished, or parked."""
        return self._last is not None and self._last.WhichOneof("kind") in ("finished", "parked")

    @property
    def is_finished(self) -> bool:
        """Whether the last event has come."""
        return self._last is not None and self._last.WhichOneof("kind") == "finished"

    def completion(self) -> Completion[Any]:
        """Returns what the completion came to.

        Raises:
            CompletionParkedError: it waits to be resumed.
            StreamEndedError: its last event has not come.
        """
        if self._last is not None and self._last.WhichOneof("kind") == "parked":
            raise CompletionParkedError(self._last.completion_id, self._last.parked.reason)
        if self._last is None or not self.is_finished:
            last = self._last or event_pb2.Event()
            raise StreamEndedError(last.completion_id, last.sequence)
        return dataclasses.replace(
            from_finished(self._last.completion_id, self._last.finished, self._count, self._skipped_files, self._read),
            conversation_id=self.conversation_id,
            files=tuple(self._files.files),
        )
