"""The sub-calls of one completion that were made before, so that identical ones are made once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable

    from rlm_api.rlm.v1 import event_pb2


@dataclass(frozen=True)
class SubcallOutcome:
    """What came of one sub-call: a reply, or a failure.

    Args:
        reason: how it ended.
        text: the reply.
        kind: what code can tell failures apart by; empty if it did not fail.
        message: the failure, for people.
        partial_answer: what a child RLM had of an answer when it failed.
    """

    reason: event_pb2.FinishReason.ValueType
    text: str = ""
    kind: str = ""
    message: str = ""
    partial_answer: str = ""

    def to_json(self) -> dict[str, str]:
        """Returns what the REPL is told."""
        if not self.kind:
            return {"text": self.text}
        return {"kind": self.kind, "message": self.message, "partial_answer": self.partial_answer}


class SubcallCache:
    """Outcomes by what was asked. Calls that are identical to one under way wait for its outcome.

    A failure is given to those that wait for it, and then forgotten, so that the call can be made again.
    """

    def __init__(self) -> None:
        self._outcomes: dict[Hashable, asyncio.Future[SubcallOutcome]] = {}

    def find(self, key: Hashable) -> asyncio.Future[SubcallOutcome] | None:
        """Returns the outcome of an identical call, which may be to come, or None if this is the first."""
        return self._outcomes.get(key)

    def begin(self, key: Hashable) -> asyncio.Future[SubcallOutcome]:
        """Returns where the outcome goes of a call that is being made; `finish` must follow, however it ends."""
        future: asyncio.Future[SubcallOutcome] = asyncio.get_running_loop().create_future()
        self._outcomes[key] = future
        return future

    def finish(self, key: Hashable, future: asyncio.Future[SubcallOutcome], outcome: SubcallOutcome) -> None:
        """Tells the outcome of a call; does nothing if it is known."""
        if future.done():
            return
        if outcome.kind:
            del self._outcomes[key]
        future.set_result(outcome)
