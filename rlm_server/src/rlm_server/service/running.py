"""The completions that run on this server: which they are, how they begin, and what stops them."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import event_pb2

from rlm_server.engine.events import EventStream
from rlm_server.engine.ports.executors import SandboxOpenError
from rlm_server.engine.repl.client_tools import ClientTools
from rlm_server.journal.recorder import Recorder
from rlm_server.journal.store import StorageUnavailableError
from rlm_server.journal.turns import TurnRecorder
from rlm_server.service.feeds import Feeds
from rlm_server.service.interrupted import end_what_is_open
from rlm_server.service.presence import ClientPresence
from rlm_server.service.run import Run
from rlm_server.service.runner import Runner
from rlm_server.service.tool_results import bring_results

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rlm_server.engine.ports.clock import Clock
    from rlm_server.engine.ports.executors import Executor
    from rlm_server.engine.ports.models import ModelClient
    from rlm_server.journal.store import Journal, StoredCompletion
    from rlm_server.service.conversations import Conversations
    from rlm_server.service.kept_repls import Conversation
    from rlm_server.service.starts import Start
    from rlm_server.service.validation import CheckedRequest
    from rlm_server.settings import Settings

_log = logging.getLogger(__name__)


class RunningCompletions:
    """Runs completions, each in a task of its own, to their ends or until the server stops.

    Args:
        settings: the server's.
        journal: records them.
        conversations: those that they belong to.
        models: calls models.
        executor: makes sandboxes.
        clock: tells the time.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        journal: Journal,
        conversations: Conversations,
        models: ModelClient,
        executor: Executor,
        clock: Clock,
    ) -> None:
        self._journal = journal
        self._conversations = conversations
        self._clock = clock
        self._runner = Runner(settings, journal=journal, models=models, executor=executor, clock=clock)
        self._runs: dict[str, Run] = {}
        self.served: collections.Counter[str] = collections.Counter()
        """How many streams this server has on which clients serve tools, by completion."""
        self.feeds = Feeds(journal, self._on_unwatched)
        """The events of completions, whether they run here or not."""
        self._presence = ClientPresence(self._runs, self.feeds.is_watched, settings.client_grace_seconds)

    @property
    def epochs(self) -> Mapping[str, int]:
        """Under which epochs this server owns the completions that run here, by their ids."""
        return {completion_id: run.stored.epoch for completion_id, run in self._runs.items()}

    def client_tools(self, completion_id: str) -> ClientTools | None:
        """Returns the tools that the client of a completion serves; None if it does not run here."""
        run = self._runs.get(completion_id)
        return None if run is None else run.client_tools

    def start(
        self,
        stored: StoredCompletion,
        checked: CheckedRequest,
        resources: contextlib.ExitStack,
        conversation: Conversation | None,
        *,
        cause: str,
        start: Start | None = None,
    ) -> None:
        """Runs a completion.

        Args:
            stored: what the journal says of it; it is this server's.
            checked: what is asked.
            resources: is closed when it ends.
            conversation: the one that it belongs to; None if it does to none.
            cause: what had stopped it, if it goes on; empty if it begins.
            start: its turn to begin, which ends with its first event.
        """
        feed = self.feeds.open_local(stored.completion_id, stored.last_sequence)

        def on_event(event: event_pb2.Event) -> None:
            if start is not None:
                start.end()  # the first event is told when there is a sandbox
            feed.publish(event)

        now = asyncio.get_running_loop().time()
        reproducible = checked.spec.seed is not None
        recorder = Recorder(
            self._journal,
            stored,
            self._clock,
            on_event=on_event,
            on_lost=lambda: self._lose(stored.completion_id, stored.epoch),
            reproducible=reproducible,
        )
        events = EventStream(stored.completion_id, self._clock, recorder, reproducible=reproducible)
        run = Run(
            stored,
            feed,
            recorder,
            events,
            ClientTools(events, self._clock),
            resources,
            cause,
            seen_time=now,
            watched_time=stored.watched_time,
            repl=None if conversation is None else conversation.repl,
        )
        if conversation is not None:
            self._conversations.enter(conversation)
            turn = TurnRecorder(self._journal, recorder, stored.conversation_id, stored.turn)
            conversation.repl.enter(stored.completion_id, turn)
        if stored.cancel_requested:
            run.cancel_cause = "it was cancelled"
        self._runs[stored.completion_id] = run
        # A task of its own, since that of an RPC may be cancelled where it does not run this server's code.
        run.task = asyncio.create_task(self._run(run, checked))
        if any(tool.python_source is None for tool in checked.spec.tools):
            self._bring_tool_results(run)
        self._presence.expect(stored.completion_id)

    def cancel(self, completion_id: str, cause: str) -> asyncio.Task[None] | None:
        """Cancels a completion if it runs here; returns the task that is about to end, or None."""
        run = self._runs.get(completion_id)
        if run is None:
            return None
        run.cancel(cause)
        return run.task

    def take_note(self, completion_id: str, epoch: int, stored: StoredCompletion | None) -> None:
        """Takes note of what the journal says of a completion.

        Args:
            completion_id: the completion's.
            epoch: the one under which this server owned it when the journal was asked.
            stored: what it says; None if the completion is not this server's any more.
        """
        run = self._runs.get(completion_id)
        if run is None or run.stored.epoch != epoch:
            return
        if stored is None:
            self._lose(completion_id, epoch)
            return
        if stored.watched_time != run.watched_time:
            run.watched_time = stored.watched_time
            self._presence.seen(run)
        if stored.cancel_requested:
            run.cancel("it was cancelled")

    async def end_at_once(
        self, stored: StoredCompletion, reason: event_pb2.FinishReason.ValueType, message: str
    ) -> None:
        """Ends a completion of this server's that does not run.

        Raises:
            StorageUnavailableError: the journal cannot be used at present.
        """
        feed = self.feeds.open_local(stored.completion_id, stored.last_sequence)
        recorder = Recorder(self._journal, stored, self._clock, on_event=feed.publish, on_lost=lambda: None)
        try:
            await end_what_is_open(self._journal, stored, recorder, reason, message)
        finally:
            feed.end()
            self.feeds.close_local(feed)

    async def close(self) -> None:
        """Stops what still runs, and leaves it to other servers, or to this one when it is started again."""
        runs = list(self._runs.values())
        for run in runs:
            run.stop()
        await asyncio.gather(*(run.task for run in runs if run.task is not None), return_exceptions=True)
        try:
            await self._journal.release({run.stored.completion_id: run.stored.epoch for run in runs})
        except StorageUnavailableError as error:
            _log.warning("completions could not be handed over, and wait until their leases end: %s", error)
        await self.feeds.close()

    def _on_unwatched(self, completion_id: str) -> None:
        self._presence.left(completion_id)

    # --- how one runs

    async def _run(self, run: Run, checked: CheckedRequest) -> None:
        completion_id = run.stored.completion_id
        error: Exception | None = None
        has_ended = False
        try:
            has_ended = await self._runner.run_to_end(run, checked)
        except SandboxOpenError as caught:
            has_ended = True
            if run.recorder.is_repetition:
                await run.recorder.end(event_pb2.Parked(reason=f"no sandbox can be had: {caught}"))
            else:
                # Nothing was told yet, so it is as if there had been no completion.
                error = caught
                with contextlib.suppress(StorageUnavailableError):
                    await self._journal.delete(completion_id)
        except asyncio.CancelledError:
            _log.info("completion %s stops here, unfinished", completion_id)
        except Exception as caught:  # noqa: BLE001 - readers are owed an end
            _log.exception("completion %s failed", completion_id)
            error, has_ended = await self._runner.fail(run, caught), True
        finally:
            run.events.close()
            run.resources.close()
            if self._runs.get(completion_id) is run:
                del self._runs[completion_id]
            if has_ended:
                run.feed.end(error)
            self.feeds.close_local(run.feed)

    def _lose(self, completion_id: str, epoch: int) -> None:
        """Stops a run whose completion another server has taken over."""
        run = self._runs.get(completion_id)
        if run is None or run.stored.epoch != epoch:
            return
        _log.warning("completion %s runs on another server now", completion_id)
        run.cancel_cause = run.parked_reason = ""
        run.stop()

    def _bring_tool_results(self, run: Run) -> None:
        """Brings a run the results of tools that its client sends to other servers."""
        completion_id = run.stored.completion_id

        def is_near() -> bool:
            return not run.cause and completion_id in self.served

        bringing = asyncio.create_task(bring_results(run.client_tools, self._journal, completion_id, is_near))
        run.resources.callback(bringing.cancel)
