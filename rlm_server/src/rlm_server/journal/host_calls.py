"""The host calls of a block of code: answered by the engine and recorded, or answered from the record."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from typing import TYPE_CHECKING

from rlm_server.engine.ports.host_calls import HostCallError
from rlm_server.journal.records import CallRecord

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from rlm_server.engine.ports.host_calls import HostCall

_BELATED_SECONDS = 1.0
"""How long a block that runs again may go on after a call that is not recorded, until it counts as another one."""


class _Order:
    """Gives answers in the order in which they were given before, for code that looks which comes first."""

    def __init__(self) -> None:
        self._next = 0
        self._changed = asyncio.Condition()

    async def turn(self, position: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._next >= position)
            self._next = max(self._next, position + 1)
            self._changed.notify_all()


class ReplayedCalls:
    """Answers from the record.

    Args:
        records: the calls, in the order in which the code made them.
    """

    def __init__(self, records: Sequence[CallRecord]) -> None:
        self._records = records
        self._count = 0
        self._order = _Order()
        self.diverged = False
        """Whether the code asked what it had not asked before."""

    async def answer(self, call: HostCall) -> object:
        """Gives the answer that the call had."""
        index = self._count
        self._count += 1
        if index >= len(self._records):
            # What the block does not wait for may have come too late to be recorded: then it is over in a moment.
            await asyncio.sleep(_BELATED_SECONDS)
        if index >= len(self._records) or not self._records[index].matches(call):
            self.diverged = True
            raise HostCallError("not_recorded", "this call was not made when the block ran first")
        record = self._records[index]
        if record.given is None:
            await asyncio.get_running_loop().create_future()  # it was never answered
        else:
            await self._order.turn(record.given)
        return record.answer()


@dataclasses.dataclass
class _Live:
    record: CallRecord
    task: asyncio.Task[object]


class LiveCalls:
    """Has the engine answer, and keeps the answers should the block have to be begun again in another sandbox.

    Args:
        on_host_call: the engine's.
        settled: returns once what led to a call is committed.
    """

    def __init__(
        self, on_host_call: Callable[[HostCall], Awaitable[object]], settled: Callable[[], Awaitable[None]]
    ) -> None:
        self._on_host_call = on_host_call
        self._settled = settled
        self._calls: list[_Live] = []
        self._earlier: list[_Live] = []
        self._earlier_order = _Order()
        self._given = 0
        self._done_count = 0
        self.diverged = False
        """Whether the block, begun again, asked what it had not asked before."""

    async def answer(self, call: HostCall) -> object:
        """Has the engine answer a call, or takes the answer of the same call in the sandbox that died."""
        index = len(self._calls)
        position: int | None = None
        if index < len(self._earlier):
            live = self._earlier[index]
            if live.record.matches(call):
                position = live.record.given
                live.record = dataclasses.replace(live.record, asked_after=self._given, given=None)
            else:
                self.diverged = True
                await self._drop(self._earlier[index:])
                del self._earlier[index:]
        if index >= len(self._earlier):
            live = _Live(CallRecord(call, self._given), asyncio.create_task(self._ask(call)))
        self._calls.append(live)
        # The call goes on should this sandbox die while it waits: the next one will ask for the same.
        await asyncio.wait({live.task})
        if position is not None:
            await self._earlier_order.turn(position)
        live.record.given = self._given
        self._given += 1
        error = live.task.exception()
        if isinstance(error, HostCallError):
            live.record.error = error
        elif error is None:
            live.record.value = live.task.result()
        return live.task.result()

    def has_moved(self) -> bool:
        """Tells whether a call is open, or was answered since this was asked before."""
        lives = [*self._calls, *self._earlier[len(self._calls) :]]
        done_count = sum(live.task.done() for live in lives)
        moved = done_count < len(lives) or done_count > self._done_count
        self._done_count = done_count
        return moved

    def begin_again(self) -> None:
        """Takes note that the block is begun once more, in another sandbox."""
        self._earlier = [*self._calls, *self._earlier[len(self._calls) :]]
        self._calls = []
        self._earlier_order = _Order()
        self._given = 0

    def records(self) -> list[CallRecord]:
        """Returns the calls in the order in which they were made."""
        return [live.record for live in self._calls]

    async def close(self) -> None:
        """Ends the calls that nobody waits for any more, with all that they do."""
        await self._drop([*self._calls, *self._earlier])

    async def _ask(self, call: HostCall) -> object:
        await self._settled()
        return await self._on_host_call(call)

    async def _drop(self, calls: Sequence[_Live]) -> None:
        for live in calls:
            live.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*(live.task for live in calls), return_exceptions=True)
