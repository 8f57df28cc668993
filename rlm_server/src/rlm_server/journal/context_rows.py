"""What the journal has of uploaded contexts. The functions run in a transaction of the journal's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from rlm_server.journal.blob_rows import take_back
from rlm_server.journal.blob_users import CONTEXT_USER_PREFIX
from rlm_server.journal.schema import blob_uses, contexts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rlm_server.journal.database import Database


def total_bytes(connection: sa.Connection) -> int:
    """Returns the size of all contexts together."""
    return int(connection.execute(sa.select(sa.func.coalesce(sa.func.sum(contexts.c.size_bytes), 0))).scalar_one())


def find(database: Database, connection: sa.Connection, context_ids: Sequence[str]) -> Sequence[Any]:
    """Returns the rows of contexts, and marks them as used now."""
    chosen = contexts.c.context_id.in_(context_ids)
    connection.execute(sa.update(contexts).where(chosen).values(used_time=database.now_nanoseconds(connection)))
    return connection.execute(sa.select(contexts).where(chosen)).all()


def known_digests(connection: sa.Connection, digests: Sequence[str]) -> set[str]:
    """Returns those of the digests that are of contexts which are kept."""
    return set(connection.execute(sa.select(contexts.c.sha256).where(contexts.c.sha256.in_(digests))).scalars())


def keep(database: Database, connection: sa.Connection, row: Mapping[str, Any], announcement: str) -> None:
    """Adds a context, whose blob was announced."""
    now = database.now_nanoseconds(connection)
    connection.execute(database.insert_new(contexts), [{**row, "used_time": now}])
    connection.execute(
        database.insert_new(blob_uses), [{"digest": row["sha256"], "used_by": f"context/{row['context_id']}"}]
    )
    take_back(connection, [announcement])


def evict(
    connection: sa.Connection, size_bytes: int, *, in_use: Sequence[str]
) -> tuple[list[tuple[str, int]], list[str]]:
    """Removes the least recently used contexts until so much room is free, or all that are left are in use.

    Args:
        connection: has the transaction.
        size_bytes: how much room is needed.
        in_use: ids of contexts that are to stay, besides those that completions need.

    Returns:
        Ids and sizes of what was removed, and the digests of blobs that nobody uses any more.
    """
    needed = sa.exists().where(
        blob_uses.c.digest == contexts.c.sha256, blob_uses.c.used_by.like(f"{CONTEXT_USER_PREFIX}%")
    )
    oldest = (
        sa.select(contexts.c.context_id, contexts.c.sha256, contexts.c.size_bytes)
        .where(contexts.c.context_id.not_in(in_use), ~needed)
        .order_by(contexts.c.used_time)
    )
    evicted: list[tuple[str, int]] = []
    unused: list[str] = []
    freed = 0
    for context_id, digest, size in connection.execute(oldest).all():
        if freed >= size_bytes:
            break
        connection.execute(sa.delete(contexts).where(contexts.c.context_id == context_id))
        connection.execute(sa.delete(blob_uses).where(blob_uses.c.used_by == f"context/{context_id}"))
        if not connection.execute(sa.select(blob_uses.c.digest).where(blob_uses.c.digest == digest).limit(1)).first():
            unused.append(digest)
        evicted.append((context_id, size))
        freed += size
    return evicted, unused
