"""The synchronous client. `_async.py` is its twin: keep the two alike."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import grpc
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_api.rlm.v1 import completion_service_pb2_grpc as pb_grpc

from rlm_client._answer_types import JsonSchema, resolve
from rlm_client._channel import OPTIONS
from rlm_client._completion import Completion, Models, T
from rlm_client._context import Context, PreparedContext, PreparedPart, prepare
from rlm_client._conversations import KeepConversation
from rlm_client._errors import from_rpc_error
from rlm_client._prompts import PromptSets
from rlm_client._request import build_request
from rlm_client._resuming import RESUME_SECONDS, Resuming
from rlm_client._sync_completions import CompletionCalls
from rlm_client._sync_conversation import Conversation, ConversationCalls
from rlm_client._sync_stream import EventStream
from rlm_client._tool_calls import ToolThreads
from rlm_client._tools import as_tools

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Any, Self

    from rlm_client._files import ReturnFiles
    from rlm_client._options import Compaction, Limits, Sampling
    from rlm_client._prompts import Prompts
    from rlm_client._tools import Tool

_UNARY_TIMEOUT_SECONDS = 30.0


class Client(CompletionCalls, ConversationCalls):
    """A client of `rlm.v1.CompletionService`. Any number of threads may share one.

    Use it in a `with` statement, or call `close`.

    Args:
        target: the server, as `host:port`, `unix:/path` or `dns:///name:port`.
        credentials: for TLS; None connects without.
        resume_seconds: how long it is tried to continue a stream that broke; 0 raises the error at once.
    """

    def __init__(
        self, target: str, *, credentials: grpc.ChannelCredentials | None = None, resume_seconds: float = RESUME_SECONDS
    ) -> None:
        if credentials is None:
            self._channel = grpc.insecure_channel(target, options=OPTIONS)
        else:
            self._channel = grpc.secure_channel(target, credentials, options=OPTIONS)
        self._stub = pb_grpc.CompletionServiceStub(self._channel)
        self._resume_seconds = resume_seconds

    def completion(
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
        """Answers a query over a context.

        Args:
            context: text, UTF-8 bytes, a JSON value (dict or list), an `Image`, the path of a text file, of a picture
                or of a directory, or a list of `Part`. Of a directory, binary files and those that cannot be read are
                left out and listed in `Completion.skipped_files`. More than 1 MiB is uploaded first, unless the server
                has it. None, where the completion goes on with a conversation and there is nothing new.
            query: the question.
            model: the root's model. Default: the server's.
            sub_model: the model of sub-calls. Default: the server's.
            child_models: the models of `rlm_query` children, by depth from 1; the last is that of all deeper ones.
                Default: the server's, or `sub_model` if it is given.
            limits: what bounds the completion. Default: the server's.
            sampling: what models are told about sampling. Default: the endpoints'.
            sub_sampling: the same for sub-calls and child RLMs; what it leaves out is that of `sampling`.
            prompts: the texts that models are given. Default: the server's.
            direct_answer_allowed: a context that fits the model comfortably may be answered by one plain model call,
                without a REPL.
            compaction: when messages are summed up to fit a model's window. Default: the server's settings.
            answer_at_limit: whether a model is asked once more, for its best answer, when a limit on iterations,
                sub-calls or errors ends its node. Default: the server's.
            tools: functions for the code in the REPL. Plain ones are served by this client while the stream is read:
                the model is told their names, parameters and docstrings, and calls run on threads. `Tool` has more.
            cache_subcalls: identical sub-calls are made once.
            seed: the same replies of models give the same events, but for the completion's id; sub-calls are made one
                at a time. Default: unpredictable.
            answer_type: what the answer must be: a pydantic model, a dataclass, another type that JSON can express, or
                a JSON Schema. `Completion.value` is then of that type. Default: any text.
            look_required: an answer is refused that comes before any look at the context. Default: the server's.
            request_id: calls with the same id and the same request give the same completion. Default: one of its own,
                so that the call is safe to repeat.
            detached: the completion goes on when the client goes away. Default: it is cancelled after a grace time.
            labels: are kept with the completion, for `completions`.
            return_files: which of the files that the root's code writes are returned, as `Completion.files`. Default:
                none.
            on_resume: is told, in a sentence for people, when the stream broke and is continued. Default: it is
                logged, as a warning.
            conversation: keeps the REPL for later completions, or goes on with one that was kept; `conversation()` is
                the easy way. Default: nothing is kept.
            timeout_seconds: time for the call, and for each upload before it; when it has passed, the completion is
                cancelled and nothing is returned. `Limits.wall_time_seconds` ends with a partial answer instead.
                Default: no end.

        Returns:
            What the completion came to. One that ended at a limit, or whose model failed, is returned, too: see
            `finish_reason`.

        Raises:
            ContextError: the context cannot be read or sent.
            ToolDefinitionError: a function cannot be a tool.
            AnswerTypeError: the type has no JSON Schema.
            StatusError: the call failed; the subclass says how.
            CompletionParkedError: it waits to be resumed, as a model cannot be reached.
            StreamEndedError: the server broke off.
        """
        with self.stream(
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
        ) as stream:
            return stream.result()

    def stream(
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
    ) -> EventStream[T]:
        """Answers a query over a context, event by event.

        Arguments are those of `completion`. A large context is uploaded before this returns.

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
        prepared = prepare(context)
        request.contexts.extend(self._context_parts(prepared, timeout_seconds))
        served = [tool for tool in all_tools if tool.function is not None]
        return EventStream(
            self._stub,
            prepared.skipped_files,
            Resuming(self._resume_seconds, on_resume),
            request,
            timeout_seconds=timeout_seconds,
            tool_calls=ToolThreads(served) if served else None,
            read=read,
        )

    def conversation(self, conversation_id: str = "", *, time_to_live_seconds: float | None = None) -> Conversation:
        """Returns a conversation: completions that go on one with the other. Use it in a `with` statement.

        Args:
            conversation_id: one that was kept before, which is not closed at the end of the block; empty begins one.
            time_to_live_seconds: how long the server keeps it after each use. Default: the server's.
        """
        return Conversation(self, KeepConversation(conversation_id, time_to_live_seconds))

    def models(self, *, timeout_seconds: float = _UNARY_TIMEOUT_SECONDS) -> Models:
        """Returns the models that the server has.

        Raises:
            StatusError: the call failed.
        """
        try:
            return Models.from_proto(self._stub.ListModels(pb.ListModelsRequest(), timeout=timeout_seconds))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def prompts(self, *, timeout_seconds: float = _UNARY_TIMEOUT_SECONDS) -> PromptSets:
        """Returns the sets of texts for models that the server has.

        Raises:
            StatusError: the call failed.
        """
        try:
            return PromptSets.from_proto(self._stub.ListPrompts(pb.ListPromptsRequest(), timeout=timeout_seconds))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def close(self) -> None:
        """Closes the connection; open streams are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _context_parts(self, prepared: PreparedContext, timeout_seconds: float | None) -> list[pb.ContextPart]:
        if not prepared.must_be_uploaded:
            return [part.inline() for part in prepared.parts]
        return [self._upload(part, timeout_seconds) for part in prepared.parts]

    def _upload(self, part: PreparedPart, timeout_seconds: float | None) -> pb.ContextPart:
        again = Resuming(self._resume_seconds, None)
        while True:
            try:
                response = self._stub.UploadContext(part.source.upload_requests(), timeout=timeout_seconds)
            except grpc.RpcError as error:
                time.sleep(again.upload_delay_seconds(from_rpc_error(error)))
            else:
                return part.uploaded(response.context_id)
