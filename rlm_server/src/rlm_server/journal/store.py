"""The journal as the service sees it: completions, their events and steps, who runs them, and blobs."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, TypeVar

from rlm_server.journal import completion_rows, event_rows, retention_rows
from rlm_server.journal.access import DEFAULT_PATIENCE_SECONDS, Access
from rlm_server.journal.appends import Payload
from rlm_server.journal.commits import FencedError
from rlm_server.journal.completion_rows import NewCompletion, StoredCompletion
from rlm_server.journal.lease_rows import Leases, release
from rlm_server.journal.pairing import pair
from rlm_server.journal.payloads import Payloads
from rlm_server.journal.schema import completions, migrate
from rlm_server.journal.writer import StorageUnavailableError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection, Mapping, Sequence

    import sqlalchemy as sa
    from rlm_api.rlm.v1 import event_pb2

    from rlm_server.journal.appends import Append
    from rlm_server.journal.blobs import BlobStore
    from rlm_server.journal.database import Database
    from rlm_server.journal.states import State

__all__ = ["FencedError", "Journal", "NewCompletion", "Payload", "StorageUnavailableError", "StoredCompletion"]


_Result = TypeVar("_Result")

_EXPIRED_AT_ONCE = 16


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
        self._lease_seconds = lease_seconds
        self._owners_return_until = 0.0
        self._lease = int(lease_seconds * 1e9)
        self._leases = Leases(database, owner, self._lease)
        self._patience_seconds = patience_seconds
        self._access = Access(database, patience_seconds)
        self._writer = self._access.writer
        self.payloads = Payloads(self._access, blobs)
        """What is large, in the blob store."""

    async def open(self) -> None:
        """Brings the tables to their latest version.

        Raises:
            StorageUnavailableError: the database cannot be reached.
            SchemaVersionError: it is later than this program.
            StoreMismatchError: the blob store is not this journal's.
            OSError: the blob store cannot be used.
        """
        await self._writer.execute(migrate, timeout_seconds=2 * self._patience_seconds)
        await pair(self._access, self.blobs)

    async def close(self) -> None:
        """Writes what is still to be written and closes the database."""
        await self._access.close()

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
            ContextGoneError: an uploaded context that it needs was evicted.
            ConversationGoneError: there is no such conversation.
            ConversationBusyError: another completion runs in it.
        """
        if self.trouble:
            raise StorageUnavailableError(self.trouble)
        payload = await self.payloads.store(new.request)

        def work(connection: sa.Connection) -> tuple[StoredCompletion, bool]:
            return completion_rows.create(self._database, connection, new, payload, owner=self.owner, lease=self._lease)

        try:
            is_alone = new.turn is not None  # as it locks the conversation
            return await self._writer.execute(work, is_alone=is_alone, timeout_seconds=self._patience_seconds)
        except StorageUnavailableError:
            # It may be written yet, though it is refused. With a key its caller finds it; without one it must not run.
            if new.request_id is None:
                self._writer.execute_later(
                    functools.partial(retention_rows.delete_unbegun, completion_id=new.completion_id, owner=self.owner)
                )
            raise

    def add(self, append: Append, on_done: Callable[[BaseException | None], None]) -> None:
        """Adds to the journal of a completion that this server runs; see `Writer.add`."""
        self._writer.add(append, on_done)

    def append(self, append: Append) -> asyncio.Future[None]:
        """Adds to the journal of a completion that this server runs; see `Writer.append`."""
        return self._writer.append(append)

    async def get(self, completion_id: str) -> StoredCompletion | None:
        """Returns a completion, or None if there is none."""
        return await self._access.read(functools.partial(completion_rows.find, completion_id=completion_id))

    async def with_request_id(self, request_id: str) -> StoredCompletion | None:
        """Returns the completion that a request with this key began, or None if there is none."""
        return await self._access.read(functools.partial(completion_rows.with_request_id, request_id=request_id))

    async def request_of(self, completion_id: str) -> bytes:
        """Returns a completion's `CompleteRequest`, serialized."""
        return await self._access.read(
            lambda connection: self.payloads.bytes_of(completion_rows.request_of(connection, completion_id))
        )

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
        return await self._access.read(
            lambda connection: event_rows.after(
                connection, self.payloads.bytes_of, completion_id, after_sequence, limit=limit, kinds=kinds
            )
        )

    async def latest_event(self, completion_id: str, kind: int) -> event_pb2.Event | None:
        """Returns the latest event of a kind, or None if there is none."""
        return await self._access.read(
            lambda connection: event_rows.latest(connection, self.payloads.bytes_of, completion_id, kind)
        )

    async def steps(self, completion_id: str) -> dict[str, Payload]:
        """Returns the recorded steps of a completion by their keys."""
        return await self._access.read(functools.partial(event_rows.steps_of, completion_id=completion_id))

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
        return await self._access.read(
            lambda connection: completion_rows.page(
                connection, limit=limit, before=before, states=states, with_labels=with_labels
            )
        )

    async def many(self, completion_ids: Sequence[str]) -> dict[str, StoredCompletion]:
        """Returns those of the completions that there are."""
        found = await self._access.read(
            lambda connection: completion_rows.select(connection, completions.c.completion_id.in_(completion_ids))
        )
        return {one.completion_id: one for one in found}

    # --- who runs what

    async def heartbeat(self, running: Mapping[str, int], watched: Sequence[str]) -> dict[str, StoredCompletion]:
        """Prolongs this server's leases, and notes which completions have clients here.

        Args:
            running: the epochs of the completions that this server runs, by their ids.
            watched: completions that clients of this server watch.

        Returns:
            Those of `running` that are still this server's.
        """
        return await self._writer.execute(lambda connection: self._leases.heartbeat(connection, running, watched))

    async def take_abandoned(
        self, at_most: int = _EXPIRED_AT_ONCE, *, but_not: Sequence[str] = ()
    ) -> Sequence[StoredCompletion]:
        """Makes completions this server's whose servers are gone, and returns them.

        While the database was away, or said nothing, nobody could prolong leases. So their owners have the time of a
        lease to do so afterwards: calls that they have under way are not to be made twice.

        Args:
            at_most: how many.
            but_not: ids of those that run here, whose leases may have run out while this server was held up.
        """
        asked = time.monotonic()

        def work(connection: sa.Connection) -> Sequence[StoredCompletion]:
            if self._writer.trouble or time.monotonic() - asked > self._lease_seconds / 2:
                self._owners_return_until = time.monotonic() + self._lease_seconds
            if time.monotonic() < self._owners_return_until:
                return []
            return self._leases.take_abandoned(connection, at_most, but_not)

        return await self._writer.execute(work)

    async def take_parked(self, completion_id: str) -> StoredCompletion | None:
        """Makes a parked completion this server's, and running again; returns it, or None if it is not parked."""
        return await self._access.execute(lambda connection: self._leases.take_parked(connection, completion_id))

    async def release(self, running: Mapping[str, int]) -> None:
        """Gives completions back, so that another server takes them at once."""
        await self._access.execute(functools.partial(release, running=running))

    async def request_cancel(self, completion_id: str) -> None:
        """Notes that a completion is to be cancelled by whoever runs it."""
        await self._access.execute(functools.partial(completion_rows.request_cancel, completion_id=completion_id))

    # --- forgetting

    async def delete(self, completion_id: str) -> None:
        """Forgets a completion with all that was recorded of it."""
        await self.payloads.delete_unused(
            await self._access.execute(functools.partial(retention_rows.delete, completion_id=completion_id))
        )

    async def past_retention(self, *, max_age_seconds: float | None, max_bytes: int | None) -> Sequence[str]:
        """Returns the ids of the completions that have ended and are to be forgotten, oldest first.

        Args:
            max_age_seconds: how long they are kept after their end; None means for ever.
            max_bytes: how much they may take all together; None means any.
        """
        return await self._access.read(
            lambda connection: retention_rows.past_retention(
                connection, max_age_seconds=max_age_seconds, max_bytes=max_bytes
            )
        )

    async def release_contexts(self, completion_id: str) -> None:
        """Takes note that a completion that has ended does not need its contexts any more."""
        work = functools.partial(retention_rows.release_contexts, completion_id=completion_id)
        await self._writer.execute(work, is_alone=False)

    async def execute(self, work: Callable[[Database, sa.Connection], _Result]) -> _Result:
        """Runs a function in a writing transaction, for stores that share the database.

        Raises:
            StorageUnavailableError: the journal cannot be written at present.
        """
        return await self._access.execute(lambda connection: work(self._database, connection))

    async def read(self, work: Callable[[Database, sa.Connection], _Result]) -> _Result:
        """Runs a function in a reading transaction, for stores that share the database.

        Raises:
            StorageUnavailableError: the journal cannot be read at present.
        """
        return await self._access.read(lambda connection: work(self._database, connection))
