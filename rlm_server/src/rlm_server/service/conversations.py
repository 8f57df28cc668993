"""The conversations that this server keeps: REPLs that wait for the next completion, not for ever and not too many."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
from google.protobuf import timestamp_pb2
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_common.errors import ServiceError, Violations, invalid_field

from rlm_server.engine.kept_repl import KeptRepl
from rlm_server.engine.limits import to_duration
from rlm_server.engine.ports import SandboxError
from rlm_server.engine.text import preview
from rlm_server.service.limits_validation import read_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from rlm_server.context_uploads import StoredContext
    from rlm_server.contexts import ContextStore
    from rlm_server.engine.ports import Clock, Executor
    from rlm_server.settings import Settings

_DEFAULT_PAGE_SIZE = 50
_MAX_PAGE_SIZE = 1000
_PREVIEW_CHARS = 200


@dataclass(eq=False)
class Conversation:
    """A conversation that is kept.

    Args:
        conversation_id: its name.
        number: counts the server's conversations.
        repl: its REPL.
        create_time_ns: when it began, in nanoseconds since the epoch.
        ttl_seconds: how long it is kept after each use.
        query_preview: the beginning of its first question.
        tools: those of its first completion, which its sandbox was opened with.
    """

    conversation_id: str
    number: int
    repl: KeptRepl
    create_time_ns: int
    ttl_seconds: float
    query_preview: str
    tools: list[pb.Tool]
    completion_ids: list[str] = field(default_factory=list)
    running_id: str = ""
    """The completion that runs in it."""
    expire_time_ns: int = 0
    timer: asyncio.TimerHandle | None = None
    resources: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    use_count: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    """Is set while nobody uses it."""
    cancel: Callable[[str], None] | None = None
    """Cancels the completion that runs in it, for the given cause."""

    def to_proto(self) -> pb.Conversation:
        """Returns the message."""
        return pb.Conversation(
            conversation_id=self.conversation_id,
            completion_ids=self.completion_ids,
            create_time=_timestamp(self.create_time_ns),
            expire_time=None if self.running_id else _timestamp(self.expire_time_ns),
            time_to_live=to_duration(self.ttl_seconds),
            variables_lost=self.repl.variables_lost,
            running_completion_id=self.running_id,
            query_preview=self.query_preview,
        )


class Conversations:
    """Keeps conversations.

    Args:
        settings: the server's.
        executor: makes their sandboxes.
        contexts: what was uploaded.
        clock: dates them.
    """

    def __init__(self, settings: Settings, executor: Executor, contexts: ContextStore, clock: Clock) -> None:
        self._settings = settings
        self._executor = executor
        self._contexts = contexts
        self._clock = clock
        self._kept: dict[str, Conversation] = {}
        self._count = 0
        self._draining = False
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.contextmanager
    def held(self, request: pb.CompleteRequest, completion_id: str) -> Iterator[Conversation | None]:
        """Gives a completion the conversation that its request asks for, until it has ended; None if it asks for none.

        Raises:
            ServiceError: INVALID_ARGUMENT for a wrong field, NOT_FOUND, FAILED_PRECONDITION if another completion runs
                in it, RESOURCE_EXHAUSTED if there can be no more.
        """
        ttl_seconds = self._check_ttl(request)
        if request.conversation_id:
            conversation = self._idle(request.conversation_id)
            _settle_tools(request, conversation)
        elif request.keep_conversation:
            conversation = self._create(request, completion_id)
        else:
            yield None
            return
        conversation.ttl_seconds = ttl_seconds or conversation.ttl_seconds
        begun_before = conversation.repl.completion_count
        conversation.running_id = completion_id
        conversation.completion_ids.append(completion_id)
        with self._used(conversation):
            try:
                yield conversation
            finally:
                if conversation.repl.completion_count == begun_before:
                    conversation.completion_ids.remove(completion_id)
                conversation.running_id = ""
                conversation.repl.end()
                conversation.cancel = None

    @contextlib.contextmanager
    def held_again(self, request: pb.CompleteRequest, completion_id: str) -> Iterator[Conversation | None]:
        """Does what `held` does for a completion that goes on, on this server or another, and repeats what it did.

        Raises:
            ServiceError: FAILED_PRECONDITION, as what it did cannot be repeated: it was not the first in its
                conversation.
        """
        if request.conversation_id:
            raise ServiceError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "WRONG_STATE",
                "it went on with a conversation, whose REPL cannot be brought back to where it was; ask again",
                metadata={"state": "STOPPED"},
            )
        if completion_id in self._kept:  # as it was parked
            self._drop(self._idle(completion_id))
        with self.held(request, completion_id) as conversation:
            yield conversation

    def running_in(self, conversation_id: str) -> str:
        """Returns the completion that runs in a conversation; empty if there is none."""
        conversation = self._kept.get(conversation_id)
        return "" if conversation is None else conversation.running_id

    def start(self, conversation: Conversation, stored: list[StoredContext], cancel: Callable[[str], None]) -> None:
        """Must be called when the completion that holds a conversation begins to run.

        Args:
            conversation: what it holds.
            stored: its uploaded contexts, which are kept for as long as the conversation may need them.
            cancel: cancels it for a cause.

        Raises:
            ServiceError: NOT_FOUND, as the conversation was closed since.
        """
        self._find(conversation.conversation_id)
        conversation.resources.enter_context(self._contexts.in_use(stored))
        conversation.cancel = cancel

    def page(self, request: pb.ListConversationsRequest) -> pb.ListConversationsResponse:
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
        token = request.page_token
        violations.check(
            not token or (token.isascii() and token.isdigit() and len(token) < 20),
            "page_token",
            "is none that this server gave; leave it out for the first page",
        )
        violations.raise_if_any()
        size = request.page_size or _DEFAULT_PAGE_SIZE
        latest_first = sorted(self._kept.values(), key=lambda one: -one.number)
        found = [one for one in latest_first if not token or one.number < int(token)]
        return pb.ListConversationsResponse(
            conversations=[one.to_proto() for one in found[:size]],
            next_page_token=str(found[size - 1].number) if len(found) > size else "",
        )

    async def variables(self, conversation_id: str) -> pb.ListVariablesResponse:
        """Describes the variables of a conversation.

        Raises:
            ServiceError: NOT_FOUND, FAILED_PRECONDITION if a completion runs in it, UNAVAILABLE without a sandbox.
        """
        conversation = self._idle(conversation_id)
        try:
            with self._used(conversation):
                listing = await conversation.repl.variables()
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

    async def close(self, conversation_id: str) -> None:
        """Ends a conversation; a completion that runs in it is cancelled.

        Raises:
            ServiceError: NOT_FOUND.
        """
        conversation = self._find(conversation_id)
        del self._kept[conversation_id]
        if conversation.cancel is not None:
            conversation.cancel("its conversation was closed")
        await conversation.idle.wait()
        await self._free(conversation)

    def drain(self) -> None:
        """Closes those that nobody uses, and each other one when that has ended."""
        self._draining = True
        for conversation in list(self._kept.values()):
            if conversation.idle.is_set():
                self._drop(conversation)

    async def close_all(self) -> None:
        """Closes all. Completions that run in them must be about to end."""
        self.drain()
        await asyncio.gather(*(one.idle.wait() for one in self._kept.values()))
        await asyncio.gather(*self._tasks)

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

    def _create(self, request: pb.CompleteRequest, completion_id: str) -> Conversation:
        """Begins a conversation; it has the id of its first completion, which thus finds it on whatever server."""
        limit = self._settings.max_conversations
        if len(self._kept) >= limit:
            now = self._clock.time_nanoseconds()
            next_ns = min((one.expire_time_ns for one in self._kept.values() if not one.running_id), default=now)
            raise ServiceError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "TOO_MANY_CONVERSATIONS",
                f"the server keeps {limit} conversations, as many as it may; close one, or try again later",
                metadata={"limit": str(limit)},
                retry_delay_seconds=max(1.0, (next_ns - now) / 1e9),
            )
        self._count += 1
        ttl_seconds = min(self._settings.conversation_ttl_seconds, self._settings.max_conversation_ttl_seconds)
        conversation = Conversation(
            conversation_id=completion_id,
            number=self._count,
            repl=KeptRepl(self._executor),
            create_time_ns=self._clock.time_nanoseconds(),
            ttl_seconds=ttl_seconds,
            query_preview=preview(request.query, _PREVIEW_CHARS),
            tools=list(request.tools),
        )
        self._kept[conversation.conversation_id] = conversation
        return conversation

    def _find(self, conversation_id: str) -> Conversation:
        if not conversation_id:
            raise invalid_field("conversation_id", "is empty; give the id that `started` had")
        conversation = self._kept.get(conversation_id)
        if conversation is None:
            raise ServiceError(
                grpc.StatusCode.NOT_FOUND,
                "CONVERSATION_NOT_FOUND",
                f"there is no conversation {conversation_id[:100]!r}; it may be closed or have expired",
                metadata={"conversation_id": conversation_id[:100]},
            )
        return conversation

    def _idle(self, conversation_id: str) -> Conversation:
        """Returns a conversation in which no completion runs."""
        conversation = self._find(conversation_id)
        if conversation.running_id:
            raise ServiceError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "CONVERSATION_BUSY",
                f"completion {conversation.running_id} runs in the conversation, which has one at a time; wait for its "
                "end, or cancel it",
                metadata={"conversation_id": conversation_id, "completion_id": conversation.running_id},
            )
        return conversation

    @contextlib.contextmanager
    def _used(self, conversation: Conversation) -> Iterator[None]:
        """Keeps a conversation from expiring; its time begins anew at the end."""
        conversation.use_count += 1
        conversation.idle.clear()
        if conversation.timer is not None:
            conversation.timer.cancel()
        try:
            yield
        finally:
            conversation.use_count -= 1
            if not conversation.use_count:
                self._rest(conversation)

    def _rest(self, conversation: Conversation) -> None:
        conversation.idle.set()
        if conversation.conversation_id not in self._kept:
            return  # `close` waits to free it
        if self._draining or not conversation.repl.completion_count:
            self._drop(conversation)
            return
        conversation.expire_time_ns = self._clock.time_nanoseconds() + int(conversation.ttl_seconds * 1e9)
        loop = asyncio.get_running_loop()
        conversation.timer = loop.call_later(conversation.ttl_seconds, self._drop, conversation)

    def _drop(self, conversation: Conversation) -> None:
        """Closes a conversation that nobody uses."""
        del self._kept[conversation.conversation_id]
        self._spawn(self._free(conversation))

    async def _free(self, conversation: Conversation) -> None:
        if conversation.timer is not None:
            conversation.timer.cancel()
        await conversation.repl.close()
        conversation.resources.close()

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _settle_tools(request: pb.CompleteRequest, conversation: Conversation) -> None:
    """Gives a later completion the tools of the first, but those that its client would have to serve.

    Raises:
        ServiceError: INVALID_ARGUMENT, as it gives others.
    """
    if not request.tools:
        request.tools.extend(tool for tool in conversation.tools if not tool.client_served)
    elif list(request.tools) != conversation.tools:
        raise invalid_field(
            "tools",
            "are not those that the conversation began with, which its sandbox has; give the same, or none for those "
            "of them that run in the sandbox",
        )


def _timestamp(nanoseconds: int) -> timestamp_pb2.Timestamp:
    timestamp = timestamp_pb2.Timestamp()
    timestamp.FromNanoseconds(nanoseconds)
    return timestamp
