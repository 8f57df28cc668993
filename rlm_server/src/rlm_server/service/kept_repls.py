"""The REPLs of conversations that this server has at hand, not for ever and not too many.

They are what can be had quickly: all that they are made of is in the journal, so that any server can make them again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
from rlm_api.rlm.v1 import completion_service_pb2 as pb
from rlm_common.errors import ServiceError

from rlm_server.engine.conversations.kept_repl import KeptRepl
from rlm_server.journal.store import StorageUnavailableError
from rlm_server.journal.turns import RecordedTurns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rlm_server.engine.ports.executors import Executor
    from rlm_server.journal.conversation_rows import StoredConversation
    from rlm_server.journal.conversations import StoredConversations
    from rlm_server.journal.store import Journal

_log = logging.getLogger(__name__)

_TIDY_SECONDS = 10.0
_RETRY_SECONDS = 30.0


@dataclass(eq=False)
class Conversation:
    """A conversation whose REPL is at hand.

    Args:
        conversation_id: its name.
        repl: its REPL.
        ttl_seconds: how long it is kept after each use.
        tools: those of its first completion, which its sandbox was opened with.
    """

    conversation_id: str
    repl: KeptRepl
    ttl_seconds: float
    tools: Sequence[pb.Tool]
    timer: asyncio.TimerHandle | None = None
    use_count: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    """Is set while nobody uses it."""


class KeptRepls:
    """Keeps REPLs of conversations until their time is up, or, where there is no room, another server has used them.

    Args:
        executor: makes their sandboxes.
        journal: has what they are made of.
        stored: the conversations in the journal.
        limit: how many there can be at once.
    """

    def __init__(self, executor: Executor, journal: Journal, stored: StoredConversations, limit: int) -> None:
        self._executor = executor
        self._journal = journal
        self._stored = stored
        self._limit = limit
        self._all: set[Conversation] = set()
        self._kept: dict[str, Conversation] = {}
        self._draining = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._tidying: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to free what is closed on other servers."""
        self._tidying = asyncio.create_task(self._tidy_again_and_again())

    def get(self, conversation_id: str) -> Conversation | None:
        """Returns a conversation that is kept here; None if there is none."""
        return self._kept.get(conversation_id)

    async def new(self, conversation_id: str, tools: Sequence[pb.Tool], ttl_seconds: float) -> Conversation:
        """Makes the REPL of a conversation that begins.

        Raises:
            ServiceError: RESOURCE_EXHAUSTED, as there are as many as there may be.
        """
        await self._make_room()
        conversation = Conversation(conversation_id, KeptRepl(self._executor), ttl_seconds, list(tools))
        self._all.add(conversation)
        return conversation

    async def of(self, stored: StoredConversation, before: int | None = None) -> Conversation:
        """Returns a conversation with its REPL: the one that is kept here, or one that is made again.

        Args:
            stored: what the journal says of it.
            before: the number of a completion that goes on in it, for which there must be room; what that and later
                ones did does not count. None means that all that have begun count.

        Raises:
            BlobMissingError: some of what it was made of is not there any more.
            ServiceError: RESOURCE_EXHAUSTED, as there are as many as there may be.
            StorageUnavailableError: the journal cannot be read at present.
        """
        # Not what has begun since `stored` was read: that is not over yet.
        end = stored.next_number if before is None else before
        begun = [turn.completion_id for turn in stored.turns if turn.has_begun and turn.turn < end]
        kept = self._kept.get(stored.conversation_id)
        if kept is not None and kept.repl.is_concluded and kept.repl.turns.begun_ids == begun:
            return kept
        turns = [
            (turn.completion_id, turn.start, turn.end)
            for turn in await RecordedTurns(self._journal, stored.conversation_id, end).load()
        ]
        kept = self._kept.get(stored.conversation_id)
        if kept is not None and kept.idle.is_set():
            known = kept.repl.turns.begun_ids
            if kept.repl.is_concluded and known == begun[: len(known)]:
                kept.repl.turns.learn(turns[len(known) :])
                return kept
            self._drop(kept)
        first = next((turn for turn in stored.turns if turn.has_begun), stored.turns[0])
        tools = pb.CompleteRequest.FromString(await self._journal.request_of(first.completion_id)).tools
        if before is None:
            await self._make_room()
        repl = KeptRepl(self._executor, turns)
        conversation = Conversation(stored.conversation_id, repl, stored.time_to_live / 1e9, list(tools))
        self._all.add(conversation)
        return conversation

    def keep(self, conversation: Conversation) -> None:
        """Makes a conversation the one that is kept here under its id."""
        before = self._kept.get(conversation.conversation_id)
        self._kept[conversation.conversation_id] = conversation
        if before is not None and before is not conversation and before.idle.is_set():
            self._free(before)

    @contextlib.contextmanager
    def used(self, conversation: Conversation) -> Iterator[None]:
        """Keeps a conversation from being freed; its time begins anew at the end."""
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

    async def close(self, conversation_id: str) -> None:
        """Frees what is kept of a conversation, once nobody uses it any more."""
        conversation = self._kept.pop(conversation_id, None)
        if conversation is not None:
            await conversation.idle.wait()
            await self._free(conversation)

    def drain(self) -> None:
        """Frees those that nobody uses, and each other one when that has ended."""
        self._draining = True
        for conversation in list(self._kept.values()):
            if conversation.idle.is_set():
                self._drop(conversation)

    async def close_all(self) -> None:
        """Frees all. Completions that run in them must be about to end."""
        if self._tidying is not None:
            self._tidying.cancel()
            await asyncio.gather(self._tidying, return_exceptions=True)
        self.drain()
        await asyncio.gather(*(one.idle.wait() for one in self._all if one.use_count))
        await asyncio.gather(*self._tasks)

    async def _make_room(self) -> None:
        """Returns if there may be one more; whoever asked must take it before it waits for anything.

        Raises:
            ServiceError: RESOURCE_EXHAUSTED.
        """
        if len(self._all) >= self._limit:
            await self._tidy(needs_room=True)
        if len(self._all) >= self._limit:
            raise ServiceError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "TOO_MANY_CONVERSATIONS",
                f"the server keeps {self._limit} conversations, as many as it may; close one, or try again later",
                metadata={"limit": str(self._limit)},
                retry_delay_seconds=self._seconds_until_room(),
            )

    def _seconds_until_room(self) -> float:
        now = asyncio.get_running_loop().time()
        waits = [one.timer.when() - now for one in self._kept.values() if one.idle.is_set() and one.timer is not None]
        return max(1.0, min(waits, default=_RETRY_SECONDS))

    def _rest(self, conversation: Conversation) -> None:
        """Takes note that nobody uses a conversation any more."""
        conversation.idle.set()
        if self._kept.get(conversation.conversation_id) is not conversation:
            self._free(conversation)
        elif self._draining or not conversation.repl.turns.begun_ids or not conversation.repl.is_concluded:
            # A completion that did not end here, as one that is parked, goes on from what is recorded.
            self._drop(conversation)
        else:
            loop = asyncio.get_running_loop()
            conversation.timer = loop.call_later(conversation.ttl_seconds, self._drop, conversation)

    def _drop(self, conversation: Conversation) -> None:
        """Frees a conversation that nobody uses."""
        if self._kept.get(conversation.conversation_id) is conversation:
            del self._kept[conversation.conversation_id]
        self._free(conversation)

    def _free(self, conversation: Conversation) -> asyncio.Task[None]:
        """Frees a conversation that is not kept any more. Its place is free at once, its sandbox with the task."""
        self._all.discard(conversation)
        if conversation.timer is not None:
            conversation.timer.cancel()
        task = asyncio.create_task(conversation.repl.close())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _tidy(self, *, needs_room: bool = False) -> None:
        """Frees those that are closed, and, if there must be room, those that another server has used since."""
        try:
            holders = await self._stored.holders(list(self._kept))
        except StorageUnavailableError as error:
            _log.warning("what is closed cannot be told from what is not: %s", error)
            return
        for conversation in list(self._kept.values()):
            holder = holders.get(conversation.conversation_id)
            is_wanted = holder is not None and not (needs_room and holder != self._journal.owner)
            if not is_wanted and conversation.idle.is_set():
                self._drop(conversation)

    async def _tidy_again_and_again(self) -> None:
        while True:
            await asyncio.sleep(_TIDY_SECONDS)
            if self._kept:
                await self._tidy()
