"""What the journal has of conversations. The functions run in a transaction of the journal's.

Whether a completion runs in a conversation is not written down in it: it follows from the states of its completions, so
that it is true whatever crashes. The same holds for its expiry, which follows from its latest use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from rlm_server.journal.blob_users import conversation_user
from rlm_server.journal.schema import blob_uses, completions, conversations, steps
from rlm_server.journal.states import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlm_server.journal.database import Database

TURN_START_KEY = "r/start"
"""Key of the step that a completion records when it begins in the REPL of its conversation."""

_UNENDED = (State.RUNNING, State.PARKED)


class ConversationGoneError(Exception):
    """There is no such conversation, or not any more."""


class ConversationBusyError(Exception):
    """Another completion runs in the conversation, or is parked in it.

    Args:
        completion_id: that one.
        state: its state.
    """

    def __init__(self, completion_id: str, state: State) -> None:
        super().__init__(completion_id)
        self.completion_id = completion_id
        self.state = state


@dataclass(frozen=True)
class NewTurn:
    """The place of a new completion in a conversation.

    Args:
        conversation_id: the conversation's; that of a new one is its first completion's.
        number: counts the completions of the conversation, from 1.
        time_to_live: how long the conversation is kept after each use, in nanoseconds; None leaves it as it is.
        query_preview: the beginning of the first question, which is there if the conversation is new.
    """

    conversation_id: str
    number: int
    time_to_live: int | None
    query_preview: str | None = None


@dataclass(frozen=True)
class StoredTurn:
    """A completion of a conversation.

    Args:
        completion_id: its id.
        turn: its number in the conversation.
        state: its state.
        end_time: when it ended, in nanoseconds since the epoch; None if it has not.
        has_begun: whether it has begun in the REPL.
    """

    completion_id: str
    turn: int
    state: State
    end_time: int | None
    has_begun: bool


@dataclass(frozen=True)
class StoredConversation:
    """A conversation in the journal. Times are nanoseconds since the epoch; see `schema.conversations`."""

    conversation_id: str
    create_time: int
    used_time: int
    time_to_live: int
    query_preview: str
    holder: str
    turns: Sequence[StoredTurn]

    @property
    def unended(self) -> StoredTurn | None:
        """The completion that runs in it or is parked."""
        return next((turn for turn in self.turns if turn.state in _UNENDED), None)

    @property
    def begun_ids(self) -> list[str]:
        """The completions that have begun in its REPL, first to last."""
        return [turn.completion_id for turn in self.turns if turn.has_begun]

    @property
    def next_number(self) -> int:
        """The number of the next completion."""
        return max((turn.turn for turn in self.turns), default=0) + 1

    @property
    def expire_time(self) -> int:
        """When it is closed if nobody uses it."""
        return max(self.used_time, *(turn.end_time or 0 for turn in self.turns), 0) + self.time_to_live


def find(database: Database, connection: sa.Connection, conversation_id: str) -> StoredConversation | None:
    """Returns a conversation, or None if there is none that has not expired."""
    rows = _load(connection, conversations.c.conversation_id == conversation_id)
    return rows[0] if rows and not _has_expired(rows[0], database.now_nanoseconds(connection)) else None


def page(
    database: Database, connection: sa.Connection, *, limit: int, before: tuple[int, str] | None
) -> list[StoredConversation]:
    """Returns conversations, the latest first.

    Args:
        database: tells the time.
        connection: has the transaction.
        limit: how many at most.
        before: creation time and id of the last one of the page before.
    """
    now = database.now_nanoseconds(connection)
    found: list[StoredConversation] = []
    while len(found) < limit:
        which: sa.ColumnElement[bool] = sa.true()
        if before is not None:
            which = sa.tuple_(conversations.c.create_time, conversations.c.conversation_id) < before
        rows = _load(connection, which, limit)
        found += [row for row in rows if not _has_expired(row, now)]
        if len(rows) < limit:
            break
        before = (rows[-1].create_time, rows[-1].conversation_id)
    return found[:limit]


def check_turn(database: Database, connection: sa.Connection, new: NewTurn, completion_id: str) -> None:
    """Checks that a completion can begin in a conversation; no other can begin in it until the transaction ends.

    Raises:
        ConversationGoneError: there is no such conversation, or it has expired.
        ConversationBusyError: another completion runs in it, is parked, or has taken the number.
    """
    if new.query_preview is not None:
        return
    lock = sa.select(conversations.c.conversation_id).where(conversations.c.conversation_id == new.conversation_id)
    connection.execute(lock.with_for_update())
    stored = find(database, connection, new.conversation_id)
    if stored is None:
        raise ConversationGoneError(new.conversation_id)
    # This one is there already if the transaction is tried again, as nobody knows how the first try ended.
    others = [turn for turn in stored.turns if turn.completion_id != completion_id]
    for turn in others:
        if turn.state in _UNENDED or turn.turn >= new.number:
            raise ConversationBusyError(turn.completion_id, turn.state)


def keep_turn(
    database: Database, connection: sa.Connection, new: NewTurn, *, holder: str, context_digests: Sequence[str]
) -> None:
    """Takes note that a completion has begun in a conversation, which begins with it if it is new.

    Args:
        database: tells the time.
        connection: has the transaction.
        new: the completion's place.
        holder: the server that runs it.
        context_digests: the uploaded contexts that it brings.
    """
    now = database.now_nanoseconds(connection)
    if new.query_preview is not None:
        row = {
            "conversation_id": new.conversation_id,
            "create_time": now,
            "used_time": now,
            "time_to_live": new.time_to_live,
            "query_preview": new.query_preview,
            "holder": holder,
        }
        connection.execute(database.insert_new(conversations), [row])
    elif new.time_to_live is not None:
        mine = conversations.c.conversation_id == new.conversation_id
        connection.execute(sa.update(conversations).where(mine).values(time_to_live=new.time_to_live))
    use(database, connection, new.conversation_id, holder=holder)
    user = conversation_user(new.conversation_id)
    if context_digests:
        uses = [{"digest": digest, "used_by": user} for digest in set(context_digests)]
        connection.execute(database.insert_new(blob_uses), uses)


def use(database: Database, connection: sa.Connection, conversation_id: str, *, holder: str) -> None:
    """Takes note that a server uses a conversation."""
    connection.execute(
        sa.update(conversations)
        .where(conversations.c.conversation_id == conversation_id)
        .values(used_time=database.now_nanoseconds(connection), holder=holder)
    )


def holders(connection: sa.Connection, conversation_ids: Sequence[str]) -> dict[str, str]:
    """Returns which servers used conversations last, by the ids of those that are there."""
    select = sa.select(conversations.c.conversation_id, conversations.c.holder)
    rows = connection.execute(select.where(conversations.c.conversation_id.in_(conversation_ids)))
    return {conversation_id: holder for conversation_id, holder in rows}  # noqa: C416 - rows are no tuples for mypy


def delete(connection: sa.Connection, conversation_id: str) -> StoredConversation | None:
    """Forgets a conversation, not its completions; returns what it was, or None if there is none."""
    mine = conversations.c.conversation_id == conversation_id
    connection.execute(sa.select(conversations.c.conversation_id).where(mine).with_for_update())
    rows = _load(connection, mine)
    _delete(connection, [conversation_id])
    return rows[0] if rows else None


def delete_expired(database: Database, connection: sa.Connection) -> list[str]:
    """Forgets the conversations that have expired; returns them."""
    now = database.now_nanoseconds(connection)
    # The latest use is no earlier than the one that is written down: the rest is not worth a closer look.
    may_have = sa.select(conversations.c.conversation_id).where(
        conversations.c.used_time + conversations.c.time_to_live < now
    )
    ids = connection.execute(may_have.with_for_update(skip_locked=True)).scalars().all()
    rows = _load(connection, conversations.c.conversation_id.in_(ids))
    expired = [one.conversation_id for one in rows if _has_expired(one, now)]
    _delete(connection, expired)
    return expired


def _delete(connection: sa.Connection, conversation_ids: Sequence[str]) -> None:
    connection.execute(sa.delete(conversations).where(conversations.c.conversation_id.in_(conversation_ids)))
    users = [conversation_user(one) for one in conversation_ids]
    connection.execute(sa.delete(blob_uses).where(blob_uses.c.used_by.in_(users)))


def _has_expired(one: StoredConversation, now: int) -> bool:
    return one.unended is None and one.expire_time < now


def _load(
    connection: sa.Connection, which: sa.ColumnElement[bool], limit: int | None = None
) -> list[StoredConversation]:
    """Returns conversations with their completions, the latest first."""
    latest_first = (conversations.c.create_time.desc(), conversations.c.conversation_id.desc())
    rows = connection.execute(sa.select(conversations).where(which).order_by(*latest_first).limit(limit)).all()
    has_begun = sa.exists().where(steps.c.completion_id == completions.c.completion_id, steps.c.key == TURN_START_KEY)
    columns = (
        completions.c.conversation_id,
        completions.c.completion_id,
        completions.c.turn,
        completions.c.state,
        completions.c.end_time,
    )
    select = (
        sa.select(*columns, has_begun.label("has_begun"))
        .where(completions.c.conversation_id.in_([row.conversation_id for row in rows]))
        .order_by(completions.c.turn)
    )
    turns: dict[str, list[StoredTurn]] = {}
    for conversation_id, completion_id, turn, state, end_time, begun in connection.execute(select):
        its_turns = turns.setdefault(conversation_id, [])
        its_turns.append(StoredTurn(completion_id, turn, State(state), end_time, bool(begun)))
    return [StoredConversation(**row._mapping, turns=turns.get(row.conversation_id, [])) for row in rows]  # noqa: SLF001 - SQLAlchemy's public name for it
