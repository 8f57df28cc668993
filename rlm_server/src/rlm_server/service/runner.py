"""Runs one completion to its end, with all that it asks recorded."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import event_pb2

from rlm_server.engine.completion import Completion
from rlm_server.journal.executor import JournaledExecutor
from rlm_server.journal.models import JournaledModels
from rlm_server.journal.store import StorageUnavailableError
from rlm_server.journal.tools import JournaledTools
from rlm_server.service.interrupted import end_what_is_open
from rlm_server.service.persistence import all_of, with_patience

if TYPE_CHECKING:
    from rlm_server.engine.ports.clock import Clock
    from rlm_server.engine.ports.executors import Executor
    from rlm_server.engine.ports.models import ModelClient
    from rlm_server.journal.store import Journal
    from rlm_server.service.run import Run
    from rlm_server.service.validation import CheckedRequest
    from rlm_server.settings import Settings

_log = logging.getLogger(__name__)


class Runner:
    """Runs completions that are this server's.

    Args:
        settings: the server's.
        journal: records them.
        models: calls models.
        executor: makes sandboxes.
        clock: tells the time.
    """

    def __init__(
        self, settings: Settings, *, journal: Journal, models: ModelClient, executor: Executor, clock: Clock
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._models = models
        self._executor = executor
        self._clock = clock

    async def run_to_end(self, run: Run, checked: CheckedRequest) -> bool:
        """Runs a completion; returns whether it has ended or is parked, or else goes on elsewhere.

        Raises:
            SandboxOpenError: it needs a sandbox at its beginning, and none can be had.
            asyncio.CancelledError: it was stopped, unfinished.
        """
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

    async def fail(self, run: Run, error: Exception) -> Exception | None:
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
