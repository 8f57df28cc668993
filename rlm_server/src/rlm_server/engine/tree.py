"""The tree of nodes of one completion: what runs, what it has used, how much of it may run at once."""

from __future__ import annotations

import asyncio
import collections
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from rlm_api.rlm.v1 import event_pb2, limits_pb2

from rlm_server.engine.budgets.budget import add_usage
from rlm_server.engine.budgets.shares import Shares
from rlm_server.engine.limits import to_duration
from rlm_server.engine.model_calls import ModelCaller
from rlm_server.engine.run import NodeResult
from rlm_server.engine.subcalls.cache import SubcallCache
from rlm_server.engine.text import preview

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from rlm_server.engine.run import Run


class Interruptible(Protocol):
    """A node's loop, as the tree sees it."""

    iterations: int

    @property
    def best_answer(self) -> str:
        """What there is of an answer so far."""

    async def interrupt(self, cause: str) -> None:
        """Tells the end of what was running when the loop's task was cancelled."""


class SubcallSlots:
    """Bounds how many sub-calls of a completion run at once.

    A model call of a sub-call takes a slot while it runs. A child RLM does not hold one while its own code waits for
    sub-calls, which would lock up; how many children there are at once is bounded at each depth instead.

    Args:
        max_concurrent: the bound of model calls, and of the children at each depth.
        max_concurrent_per_model: the bound of calls to one model; None is no bound of its own.
    """

    def __init__(self, max_concurrent: int, max_concurrent_per_model: int | None) -> None:
        self._model_calls = asyncio.Semaphore(max_concurrent)
        self._children: dict[int, asyncio.Semaphore] = collections.defaultdict(
            lambda: asyncio.Semaphore(max_concurrent)
        )
        self._by_model: dict[str, asyncio.Semaphore] | None = None
        if max_concurrent_per_model is not None:
            bound = max_concurrent_per_model
            self._by_model = collections.defaultdict(lambda: asyncio.Semaphore(bound))

    @contextlib.asynccontextmanager
    async def model_call(self, depth: int, model: str) -> AsyncIterator[None]:
        """Holds what a node must hold while it calls its model. The root is no sub-call and need not wait."""
        if not depth:
            yield
        elif self._by_model is None:
            async with self._model_calls:
                yield
        else:
            # In this order, so that calls which wait for a busy model do not keep others from theirs.
            async with self._by_model[model], self._model_calls:
                yield

    def child(self, depth: int) -> AbstractAsyncContextManager[None]:
        """Returns what a child RLM at that depth holds while it lives."""
        return self._children[depth]


@dataclass
class _OpenSubcall:
    start_seconds: float
    usage: limits_pb2.TokenUsage = field(default_factory=limits_pb2.TokenUsage)


class Tree:
    """The nodes of one completion. Each sub-call that starts also ends, however the completion ends.

    Args:
        run: what the nodes share.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        limits = run.spec.limits
        self.slots = SubcallSlots(limits.max_concurrent_subcalls, limits.max_concurrent_calls_per_model)
        self.shares = Shares(run.budget, run.clock)
        self.caller = ModelCaller(run, self.shares)
        self.cache = SubcallCache()
        self._subcalls: dict[str, _OpenSubcall] = {}
        self._loops: dict[str, Interruptible] = {}

    async def start_subcall(self, node_id: str, started: event_pb2.SubcallStarted) -> None:
        """Begins a sub-call."""
        await self.run.events.emit(node_id, started)
        self._subcalls[node_id] = _OpenSubcall(self.run.clock.monotonic_seconds())

    async def finish_subcall(
        self,
        node_id: str,
        reason: event_pb2.FinishReason.ValueType,
        *,
        answer: str = "",
        error: str = "",
        cached: bool = False,
    ) -> None:
        """Ends a sub-call."""
        subcall = self._subcalls[node_id]
        finished = event_pb2.SubcallFinished(
            finish_reason=reason,
            answer_preview=preview(answer),
            answer_chars=len(answer),
            error=preview(error, 2000),
            usage=subcall.usage,
            wall_time=to_duration(self.run.clock.monotonic_seconds() - subcall.start_seconds),
            cached=cached,
        )
        await self.run.events.emit(node_id, finished)
        del self._subcalls[node_id]

    def add_loop(self, node_id: str, loop: Interruptible) -> None:
        """Makes a node's loop known."""
        self._loops[node_id] = loop

    def remove_loop(self, node_id: str) -> None:
        """Forgets a loop that has come to its end."""
        del self._loops[node_id]

    def forget_loops(self) -> None:
        """Forgets all loops, of which some were broken off."""
        self._loops.clear()

    def iterations_of(self, node_id: str) -> int:
        """Returns how many turns a node has begun whose loop runs."""
        return self._loops[node_id].iterations

    def add_usage(self, node_id: str, usage: limits_pb2.TokenUsage) -> None:
        """Counts a model call for its node and those above it."""
        while node_id:
            if node_id in self._subcalls:
                add_usage(self._subcalls[node_id].usage, usage)
            node_id = node_id.rpartition(".")[0]

    async def interrupt(self, node_id: str, reason: event_pb2.FinishReason.ValueType, cause: str) -> NodeResult:
        """Tells the end of what ran in a node and below it, and returns the best there is. Its tasks must be gone."""
        await self.end_below(node_id, reason, cause)
        loop = self._loops.pop(node_id, None)
        if loop is None:
            return NodeResult(reason, "", partial=True, error=cause)
        await loop.interrupt(cause)
        return NodeResult(reason, loop.best_answer, partial=True, error=cause, iterations=loop.iterations)

    async def end_subcall(self, node_id: str, reason: event_pb2.FinishReason.ValueType, cause: str) -> None:
        """Tells the end of a sub-call, if it has begun and not ended, and of all below it. Its tasks must be gone."""
        if node_id in self._subcalls:
            result = await self.interrupt(node_id, reason, cause)
            await self.finish_subcall(node_id, reason, answer=result.answer, error=cause)

    async def end_below(self, node_id: str, reason: event_pb2.FinishReason.ValueType, cause: str) -> None:
        """Tells the end of all that is open below a node, the latest first. Its tasks must be gone already."""
        await self.run.client_tools.end_calls(node_id, cause)
        for open_id in [open_id for open_id in reversed(self._subcalls) if open_id.startswith(f"{node_id}.")]:
            loop = self._loops.pop(open_id, None)
            if loop is not None:
                await loop.interrupt(cause)
            await self.finish_subcall(open_id, reason, error=cause)
