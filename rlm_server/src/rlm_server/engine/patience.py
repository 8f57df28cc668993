"""How long a node may go on without getting anywhere: replies without code, turns that fail, turns that repeat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import event_pb2

from rlm_server.engine.budgets.accounts import LimitReachedError
from rlm_server.engine.progress import MAX_REPEATED_TURNS, TURNS_WITHOUT_NEWS, Progress, RepetitionError
from rlm_server.engine.prompts import fill

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlm_server.engine.run import Run

_MAX_IDLE_REPLIES = 5
"""Replies in a row without code or answer after which a node gives up."""


class Patience:
    """Has a model told that it gets nowhere, and ends its node where that goes on for too long.

    Args:
        run: the completion's.
        node_id: the node's.
    """

    def __init__(self, run: Run, node_id: str) -> None:
        self._run = run
        self._node_id = node_id
        self._progress = Progress()
        self._idle_replies = 0
        self._failed_turns = 0

    async def note_idle_reply(self, *, empty: bool) -> str:
        """Takes note of a reply that has neither code nor an answer; returns what the model is told.

        Args:
            empty: it has nothing in it.

        Raises:
            LimitReachedError: there were too many in a row.
        """
        self._idle_replies += 1
        code = event_pb2.WARNING_CODE_EMPTY_REPLY if empty else event_pb2.WARNING_CODE_NO_CODE
        what = "was empty" if empty else "had neither code nor an answer"
        await self._warn(code, f"the reply {what}; {self._idle_replies} of at most {_MAX_IDLE_REPLIES} in a row")
        if self._idle_replies >= _MAX_IDLE_REPLIES:
            raise LimitReachedError(
                event_pb2.FINISH_REASON_NO_PROGRESS,
                f"{_MAX_IDLE_REPLIES} replies in a row had neither code nor an answer",
            )
        prompts = self._run.prompts
        note = prompts.empty_reply if empty else prompts.no_code
        return fill(note, replies_left=_MAX_IDLE_REPLIES - self._idle_replies)

    def note_reply(self) -> None:
        """Takes note of a reply that has code or an answer."""
        self._idle_replies = 0

    async def note_turn(
        self, blocks: Sequence[str], shown: Sequence[str], outputs: Sequence[str], asked: tuple[int, ...]
    ) -> list[str]:
        """Takes note of a turn of code without an answer, as `Progress.record`; returns what the model is told.

        Raises:
            RepetitionError: too many in a row ran code that had run before, and came to the same.
        """
        self._progress.record(blocks, shown, outputs, asked)
        repeated, stale = self._progress.repeated_turns, self._progress.stale_turns
        if not repeated:
            if not stale or stale % TURNS_WITHOUT_NEWS:
                return []
            message = f"the last {stale} turns showed the model nothing that it had not seen before"
            await self._warn(event_pb2.WARNING_CODE_NO_PROGRESS, message)
            return [fill(self._run.prompts.stale_turns, turns=stale)]
        times = "once more" if repeated == 1 else f"for {repeated} turns now"
        await self._warn(
            event_pb2.WARNING_CODE_NO_PROGRESS, f"the model runs code that ran before and comes to the same, {times}"
        )
        if repeated >= MAX_REPEATED_TURNS:
            raise RepetitionError(
                event_pb2.FINISH_REASON_NO_PROGRESS,
                f"{repeated} turns in a row ran code that had run before, and came to the same",
            )
        return [fill(self._run.prompts.repeated_turn, turns_left=MAX_REPEATED_TURNS - repeated)]

    def note_failure(self, *, refused: bool) -> None:
        """Takes note of a turn whose code failed.

        Args:
            refused: sub-calls were refused to it, as their limit is reached.

        Raises:
            LimitReachedError: there were too many in a row.
        """
        self._failed_turns += 1
        limits = self._run.spec.limits
        if self._failed_turns < limits.max_consecutive_errors:
            return
        if refused:
            raise LimitReachedError(
                event_pb2.FINISH_REASON_MAX_SUBCALLS,
                f"max_subcalls of {limits.max_subcalls} is reached, and the code does not do without",
            )
        raise LimitReachedError(
            event_pb2.FINISH_REASON_MAX_ERRORS,
            f"max_consecutive_errors of {limits.max_consecutive_errors} is reached",
        )

    def note_success(self) -> None:
        """Takes note of a turn whose code went through."""
        self._failed_turns = 0

    async def _warn(self, code: event_pb2.WarningCode.ValueType, message: str) -> None:
        await self._run.events.warn(self._node_id, code, message)
