"""A REPL that is kept between completions: what the contract calls a conversation."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from typing import TYPE_CHECKING

from rlm_server.engine.conversations.known_turns import NO_HISTORY, KnownTurns, told_answer, told_query
from rlm_server.engine.conversations.turns import EarlierPart, Restoration, TurnEnd, TurnStart
from rlm_server.engine.limits import CellBounds
from rlm_server.engine.messages.transcript import history_input
from rlm_server.engine.ports.executors import Prelude, SandboxOpenError
from rlm_server.engine.ports.host_calls import HostCallError
from rlm_server.engine.ports.sessions import SandboxError, VariablesState
from rlm_server.engine.repl.memory import memory_bytes
from rlm_server.engine.repl.prelude import make_room_code
from rlm_server.engine.text import clean

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from rlm_api.rlm.v1 import event_pb2

    from rlm_server.engine.conversations.turns import Answering, EarlierTurns, Past, TurnLog
    from rlm_server.engine.messages.transcript import Transcript
    from rlm_server.engine.ports.executors import Executor, SessionSpec
    from rlm_server.engine.ports.host_calls import HostCall
    from rlm_server.engine.ports.inputs import InputValue
    from rlm_server.engine.ports.sessions import Session, VariableListing
    from rlm_server.engine.repl.context_parts import ContextPart

_log = logging.getLogger(__name__)

BEGIN_BOUNDS = CellBounds(wall_time_seconds=10.0)
"""Bounds of the code that makes the REPL ready for the next completion."""

_ATTEMPTS = 3
_NOT_HERE = "the conversation's latest sandbox was another server's, or was freed"


class KeptRepl:
    """Holds one sandbox over any number of completions, one at a time, and makes another like it where it is lost.

    To the root of the completion that has it, it is an `Executor`; children have sandboxes of their own. A completion
    that is cancelled leaves the variables as they were before the block that was running.

    Args:
        executor: makes the sandbox.
        turns: the completions before, as of a REPL that another server had: the id of each, and how it began and ended,
            first to last.
    """

    def __init__(self, executor: Executor, turns: Sequence[tuple[str, TurnStart, TurnEnd]] = ()) -> None:
        self._executor = executor
        self._lock = asyncio.Lock()
        self._resources = contextlib.AsyncExitStack()
        self._session: Session | None = None
        self._on_host_call: Answering | None = None
        self._preparing: asyncio.Task[Session] | None = None
        self._settling: asyncio.Task[None] | None = None
        self._moved: Mapping[str, str] = {}
        self._transcript: Transcript | None = None
        self._loss = ""
        self._restoration: Restoration | None = None
        self._log: TurnLog | None = None
        self._completion_id = ""
        self._was_opened = False
        self._earlier_count = 0
        self._done_count = 0
        self.variables_lost = False
        """Whether variables are lost of which no completion has been told yet."""
        self.is_concluded = True
        """Whether each completion that has begun has come to its end here: if not, the REPL is somewhere within one."""
        self.turns = KnownTurns()
        """The completions that have begun in it."""
        self.turns.learn(turns)

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return self._executor.name

    async def packages(self) -> Sequence[str]:
        """Returns what its sandboxes have; see `ports.Executor`."""
        return await self._executor.packages()

    # --- the completion that has it

    def enter(self, completion_id: str, log: TurnLog) -> None:
        """Takes note that a completion is to have the session next.

        Args:
            completion_id: the completion's.
            log: is told of it.
        """
        self._completion_id = completion_id
        self._log = log
        self._was_opened = False
        self._moved = {}
        self._earlier_count = len(self.turns.begun_ids)
        self._transcript = None

    @contextlib.asynccontextmanager
    async def open(self, spec: SessionSpec) -> AsyncIterator[Session]:
        """Gives a completion the session, with its inputs set; see `ports.Executor`.

        Where it was lost the completion gets another, in which those before it have been done once more.

        Raises:
            SandboxOpenError: there is no sandbox, and none can be had.
        """
        # To its end even if the completion is cancelled: a session with half of its inputs is of no use.
        preparing = self._preparing = asyncio.create_task(self._prepare(spec))
        try:
            session = await asyncio.shield(preparing)
            self._on_host_call = spec.on_host_call
            yield session
        finally:
            self._on_host_call = None
            self._settling = asyncio.create_task(self._settle(preparing))

    async def begin(self, query: str, parts: Sequence[ContextPart], spec: SessionSpec) -> Past:
        """Takes note of the completion that has the session now; returns what it is told of those before it.

        Args:
            query: its question.
            parts: its context.
            spec: what it wants of the sandbox.
        """
        past = self.turns.past(self.take_restoration(), self._moved, variables_lost=self.variables_lost)
        self.variables_lost = False
        told = [EarlierPart(part.value.name, part.outline.type_name, part.outline.size) for part in parts]
        if self.turns.begun_ids:
            spec = dataclasses.replace(spec, prelude=Prelude(""))  # that of the first one holds
        start = TurnStart(told_query(query), told, spec)
        self.turns.begin(self._completion_id, start)
        self.is_concluded = False
        await self._turn.start(start)
        return past

    def keep(self, transcript: Transcript) -> None:
        """Takes note of the messages of the completion that has the session: the next one finds them as a variable."""
        self._transcript = transcript

    async def conclude(self, answer: str, *, is_final: bool) -> None:
        """Takes note of what the completion that has the session came to."""
        if self.is_concluded:
            return  # it ended before it had begun
        history = NO_HISTORY if self._transcript is None else self._transcript.history_json()
        self._transcript = None
        end = TurnEnd(told_answer(answer), is_final, history)
        self.turns.end(end)
        await self._turn.end(end)
        if self._was_opened:  # or else all that it did came from the record, and nothing of it has run here
            self._done_count = len(self.turns.begun_ids)
        self.is_concluded = True

    def take_restoration(self) -> Restoration | None:
        """Returns how the REPL was made once more since this was asked before; None if it was not."""
        restoration, self._restoration = self._restoration, None
        return restoration

    # ---

    async def variables(self, turns: EarlierTurns) -> VariableListing:
        """Describes the variables; no completion may have the session.

        Args:
            turns: all completions that have begun in it.

        Raises:
            SandboxError: the sandbox is lost, and no other can be had.
        """
        async with self._lock:
            await self._until_settled()
            if not self.is_concluded:
                raise SandboxError("a completion has begun in the conversation meanwhile")
            session = await self._up_to_date(turns, len(self.turns.begun_ids))
            return await session.variables()

    async def close(self) -> None:
        """Frees the sandbox. No completion may have the session."""
        tasks = [task for task in (self._preparing, self._settling) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._drop()

    @property
    def _turn(self) -> TurnLog:
        if self._log is None:
            raise SandboxError("no completion has entered the conversation")
        return self._log

    def _usable(self) -> Session | None:
        """Returns the session if it can be used, as far as is known."""
        session = self._session
        if session is not None and not session.is_alive:
            self._loss = self._loss or "the conversation's sandbox died while nobody used it"
            return None
        return session

    async def _prepare(self, spec: SessionSpec) -> Session:
        async with self._lock:
            await self._until_settled()
            if self._was_opened or not self._earlier_count:
                await self._drop()  # what this completion had before is lost, whatever it looks like
            self._was_opened = True
            if not self._earlier_count:
                return await self._open(spec)
            inputs = [*spec.inputs, history_input(self._earlier_count - 1, self.turns.history)]
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    session = await self._up_to_date(self._turn, self._earlier_count, inputs)
                    self._moved = await _make_room(session, [one.name for one in spec.inputs])
                    await session.set_inputs(inputs)
                    await session.run_cell(spec.begin_code, BEGIN_BOUNDS, _ignore_output)
                except SandboxOpenError:
                    raise
                except SandboxError as error:
                    _log.warning("the sandbox of a conversation is lost: %s", error)
                    self._loss = str(error)
                    await self._drop()
                    if attempt == _ATTEMPTS:
                        raise SandboxOpenError(str(error)) from error
                else:
                    return session
            raise AssertionError("the loop above returns or raises")

    async def _up_to_date(self, turns: EarlierTurns, count: int, coming: Sequence[InputValue] = ()) -> Session:
        """Returns a session that has been through all completions before: the one at hand, or another like it.

        Args:
            turns: the completions.
            count: how many there are.
            coming: what there must be room for in another one.
        """
        session = self._usable()
        if session is not None and self._done_count == count:
            return session
        start_seconds = time.monotonic()
        recipe = await turns.recipe(0 if session is None else self._done_count)
        if session is None or recipe.is_whole:
            await self._drop()
            input_bytes = recipe.input_bytes + sum(one.size_bytes for one in coming)
            memory = max(recipe.spec.memory_bytes, memory_bytes(0, input_bytes))
            session = await self._open(dataclasses.replace(recipe.spec, memory_bytes=memory))
        try:
            replayed = await recipe.replay(session, self._answer_with)
        except BaseException:
            await self._drop()
            raise
        finally:
            self._answer_with(None)
        self._done_count = count
        self.variables_lost = self.variables_lost or replayed.variables_lost
        self._restoration = Restoration(
            self._loss or _NOT_HERE, replayed.cell_count, time.monotonic() - start_seconds, replayed.problems
        )
        self._loss = ""
        return session

    async def _open(self, spec: SessionSpec) -> Session:
        # The session outlives the completion, which is not to be kept for it.
        opening = self._executor.open(dataclasses.replace(spec, on_host_call=self._answer, on_wait=None))
        self._session = await self._resources.enter_async_context(opening)
        self._done_count = 0
        return self._session

    async def _drop(self) -> None:
        """Frees the sandbox, if there is one."""
        self._session = None
        with contextlib.suppress(SandboxError):
            await self._resources.aclose()

    async def _settle(self, preparing: asyncio.Task[Session]) -> None:
        """Brings the session in order after a completion, however that ended."""
        await asyncio.wait({preparing})
        if preparing.cancelled() or preparing.exception() is not None:
            return
        try:
            state = await preparing.result().settle()
        except SandboxError as error:
            _log.warning("the sandbox of a conversation is lost: %s", error)
            self._loss = str(error)
            return
        if state is VariablesState.LOST:
            # What was recorded is all that there was before the block that was running.
            self._loss = "a block was cancelled, and its sandbox could not undo it"
            await self._drop()

    async def _until_settled(self) -> None:
        if self._settling is not None:
            await asyncio.wait({self._settling})

    def _answer_with(self, answering: Answering | None) -> None:
        self._on_host_call = answering

    async def _answer(self, call: HostCall) -> object:
        if self._on_host_call is None:
            raise HostCallError("bad_call", "no completion runs in this conversation")
        return await self._on_host_call(call)


async def _make_room(session: Session, names: Sequence[str]) -> Mapping[str, str]:
    """Makes room for inputs; returns the new names of the variables that were in the way, by the old ones."""
    if not names:
        return {}
    report = (await session.run_cell(make_room_code(names), BEGIN_BOUNDS, _ignore_output)).after_cell
    moved = report.get("moved") if isinstance(report, dict) else None
    # It comes from the sandbox, where code may have tampered with it.
    return {name: clean(str(moved[name])) for name in names if name in moved} if isinstance(moved, dict) else {}


async def _ignore_output(stream: event_pb2.OutputStream.ValueType, text: str) -> None:
    pass
