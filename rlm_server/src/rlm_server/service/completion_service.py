"""The servicer of `rlm.v1.CompletionService`."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from typing import TYPE_CHECKING

import grpc
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_common.errors import ServiceError, invalid_field

from rlm_server.engine.client_tools import ClientTools
from rlm_server.engine.completion import Completion
from rlm_server.engine.events import EventStream
from rlm_server.engine.ports import SandboxOpenError
from rlm_server.engine.tools import source_problem
from rlm_server.service.prompts import describe_prompts
from rlm_server.service.running import RunningCompletions
from rlm_server.service.tool_stream import ToolStream
from rlm_server.service.unimplemented import UnimplementedRpcs
from rlm_server.service.uploads import receive_context
from rlm_server.service.validation import RequestValidator

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from rlm_api.rlm.v1 import event_pb2

    from rlm_server.contexts import ContextStore
    from rlm_server.engine.ports import Clock, Executor, ModelClient
    from rlm_server.engine.prompts import PromptLibrary
    from rlm_server.service.models import ModelNames
    from rlm_server.service.unimplemented import Context
    from rlm_server.settings import Settings

_RETRY_DELAY_SECONDS = 1.0


class CompletionService(UnimplementedRpcs):
    """Serves completions.

    Args:
        settings: the server's.
        model_names: the models it serves.
        models: calls them.
        executor: makes sandboxes.
        contexts: what was uploaded.
        prompts: the sets of texts that models can be given.
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
        clock: Clock,
    ) -> None:
        self._model_names = model_names
        self._models = models
        self._executor = executor
        self._contexts = contexts
        self._clock = clock
        self._prompts = prompts
        self._validator = RequestValidator(settings, model_names, contexts, prompts)
        self._running = RunningCompletions(settings.max_concurrent_completions)

    def start_draining(self, grace_seconds: float) -> None:
        """Takes no new completions."""
        self._running.drain()

    async def close(self) -> None:
        """Ends the completions that still run."""
        await self._running.close()

    async def Complete(self, request: pb.CompleteRequest, context: Context) -> AsyncIterator[pb.CompleteResponse]:
        """Runs a completion and streams its events."""
        async with contextlib.aclosing(self._run(request, context, None)) as events:
            async for event in events:
                yield pb.CompleteResponse(event=event)

    async def CompleteWithTools(
        self, request_iterator: AsyncIterator[pb.CompleteWithToolsRequest], context: Context
    ) -> AsyncIterator[pb.CompleteWithToolsResponse]:
        """Runs a completion whose client serves tools, and streams its events."""
        stream = ToolStream(request_iterator)
        async with contextlib.aclosing(self._run(await stream.start(), context, stream)) as events:
            async for event in events:
                yield pb.CompleteWithToolsResponse(event=event)

    async def _run(
        self, request: pb.CompleteRequest, context: Context, tool_stream: ToolStream | None
    ) -> AsyncGenerator[event_pb2.Event, None]:
        """Runs a completion and yields its events.

        Args:
            request: what is asked.
            context: the RPC's.
            tool_stream: brings the results of tools; None if the client serves none.
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._running.admitted())
            checked = await self._validator.check(request, uuid.uuid4().hex, client_serves=tool_stream is not None)
            stack.enter_context(self._contexts.in_use(checked.stored))
            events = EventStream(checked.spec.completion_id, self._clock, reproducible=checked.spec.seed is not None)
            client_tools = ClientTools(events, self._clock)
            completion = Completion(
                checked.spec,
                events=events,
                models=self._models,
                executor=self._executor,
                clock=self._clock,
                client_tools=client_tools,
            )
            task = self._running.start(completion.run())
            # The stubs have a class here whose instances nobody can make.
            context.add_done_callback(lambda _: task.cancel())  # type: ignore[arg-type]
            results = None if tool_stream is None else asyncio.create_task(tool_stream.take_results(client_tools))
            if results is not None:
                results.add_done_callback(lambda done: done.cancelled() or done.exception() is None or task.cancel())
            try:
                while (event := await self._next(events)) is not None:
                    yield event
                if results is not None and results.done():
                    results.result()
            finally:
                tasks = {task} if results is None else {task, results}
                for one in tasks:
                    one.cancel()
                await asyncio.wait(tasks)

    async def _next(self, events: EventStream) -> event_pb2.Event | None:
        try:
            return await events.next_event()
        except SandboxOpenError as error:
            problem = source_problem(error)
            if problem is not None:
                index, message = problem
                raise invalid_field(f"tools[{index}].python_source", f"failed: {message}") from error
            raise ServiceError(
                grpc.StatusCode.UNAVAILABLE,
                "SANDBOX_UNAVAILABLE",
                f"no sandbox can be had from {self._executor.name}: {error}",
                metadata={"sandbox": self._executor.name},
                retry_delay_seconds=_RETRY_DELAY_SECONDS,
            ) from error

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
