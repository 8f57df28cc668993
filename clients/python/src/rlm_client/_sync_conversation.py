"""A conversation with the synchronous client. `_async_conversation.py` is its twin: keep the two alike."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import grpc
from rlm_api.rlm.v1 import completion_service_pb2 as pb

from rlm_client._conversations import ConversationInfo, KeepConversation, Variables
from rlm_client._errors import NotFoundError, StatusError, from_rpc_error

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Self

    from rlm_api.rlm.v1 import completion_service_pb2_grpc as pb_grpc

    from rlm_client._completion import Completion
    from rlm_client._context import Context
    from rlm_client._sync import Client
    from rlm_client._sync_stream import EventStream


_TIMEOUT_SECONDS = 30.0
_PAGE_SIZE = 1000


class Conversation:
    """Completions that go on one with the other: variables, contexts and messages. `Client.conversation` makes it.

    Leaving its `with` block closes a conversation that it began. It is not for several threads at once: a conversation
    has one completion at a time.

    Args:
        client: asks.
        keep: which conversation it is, and for how long it is kept.
    """

    def __init__(self, client: Client, keep: KeepConversation) -> None:
        self._client = client
        self._keep = keep
        self._is_own = not keep.conversation_id
        self._stream: EventStream[Any] | None = None

    @property
    def conversation_id(self) -> str:
        """Its id; empty until the server has begun it."""
        return self._keep.conversation_id or (self._stream.conversation_id if self._stream is not None else "")

    def ask(self, query: str, context: Context | None = None, **options: Any) -> Completion[Any]:
        """Answers the next question.

        Args:
            query: the question.
            context: what is new to look at; the first question needs some. Variables are numbered over the whole
                conversation, `context_0` being the first.
            options: those of `Client.completion`.

        Raises:
            WrongStateError: another completion runs in the conversation.
            NotFoundError: it is closed or has expired.
            Exception: as `Client.completion`.
        """
        with self.stream(query, context, **options) as stream:
            return stream.result()

    def stream(self, query: str, context: Context | None = None, **options: Any) -> EventStream[Any]:
        """Answers the next question, event by event; arguments and errors are those of `ask`."""
        keep = KeepConversation(self.conversation_id, self._keep.time_to_live_seconds)
        stream = self._client.stream(context, query, conversation=keep, **options)
        self._keep = keep
        self._stream = stream
        return stream

    def variables(self) -> Variables:
        """Returns the variables of its REPL; before the first question there is none.

        Raises:
            StatusError: the call failed.
        """
        return self._client.variables(self.conversation_id)

    def close(self) -> None:
        """Ends it and frees its sandbox. One that has not begun, or has ended, is left alone.

        Raises:
            StatusError: the call failed.
        """
        if self.conversation_id:
            with contextlib.suppress(NotFoundError):
                self._client.close_conversation(self.conversation_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._is_own:
            return
        # What went wrong in the block matters more than that this does not work either; the server closes it in time.
        with contextlib.suppress(*(() if error is None else (StatusError,))):
            self.close()


class ConversationCalls:
    """The part of `Client` that is about conversations which have begun."""

    _stub: pb_grpc.CompletionServiceStub

    def list_conversations(self, *, timeout_seconds: float = _TIMEOUT_SECONDS) -> list[ConversationInfo]:
        """Returns the conversations that the server keeps, latest first.

        Raises:
            StatusError: a call failed.
        """
        found: list[ConversationInfo] = []
        request = pb.ListConversationsRequest(page_size=_PAGE_SIZE)
        try:
            while True:
                response = self._stub.ListConversations(request, timeout=timeout_seconds)
                found += map(ConversationInfo.from_proto, response.conversations)
                if not response.next_page_token:
                    return found
                request.page_token = response.next_page_token
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def variables(self, conversation_id: str, *, timeout_seconds: float = _TIMEOUT_SECONDS) -> Variables:
        """Returns the variables of a conversation's REPL.

        Raises:
            StatusError: the call failed.
        """
        request = pb.ListVariablesRequest(conversation_id=conversation_id)
        try:
            return Variables.from_proto(self._stub.ListVariables(request, timeout=timeout_seconds))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def close_conversation(self, conversation_id: str, *, timeout_seconds: float = _TIMEOUT_SECONDS) -> None:
        """Ends a conversation and frees its sandbox; a completion that runs in it is cancelled.

        Raises:
            NotFoundError: it is closed or has expired.
            StatusError: the call failed.
        """
        request = pb.CloseConversationRequest(conversation_id=conversation_id)
        try:
            self._stub.CloseConversation(request, timeout=timeout_seconds)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
