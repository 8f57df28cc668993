"""The asyncio client. `_sync.py` is its twin: keep the two alike."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_api.rlm.v1 import completion_service_pb2_grpc as pb_grpc

from rlm_client._answer_types import JsonSchema, resolve
from rlm_client._async_completions import AsyncCompletionCalls
from rlm_client._async_conversation import AsyncConversation, AsyncConversationCalls
from rlm_client._async_stream import AsyncEventStream
from rlm_client._channel import OPTIONS
from rlm_client._completion import Completion, Models, T
from rlm_client._context import Context, PreparedContext, PreparedPart, prepare
from rlm_client._conversations import KeepConversation
from rlm_client._errors import from_rpc_error
from rlm_client._prompts import PromptSets
from rlm_client._request import build_request
from rlm_client._resuming import RESUME_SECONDS, Resuming
from rlm_client._tool_calls import ToolTasks
from rlm_client._tools import as_tools

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Any, Self

    from rlm_client._files import ReturnFiles
    from rlm_client._options import Compaction, Limits, Sampling
    from rlm_client._prompts import Prompts
    from rlm_client._tools import Tool

_UNARY_TIMEOUT_SECONDS = 30.0


class AsyncClient(AsyncCompletionCalls, AsyncConversationCalls):
    """An asyncio client of `rlm.v1.CompletionService`. It belongs to the event loop that it was made on.

    Use it in an `async with` statement, or call `close`.

    Args:
        target: the server, as `host:port`, `unix:/path` or `dns:///name:port`.
        credentials: for TLS; None connects without.
        resume_seconds: how long it is tried to continue a stream that broke; 0 raises the error at once.
    """

    def __init__(
        self, target: str, *, credentials: grpc.ChannelCredentials | None = None, resume_seconds: float = RESUME_SECONDS
    ) -> None:
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(target, options=OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(target, credentials, options=OPTIONS)
        self._stub: pb_grpc.CompletionServiceAsyncStub = pb_grpc.CompletionServiceStub(self._channel)
        self._resume_seconds = resume_seconds

    async def completion(
        self,
        context: Context | None,
        query: str,
        *,
        model: str | None = None,
        sub_model: str | None = None,
        child_models: Sequence[str] = (),
        limits: Limits | None = None,
        sampling: Sampling | None = None,
        sub_sampling: Sampling | None = None,
        prompts: Prompts | None = None,
        direct_answer_allowed: bool = False,
        compaction: Compaction | None = None,
        answer_at_limit: bool | None = None,
        tools: Sequence[Tool | Callable[..., Any]] = (),
        cache_subcalls: bool = False,
        seed: int | None = None,
        answer_type: type[T] | JsonSchema | None = None,
        look_required: bool | None = None,
        request_id: str | None = None,
        detached: bool = False,
        labels: Mapping[str, str] | None = None,
        return_files: ReturnFiles | None = None,
        on_resume: Callable[[str], None] | None = None,
        conversation: KeepConversation | None = None,
        timeout_seconds: float | None = None,
    ) -> Completion[T]:
        """Answers a query over a context. Arguments, result and errors are those of `Client.completion`."""
        stream = await self.stream(
            context,
            query,
            model=model,
            sub_model=sub_model,
            child_models=child_models,
            limits=limits,
            sampling=sampling,
            sub_sampling=sub_sampling,
            prompts=prompts,
            direct_answer_allowed=direct_answer_allowed,
            compaction=compaction,
            answer_at_limit=answer_at_limit,
            tools=tools,
            cache_subcalls=cache_subcalls,
            seed=seed,
            answer_type=answer_type,
            look_required=look_required,
            request_id=request_id,
            detached=detached,
            labels=labels,
            return_files=return_files,
            on_resume=on_resume,
            conversation=conversation,
            timeout_seconds=timeout_seconds,
        )
        async with stream:
            return await stream.result()

    async def stream(
        self,
        context: Context | None,
        query: str,
        *,
        model: str | None = None,
        sub_model: str | None = None,
        child_models: Sequence[str] = (),
        limits: Limits | None = None,
        sampling: Sampling | None = None,
        sub_sampling: Sampling | None = None,
        prompts: Prompts | None = None,
        direct_answer_allowed: bool = False,
        compaction: Compaction | None = None,
        answer_at_limit: bool | None = None,
        tools: Sequence[Tool | Callable[..., Any]] = (),
        cache_subcalls: bool = False,
        seed: int | None = None,
        answer_type: type[T] | JsonSchema | None = None,
        look_required: bool | None = None,
        request_id: str | None = None,
        detached: bool = False,
        labels: Mapping[str, str] | None = None,
        return_files: ReturnFiles | None = None,
        on_resume: Callable[[str], None] | None = None,
        conversation: KeepConversation | None = None,
        timeout_seconds: float | None = None,
    ) -> AsyncEventStream[T]:
        """Answers a query over a context, event by event.

        Arguments are those of `Client.completion`. A large context is uploaded before this returns.

        Raises:
            ContextError: the context cannot be read or sent.
            ToolDefinitionError: a function cannot be a tool.
            AnswerTypeError: the type has no JSON Schema.
            StatusError: the upload failed. Errors of the completion itself are raised by the stream.
        """
        all_tools = as_tools(tools)
        wanted = resolve(answer_type) if answer_type is not None else None
        read = wanted.read if wanted is not None else None
        request = build_request(
            query,
            model=model,
            sub_model=sub_model,
            child_models=child_models,
            limits=limits,
            sampling=sampling,
            sub_sampling=sub_sampling,
            prompts=prompts,
            direct_answer_allowed=direct_answer_allowed,
            compaction=compaction,
            answer_at_limit=answer_at_limit,
            tools=all_tools,
            cache_subcalls=cache_subcalls,
            seed=seed,
            answer_type=wanted,
            look_required=look_required,
            request_id=request_id,
            detached=detached,
            labels=labels,
            return_files=return_files,
            conversation=conversation,
        )
        prepared = await asyncio.to_thread(prepare, context)
        request.contexts.extend(await self._context_parts(prepared, timeout_seconds))
        served = [tool for tool in all_tools if tool.function is not None]
        return AsyncEventStream(
            self._stub,
            prepared.skipped_files,
            Resuming(self._resume_seconds, on_resume),
            request,
            timeout_seconds=timeout_seconds,
            tool_calls=ToolTasks(served) if served else None,
            read=read,
        )

    def conversation(
        self, conversation_id: str = "", *, time_to_live_seconds: float | None = None
    ) -> AsyncConversation:
        """Returns a conversation: completions that go on one with the other. Use it in an `async with` statement.

        Args:
            conversation_id: one that was kept before, which is not closed at the end of the block; empty begins one.
            time_to_live_seconds: how long the server keeps it after each use. Default: the server's.
        """
        return AsyncConversation(self, KeepConversation(conversation_id, time_to_live_seconds))

    async def models(self, *, timeout_seconds: float = _UNARY_TIMEOUT_SECONDS) -> Models:
        """Returns the models that the server has.

        Raises:
            StatusError: the call failed.
        """
        try:
            return Models.from_proto(await self._stub.ListModels(pb.ListModelsRequest(), timeout=timeout_seconds))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    async def prompts(self, *, timeout_seconds: float = _UNARY_TIMEOUT_SECONDS) -> PromptSets:
        """Returns the sets of texts for models that the server has.

        Raises:
            StatusError: the call failed.
        """
        try:
            return PromptSets.from_proto(await self._stub.ListPrompts(pb.ListPromptsRequest(), timeout=timeout_seconds))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    async def close(self) -> None:
        """Closes the connection; open streams are cancelled."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _context_parts(self, prepared: PreparedContext, timeout_seconds: float | None) -> list[pb.ContextPart]:
        if not prepared.must_be_uploaded:
            return [part.inline() for part in prepared.parts]
        return [await self._upload(part, timeout_seconds) for part in prepared.parts]

    async def _upload(self, part: PreparedPart, timeout_seconds: float | None) -> pb.ContextPart:
        again = Resuming(self._resume_seconds, None)
        while True:
            try:
                response = await self._stub.UploadContext(_upload_requests(part), timeout=timeout_seconds)
            except grpc.RpcError as error:
                await asyncio.sleep(again.upload_delay_seconds(from_rpc_error(error)))
            else:
                return part.uploaded(response.context_id)


async def _upload_requests(part: PreparedPart) -> AsyncIterator[pb.UploadContextRequest]:
    """Yields the messages of an upload; files are read on a thread."""
    requests = part.source.upload_requests()
    while (request := await asyncio.to_thread(next, requests, None)) is not None:
        yield request
