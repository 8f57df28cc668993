"""A REPL that is kept between completions: what the contract calls a conversation."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlm_server.engine.limits import CellBounds
from rlm_server.engine.memory import memory_bytes
from rlm_server.engine.ports import HostCallError, SandboxError, SandboxOpenError, VariablesState
from rlm_server.engine.run import ROOT_NODE_ID
from rlm_server.engine.truncation import cut_middle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from rlm_api.rlm.v1 import event_pb2

    from rlm_server.engine.context_parts import ContextPart
    from rlm_server.engine.ports import Executor, HostCall, InputValue, Session, SessionSpec, VariableListing
    from rlm_server.engine.transcript import Transcript

_log = logging.getLogger(__name__)

_BEGIN_BOUNDS = CellBounds(wall_time_seconds=10.0)
_SETTLE_SECONDS = 5.0
_REMEMBERED_EXCHANGES = 10
_MAX_QUERY_CHARS = 1000
_MAX_ANSWER_CHARS = 2000


@dataclass(frozen=True)
class Exchange:
    """One completion of a conversation, as those after it are told of it.

    Args:
        query: what was asked; the middle of a long text is cut out.
        answer: what was answered, likewise; empty as long as there is nothing.
        is_final: whether the model declared the answer to be final.
    """

    query: str
    answer: str = ""
    is_final: bool = False


@dataclass(frozen=True)
class Past:
    """What a completion is told of those before it in its conversation.

    Args:
        completion_count: how many there were.
        exchanges: the latest of them.
        parts: the contexts of all; `context` is the first one's.
        context_names: the variables of the first one's context.
        variables_lost: whether the variables that their code made are gone.
    """

    completion_count: int
    exchanges: Sequence[Exchange]
    parts: Sequence[ContextPart]
    context_names: Sequence[str]
    variables_lost: bool


class KeptRepl:
    """Holds one sandbox over any number of completions, one at a time, and opens another where it is lost.

    To the completion that has it, it is an `Executor`: the root has the sandbox that is kept, children have others.
    A completion that is cancelled leaves the variables as they were before the block that was running.

    Args:
        executor: makes the sandbox.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._lock = asyncio.Lock()
        self._resources = contextlib.AsyncExitStack()
        self._session: Session | None = None
        self._spec: SessionSpec | None = None
        self._inputs: dict[str, InputValue] = {}
        self._on_host_call: Callable[[HostCall], Awaitable[object]] | None = None
        self._preparing: asyncio.Task[Session] | None = None
        self._settling: asyncio.Task[VariablesState] | None = None
        self._exchanges: collections.deque[Exchange] = collections.deque(maxlen=_REMEMBERED_EXCHANGES)
        self._parts: list[ContextPart] = []
        self._context_names: list[str] = []
        self._transcript: Transcript | None = None
        self._variables_lost = False
        self._was_opened = False
        self._is_running = False
        self.completion_count = 0
        """How many completions have begun in it."""

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return self._executor.name

    @property
    def part_names(self) -> list[str]:
        """The variables that its contexts are."""
        return [part.value.name for part in self._parts]

    @property
    def variables_lost(self) -> bool:
        """Whether variables are lost of which no completion has been told yet."""
        return self._variables_lost or (self._session is not None and not self._session.is_alive)

    @contextlib.asynccontextmanager
    async def open(self, spec: SessionSpec) -> AsyncIterator[Session]:
        """Gives a completion the session, with its inputs set; see `ports.Executor`.

        Raises:
            SandboxOpenError: there is no sandbox, and none can be had; or the completion had it and lost it, and
                what it did cannot be done again, as it was not the first in the conversation.
        """
        if spec.node_id != ROOT_NODE_ID:
            async with self._executor.open(spec) as session:
                yield session
            return
        if self._was_opened and self.completion_count > 1:
            raise SandboxOpenError("the conversation's sandbox is lost, and with it what earlier completions made")
        self._was_opened = True
        # To its end even if the completion is cancelled: a session with half of its inputs is of no use.
        preparing = self._preparing = asyncio.create_task(self._prepare(spec))
        try:
            session = await asyncio.shield(preparing)
            self._on_host_call = spec.on_host_call
            yield session
        finally:
            self._on_host_call = None
            self._settling = asyncio.create_task(self._settle(preparing))

    def begin(self, query: str, parts: Sequence[ContextPart]) -> Past:
        """Takes note of the completion that has the session now; returns what it is told of those before it."""
        self._is_running = True
        past = Past(
            self.completion_count,
            tuple(self._exchanges),
            tuple(self._parts),
            tuple(self._context_names),
            self._variables_lost,
        )
        self._variables_lost = False
        self.completion_count += 1
        self._exchanges.append(Exchange(cut_middle(query, _MAX_QUERY_CHARS)))
        self._parts += parts
        return past

    def keep(self, transcript: Transcript) -> None:
        """Takes note of the messages of the completion that has the session: the next one finds them as a variable."""
        self._transcript = transcript

    def conclude(self, answer: str, *, is_final: bool) -> None:
        """Takes note of what the completion that has the session came to."""
        self._exchanges[-1] = Exchange(self._exchanges[-1].query, cut_middle(answer, _MAX_ANSWER_CHARS), is_final)

    def end(self) -> None:
        """Takes note that the completion that had the session has ended, however it did."""
        self._was_opened = False
        self._is_running = False

    async def settled(self) -> VariablesState:
        """Returns what became of the variables when a completion ended; LOST as long as that is not known."""
        if self._settling is None:
            return VariablesState.KEPT
        await asyncio.wait({self._settling}, timeout=_SETTLE_SECONDS)
        return self._settling.result() if self._settling.done() else VariablesState.LOST

    async def variables(self) -> VariableListing:
        """Describes the variables; no completion may have the session.

        Raises:
            SandboxError: the sandbox is lost, and no other can be had.
        """
        async with self._lock:
            await self._until_settled()
            session = self._session
            if session is None or not session.is_alive:
                session = await self._open_another([])
            return await session.variables()

    async def close(self) -> None:
        """Frees the sandbox. No completion may have the session."""
        tasks = [task for task in (self._preparing, self._settling) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._session = None
        await self._resources.aclose()

    async def _prepare(self, spec: SessionSpec) -> Session:
        async with self._lock:
            await self._until_settled()
            if self._spec is None:
                self._spec = dataclasses.replace(spec, on_host_call=self._answer)
                self._context_names = [one.name for one in spec.inputs]
            inputs = [*spec.inputs, *self._history()]
            if self._session is not None and self._session.is_alive:
                try:
                    if inputs:
                        await self._session.set_inputs(inputs)
                    await self._session.run_cell(spec.begin_code, _BEGIN_BOUNDS, _ignore_output)
                except SandboxError as error:
                    _log.warning("the sandbox of a conversation is lost: %s", error)
                else:
                    self._inputs |= {one.name: one for one in inputs}
                    self._forget_past()
                    return self._session
            session = await self._open_another(inputs)
            if self.completion_count:
                await session.run_cell(spec.begin_code, _BEGIN_BOUNDS, _ignore_output)
            self._forget_past()
            return session

    def _forget_past(self) -> None:
        """Frees the messages of the completion before, which are a variable now."""
        if not self._is_running:
            self._transcript = None

    async def _open_another(self, inputs: Sequence[InputValue]) -> Session:
        if self._spec is None:
            raise SandboxError("the conversation has not begun")
        is_first = not self._inputs
        all_inputs = self._inputs | {one.name: one for one in inputs}
        self._session = None
        await self._resources.aclose()
        context_bytes = sum(_size_bytes(one) for one in all_inputs.values())
        spec = dataclasses.replace(
            self._spec,
            inputs=list(all_inputs.values()),
            memory_bytes=max(self._spec.memory_bytes, memory_bytes(0, context_bytes)),
        )
        self._session = await self._resources.enter_async_context(self._executor.open(spec))
        self._inputs = all_inputs
        self._variables_lost = not is_first
        return self._session

    def _history(self) -> list[InputValue]:
        """Returns the variables with the messages of the completion before this one."""
        if self._transcript is None or self._is_running:
            return []
        return self._transcript.history(self.completion_count - 1)

    async def _settle(self, preparing: asyncio.Task[Session]) -> VariablesState:
        """Brings the session in order after a completion, however that ended."""
        await asyncio.wait({preparing})
        if preparing.cancelled() or preparing.exception() is not None:
            return VariablesState.LOST
        try:
            state = await preparing.result().settle()
        except SandboxError as error:
            _log.warning("the sandbox of a conversation is lost: %s", error)
            return VariablesState.LOST
        if state is VariablesState.LOST:
            self._variables_lost = True
        return state

    async def _until_settled(self) -> None:
        if self._settling is not None:
            await asyncio.wait({self._settling})

    async def _answer(self, call: HostCall) -> object:
        if self._on_host_call is None:
            raise HostCallError("bad_call", "no completion runs in this conversation")
        return await self._on_host_call(call)


async def _ignore_output(stream: event_pb2.OutputStream.ValueType, text: str) -> None:
    pass


def _size_bytes(one: InputValue) -> int:
    return len(one.value) if isinstance(one.value, str | bytes) else one.value.size_bytes
