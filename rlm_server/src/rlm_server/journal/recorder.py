"""Records one run of one completion, and has at hand what earlier runs of it have recorded."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import logging
from typing import TYPE_CHECKING, TypeVar

from rlm_api.rlm.v1 import event_pb2

from rlm_server.engine.events import make_event
from rlm_server.engine.reproducible import event_time
from rlm_server.engine.run import ROOT_NODE_ID
from rlm_server.journal.appends import Append, Payload
from rlm_server.journal.commits import FencedError
from rlm_server.journal.recorded_events import (
    DELTA_KINDS,
    STRUCTURAL_KIND_NUMBERS,
    RecordedEvents,
    kind_number,
)
from rlm_server.journal.states import State, state_of
from rlm_server.journal.writer import StorageUnavailableError, end_future

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from rlm_server.engine.events import EventKind
    from rlm_server.engine.ports.clock import Clock
    from rlm_server.journal.store import Journal, StoredCompletion

_log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

_MAX_UNCOMMITTED_EVENTS = 1000
_PAGE = 2000

_URGENT_KINDS = frozenset({"tool_call"})
"""Kinds of events whose clients are waited for."""

_repeats = contextvars.ContextVar("repeats", default=False)


def repeats_finished_work() -> bool:
    """Tells whether this task repeats work that has ended before: what is not recorded of it never happened."""
    return _repeats.get()


def context_of_repeated_work() -> contextvars.Context:
    """Returns a context for tasks that repeat work which has ended before."""
    context = contextvars.copy_context()
    context.run(_repeats.set, True)
    return context


class Recorder:
    """The journal of one completion while it runs here.

    What leaves the server waits until all that led to it is committed: a loop's calls to its model, and what blocks
    call, wait for `settled`; events are told to clients once they are committed themselves. What stays inside does not
    wait: a block runs in its sandbox while the reply that has it is committed. The order in the journal is the order of
    the calls.

    Args:
        journal: where to.
        stored: the completion, which is this server's.
        clock: tells the time.
        on_event: gets each event once it is committed.
        on_lost: is called when another server has taken the completion over.
        reproducible: the times of events only count them.
    """

    def __init__(
        self,
        journal: Journal,
        stored: StoredCompletion,
        clock: Clock,
        *,
        on_event: Callable[[event_pb2.Event], None],
        on_lost: Callable[[], None],
        reproducible: bool = False,
    ) -> None:
        self._journal = journal
        self.completion_id = stored.completion_id
        self.epoch = stored.epoch
        self._clock = clock
        self._on_event = on_event
        self._on_lost = on_lost
        self._sequence = stored.last_sequence
        self._start_seconds = clock.monotonic_seconds()
        self._seconds_before = stored.running_time / 1e9
        self._steps: dict[str, Payload] = {}
        self._events = RecordedEvents(())
        self._repeating_nodes: set[str] = set()
        self._reproducible = reproducible
        self._room = asyncio.Semaphore(_MAX_UNCOMMITTED_EVENTS)
        self._numbering = asyncio.Lock()
        self._last_step: asyncio.Future[None] | None = None
        self._consumed = 0
        self.is_repetition = False
        """Whether an earlier run has recorded something."""

    @property
    def seconds_before(self) -> float:
        """How long earlier runs took together."""
        return self._seconds_before

    async def load(self) -> None:
        """Fetches what earlier runs have recorded.

        Raises:
            StorageUnavailableError: the journal cannot be read at present.
        """
        self._steps = await self._journal.steps(self.completion_id)
        told: list[event_pb2.Event] = []
        while page := await self._journal.events(
            self.completion_id,
            told[-1].sequence if told else 0,
            limit=_PAGE,
            kinds=STRUCTURAL_KIND_NUMBERS,
        ):
            told += page
        self._events = RecordedEvents(told)
        self.is_repetition = bool(self._steps or told)

    # --- steps

    async def recorded(self, key: str) -> bytes | None:
        """Returns what an earlier run recorded under a key, once; None if it recorded nothing."""
        payload = self._steps.pop(key, None)
        if payload is None:
            return None
        self._consumed += 1
        return await self._with_patience(lambda: self._journal.payloads.load(payload))

    def has_recorded(self, key: str) -> bool:
        """Tells whether an earlier run recorded something under a key that has not been asked for yet."""
        return key in self._steps

    async def record(self, key: str, data: bytes) -> None:
        """Records a step; `settled` returns once it is committed."""
        payload = await self._payload(data)
        append = Append(self.completion_id, self.epoch, steps=[(key, payload)], running_time=self.running_time())
        self._last_step = self._journal.append(append)
        self._last_step.add_done_callback(self._on_step_appended)

    async def settled(self) -> None:
        """Returns once all steps that were recorded before are committed.

        Raises:
            StorageUnavailableError: they are not, since the journal is closed.
        """
        step = self._last_step  # before which all others are committed
        if step is None:
            return
        await asyncio.wait({step})
        try:
            step.result()
        except FencedError:
            await never()

    def _on_step_appended(self, step: asyncio.Future[None]) -> None:
        if isinstance(step.exception(), FencedError):
            self._on_lost()

    async def until_quiet(self) -> None:
        """Returns once repeated work that goes on by itself has used up what is recorded of it."""
        still = 0
        while still < 20:
            before = self._consumed
            await asyncio.sleep(0)
            still = still + 1 if self._consumed == before else 0

    # --- events

    @contextlib.contextmanager
    def repeating(self, node_id: str) -> Iterator[None]:
        """While this lasts, what a node says bit by bit comes from the record and has been told before."""
        self._repeating_nodes.add(node_id)
        try:
            yield
        finally:
            self._repeating_nodes.discard(node_id)

    def skips_deltas(self, node_id: str) -> bool:
        """Tells whether what a node says bit by bit comes from the record. See `engine.events.EventSink`."""
        return node_id in self._repeating_nodes or repeats_finished_work()

    async def put(self, event: event_pb2.Event) -> None:
        """Numbers and records an event, unless an earlier run has told it. See `engine.events.EventSink`."""
        is_delta = event.WhichOneof("kind") in DELTA_KINDS
        if is_delta or not (self._events.take(event) or repeats_finished_work()):
            await self._append(event)

    async def tell(self, node_id: str, kind: EventKind) -> None:
        """Records an event of this run itself, whatever earlier runs have told."""
        await self._append(make_event(node_id, kind, self._clock))

    async def end(self, kind: event_pb2.CompletionFinished | event_pb2.Parked) -> None:
        """Records the completion's last event, or that it is parked; returns once that is committed."""
        if isinstance(kind, event_pb2.Parked):
            changes: dict[str, object] = {"state": State.PARKED, "parked_reason": kind.reason}
        else:
            changes = {"state": state_of(kind.finish_reason), "end_time": self._clock.time_nanoseconds()}
        committed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self._append(make_event(ROOT_NODE_ID, kind, self._clock), changes, committed)
        try:
            await committed
        except FencedError:
            await never()

    async def _append(
        self,
        event: event_pb2.Event,
        changes: dict[str, object] | None = None,
        committed: asyncio.Future[None] | None = None,
    ) -> None:
        """Numbers an event and has it recorded; `committed` ends once it is."""
        await self._room.acquire()
        async with self._numbering:
            if self._reproducible:
                event.event_time.CopyFrom(event_time(self._sequence + 1))
            payload = await self._payload(event.SerializeToString())  # without what is in the row
            # From here on nothing waits: a writer that is cancelled before leaves no gap.
            self._sequence += 1
        event.completion_id, event.sequence = self.completion_id, self._sequence
        append = Append(
            self.completion_id,
            self.epoch,
            events=[(self._sequence, kind_number(event), payload)],
            changes=changes or {},
            running_time=self.running_time(),
            is_urgent=committed is not None or event.WhichOneof("kind") in _URGENT_KINDS,
        )
        self._journal.add(append, functools.partial(self._on_appended, event, committed))

    def _on_appended(
        self, event: event_pb2.Event, committed: asyncio.Future[None] | None, error: BaseException | None
    ) -> None:
        self._room.release()
        if error is None:
            self._on_event(event)
        elif not isinstance(error, StorageUnavailableError):
            if not isinstance(error, FencedError):
                _log.error("an event of completion %s was not recorded", self.completion_id, exc_info=error)
            self._on_lost()
        if committed is not None:
            end_future(committed, None, error)

    async def _payload(self, data: bytes) -> Payload:
        """Returns what goes into the row."""
        return await self._with_patience(lambda: self._journal.payloads.store(data))

    async def _with_patience(self, use: Callable[[], Awaitable[_Result]]) -> _Result:
        """Uses the blob store, and waits while that cannot be reached."""
        delay_seconds = 0.1
        while True:
            try:
                return await use()
            except StorageUnavailableError as error:
                _log.error("completion %s waits: %s", self.completion_id, error)
                await asyncio.sleep(delay_seconds)
                delay_seconds = min(delay_seconds * 2, 5.0)

    def running_time(self) -> int:
        """Returns how long all runs took together, in nanoseconds."""
        return int((self._seconds_before + self._clock.monotonic_seconds() - self._start_seconds) * 1e9)


async def never() -> None:
    """Waits until the task is cancelled."""
    await asyncio.get_running_loop().create_future()
