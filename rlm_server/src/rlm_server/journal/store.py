"""The journal as the service sees it: completions, their events and steps, who runs them, and blobs."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import json
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa
from rlm_api.rlm.v1 import event_pb2

from rlm_server.journal.appends import Payload
from rlm_server.journal.conversation_rows import check_turn, conversation_user, keep_turn
from rlm_server.journal.database import READERS
from rlm_server.journal.schema import (
    blob_uses,
    completions,
    conversations,
    events,
    labels,
    migrate,
    steps,
    tool_results,
)
from rlm_server.journal.states import State
from rlm_server.journal.writer import FencedError, StorageUnavailableError, Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from rlm_server.journal.appends import Append
    from rlm_server.journal.blobs import BlobStore
    from rlm_server.journal.conversation_rows import NewTurn
    from rlm_server.journal.database import Database

__all__ = ["FencedError", "Journal", "NewCompletion", "Payload", "StorageUnavailableError", "StoredCompletion"]

_log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

MAX_ROW_BYTES = 64 * 1024
"""Larger ones go to the blob store."""

CONTEXT_USER_PREFIX = "running/"
"""Beginning of the `used_by` of contexts that completions need which have not ended."""

DEFAULT_PATIENCE_SECONDS = 5.0
"""How long callers wait for the database, unless told otherwise."""

_EXPIRED_AT_ONCE = 16
_DIGESTS_AT_ONCE = 500


@dataclass(frozen=True)
class NewCompletion:
    """A completion that is to begin.

    Args:
        completion_id: its id.
        request: the `CompleteRequest`, serialized.
        request_id: the caller's key, or None.
        request_digest: tells requests with the same key apart.
        query: the question.
        model: the root's.
        labels: the request's.
        detached: whether it goes on without a client.
        contexts: digests of the uploaded contexts that it needs.
        turn: its place in a conversation, or None.
    """

    completion_id: str
    request: bytes
    request_id: str | None
    request_digest: str
    query: str
    model: str
    labels: Mapping[str, str]
    detached: bool
    contexts: Sequence[str] = ()
    turn: NewTurn | None = None


@dataclass(frozen=True)
class StoredCompletion:
    """A completion in the journal. Times are nanoseconds since the epoch; see `schema.completions`."""

    completion_id: str
    create_time: int
    end_time: int | None
    state: State
    request_digest: str
    query: str
    model: str
    labels: dict[str, str]
    detached: bool
    parked_reason: str
    cancel_requested: bool
    owner: str
    epoch: int
    lease_end: int
    watched_time: int
    last_sequence: int
    running_time: int
    size_bytes: int
    conversation_id: str
    turn: int


_COLUMNS = [column for column in completions.c if column.name not in ("request", "request_blob", "request_id")]


class Journal:
    """A journal in a database.

    Args:
        database: where rows go.
        blobs: where what is too large for a row goes.
        owner: this server's name, other than that of any server before or beside it.
        lease_seconds: how long a completion stays this server's without a heartbeat.
        patience_seconds: how long a caller waits for a database that is slow, or does not answer at all.
    """

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        *,
        owner: str,
        lease_seconds: float,
        patience_seconds: float = DEFAULT_PATIENCE_SECONDS,
    ) -> None:
        self._database = database
        self.blobs = blobs
        self.owner = owner
        self._lease = int(lease_seconds * 1e9)
        self._patience_seconds = patience_seconds
        self._writer = Writer(database)
        # Threads of its own: if the database says nothing, those that wait for it must not be missed elsewhere.
        self._readers = concurrent.futures.ThreadPoolExecutor(READERS, thread_name_prefix="journal-reader")

    async def open(self) -> None:
        """Brings the tables to their latest version.

        Raises:
            StorageUnavailableError: the database cannot be reached.
            SchemaVersionError: it is later than this program.
        """
        await self._writer.execute(migrate, timeout_seconds=2 * self._patience_seconds)

    async def close(self) -> None:
        """Writes what is still to be written and closes the database."""
        await self._writer.close(2 * self._patience_seconds)
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._database.cut()
        await asyncio.to_thread(self._readers.shutdown)
        await asyncio.to_thread(self._database.close)

    @property
    def name(self) -> str:
        """The database's address, without its password."""
        return self._database.name

    @property
    def trouble(self) -> str:
        """Why nothing can be written at present; empty while all is well."""
        return self._writer.trouble

    # --- one completion

    async def create(self, new: NewCompletion) -> tuple[StoredCompletion, bool]:
        """Records a completion as this server's; returns it, and whether it is new or its `request_id` was known.

        Raises:
            StorageUnavailableError: the journal cannot be written at present.
            ConversationGoneError: there is no such conversation.
            ConversationBusyError: another completion runs in it.
        """
        payload = await self.payload(new.request)

        def work(connection: sa.Connection) -> tuple[StoredCompletion, bool]:
            if new.request_id is not None:
                found = sa.select(*_COLUMNS).where(completions.c.request_id == new.request_id)
                if (row := connection.execute(found).one_or_none()) is not None:
                    return _stored(row), False
            now = self._database.now_nanoseconds(connection)
            if new.turn is not None:
                check_turn(self._database, connection, new.turn, new.completion_id)
            connection.execute(
                self._database.insert_new(completions).values(
                    completion_id=new.completion_id,
                    create_time=time.time_ns(),
                    state=State.RUNNING,
                    request=payload.data,
                    request_blob=payload.blob,
                    request_id=new.request_id,
                    request_digest=new.request_digest,
                    query=new.query,
                    model=new.model,
                    labels=json.dumps(dict(new.labels)),
                    detached=new.detached,
                    owner=self.owner,
                    epoch=1,
                    lease_end=now + self._lease,
                    watched_time=now,
                    size_bytes=payload.size_bytes,
                    conversation_id="" if new.turn is None else new.turn.conversation_id,
                    turn=0 if new.turn is None else new.turn.number,
                )
            )
            # Another server may have taken the `request_id` a moment ago: what is there counts.
            key = (
                completions.c.completion_id == new.completion_id
                if new.request_id is None
                else completions.c.request_id == new.request_id
            )
            stored = _stored(connection.execute(sa.select(*_COLUMNS).where(key)).one())
            if stored.completion_id != new.completion_id:
                return stored, False
            if new.labels:
                rows = [
                    {"completion_id": new.completion_id, "key": key, "value": value}
                    for key, value in new.labels.items()
                ]
                connection.execute(self._database.insert_new(labels), rows)
            uses = [{"digest": digest, "used_by": context_user(new.completion_id)} for digest in set(new.contexts)]
            if payload.blob:
                uses.append({"digest": payload.blob, "used_by": new.completion_id})
            if uses:
                connection.execute(self._database.insert_new(blob_uses), uses)
            if new.turn is not None:
                keep_turn(self._database, connection, new.turn, holder=self.owner, context_digests=list(new.contexts))
            return stored, True

        def forget(connection: sa.Connection) -> None:
            mine = (completions.c.completion_id == new.completion_id, completions.c.owner == self.owner)
            if connection.execute(sa.delete(completions).where(*mine, completions.c.epoch == 1)).rowcount:
                _delete(connection, new.completion_id)

        if self.trouble:
            raise StorageUnavailableError(self.trouble)
        try:
            is_alone = new.turn is not None  # as it locks the conversation
            return await self._writer.execute(work, is_alone=is_alone, timeout_seconds=self._patience_seconds)
        except StorageUnavailableError:
            # It may be written yet, though it is refused. With a key its caller finds it; without one it must not run.
            if new.request_id is None:
                self._writer.execute_later(forget)
            raise

    def add(self, append: Append, on_done: Callable[[BaseException | None], None]) -> None:
        """Adds to the journal of a completion that this server runs; see `Writer.add`."""
        self._writer.add(append, on_done)

    def append(self, append: Append) -> asyncio.Future[None]:
        """Adds to the journal of a completion that this server runs; see `Writer.append`."""
        return self._writer.append(append)

    async def get(self, completion_id: str) -> StoredCompletion | None:
        """Returns a completion, or None if there is none."""

        def work(connection: sa.Connection) -> StoredCompletion | None:
            select = sa.select(*_COLUMNS).where(completions.c.completion_id == completion_id)
            row = connection.execute(select).one_or_none()
            return None if row is None else _stored(row)

        return await self._read(work)

    async def with_request_id(self, request_id: str) -> StoredCompletion | None:
        """Returns the completion that a request with this key began, or None if there is none."""

        def work(connection: sa.Connection) -> StoredCompletion | None:
            row = connection.execute(sa.select(*_COLUMNS).where(completions.c.request_id == request_id)).one_or_none()
            return None if row is None else _stored(row)

        return await self._read(work)

    async def request_of(self, completion_id: str) -> bytes:
        """Returns a completion's `CompleteRequest`, serialized."""

        def work(connection: sa.Connection) -> bytes:
            select = sa.select(completions.c.request, completions.c.request_blob)
            data, blob = connection.execute(select.where(completions.c.completion_id == completion_id)).one()
            return self.bytes_of(Payload(data, blob))

        return await self._read(work)

    async def events(
        self, completion_id: str, after_sequence: int, *, limit: int = 500, kinds: Collection[int] = ()
    ) -> list[event_pb2.Event]:
        """Returns the next events of a completion, in order.

        Args:
            completion_id: the completion's.
            after_sequence: the last event that is not wanted.
            limit: how many at most.
            kinds: field numbers of the kinds that are wanted; empty means all.
        """

        def work(connection: sa.Connection) -> list[event_pb2.Event]:
            select = (
                sa.select(events.c.sequence, events.c.data, events.c.blob)
                .where(events.c.completion_id == completion_id, events.c.sequence > after_sequence)
                .order_by(events.c.sequence)
                .limit(limit)
            )
            if kinds:
                select = select.where(events.c.kind.in_(sorted(kinds)))
            found = []
            for sequence, data, blob in connection.execute(select):
                event = event_pb2.Event.FromString(self.bytes_of(Payload(data, blob)))
                event.completion_id = completion_id
                event.sequence = sequence
                found.append(event)
            return found

        return await self._read(work)

    async def latest_event(self, completion_id: str, kind: int) -> event_pb2.Event | None:
        """Returns the latest event of a kind, or None if there is none."""

        def work(connection: sa.Connection) -> event_pb2.Event | None:
            select = (
                sa.select(events.c.sequence, events.c.data, events.c.blob)
                .where(events.c.completion_id == completion_id, events.c.kind == kind)
                .order_by(events.c.sequence.desc())
                .limit(1)
            )
            row = connection.execute(select).one_or_none()
            if row is None:
                return None
            event = event_pb2.Event.FromString(self.bytes_of(Payload(row.data, row.blob)))
            event.completion_id = completion_id
            event.sequence = row.sequence
            return event

        return await self._read(work)

    async def steps(self, completion_id: str) -> dict[str, Payload]:
        """Returns the recorded steps of a completion by their keys."""

        def work(connection: sa.Connection) -> dict[str, Payload]:
            select = sa.select(steps.c.key, steps.c.data, steps.c.blob).where(steps.c.completion_id == completion_id)
            return {key: Payload(data, blob) for key, data, blob in connection.execute(select)}

        return await self._read(work)

    async def payload(self, data: bytes) -> Payload:
        """Returns what goes into a row for these bytes; large ones are put into the blob store first."""
        if len(data) <= MAX_ROW_BYTES:
            return Payload(data, None, len(data))
        try:
            digest = await asyncio.to_thread(self.blobs.put, data)
        except OSError as error:
            raise StorageUnavailableError(f"the blob store cannot be written: {error}") from error
        return Payload(None, digest, len(data))

    async def load(self, payload: Payload) -> bytes:
        """Returns the bytes that a row stands for.

        Raises:
            BlobMissingError: they are not in the blob store.
            StorageUnavailableError: the blob store cannot be read.
        """
        if payload.blob is None:
            return self.bytes_of(payload)
        try:
            return await asyncio.to_thread(self.bytes_of, payload)
        except OSError as error:
            raise StorageUnavailableError(f"the blob store cannot be read: {error}") from error

    def bytes_of(self, payload: Payload) -> bytes:
        """Returns the bytes that a row stands for. May block."""
        if payload.blob is not None:
            return self.blobs.get(payload.blob)
        return bytes(payload.data or b"")

    # --- all completions

    async def list(
        self,
        *,
        limit: int,
        before: tuple[int, str] | None,
        states: Sequence[State],
        with_labels: Mapping[str, str],
    ) -> list[StoredCompletion]:
        """Returns completions, the latest first.

        Args:
            limit: how many at most.
            before: creation time and id of the last one of the page before.
            states: those that are wanted; empty means all.
            with_labels: what they must all have.
        """

        def work(connection: sa.Connection) -> list[StoredCompletion]:
            order = (completions.c.create_time.desc(), completions.c.completion_id.desc())
            select = sa.select(*_COLUMNS).order_by(*order).limit(limit)
            if before is not None:
                select = select.where(sa.tuple_(completions.c.create_time, completions.c.completion_id) < before)
            if states:
                select = select.where(completions.c.state.in_([int(state) for state in states]))
            for key, value in with_labels.items():
                having = sa.exists().where(
                    labels.c.completion_id == completions.c.completion_id,
                    labels.c.key == key,
                    labels.c.value == value,
                )
                select = select.where(having)
            return [_stored(row) for row in connection.execute(select)]

        return await self._read(work)

    async def many(self, completion_ids: Sequence[str]) -> dict[str, StoredCompletion]:
        """Returns those of the completions that there are."""

        def work(connection: sa.Connection) -> dict[str, StoredCompletion]:
            select = sa.select(*_COLUMNS).where(completions.c.completion_id.in_(completion_ids))
            return {row.completion_id: _stored(row) for row in connection.execute(select)}

        return await self._read(work)

    # --- who runs what

    async def heartbeat(self, running: Mapping[str, int], watched: Sequence[str]) -> dict[str, StoredCompletion]:
        """Prolongs this server's leases, and notes which completions have clients here.

        Args:
            running: the epochs of the completions that this server runs, by their ids.
            watched: completions that clients of this server watch.

        Returns:
            Those of `running` that are still this server's.
        """

        def work(connection: sa.Connection) -> dict[str, StoredCompletion]:
            now = self._database.now_nanoseconds(connection)
            if watched:
                connection.execute(
                    sa.update(completions).where(completions.c.completion_id.in_(watched)).values(watched_time=now)
                )
            if not running:
                return {}
            connection.execute(
                sa.update(completions)
                .where(completions.c.completion_id.in_(list(running)), completions.c.owner == self.owner)
                .values(lease_end=now + self._lease)
            )
            select = sa.select(*_COLUMNS).where(
                completions.c.completion_id.in_(list(running)), completions.c.owner == self.owner
            )
            rows = [_stored(row) for row in connection.execute(select)]
            return {row.completion_id: row for row in rows if row.epoch == running[row.completion_id]}

        return await self._writer.execute(work)

    async def take_abandoned(
        self, at_most: int = _EXPIRED_AT_ONCE, *, but_not: Sequence[str] = ()
    ) -> Sequence[StoredCompletion]:
        """Makes completions this server's whose servers are gone, and returns them.

        Args:
            at_most: how many.
            but_not: ids of those that run here, whose leases may have run out while this server was held up.
        """

        def work(connection: sa.Connection) -> Sequence[StoredCompletion]:
            now = self._database.now_nanoseconds(connection)
            expired = (
                sa.select(completions.c.completion_id)
                .where(
                    completions.c.state == State.RUNNING,
                    completions.c.lease_end < now,
                    completions.c.completion_id.not_in(but_not),
                )
                .order_by(completions.c.create_time)
                .limit(at_most)
                .with_for_update(skip_locked=True)
            )
            return self._take(connection, [row[0] for row in connection.execute(expired)], now)

        return await self._writer.execute(work)

    async def take_parked(self, completion_id: str) -> StoredCompletion | None:
        """Makes a parked completion this server's, and running again; returns it, or None if it is not parked."""

        def work(connection: sa.Connection) -> StoredCompletion | None:
            now = self._database.now_nanoseconds(connection)
            parked = (
                sa.select(completions.c.completion_id)
                .where(completions.c.completion_id == completion_id, completions.c.state == State.PARKED)
                .with_for_update()
            )
            taken = self._take(connection, [row[0] for row in connection.execute(parked)], now)
            return taken[0] if taken else None

        return await self._execute(work)

    def _take(self, connection: sa.Connection, ids: Sequence[str], now: int) -> Sequence[StoredCompletion]:
        if not ids:
            return []
        connection.execute(
            sa.update(completions)
            .where(completions.c.completion_id.in_(ids))
            .values(
                owner=self.owner,
                epoch=completions.c.epoch + 1,
                lease_end=now + self._lease,
                watched_time=now,
                state=State.RUNNING,
                parked_reason="",
            )
        )
        select = sa.select(*_COLUMNS).where(completions.c.completion_id.in_(ids))
        return [_stored(row) for row in connection.execute(select)]

    async def release(self, running: Mapping[str, int]) -> None:
        """Gives completions back, so that another server takes them at once."""

        def work(connection: sa.Connection) -> None:
            for completion_id, epoch in running.items():
                connection.execute(
                    sa.update(completions)
                    .where(completions.c.completion_id == completion_id, completions.c.epoch == epoch)
                    .values(lease_end=0)
                )

        await self._execute(work)

    async def request_cancel(self, completion_id: str) -> None:
        """Notes that a completion is to be cancelled by whoever runs it."""

        def work(connection: sa.Connection) -> None:
            connection.execute(
                sa.update(completions).where(completions.c.completion_id == completion_id).values(cancel_requested=True)
            )

        await self._execute(work)

    # --- forgetting

    async def delete(self, completion_id: str) -> None:
        """Forgets a completion with all that was recorded of it."""

        def work(connection: sa.Connection) -> list[str]:
            return _delete(connection, completion_id)

        await self.delete_blobs(await self._execute(work))

    async def past_retention(self, *, max_age_seconds: float | None, max_bytes: int | None) -> Sequence[str]:
        """Returns the ids of the completions that have ended and are to be forgotten, oldest first.

        Args:
            max_age_seconds: how long they are kept after their end; None means for ever.
            max_bytes: how much they may take all together; None means any.
        """

        def work(connection: sa.Connection) -> Sequence[str]:
            # The REPL of a conversation can be made once more only of all its completions.
            is_needed = completions.c.conversation_id.in_(sa.select(conversations.c.conversation_id))
            columns = (completions.c.completion_id, completions.c.end_time, completions.c.size_bytes, is_needed)
            ended = (
                sa.select(*columns).where(completions.c.end_time.is_not(None)).order_by(completions.c.end_time.desc())
            )
            oldest = None if max_age_seconds is None else time.time_ns() - int(max_age_seconds * 1e9)
            total, found = 0, []
            for completion_id, end_time, size_bytes, needed in connection.execute(ended):
                total += size_bytes
                is_too_much = max_bytes is not None and total > max_bytes
                if not needed and (is_too_much or (oldest is not None and end_time < oldest)):
                    found.append(completion_id)
            return found[::-1]

        return await self._read(work)

    async def release_contexts(self, completion_id: str) -> None:
        """Takes note that a completion that has ended does not need its contexts any more."""

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.delete(blob_uses).where(blob_uses.c.used_by == context_user(completion_id)))

        await self._writer.execute(work, is_alone=False)

    async def sweep_blobs(self) -> int:
        """Removes blobs that nobody uses, as of a server that died before it said what for; returns their number.

        Raises:
            StorageUnavailableError: the journal cannot be read at present.
        """
        try:
            stored = await asyncio.to_thread(lambda: list(self.blobs.digests()))
        except OSError as error:
            raise StorageUnavailableError(f"the blob store cannot be read: {error}") from error
        unused: list[str] = []
        for start in range(0, len(stored), _DIGESTS_AT_ONCE):
            some = stored[start : start + _DIGESTS_AT_ONCE]
            used = await self._read(functools.partial(_used, digests=some))
            unused += [digest for digest in some if digest not in used]
        await self.delete_blobs(unused)
        return len(unused)

    async def delete_blobs(self, digests: Sequence[str]) -> None:
        """Removes blobs that nobody uses any more. What cannot be removed now is at the next sweep."""
        try:
            for digest in digests:
                await asyncio.to_thread(self.blobs.delete, digest)
        except OSError as error:
            _log.warning("blobs that nobody uses cannot be deleted at present: %s", error)

    async def execute(self, work: Callable[[Database, sa.Connection], _Result]) -> _Result:
        """Runs a function in a writing transaction, for stores that share the database.

        Raises:
            StorageUnavailableError: the journal cannot be written at present.
        """
        return await self._execute(lambda connection: work(self._database, connection))

    async def read(self, work: Callable[[Database, sa.Connection], _Result]) -> _Result:
        """Runs a function in a reading transaction, for stores that share the database.

        Raises:
            StorageUnavailableError: the journal cannot be read at present.
        """
        return await self._read(lambda connection: work(self._database, connection))

    async def _read(self, work: Callable[[sa.Connection], _Result]) -> _Result:
        def run() -> _Result:
            with self._database.reading.begin() as connection:
                return work(connection)

        try:
            async with asyncio.timeout(self._patience_seconds):
                return await asyncio.get_running_loop().run_in_executor(self._readers, run)
        except TimeoutError:
            raise StorageUnavailableError("the journal cannot be read: the database does not answer") from None
        except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError, OSError) as error:
            raise StorageUnavailableError(f"the journal cannot be read: {_brief(error)}") from error

    async def _execute(self, work: Callable[[sa.Connection], _Result]) -> _Result:
        """Runs a function in a writing transaction, and waits no longer than callers do."""
        return await self._writer.execute(work, timeout_seconds=self._patience_seconds)


def _used(connection: sa.Connection, digests: Sequence[str]) -> set[str]:
    select = sa.select(blob_uses.c.digest).where(blob_uses.c.digest.in_(digests))
    return set(connection.execute(select).scalars())


def context_user(completion_id: str) -> str:
    """Returns the `used_by` of contexts that a completion needs until it ends."""
    return f"{CONTEXT_USER_PREFIX}{completion_id}"


def _delete(connection: sa.Connection, completion_id: str) -> list[str]:
    """Deletes rows; returns the digests of blobs that nobody else uses."""
    mine = sa.select(blob_uses.c.digest).where(blob_uses.c.used_by == completion_id)
    others = sa.select(blob_uses.c.digest).where(blob_uses.c.used_by != completion_id, blob_uses.c.digest.in_(mine))
    unused = connection.execute(mine.where(blob_uses.c.digest.not_in(others))).scalars().all()
    for table in (events, steps, labels, tool_results, completions):
        connection.execute(sa.delete(table).where(table.c.completion_id == completion_id))
    connection.execute(sa.delete(conversations).where(conversations.c.conversation_id == completion_id))
    users = [completion_id, context_user(completion_id), conversation_user(completion_id)]
    connection.execute(sa.delete(blob_uses).where(blob_uses.c.used_by.in_(users)))
    return list(unused)


def _stored(row: Any) -> StoredCompletion:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
    values["labels"] = json.loads(values["labels"])
    values["state"] = State(values["state"])
    return StoredCompletion(**values)


def _brief(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
