"""What the journal forgets. The functions run in a transaction of the journal's."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import sqlalchemy as sa

from rlm_server.journal.blob_users import context_user, conversation_user
from rlm_server.journal.schema import (
    blob_uses,
    completions,
    conversations,
    events,
    labels,
    steps,
    tool_results,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


def delete(connection: sa.Connection, completion_id: str) -> list[str]:
    """Forgets a completion with all that was recorded of it; returns the digests of blobs that nobody uses any more."""
    mine = sa.select(blob_uses.c.digest).where(blob_uses.c.used_by == completion_id)
    others = sa.select(blob_uses.c.digest).where(blob_uses.c.used_by != completion_id, blob_uses.c.digest.in_(mine))
    unused = connection.execute(mine.where(blob_uses.c.digest.not_in(others))).scalars().all()
    for table in (events, steps, labels, tool_results, completions):
        connection.execute(sa.delete(table).where(table.c.completion_id == completion_id))
    # A conversation is nothing without its first completion, whose id it has.
    connection.execute(sa.delete(conversations).where(conversations.c.conversation_id == completion_id))
    users = [completion_id, context_user(completion_id), conversation_user(completion_id)]
    connection.execute(sa.delete(blob_uses).where(blob_uses.c.used_by.in_(users)))
    return list(unused)


def delete_unbegun(connection: sa.Connection, completion_id: str, owner: str) -> None:
    """Forgets a completion that was refused, if it was added yet and no other server has it."""
    mine = (completions.c.completion_id == completion_id, completions.c.owner == owner, completions.c.epoch == 1)
    if connection.execute(sa.delete(completions).where(*mine)).rowcount:
        delete(connection, completion_id)


def past_retention(connection: sa.Connection, *, max_age_seconds: float | None, max_bytes: int | None) -> Sequence[str]:
    """Returns the completions that are to be forgotten, oldest first; see `Journal.past_retention`."""
    # The REPL of a conversation can be made once more only of all its completions.
    is_needed = completions.c.conversation_id.in_(sa.select(conversations.c.conversation_id))
    columns = (completions.c.completion_id, completions.c.end_time, completions.c.size_bytes, is_needed)
    ended = sa.select(*columns).where(completions.c.end_time.is_not(None)).order_by(completions.c.end_time.desc())
    oldest = None if max_age_seconds is None else time.time_ns() - int(max_age_seconds * 1e9)
    total, found = 0, []
    for completion_id, end_time, size_bytes, needed in connection.execute(ended):
        total += size_bytes
        is_too_much = max_bytes is not None and total > max_bytes
        if not needed and (is_too_much or (oldest is not None and end_time < oldest)):
            found.append(completion_id)
    return found[::-1]


def release_contexts(connection: sa.Connection, completion_id: str) -> None:
    """Takes note that a completion does not need its contexts any more."""
    connection.execute(sa.delete(blob_uses).where(blob_uses.c.used_by == context_user(completion_id)))
