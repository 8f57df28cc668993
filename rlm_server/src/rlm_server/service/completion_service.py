"""The servicer of `rlm.v1.CompletionService`."""

from __future__ import annotations

import asyncio
import collections
import contextlib
from typing import TYPE_CHECKING, cast

from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_common.errors import ServiceError

from rlm_server.engine.ports.executors import SandboxOpenError
from rlm_server.journal.store import StorageUnavailableError
from rlm_server.service.admission import Admission
from rlm_server.service.conversations import Conversations
from rlm_server.service.durable_rpcs import DurableRpcs
from rlm_server.service.housekeeping import keep_house
from rlm_server.service.ownership import Ownership
from rlm_server.service.persistence import Background
from rlm_server.service.prompts import describe_prompts
from rlm_server.service.refusals import no_sandbox, storage_unavailable
from rlm_server.service.running import RunningCompletions
from rlm_server.service.tool_results import ToolResults
from rlm_server.service.tool_stream import ToolStream
from rlm_server.service.uploads import receive_context
from rlm_server.service.validation import RequestValidator

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from rlm_api.rlm.v1 import event_pb2

    from rlm_server.contexts import ContextStore
    from rlm_server.engine.ports.clock import Clock
    from rlm_server.engine.ports.executors import Executor
    from rlm_server.engine.ports.models import ModelClient
    from rlm_server.engine.prompts import PromptLibrary
    from rlm_server.journal.store import Journal
    from rlm_server.service.models import ModelNames
    from rlm_server.service.rpc import Context
    from rlm_server.settings import Settings

_BREAK_SECONDS = 0.5

_DEADLINE_SECONDS = 0.25
"""A call that ends so shortly before its deadline was ended by that: the client's clock is a little ahead."""


class CompletionService(DurableRpcs):
    """Serves completions.

    Args:
        settings: the server's.
        model_names: the models it serves.
        models: calls them.
        executor: makes sandboxes.
        contexts: what was uploaded.
        prompts: the sets of texts that models can be given.
        journal: records completions.
        clock: tells the time.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        model_names: ModelNames,
        models: ModelClient,
        executor: Executor,
        contexts: ContextStore,
        prompts: PromptLibrary,
        journal: Journal,
        clock: Clock,
    ) -> None:
        conversations = Conversations(settings, executor, journal)
        running = RunningCompletions(
            settings, journal=journal, conversations=conversations, models=models, executor=executor, clock=clock
        )
        admission = Admission(
            settings.max_concurrent_completions,
            journal=journal,
            conversations=conversations,
            validator=RequestValidator(settings, model_names, contexts, prompts),
            contexts=contexts,
            running=running,
        )
        super().__init__(journal, running, admission, conversations)
        self._ownership = Ownership(journal, running, admission, settings.lease_seconds)
        self._background = Background()
        self._settings = settings
        self._model_names = model_names
        self._executor = executor
        self._contexts = contexts
        self._prompts = prompts

    def start(self) -> None:
        """Begins to look after completions, those of servers that are gone among them."""
        self._background.start(self._ownership.keep)
        self._background.start(self._ownership.take_over)
        self._background.start(lambda: keep_house(self._settings, self._journal))
        self._conversations.start()

    def start_draining(self, grace_seconds: float) -> None:
        """Takes no new completions, and frees the sandboxes of conversations that are not in use."""
        self._admission.close()
        self._conversations.drain()

    async def close(self) -> None:
        """Stops the completions that still run, and leaves them to other servers."""
        self._admission.close()
        await self._background.close()
        await self._running.close()
        await self._conversations.close()

    async def Complete(self, request: pb.CompleteRequest, context: Context) -> AsyncIterator[pb.CompleteResponse]:
        """Runs a completion and streams its events."""
        completion_id, _ = await self._admission.begin(request)
        async with contextlib.aclosing(self._events(completion_id, context)) as events:
            async for event in events:
                yield pb.CompleteResponse(event=event)

    async def CompleteWithTools(
        self, request_iterator: AsyncIterator[pb.CompleteWithToolsRequest], context: Context
    ) -> AsyncIterator[pb.CompleteWithToolsResponse]:
        """Runs a completion whose client serves tools, and streams its events."""
        stream = ToolStream(request_iterator)
        first = await stream.first()
        after_sequence = 0
        if isinstance(first, pb.CompleteRequest):
            completion_id, is_new = await self._admission.begin(first, client_serves=True)
        else:
            completion_id, is_new = await self._check_resumption(first), False
            after_sequence = first.after_sequence
        results = asyncio.create_task(self._take_results(completion_id, stream, context, is_new=is_new))
        try:
            async with contextlib.aclosing(self._events(completion_id, context, after_sequence)) as events:
                async for event in events:
                    yield pb.CompleteWithToolsResponse(event=event)
            if results.done():
                results.result()
        finally:
            results.cancel()
            await asyncio.wait({results})

    async def _check_resumption(self, request: pb.ResumeTools) -> str:
        try:
            return (await self._find_after(request.completion_id, request.after_sequence, "resume.")).completion_id
        except StorageUnavailableError as error:
            raise storage_unavailable(error) from error

    async def _take_results(self, completion_id: str, stream: ToolStream, context: Context, *, is_new: bool) -> None:
        """Takes the results of tools; a wrong one ends the completion."""
        results = ToolResults(completion_id, self._journal, self._running.client_tools, is_strict=is_new)
        self._running.served[completion_id] += 1
        try:
            if (tools := self._running.client_tools(completion_id)) is not None:
                tools.client_is_back()
            await stream.take_results(results)
            # A stream that broke ends in the same way as one whose client has closed its side; it is over soon, though.
            await asyncio.sleep(_BREAK_SECONDS)
            results.client_is_gone()
        except ServiceError as error:
            self._running.cancel(completion_id, f"the client's side of the stream is wrong: {error.message}")
            raise
        finally:
            self._running.served -= collections.Counter([completion_id])

    async def _events(
        self, completion_id: str, context: Context, after_sequence: int = 0
    ) -> AsyncGenerator[event_pb2.Event, None]:
        """Yields the events of a completion. The deadline of the RPC cancels it."""

        def end(_: object) -> None:
            remaining_seconds = cast("float | None", context.time_remaining())
            if remaining_seconds is not None and remaining_seconds < _DEADLINE_SECONDS:
                self._running.cancel(completion_id, "the deadline of its call has passed")

        # The stubs have a class here whose instances nobody can make.
        context.add_done_callback(end)  # type: ignore[arg-type]
        try:
            async with contextlib.aclosing(self._running.feeds.events(completion_id, after_sequence)) as events:
                async for event in events:
                    yield event
        except SandboxOpenError as error:
            raise no_sandbox(error, self._executor.name) from error
        except StorageUnavailableError as error:
            raise storage_unavailable(error) from error

    async def UploadContext(
        self,
        request_iterator: AsyncIterator[pb.UploadContextRequest],
        context: Context,
    ) -> pb.UploadContextResponse:
        """Stores a context."""
        return await receive_context(request_iterator, self._contexts)

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """Lists the models that requests can name."""
        return self._model_names.listing()

    async def ListPrompts(self, request: pb.ListPromptsRequest, context: Context) -> pb.ListPromptsResponse:
        """Lists the sets of texts that requests can name."""
        return describe_prompts(self._prompts)
