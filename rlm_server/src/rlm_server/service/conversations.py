"""The conversations of all servers that share the journal: how completions join them, and what is told of them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from google.protobuf import timestamp_pb2
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_common.errors import ServiceError, Violations, invalid_field

from rlm_server.engine.limits import to_duration
from rlm_server.engine.ports.sessions import SandboxError
from rlm_server.engine.text import preview
from rlm_server.journal.blobs import BlobMissingError
from rlm_server.journal.conversation_rows import NewTurn
from rlm_server.journal.conversations import StoredConversations
from rlm_server.journal.turns import RecordedTurns
from rlm_server.service.kept_repls import KeptRepls
from rlm_server.service.limits_validation import read_duration
from rlm_server.service.page_tokens import from_token, to_token
from rlm_server.service.refusals import conversation_busy, conversation_not_found

if TYPE_CHECKING:
    from rlm_server.engine.ports.executors import Executor
    from rlm_server.journal.conversation_rows import StoredConversation
    from rlm_server.journal.store import Journal, StoredCompletion
    from rlm_server.service.kept_repls import Conversation
    from rlm_server.settings import Settings

_DEFAULT_PAGE_SIZE = 50
_MAX_PAGE_SIZE = 1000
_PREVIEW_CHARS = 200


@dataclass(frozen=True)
class Place:
    """A completion's place in a conversation.

    Args:
        conversation: the conversation, with its REPL.
        turn: what the journal is told when the completion begins.
    """

    conversation: Conversation
    turn: NewTurn


class Conversations:
    """Serves conversations. Those that were not used last on this server are made again of what the journal has.

    All methods may raise `StorageUnavailableError`.

    Args:
        settings: the server's.
        executor: makes their sandboxes.
        journal: has them.
    """

    def __init__(self, settings: Settings, executor: Executor, journal: Journal) -> None:
        self._settings = settings
        self._executor = executor
        self._journal = journal
        self._stored = StoredConversations(journal)
        self._kept = KeptRepls(executor, journal, self._stored, settings.max_conversations)

    def start(self) -> None:
        """Begins to free what is closed on other servers."""
        self._kept.start()

    # --- the completions in them

    async def join(
        self, request: pb.CompleteRequest, completion_id: str, resources: contextlib.ExitStack
    ) -> Place | None:
        """Finds the place that a request asks for; None if it asks for none.

        Args:
            request: the request; a later one of a conversation is given the tools of the first.
            completion_id: the id that its completion is to have.
            resources: holds the conversation until the completion does not run here any more.

        Raises:
            ServiceError: INVALID_ARGUMENT for a wrong field, NOT_FOUND, FAILED_PRECONDITION if another completion runs
                in it, RESOURCE_EXHAUSTED if there can be no more.
        """
        ttl_seconds = self._check_ttl(request)
        ttl = None if ttl_seconds is None else int(ttl_seconds * 1e9)
        if request.conversation_id:
            stored = await self._idle(request.conversation_id)
            conversation = await self._made(stored, resources)
            _settle_tools(request, conversation)
            turn = NewTurn(stored.conversation_id, stored.next_number, ttl)
        elif request.keep_conversation:
            if ttl_seconds is None:
                ttl_seconds = min(self._settings.conversation_ttl_seconds, self._settings.max_conversation_ttl_seconds)
            # With the id of its first completion, it is found whatever server that goes on on.
            conversation = await self._kept.new(completion_id, request.tools, ttl_seconds)
            resources.enter_context(self._kept.used(conversation))
            turn = NewTurn(completion_id, 1, int(ttl_seconds * 1e9), preview(request.query, _PREVIEW_CHARS))
        else:
            return None
        conversation.ttl_seconds = ttl_seconds or conversation.ttl_seconds
        return Place(conversation, turn)

    async def rejoin(self, stored: StoredCompletion, resources: contextlib.ExitStack) -> Conversation | None:
        """Returns the conversation of a completion that goes on; None if it has none.

        Args:
            stored: the completion.
            resources: holds the conversation until the completion does not run here any more.

        Raises:
            BlobMissingError: some of what its REPL was made of is not there any more.
            ServiceError: NOT_FOUND, as it was closed since.
        """
        if not stored.conversation_id:
            return None
        its_conversation = await self._find(stored.conversation_id)
        await self._stored.use(stored.conversation_id)
        conversation = await self._kept.of(its_conversation, before=stored.turn)
        resources.enter_context(self._kept.used(conversation))
        return conversation

    def enter(self, conversation: Conversation) -> None:
        """Must be called when a completion that has joined a conversation begins to run."""
        self._kept.keep(conversation)

    # --- RPCs

    async def page(self, request: pb.ListConversationsRequest) -> pb.ListConversationsResponse:
        """Returns a page of the conversations, latest first.

        Raises:
            ServiceError: INVALID_ARGUMENT, naming the field.
        """
        violations = Violations()
        violations.check(
            0 <= request.page_size <= _MAX_PAGE_SIZE,
            "page_size",
            f"is {request.page_size}; must be from 0 (the default) to {_MAX_PAGE_SIZE}",
        )
        before = from_token(request.page_token) if request.page_token else None
        violations.check(
            not request.page_token or before is not None,
            "page_token",
            "is none that ListConversations gave; leave it out for the first page",
        )
        violations.raise_if_any()
        size = request.page_size or _DEFAULT_PAGE_SIZE
        found = await self._stored.page(limit=size + 1, before=before)
        last = found[size - 1] if len(found) > size else None
        return pb.ListConversationsResponse(
            conversations=[self._to_proto(one) for one in found[:size]],
            next_page_token="" if last is None else to_token(last.create_time, last.conversation_id),
        )

    async def variables(self, conversation_id: str) -> pb.ListVariablesResponse:
        """Describes the variables of a conversation.

        Raises:
            ServiceError: NOT_FOUND, FAILED_PRECONDITION if a completion runs in it, UNAVAILABLE without a sandbox.
        """
        stored = await self._idle(conversation_id)
        if not stored.begun_ids:
            return pb.ListVariablesResponse()
        try:
            with contextlib.ExitStack() as resources:
                conversation = await self._made(stored, resources)
                await self._stored.use(conversation_id)
                self._kept.keep(conversation)
                turns = RecordedTurns(self._journal, conversation_id, stored.next_number)
                listing = await conversation.repl.variables(turns)
        except SandboxError as error:
            raise ServiceError(
                grpc.StatusCode.UNAVAILABLE,
                "SANDBOX_UNAVAILABLE",
                f"the conversation's sandbox is lost, and no other can be had from {self._executor.name}: {error}",
                metadata={"sandbox": self._executor.name},
                retry_delay_seconds=1.0,
            ) from error
        return pb.ListVariablesResponse(
            variables=[
                pb.ReplVariable(name=one.name, type=one.type_name, size=one.size, preview=one.preview)
                for one in listing.variables
            ],
            omitted_count=listing.omitted_count,
            variables_lost=conversation.repl.variables_lost,
            error=listing.problem,
        )

    async def forget(self, conversation_id: str) -> str:
        """Ends a conversation; returns the completion that runs in it or is parked, or the empty text.

        Raises:
            ServiceError: NOT_FOUND.
        """
        await self._find(conversation_id)
        stored = await self._stored.delete(conversation_id)
        if stored is None:
            raise conversation_not_found(conversation_id)
        return "" if stored.unended is None else stored.unended.completion_id

    async def is_kept(self, conversation_id: str) -> bool:
        """Tells whether a conversation is kept."""
        return await self._stored.find(conversation_id) is not None

    async def free(self, conversation_id: str) -> None:
        """Frees what this server has of a conversation that was forgotten, once nothing runs in it any more."""
        await self._kept.close(conversation_id)

    # --- how the server stops

    def drain(self) -> None:
        """Frees the sandboxes that nobody uses, and each other one when that has ended."""
        self._kept.drain()

    async def close(self) -> None:
        """Frees all sandboxes. Completions that run in them must be about to end."""
        await self._kept.close_all()

    # ---

    def _check_ttl(self, request: pb.CompleteRequest) -> float | None:
        if not request.HasField("conversation_time_to_live"):
            return None
        violations = Violations()
        path = "conversation_time_to_live"
        seconds = read_duration(request.conversation_time_to_live, path, violations, zero_allowed=False)
        violations.check(
            request.keep_conversation or bool(request.conversation_id),
            path,
            "is of use only with keep_conversation or conversation_id; set one, or leave it out",
        )
        violations.raise_if_any()
        return min(seconds, self._settings.max_conversation_ttl_seconds)

    async def _find(self, conversation_id: str) -> StoredConversation:
        if not conversation_id:
            raise invalid_field("conversation_id", "is empty; give the id that `started` had")
        stored = await self._stored.find(conversation_id) if len(conversation_id) <= 64 else None
        if stored is None:
            raise conversation_not_found(conversation_id)
        return stored

    async def _idle(self, conversation_id: str) -> StoredConversation:
        """Returns a conversation in which no completion runs."""
        stored = await self._find(conversation_id)
        if stored.unended is not None:
            raise conversation_busy(conversation_id, stored.unended.completion_id, stored.unended.state)
        return stored

    async def _made(self, stored: StoredConversation, resources: contextlib.ExitStack) -> Conversation:
        """Returns a conversation with its REPL, which is held by `resources`; see `KeptRepls.of`."""
        try:
            conversation = await self._kept.of(stored)
        except BlobMissingError as error:
            raise conversation_not_found(stored.conversation_id, str(error)) from error
        resources.enter_context(self._kept.used(conversation))
        return conversation

    def _to_proto(self, stored: StoredConversation) -> pb.Conversation:
        running = stored.unended
        kept = self._kept.get(stored.conversation_id)
        return pb.Conversation(
            conversation_id=stored.conversation_id,
            completion_ids=[turn.completion_id for turn in stored.turns],
            create_time=_timestamp(stored.create_time),
            expire_time=None if running is not None else _timestamp(stored.expire_time),
            time_to_live=to_duration(stored.time_to_live / 1e9),
            variables_lost=kept is not None and kept.repl.variables_lost,
            running_completion_id="" if running is None else running.completion_id,
            query_preview=stored.query_preview,
        )


def _settle_tools(request: pb.CompleteRequest, conversation: Conversation) -> None:
    """Gives a later completion the tools of the first, but those that its client would have to serve.

    Raises:
        ServiceError: INVALID_ARGUMENT, as it gives others.
    """
    if not request.tools:
        request.tools.extend(tool for tool in conversation.tools if not tool.client_served)
    elif list(request.tools) != list(conversation.tools):
        raise invalid_field(
            "tools",
            "are not those that the conversation began with, which its sandbox has; give the same, or none for those "
            "of them that run in the sandbox",
        )


def _timestamp(nanoseconds: int) -> timestamp_pb2.Timestamp:
    timestamp = timestamp_pb2.Timestamp()
    timestamp.FromNanoseconds(nanoseconds)
    return timestamp
