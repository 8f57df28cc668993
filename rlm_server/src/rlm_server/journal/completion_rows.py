"""What the journal has of completions as a whole. The functions run in a transaction of the journal's."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from rlm_server.journal.appends import Payload
from rlm_server.journal.blob_rows import take_back
from rlm_server.journal.blob_users import context_user
from rlm_server.journal.context_rows import known_digests
from rlm_server.journal.conversation_rows import check_turn, keep_turn
from rlm_server.journal.schema import blob_uses, completions, labels
from rlm_server.journal.states import State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rlm_server.journal.conversation_rows import NewTurn
    from rlm_server.journal.database import Database


class ContextGoneError(Exception):
    """An uploaded context that a completion needs is not kept any more."""


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


def create(
    database: Database, connection: sa.Connection, new: NewCompletion, payload: Payload, *, owner: str, lease: int
) -> tuple[StoredCompletion, bool]:
    """Adds a completion; returns it, and whether it is new or its `request_id` was known.

    Args:
        database: makes statements that can be tried again.
        connection: has the transaction.
        new: the completion.
        payload: its request.
        owner: the server that runs it.
        lease: for how long, in nanoseconds.

    Raises:
        ContextGoneError: an uploaded context that it needs was evicted.
        ConversationGoneError: there is no such conversation.
        ConversationBusyError: another completion runs in it.
    """
    if new.request_id is not None and (known := with_request_id(connection, new.request_id)) is not None:
        return known, False
    now = database.now_nanoseconds(connection)
    if new.turn is not None:
        check_turn(database, connection, new.turn, new.completion_id)
    stored = StoredCompletion(
        completion_id=new.completion_id,
        create_time=time.time_ns(),
        end_time=None,
        state=State.RUNNING,
        request_digest=new.request_digest,
        query=new.query,
        model=new.model,
        labels=dict(new.labels),
        detached=new.detached,
        parked_reason="",
        cancel_requested=False,
        owner=owner,
        epoch=1,
        lease_end=now + lease,
        watched_time=now,
        last_sequence=0,
        running_time=0,
        size_bytes=payload.size_bytes,
        conversation_id="" if new.turn is None else new.turn.conversation_id,
        turn=0 if new.turn is None else new.turn.number,
    )
    request = {"request": payload.data, "request_blob": payload.blob, "request_id": new.request_id}
    row = vars(stored) | request | {"labels": json.dumps(stored.labels)}
    connection.execute(database.insert_new(completions), row)
    if new.request_id is not None:
        # Another server may have taken the `request_id` a moment ago: what is there counts.
        (stored,) = select(connection, completions.c.request_id == new.request_id)
        if stored.completion_id != new.completion_id:
            return stored, False
    _add_what_belongs_to_it(database, connection, new, payload)
    if new.turn is not None:
        keep_turn(database, connection, new.turn, holder=owner, context_digests=list(new.contexts))
    return stored, True


def _add_what_belongs_to_it(
    database: Database, connection: sa.Connection, new: NewCompletion, payload: Payload
) -> None:
    if new.labels:
        rows = [{"completion_id": new.completion_id, "key": key, "value": value} for key, value in new.labels.items()]
        connection.execute(database.insert_new(labels), rows)
    uses = [{"digest": digest, "used_by": context_user(new.completion_id)} for digest in set(new.contexts)]
    if payload.blob:
        uses.append({"digest": payload.blob, "used_by": new.completion_id})
    if uses:
        connection.execute(database.insert_new(blob_uses), uses)
    if payload.blob:
        take_back(connection, [payload.announcement])
    # Only now, as nobody deletes their bytes from here on: another server may have evicted them a moment ago.
    if new.contexts and not set(new.contexts) <= known_digests(connection, new.contexts):
        raise ContextGoneError("an uploaded context was evicted meanwhile")


def select(connection: sa.Connection, which: sa.ColumnElement[bool]) -> list[StoredCompletion]:
    """Returns the completions of which something is true."""
    return [_stored(row) for row in connection.execute(sa.select(*_COLUMNS).where(which))]


def find(connection: sa.Connection, completion_id: str) -> StoredCompletion | None:
    """Returns a completion, or None if there is none."""
    return next(iter(select(connection, completions.c.completion_id == completion_id)), None)


def with_request_id(connection: sa.Connection, request_id: str) -> StoredCompletion | None:
    """Returns the completion that a request with this key began, or None if there is none."""
    return next(iter(select(connection, completions.c.request_id == request_id)), None)


def request_of(connection: sa.Connection, completion_id: str) -> Payload:
    """Returns the row of a completion's request."""
    columns = sa.select(completions.c.request, completions.c.request_blob)
    data, blob = connection.execute(columns.where(completions.c.completion_id == completion_id)).one()
    return Payload(data, blob)


def page(
    connection: sa.Connection,
    *,
    limit: int,
    before: tuple[int, str] | None,
    states: Sequence[State],
    with_labels: Mapping[str, str],
) -> list[StoredCompletion]:
    """Returns completions, the latest first; see `Journal.list`."""
    latest_first = (completions.c.create_time.desc(), completions.c.completion_id.desc())
    wanted = sa.select(*_COLUMNS).order_by(*latest_first).limit(limit)
    if before is not None:
        wanted = wanted.where(sa.tuple_(completions.c.create_time, completions.c.completion_id) < before)
    if states:
        wanted = wanted.where(completions.c.state.in_([int(state) for state in states]))
    for key, value in with_labels.items():
        having = sa.exists().where(
            labels.c.completion_id == completions.c.completion_id, labels.c.key == key, labels.c.value == value
        )
        wanted = wanted.where(having)
    return [_stored(row) for row in connection.execute(wanted)]


def request_cancel(connection: sa.Connection, completion_id: str) -> None:
    """Notes that a completion is to be cancelled by whoever runs it."""
    connection.execute(
        sa.update(completions).where(completions.c.completion_id == completion_id).values(cancel_requested=True)
    )


def _stored(row: Any) -> StoredCompletion:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
    values["labels"] = json.loads(values["labels"])
    values["state"] = State(values["state"])
    return StoredCompletion(**values)
