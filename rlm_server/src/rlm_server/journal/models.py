"""A `ports.ModelClient` that records what models say, and says it again without asking."""

from __future__ import annotations

import collections
import contextlib
from typing import TYPE_CHECKING

from rlm_server.engine.ports.models import CallRepeated, ModelError, ModelErrorKind, ReplyEnd, TextPart
from rlm_server.engine.run import ROOT_NODE_ID
from rlm_server.journal.recorder import never, repeats_finished_work
from rlm_server.journal.records import ModelRecord

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from rlm_server.engine.ports.models import ModelClient, ModelInfo, ModelRequest
    from rlm_server.journal.recorder import Recorder

_PASSING_KINDS = frozenset(
    {
        ModelErrorKind.UNREACHABLE,
        ModelErrorKind.TIMEOUT,
        ModelErrorKind.OVERLOADED,
        ModelErrorKind.QUOTA,
        ModelErrorKind.AUTH,
    }
)
"""Failures that an operator, or time, may mend."""


class JournaledModels:
    """Records the calls of one completion.

    A call is made once all that led to it is committed: of a sub-call's first one that is so when its host call is
    answered. What was committed is never asked for again; a call whose reply was lost with its server is made anew, as
    nobody knows what it said.

    Args:
        models: makes the calls.
        recorder: the completion's.
        park: ends the run, as a model cannot be reached and there is work to lose; gets the reason.
    """

    def __init__(self, models: ModelClient, recorder: Recorder, park: Callable[[str], None]) -> None:
        self._models = models
        self._recorder = recorder
        self._park = park
        self._calls: collections.Counter[str] = collections.Counter()
        self._has_reply = False

    def info(self, model: str) -> ModelInfo:
        """Returns what is known of a model."""
        return self._models.info(model)

    async def stream(self, request: ModelRequest) -> AsyncGenerator[TextPart | CallRepeated | ReplyEnd, None]:
        """Yields a reply; see `ports.ModelClient`."""
        node_id = request.node_id
        self._calls[node_id] += 1
        key = f"m/{node_id}/{self._calls[node_id]}"
        if (data := await self._recorder.recorded(key)) is not None:
            record = ModelRecord.decode(data)
            with self._recorder.repeating(node_id):
                for said in record.parts:
                    yield said
                if record.error is not None:
                    raise record.error
                self._has_reply = True
                if record.end is not None:
                    yield record.end
            return
        if repeats_finished_work():
            await never()
        if self._has_history(node_id):
            await self._recorder.settled()
        record = ModelRecord([])
        try:
            async with contextlib.aclosing(self._models.stream(request)) as parts:
                async for part in parts:
                    if isinstance(part, ReplyEnd):
                        record.end = part
                    else:
                        record.parts.append(part)
                        yield part
        except ModelError as error:
            if error.kind in _PASSING_KINDS and self._may_park(node_id, error):
                self._park(error.message)
                await never()
            await self._recorder.record(key, ModelRecord(record.parts, error=error).encode())
            raise
        await self._recorder.record(key, record.encode())
        self._has_reply = True
        if record.end is not None:
            yield record.end

    def _may_park(self, node_id: str, error: ModelError) -> bool:
        """Tells whether to park: only if a reply would be lost, and a plain sub-call only if nothing can be reached.

        Code can deal with a sub-call that failed; a loop whose own model does not answer cannot go on.
        """
        return self._has_reply and (self._has_history(node_id) or error.kind is ModelErrorKind.UNREACHABLE)

    def _has_history(self, node_id: str) -> bool:
        """Tells whether a node's call follows others of its own, or is the root's; a plain sub-call's does not."""
        return self._calls[node_id] > 1 or node_id == ROOT_NODE_ID
