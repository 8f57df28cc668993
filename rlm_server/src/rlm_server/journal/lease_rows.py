"""Which server runs which completion. The functions run in a transaction of the journal's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from rlm_server.journal.completion_rows import select
from rlm_server.journal.schema import completions
from rlm_server.journal.states import State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rlm_server.journal.completion_rows import StoredCompletion
    from rlm_server.journal.database import Database


class Leases:
    """The leases of one server.

    Args:
        database: tells the time.
        owner: the server.
        lease: how long one lasts, in nanoseconds.
    """

    def __init__(self, database: Database, owner: str, lease: int) -> None:
        self._database = database
        self._owner = owner
        self._lease = lease

    def heartbeat(
        self, connection: sa.Connection, running: Mapping[str, int], watched: Sequence[str]
    ) -> dict[str, StoredCompletion]:
        """Prolongs leases; see `Journal.heartbeat`."""
        now = self._database.now_nanoseconds(connection)
        if watched:
            connection.execute(
                sa.update(completions).where(completions.c.completion_id.in_(watched)).values(watched_time=now)
            )
        if not running:
            return {}
        mine = completions.c.completion_id.in_(list(running)) & (completions.c.owner == self._owner)
        connection.execute(sa.update(completions).where(mine).values(lease_end=now + self._lease))
        rows = select(connection, mine)
        return {row.completion_id: row for row in rows if row.epoch == running[row.completion_id]}

    def take_abandoned(
        self, connection: sa.Connection, at_most: int, but_not: Sequence[str]
    ) -> Sequence[StoredCompletion]:
        """Takes over what other servers left behind; see `Journal.take_abandoned`."""
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

    def take_parked(self, connection: sa.Connection, completion_id: str) -> StoredCompletion | None:
        """Takes a parked completion; see `Journal.take_parked`."""
        now = self._database.now_nanoseconds(connection)
        parked = (
            sa.select(completions.c.completion_id)
            .where(completions.c.completion_id == completion_id, completions.c.state == State.PARKED)
            .with_for_update()
        )
        taken = self._take(connection, [row[0] for row in connection.execute(parked)], now)
        return taken[0] if taken else None

    def _take(self, connection: sa.Connection, ids: Sequence[str], now: int) -> Sequence[StoredCompletion]:
        if not ids:
            return []
        connection.execute(
            sa.update(completions)
            .where(completions.c.completion_id.in_(ids))
            .values(
                owner=self._owner,
                epoch=completions.c.epoch + 1,
                lease_end=now + self._lease,
                watched_time=now,
                state=State.RUNNING,
                parked_reason="",
            )
        )
        return select(connection, completions.c.completion_id.in_(ids))


def release(connection: sa.Connection, running: Mapping[str, int]) -> None:
    """Ends leases, unless they are another server's by now; see `Journal.release`."""
    for completion_id, epoch in running.items():
        connection.execute(
            sa.update(completions)
            .where(completions.c.completion_id == completion_id, completions.c.epoch == epoch)
            .values(lease_end=0)
        )
