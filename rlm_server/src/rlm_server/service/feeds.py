"""The events of completions on their way to clients: what was committed last is at hand, the rest in the journal."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
from typing import TYPE_CHECKING

from rlm_server.journal.store import StorageUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    from rlm_api.rlm.v1 import event_pb2

    from rlm_server.journal.store import Journal

_log = logging.getLogger(__name__)

_KEPT_EVENTS = 1000
_PAGE = 500
_POLL_SECONDS = 0.1
_POLL_PATIENCE_SECONDS = 2.0


class CompletionGoneError(Exception):
    """The completion is not in the journal, or not any more."""


class Feed:
    """The latest events of one completion, for any number of readers.

    Args:
        completion_id: the completion's.
        last_sequence: number of the last event that was committed before.
    """

    def __init__(self, completion_id: str, last_sequence: int) -> None:
        self.completion_id = completion_id
        self.last_sequence = last_sequence
        self.is_local = False
        """Whether the completion runs on this server."""
        self.reader_count = 0
        self.has_ended = False
        self.error: Exception | None = None
        self._events: collections.deque[event_pb2.Event] = collections.deque(maxlen=_KEPT_EVENTS)
        self._waiting: set[asyncio.Future[None]] = set()

    def publish(self, event: event_pb2.Event) -> None:
        """Adds an event that is committed. One that is known is ignored."""
        if event.sequence <= self.last_sequence:
            return
        if event.sequence > self.last_sequence + 1:
            self._events.clear()  # readers find what is between in the journal
        self._events.append(event)
        self.last_sequence = event.sequence
        self._wake()

    def end(self, error: Exception | None = None) -> None:
        """Says that there will be no more; with an error readers get that after the events."""
        self.has_ended = True
        self.error = error
        self._wake()

    def after(self, sequence: int) -> list[event_pb2.Event] | None:
        """Returns the events after one, or None if the first of them is not at hand any more."""
        if sequence >= self.last_sequence:
            return []
        if not self._events or self._events[0].sequence > sequence + 1:
            return None
        skipped = sequence + 1 - self._events[0].sequence
        return [self._events[index] for index in range(skipped, len(self._events))]

    async def changed(self) -> None:
        """Waits for the next event, or the end."""
        change = asyncio.get_running_loop().create_future()
        self._waiting.add(change)
        try:
            await change
        finally:
            self._waiting.discard(change)

    def _wake(self) -> None:
        for change in self._waiting:
            if not change.done():
                change.set_result(None)


class Feeds:
    """The feeds of the completions that run or are watched here.

    Args:
        journal: has all events.
        on_unwatched: is called when the last reader of a completion has gone.
    """

    def __init__(self, journal: Journal, on_unwatched: Callable[[str], None]) -> None:
        self._journal = journal
        self._on_unwatched = on_unwatched
        self._feeds: dict[str, Feed] = {}
        self._poller: asyncio.Task[None] | None = None

    def open_local(self, completion_id: str, last_sequence: int) -> Feed:
        """Returns the feed of a completion that begins to run here."""
        feed = self._feeds.get(completion_id)
        if feed is None or feed.has_ended:
            feed = self._feeds[completion_id] = Feed(completion_id, last_sequence)
        feed.is_local = True
        return feed

    def close_local(self, feed: Feed) -> None:
        """Takes note that a completion does not run here any more; if it goes on elsewhere, readers follow it there."""
        feed.is_local = False
        self._tidy(feed)
        if not feed.has_ended and feed.reader_count:
            self._follow()

    def is_watched(self, completion_id: str) -> bool:
        """Tells whether a client of this server watches a completion."""
        feed = self._feeds.get(completion_id)
        return feed is not None and feed.reader_count > 0

    @property
    def watched_elsewhere(self) -> list[str]:
        """Completions that clients of this server watch and that run on others."""
        return [feed.completion_id for feed in self._feeds.values() if feed.reader_count and not feed.is_local]

    @contextlib.asynccontextmanager
    async def reading(self, completion_id: str) -> AsyncIterator[Feed | None]:
        """Holds the feed of a completion; None if it neither runs nor is going to without being resumed.

        Raises:
            CompletionGoneError: there is no such completion.
            StorageUnavailableError: the journal cannot be read at present.
        """
        feed = self._feeds.get(completion_id)
        if feed is None or feed.has_ended:
            stored = await self._journal.get(completion_id)
            if stored is None:
                raise CompletionGoneError(completion_id)
            feed = self._feeds.get(completion_id)
            if feed is None or (feed.has_ended and feed.error is None):
                if not stored.state.is_running:
                    yield None
                    return
                feed = self._feeds[completion_id] = Feed(completion_id, stored.last_sequence)
        feed.reader_count += 1
        if not feed.is_local and not feed.has_ended:
            self._follow()
        try:
            yield feed
        finally:
            feed.reader_count -= 1
            if not feed.reader_count:
                self._tidy(feed)
                self._on_unwatched(completion_id)

    async def events(self, completion_id: str, after_sequence: int) -> AsyncGenerator[event_pb2.Event, None]:
        """Yields the events of a completion after one, as they are committed, until it ends or is parked.

        Raises:
            CompletionGoneError: there is no such completion.
            StorageUnavailableError: the journal cannot be read at present.
            Exception: the one that the feed was ended with.
        """
        sequence = after_sequence
        async with self.reading(completion_id) as feed:
            while True:
                ready = None if feed is None else feed.after(sequence)
                if ready is None:
                    ready = await self._journal.events(completion_id, sequence, limit=_PAGE)
                    if not ready and feed is None:
                        return
                for event in ready:
                    yield event
                    sequence = event.sequence
                if ready or feed is None:
                    continue
                if feed.has_ended:
                    if feed.error is not None:
                        raise feed.error
                    return
                await feed.changed()

    async def close(self) -> None:
        """Ends all streams."""
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.gather(self._poller, return_exceptions=True)
        for feed in self._feeds.values():
            if not feed.has_ended:
                feed.end()

    def _tidy(self, feed: Feed) -> None:
        if not feed.reader_count and not feed.is_local and self._feeds.get(feed.completion_id) is feed:
            del self._feeds[feed.completion_id]

    # --- completions that run on other servers

    def _follow(self) -> None:
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll())

    async def _poll(self) -> None:
        while followed := [feed for feed in self._feeds.values() if not feed.is_local and not feed.has_ended]:
            try:
                await self._catch_up(followed)
            except StorageUnavailableError as error:
                _log.warning("completions of other servers cannot be followed: %s", error)
                await asyncio.sleep(_POLL_PATIENCE_SECONDS)
            await asyncio.sleep(_POLL_SECONDS)

    async def _catch_up(self, followed: list[Feed]) -> None:
        found = await self._journal.many([feed.completion_id for feed in followed])
        for feed in followed:
            stored = found.get(feed.completion_id)
            if stored is None:
                feed.end(CompletionGoneError(feed.completion_id))
                continue
            while not feed.is_local and feed.last_sequence < stored.last_sequence:
                page = await self._journal.events(feed.completion_id, feed.last_sequence, limit=_PAGE)
                if not page:
                    break
                for event in page:
                    feed.publish(event)
            if not feed.is_local and not stored.state.is_running and feed.last_sequence >= stored.last_sequence:
                feed.end()
