"""The completions that run on this server: how they begin, go on after a crash, and end."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import time
import uuid
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_api.rlm.v1 import event_pb2
from rlm_common.errors import ServiceError

from rlm_server.engine.client_tools import ClientTools
from rlm_server.engine.completion import Completion
from rlm_server.engine.events import EventStream
from rlm_server.engine.ports import SandboxOpenError
from rlm_server.journal.blobs import BlobMissingError
from rlm_server.journal.completion_rows import ContextGoneError
from rlm_server.journal.conversation_rows import ConversationBusyError, ConversationGoneError
from rlm_server.journal.executor import JournaledExecutor
from rlm_server.journal.models import JournaledModels
from rlm_server.journal.recorder import Recorder
from rlm_server.journal.store import NewCompletion, StorageUnavailableError
from rlm_server.journal.tools import JournaledTools
from rlm_server.journal.turns import TurnRecorder
from rlm_server.service.feeds import Feeds
from rlm_server.service.housekeeping import keep_house
from rlm_server.service.interrupted import end_what_is_open
from rlm_server.service.persistence import again_and_again, all_of, with_patience
from rlm_server.service.places import Places
from rlm_server.service.refusals import conversation_busy, conversation_not_found, storage_unavailable
from rlm_server.service.request_identity import digest_of, same
from rlm_server.service.run import Run
from rlm_server.service.starts import Starts
from rlm_server.service.tool_results import bring_results

if TYPE_CHECKING:
    from rlm_server.contexts import ContextStore
    from rlm_server.engine.ports import Clock, Executor, ModelClient
    from rlm_server.journal.store import Journal, StoredCompletion
    from rlm_server.service.conversations import Conversations
    from rlm_server.service.kept_repls import Conversation
    from rlm_server.service.starts import Start
    from rlm_server.service.validation import CheckedRequest, RequestValidator
    from rlm_server.settings import Settings

_log = logging.getLogger(__name__)

_FIRST_CLIENT_SECONDS = 5.0
_CLIENT_LEFT = "its client went away"


class RunningCompletions:
    """Admits completions, runs them, keeps their leases, and takes over those whose servers are gone.

    Args:
        settings: the server's.
        journal: records them.
        conversations: those that they belong to.
        validator: makes of a request what the engine takes.
        models: calls models.
        executor: makes sandboxes.
        contexts: what was uploaded.
        clock: tells the time.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        journal: Journal,
        conversations: Conversations,
        validator: RequestValidator,
        models: ModelClient,
        executor: Executor,
        contexts: ContextStore,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._conversations = conversations
        self._validator = validator
        self._models = models
        self._executor = executor
        self._contexts = contexts
        self._clock = clock
        self._runs: dict[str, Run] = {}
        self._places = Places(settings.max_concurrent_completions)
        self._starts = Starts()
        self._tasks: set[asyncio.Task[None]] = set()
        self.served: collections.Counter[str] = collections.Counter()
        """How many streams this server has on which clients serve tools, by completion."""
        self.feeds = Feeds(journal, self._check_client)
        """The events of completions, whether they run here or not."""

    def start(self) -> None:
        """Begins to keep leases, and to take over what other servers left behind."""
        for work in (self._beat, self._take_over, lambda: keep_house(self._settings, self._journal)):
            self._tasks.add(asyncio.create_task(again_and_again(work)))

    # --- how they begin

    async def begin(self, request: pb.CompleteRequest, *, client_serves: bool = False) -> tuple[str, bool]:
        """Begins a completion, or finds the one that the same request began; returns its id, and whether it is new.

        Args:
            request: what is asked.
            client_serves: whether the client serves tools.

        Raises:
            ServiceError: the request is refused.
        """
        with contextlib.ExitStack() as resources:
            resources.enter_context(self._places.taken())
            start = await self._starts.take_turn()
            resources.callback(start.end)
            completion_id = uuid.uuid4().hex
            digest = digest_of(request)
            try:
                if request.conversation_id and request.request_id:
                    # What it began once has changed the conversation, so the request must not be judged by that.
                    known = await self._journal.with_request_id(request.request_id)
                    if known is not None:
                        return same(known, digest), False
                place = await self._conversations.join(request, completion_id, resources)
                conversation = None if place is None else place.conversation
                checked = await self._validator.check(request, completion_id, conversation, client_serves=client_serves)
            except StorageUnavailableError as error:
                raise storage_unavailable(error) from error
            resources.enter_context(self._contexts.in_use(checked.stored))
            new = NewCompletion(
                completion_id=completion_id,
                request=request.SerializeToString(),
                request_id=request.request_id or None,
                request_digest=digest,
                query=request.query,
                model=checked.spec.model,
                labels=dict(request.labels),
                detached=request.detached,
                contexts=[context.stored.sha256 for context in checked.stored],
                turn=None if place is None else place.turn,
            )
            try:
                stored, is_new = await self._journal.create(new)
            except StorageUnavailableError as error:
                raise storage_unavailable(error) from error
            except ContextGoneError as error:  # a call that is made again learns which
                raise storage_unavailable(error) from error
            except ConversationGoneError:
                raise conversation_not_found(request.conversation_id) from None
            except ConversationBusyError as error:
                raise conversation_busy(request.conversation_id, error.completion_id, error.state) from None
            if is_new:
                self._start(stored, checked, resources.pop_all(), conversation, cause="", start=start)
            return same(stored, digest), is_new

    async def resume(self, completion_id: str) -> bool:
        """Lets a parked completion go on here; returns whether it was parked.

        Raises:
            ServiceError: this server cannot take it.
            StorageUnavailableError: the journal cannot be written at present.
        """
        with contextlib.ExitStack() as resources:
            resources.enter_context(self._places.taken())
            stored = await self._journal.take_parked(completion_id)
            if stored is None:
                return False
            await self._go_on(stored, resources.pop_all(), "it was parked, and is resumed")
        return True

    async def _go_on(self, stored: StoredCompletion, resources: contextlib.ExitStack, cause: str) -> None:
        """Runs a completion that has run before."""
        with resources:
            try:
                request = await with_patience(lambda: self._request_of(stored))
                conversation = await with_patience(lambda: self._conversations.rejoin(stored, resources))
                checked = await with_patience(
                    lambda: self._validator.check(request, stored.completion_id, conversation, client_serves=True)
                )
            except (ServiceError, BlobMissingError) as error:
                if isinstance(error, ServiceError) and error.reason == "CONVERSATION_NOT_FOUND":
                    await self._end_at_once(stored, event_pb2.FINISH_REASON_CANCELLED, "its conversation was closed")
                    return
                reason = error.message if isinstance(error, ServiceError) else str(error)
                message = f"the completion cannot go on on this server: {reason}"
                await self._end_at_once(stored, event_pb2.FINISH_REASON_INTERNAL_ERROR, message)
                return
            resources.enter_context(self._contexts.in_use(checked.stored))
            self._start(stored, checked, resources.pop_all(), conversation, cause=cause)

    async def _request_of(self, stored: StoredCompletion) -> pb.CompleteRequest:
        return pb.CompleteRequest.FromString(await self._journal.request_of(stored.completion_id))

    def _start(
        self,
        stored: StoredCompletion,
        checked: CheckedRequest,
        resources: contextlib.ExitStack,
        conversation: Conversation | None,
        *,
        cause: str,
        start: Start | None = None,
    ) -> None:
        feed = self.feeds.open_local(stored.completion_id, stored.last_sequence)

        def on_event(event: event_pb2.Event) -> None:
            if start is not None:
                start.end()  # the first event is told when there is a sandbox
            feed.publish(event)

        now = asyncio.get_running_loop().time()
        recorder = Recorder(
            self._journal,
            stored,
            self._clock,
            on_event=on_event,
            on_lost=lambda: self._lose(run),
            reproducible=checked.spec.seed is not None,
        )
        reproducible = checked.spec.seed is not None
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
        self._check_client_later(stored.completion_id, max(self._settings.client_grace_seconds, _FIRST_CLIENT_SECONDS))

    # --- how they run

    async def _run(self, run: Run, checked: CheckedRequest) -> None:
        completion_id = run.stored.completion_id
        error: Exception | None = None
        has_ended = False
        try:
            has_ended = await self._run_to_end(run, checked)
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
            error, has_ended = await self._fail(run, caught), True
        finally:
            run.events.close()
            run.resources.close()
            if self._runs.get(completion_id) is run:
                del self._runs[completion_id]
            if has_ended:
                run.feed.end(error)
            self.feeds.close_local(run.feed)

    async def _fail(self, run: Run, error: Exception) -> Exception | None:
        """Ends a completion whose run failed, lest the next server fails likewise; returns what its readers get."""
        try:
            await run.events.flush()
            stored = await self._journal.get(run.stored.completion_id)
            if stored is not None and not stored.state.has_ended:
                message = f"the run failed: {type(error).__name__}: {error}"
                reason = event_pb2.FINISH_REASON_INTERNAL_ERROR
                await end_what_is_open(self._journal, stored, run.recorder, reason, message)
        except StorageUnavailableError:
            return error
        return None

    async def _run_to_end(self, run: Run, checked: CheckedRequest) -> bool:
        """Runs a completion; returns whether it has ended or is parked, or else goes on elsewhere."""
        recorder = run.recorder
        if run.cause:
            await with_patience(recorder.load)
            await recorder.tell("0", event_pb2.Resumed(cause=run.cause))
            _log.info("completion %s goes on here: %s", run.stored.completion_id, run.cause)
        completion = Completion(
            checked.spec,
            events=run.events,
            models=JournaledModels(self._models, recorder, run.park),
            executor=JournaledExecutor(
                self._executor,
                recorder,
                patience_seconds=self._settings.sandbox_patience_seconds,
                park=run.park,
                repl=run.repl,
            ),
            clock=self._clock,
            client_tools=JournaledTools(run.client_tools, recorder),
            elapsed_seconds=recorder.seconds_before,
            repl=run.repl,
        )
        running = asyncio.create_task(completion.run(lambda: run.cancel_cause))
        run.has_begun = True
        try:
            if run.cancel_cause:
                running.cancel()
            finished = await all_of(running)
        except asyncio.CancelledError:
            if not run.parked_reason:
                raise
            await run.events.flush()
            await recorder.end(event_pb2.Parked(reason=run.parked_reason))
            return True
        await recorder.end(await run.events.last(finished))
        if checked.stored:
            await self._journal.release_contexts(run.stored.completion_id)
        return True

    def _lose(self, run: Run) -> None:
        """Stops a run whose completion another server has taken over."""
        _log.warning("completion %s runs on another server now", run.stored.completion_id)
        run.cancel_cause = run.parked_reason = ""
        run.stop()

    def _bring_tool_results(self, run: Run) -> None:
        """Brings a run the results of tools that its client sends to other servers."""
        completion_id = run.stored.completion_id

        def is_near() -> bool:
            return not run.cause and completion_id in self.served

        bringing = asyncio.create_task(bring_results(run.client_tools, self._journal, completion_id, is_near))
        run.resources.callback(bringing.cancel)

    def client_tools(self, completion_id: str) -> ClientTools | None:
        """Returns the tools that the client of a completion serves; None if it does not run here."""
        run = self._runs.get(completion_id)
        return None if run is None else run.client_tools

    # --- how they are cancelled

    def cancel(self, completion_id: str, cause: str) -> asyncio.Task[None] | None:
        """Cancels a completion if it runs here; returns the task that is about to end, or None."""
        run = self._runs.get(completion_id)
        if run is None:
            return None
        run.cancel(cause)
        return run.task

    async def cancel_parked(self, completion_id: str) -> None:
        """Cancels a completion if it is parked.

        Raises:
            StorageUnavailableError: the journal cannot be written at present.
        """
        stored = await self._journal.take_parked(completion_id)
        if stored is not None:
            await self._end_at_once(stored, event_pb2.FINISH_REASON_CANCELLED, "it was cancelled while it was parked")

    async def _end_at_once(
        self, stored: StoredCompletion, reason: event_pb2.FinishReason.ValueType, message: str
    ) -> None:
        """Ends a completion of this server's that does not run."""
        feed = self.feeds.open_local(stored.completion_id, stored.last_sequence)
        recorder = Recorder(self._journal, stored, self._clock, on_event=feed.publish, on_lost=lambda: None)
        try:
            await end_what_is_open(self._journal, stored, recorder, reason, message)
        finally:
            feed.end()
            self.feeds.close_local(feed)

    def _check_client(self, completion_id: str) -> None:
        """Takes note that the last client of this server has left a completion."""
        run = self._runs.get(completion_id)
        if run is None:
            return
        run.seen_time = asyncio.get_running_loop().time()
        self._check_client_later(completion_id, self._settings.client_grace_seconds)

    def _check_client_later(self, completion_id: str, delay_seconds: float) -> None:
        if delay_seconds:
            asyncio.get_running_loop().call_later(delay_seconds, self._cancel_if_left, completion_id)
        else:
            self._cancel_if_left(completion_id)

    def _cancel_if_left(self, completion_id: str) -> None:
        run = self._runs.get(completion_id)
        if run is None or run.stored.detached or self.feeds.is_watched(completion_id):
            return
        grace_seconds = self._settings.client_grace_seconds
        unseen_seconds = asyncio.get_running_loop().time() - run.seen_time
        if unseen_seconds + 0.001 >= grace_seconds:
            run.cancel(_CLIENT_LEFT)
        else:
            self._check_client_later(completion_id, grace_seconds - unseen_seconds)

    # --- who runs what

    async def _beat(self) -> None:
        """Keeps the leases. Without this for a lease's time, another server takes the completions over."""
        period_seconds = self._settings.lease_seconds / 4
        while True:
            started = time.monotonic()
            running = {run.stored.completion_id: run.stored.epoch for run in self._runs.values()}
            alive = await self._journal.heartbeat(running, self.feeds.watched_elsewhere)
            for completion_id, epoch in running.items():
                run = self._runs.get(completion_id)
                if run is None or run.stored.epoch != epoch:
                    continue
                stored = alive.get(completion_id)
                if stored is None:
                    self._lose(run)
                    continue
                if stored.watched_time != run.watched_time:
                    run.watched_time = stored.watched_time
                    run.seen_time = asyncio.get_running_loop().time()
                if stored.cancel_requested:
                    run.cancel("it was cancelled")
            await asyncio.sleep(max(0.0, period_seconds - (time.monotonic() - started)))

    async def _take_over(self) -> None:
        """Looks for completions whose servers are gone, and goes on with them."""
        period_seconds = self._settings.lease_seconds / 6
        while True:
            free = self._places.free
            if free > 0:
                for stored in await self._journal.take_abandoned(free, but_not=list(self._runs)):
                    try:
                        with contextlib.ExitStack() as resources:
                            resources.enter_context(self._places.taken())
                            await self._go_on(stored, resources.pop_all(), "the server that ran it is gone")
                    except Exception:  # noqa: BLE001 - the others are not to wait
                        # Its lease runs out again, and whoever looks then tries again.
                        _log.exception("completion %s cannot be taken over now", stored.completion_id)
            await asyncio.sleep(period_seconds)

    # --- how the server stops

    def drain(self) -> None:
        """Admits no more."""
        self._places.close()

    async def close(self) -> None:
        """Stops what still runs, and leaves it to other servers, or to this one when it is started again."""
        self._places.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        runs = list(self._runs.values())
        for run in runs:
            run.stop()
        await asyncio.gather(*(run.task for run in runs if run.task is not None), return_exceptions=True)
        try:
            await self._journal.release({run.stored.completion_id: run.stored.epoch for run in runs})
        except StorageUnavailableError as error:
            _log.warning("completions could not be handed over, and wait until their leases end: %s", error)
        await self.feeds.close()
