"""Sub-calls: what code in a node's REPL asks of models and of child RLMs."""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import event_pb2

from rlm_server.engine.block_warnings import BlockWarnings
from rlm_server.engine.budgets.budget import SubcallsExhaustedError
from rlm_server.engine.images import images_of
from rlm_server.engine.ports.host_calls import HostCallError
from rlm_server.engine.run import Node, NodeResult, NodeTask
from rlm_server.engine.subcalls.asking import Asking
from rlm_server.engine.subcalls.outcome import SubcallOutcome
from rlm_server.engine.subcalls.request import read_request
from rlm_server.engine.text import count, preview

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Sequence
    from contextlib import AbstractAsyncContextManager

    from rlm_server.engine.ports.host_calls import HostCall
    from rlm_server.engine.subcalls.request import SubcallItem, SubcallRequest
    from rlm_server.engine.tree import Tree

_OVER = SubcallOutcome(
    event_pb2.FINISH_REASON_CANCELLED,
    kind="cancelled",
    message="the block that made the identical call, for whose reply this one waited, is over",
)


@dataclass(frozen=True)
class _Call:
    """One sub-call that is to be made, or whose outcome another one has."""

    node_id: str
    index: int
    item: SubcallItem
    request: SubcallRequest
    recursive: bool
    key: Hashable
    """What the outcome is kept under; None if it is not."""
    outcome: asyncio.Future[SubcallOutcome] | None
    """Where it is kept."""
    cached: bool
    """Whether an identical call is made or was made."""


class Subcalls:
    """Answers the host calls of one node's session that ask models.

    Args:
        tree: the completion's.
        node: whose code makes the calls.
        run_child: runs a child RLM to its end.
    """

    def __init__(self, tree: Tree, node: Node, run_child: Callable[[Node, NodeTask], Awaitable[NodeResult]]) -> None:
        self._tree = tree
        self._run = tree.run
        self._node = node
        self._asking = Asking(tree, run_child)
        self.refused_count = 0
        """Calls that were refused as a limit is reached."""
        self._warnings = BlockWarnings(tree.run.events, node.node_id)
        self._asked: list[int] = []
        self._stops: dict[object, asyncio.Future[None]] = {}
        """What ends a call that code cancels, by the number that code gave it."""

    async def answer(self, call: HostCall) -> list[dict[str, str]]:
        """Returns a list with a dict for each prompt: `text`, or `kind`, `message` and `partial_answer` of a failure.

        Until the first wait everything depends on the order of calls alone: ids, shares, what is taken from the cache.

        Raises:
            HostCallError: the call as a whole is wrong or refused.
        """
        asked = read_request(call, self._run.spec, self._node.depth, self._window_tokens)
        request = self._without_images_for_the_blind(asked)
        self._asked.append(hash((request.function, request.model, tuple(request.items))))
        try:
            calls = self._plan(request)
        except SubcallsExhaustedError as error:
            await self._warn_refused(str(error))
            raise HostCallError("refused", str(error)) from None
        try:
            await self._warn_too_large(request)
            if request.recursive and calls and not calls[0].recursive:
                await self._warnings.warn(
                    event_pb2.WARNING_CODE_MAX_DEPTH,
                    f"{request.function} at depth {self._node.depth} is a plain model call, "
                    f"as max_depth is {self._run.spec.limits.max_depth}",
                )
            outcomes = await self._make_unless_cancelled(calls, call.kwargs.get("number"))
        finally:
            self._forget(calls)
        answers = {call.index: outcome.to_json() for call, outcome in zip(calls, outcomes, strict=True)}
        return [answers.get(index) or _not_asked(item) for index, item in enumerate(request.items)]

    def cancel(self, call: HostCall) -> None:
        """Cancels a call that code has made before, if it is still at work.

        Raises:
            HostCallError: code does not say which.
        """
        number = call.kwargs.get("number")
        if not isinstance(number, int):
            raise HostCallError("bad_call", "number must be that of a call")
        stop = self._stops.get(number)
        if stop is not None and not stop.done():
            stop.set_result(None)

    def _window_tokens(self, model: str) -> int | None:
        return self._run.models.info(model).window_tokens

    @property
    def has_asked(self) -> bool:
        """Whether there were calls since `take_asked`."""
        return bool(self._asked)

    def take_asked(self) -> tuple[int, ...]:
        """Returns what stands for the calls since the last time: equal for equal calls, in this process."""
        asked = tuple(self._asked)
        self._asked.clear()
        return asked

    async def end_block(self) -> None:
        """Takes note that the block is over that made the calls."""
        await self._warnings.end_block()

    def _is_recursive(self, request: SubcallRequest) -> bool:
        return request.recursive and self._node.depth < self._run.spec.limits.max_depth

    def _without_images_for_the_blind(self, request: SubcallRequest) -> SubcallRequest:
        """Returns a request in which prompts fail that have pictures for a model that takes none."""
        if self._is_recursive(request) or self._run.models.info(request.model).takes_images:
            return request
        message = f"{request.model} takes no images; name a model that does"
        items = [
            dataclasses.replace(item, failure=("no_images", message))
            if item.failure is None and images_of(item.plain_content)
            else item
            for item in request.items
        ]
        return dataclasses.replace(request, items=items)

    def _plan(self, request: SubcallRequest) -> list[_Call]:
        """Decides what is to be made of a call: takes it out of the budget, and gives ids and shares."""
        tree, depth = self._tree, self._node.depth + 1
        recursive = self._is_recursive(request)
        askable = [(index, item) for index, item in enumerate(request.items) if item.failure is None]
        # A child waits only for calls of its own depth, and so never for itself.
        keys: dict[int, Hashable] = {}
        if self._run.spec.cache_subcalls:
            keys = {index: (request.model, depth if recursive else 0, item) for index, item in askable}
        new_keys = {key for key in keys.values() if tree.cache.find(key) is None}
        tree.shares.reserve_subcalls(self._node.node_id, len(new_keys) if keys else len(askable))
        calls = []
        for index, item in askable:
            key = keys.get(index)
            outcome = found = None if key is None else tree.cache.find(key)
            if key is not None and found is None:
                outcome = tree.cache.begin(key)
            node_id = self._node.next_child_id()
            calls.append(_Call(node_id, index, item, request, recursive, key, outcome, cached=found is not None))
        if recursive:
            tree.shares.give(self._node.node_id, [call.node_id for call in calls if not call.cached])
        return calls

    async def _make_unless_cancelled(self, calls: Sequence[_Call], number: object) -> list[SubcallOutcome]:
        """Makes the sub-calls of a host call.

        Raises:
            HostCallError: code has cancelled it meanwhile. What was at work has ended then.
        """
        if not isinstance(number, int) or number in self._stops:
            return await self._make_all(calls)
        stop = self._stops[number] = asyncio.get_running_loop().create_future()
        making = asyncio.create_task(self._make_all(calls))
        try:
            await asyncio.wait({making, stop}, return_when=asyncio.FIRST_COMPLETED)
            if making.done():
                return making.result()
        finally:
            del self._stops[number]
            making.cancel()
            await asyncio.wait({making})
        message = "the code that made the call has cancelled it"
        for call in reversed(calls):
            await self._tree.end_subcall(call.node_id, event_pb2.FINISH_REASON_CANCELLED, message)
        raise HostCallError("cancelled", message)

    async def _make_all(self, calls: Sequence[_Call]) -> list[SubcallOutcome]:
        if self._run.spec.seed is not None:
            return [await self._make(call) for call in calls]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._make(call)) for call in calls]
        return [task.result() for task in tasks]

    def _forget(self, calls: Sequence[_Call]) -> None:
        """Ends what `_plan` began, also of calls that never came to be made."""
        for call in calls:
            self._tree.shares.take_back(call.node_id)
            if call.outcome is not None and not call.cached:
                self._tree.cache.finish(call.key, call.outcome, _OVER)

    async def _make(self, call: _Call) -> SubcallOutcome:
        if call.outcome is not None and call.cached:
            await self._start(call)
            return await self._share(call, call.outcome)
        async with self._slot(call):
            await self._start(call)
            return await self._make_started(call)

    def _slot(self, call: _Call) -> AbstractAsyncContextManager[None]:
        depth, slots = self._node.depth + 1, self._tree.slots
        return slots.child(depth) if call.recursive else slots.model_call(depth, call.request.model)

    async def _make_started(self, call: _Call) -> SubcallOutcome:
        if call.recursive:
            child = Node(call.node_id, self._node.depth + 1)
            outcome = await self._asking.ask_child(child, call.item, call.request.model)
        else:
            outcome = await self._asking.ask_model(call.node_id, call.item, call.request.model)
            if outcome.kind == "refused":
                await self._warn_refused(outcome.message)
        if call.outcome is not None:
            self._tree.cache.finish(call.key, call.outcome, outcome)
        await self._finish(call, outcome)
        return outcome

    async def _share(self, call: _Call, found: asyncio.Future[SubcallOutcome] | None) -> SubcallOutcome:
        """Gives a call the outcome of an identical one; makes it if each was stopped, or refused where it was made."""
        while found is not None:
            outcome = await asyncio.shield(found)
            if outcome is not _OVER and outcome.kind != "refused":
                await self._finish(call, outcome)
                return outcome
            found = self._tree.cache.find(call.key)
        try:
            self._tree.shares.reserve_subcalls(self._node.node_id, 1)
        except SubcallsExhaustedError as error:
            await self._warn_refused(str(error))
            outcome = SubcallOutcome(event_pb2.FINISH_REASON_MAX_SUBCALLS, kind="refused", message=str(error))
            await self._finish(dataclasses.replace(call, cached=False), outcome)
            return outcome
        call = dataclasses.replace(call, outcome=self._tree.cache.begin(call.key), cached=False)
        if call.recursive:
            self._tree.shares.give(self._node.node_id, [call.node_id])
        try:
            async with self._slot(call):
                return await self._make_started(call)
        finally:
            self._forget([call])

    async def _start(self, call: _Call) -> None:
        request, item = call.request, call.item
        started = event_pb2.SubcallStarted(
            parent_node_id=self._node.node_id,
            depth=self._node.depth + 1,
            kind=event_pb2.NODE_KIND_RLM if call.recursive else event_pb2.NODE_KIND_LLM,
            function=request.function,
            model=request.model,
            prompt_preview=preview(item.prompt),
            prompt_chars=len(item.prompt),
            batch_index=call.index if request.batched else None,
        )
        await self._tree.start_subcall(call.node_id, started)

    async def _finish(self, call: _Call, outcome: SubcallOutcome) -> None:
        await self._tree.finish_subcall(
            call.node_id,
            outcome.reason,
            answer=outcome.text or outcome.partial_answer,
            error=outcome.message,
            cached=call.cached,
        )

    async def _warn_too_large(self, request: SubcallRequest) -> None:
        too_large = [
            item.failure[1] for item in request.items if item.failure and item.failure[0] == "prompt_too_large"
        ]
        if too_large:
            more = f" ({count(len(too_large) - 1, 'more prompt')} likewise)" if len(too_large) > 1 else ""
            await self._warnings.warn(
                event_pb2.WARNING_CODE_PROMPT_TOO_LARGE, f"{request.function}: {too_large[0]}{more}"
            )

    async def _warn_refused(self, message: str) -> None:
        self.refused_count += 1
        await self._warnings.warn(event_pb2.WARNING_CODE_SUBCALL_REFUSED, message)


def _not_asked(item: SubcallItem) -> dict[str, str]:
    kind, message = item.failure or ("failed", "")
    return {"kind": kind, "message": message, "partial_answer": ""}
