"""Who uses which blobs, in the table `blob_uses`. The functions run in a transaction of the journal's.

A blob is announced before it is stored, and that is a use, too; the transaction whose row names the blob takes the
announcement back. Who deletes blobs finds out who uses them, and deletes them, while nobody can add a use. So a blob
that is about to be used is never deleted: neither one whose row waits for a database that is away, nor one that was
stored before by somebody who uses it no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from rlm_server.journal.blob_users import ANNOUNCEMENT_PREFIX, age_of_announcement
from rlm_server.journal.schema import blob_stores, blob_uses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlm_server.journal.database import Database


def announce(database: Database, connection: sa.Connection, digest: str, announcement: str) -> None:
    """Takes note that a blob is about to be stored."""
    connection.execute(database.insert_new(blob_uses), [{"digest": digest, "used_by": announcement}])


def take_back(connection: sa.Connection, announcements: Sequence[str]) -> None:
    """Forgets announcements of blobs that rows name by now."""
    if announcements:
        connection.execute(sa.delete(blob_uses).where(blob_uses.c.used_by.in_(announcements)))


def take_back_old(connection: sa.Connection, max_age_seconds: float) -> None:
    """Forgets what servers have announced that died before they said what for."""
    made = sa.select(blob_uses.c.used_by).where(blob_uses.c.used_by.startswith(ANNOUNCEMENT_PREFIX))
    found = connection.execute(made).scalars().all()
    take_back(connection, [one for one in found if age_of_announcement(one) > max_age_seconds])


def used(connection: sa.Connection, digests: Sequence[str]) -> set[str]:
    """Returns those of the blobs that somebody uses."""
    return set(connection.execute(sa.select(blob_uses.c.digest).where(blob_uses.c.digest.in_(digests))).scalars())


def keep_uses(connection: sa.Connection) -> None:
    """Has nobody add or take away uses until the writing transaction ends."""
    if connection.dialect.name != "sqlite":  # which has one writer anyway
        connection.execute(sa.text(f"LOCK TABLE {blob_uses.name} IN SHARE MODE"))


def mark(connection: sa.Connection) -> str | None:
    """Returns the mark of the store that has the blobs; None if there was none yet."""
    return connection.execute(sa.select(blob_stores.c.mark)).scalar()


def keep_mark(connection: sa.Connection, new_mark: str) -> str:
    """Takes note of the mark of the store that has the blobs, if there was none yet; returns the one that counts."""
    if connection.dialect.name != "sqlite":  # servers that start at once do so one by one
        connection.execute(sa.text(f"LOCK TABLE {blob_stores.name} IN EXCLUSIVE MODE"))
    if (known := mark(connection)) is not None:
        return known
    connection.execute(sa.insert(blob_stores).values(mark=new_mark))
    return new_mark


def has_uses(connection: sa.Connection) -> bool:
    """Tells whether any blob is used."""
    return connection.execute(sa.select(blob_uses.c.digest).limit(1)).first() is not None
