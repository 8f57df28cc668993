"""What the journal has of events and steps. The functions run in a transaction of the journal's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import sqlalchemy as sa
from rlm_api.rlm.v1 import event_pb2

from rlm_server.journal.appends import Payload
from rlm_server.journal.schema import events, steps

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

Load: TypeAlias = "Callable[[Payload], bytes]"
"""Returns the bytes that a row stands for."""


def after(
    connection: sa.Connection,
    load: Load,
    completion_id: str,
    after_sequence: int,
    *,
    limit: int,
    kinds: Collection[int],
) -> list[event_pb2.Event]:
    """Returns the next events of a completion, in order; see `Journal.events`."""
    wanted = _EVENTS.where(events.c.completion_id == completion_id, events.c.sequence > after_sequence)
    if kinds:
        wanted = wanted.where(events.c.kind.in_(sorted(kinds)))
    rows = connection.execute(wanted.order_by(events.c.sequence).limit(limit))
    return [_event(row, completion_id, load) for row in rows]


def latest(connection: sa.Connection, load: Load, completion_id: str, kind: int) -> event_pb2.Event | None:
    """Returns the latest event of a kind, or None if there is none."""
    wanted = _EVENTS.where(events.c.completion_id == completion_id, events.c.kind == kind)
    row = connection.execute(wanted.order_by(events.c.sequence.desc()).limit(1)).one_or_none()
    return None if row is None else _event(row, completion_id, load)


def steps_of(connection: sa.Connection, completion_id: str) -> dict[str, Payload]:
    """Returns the recorded steps of a completion by their keys."""
    wanted = sa.select(steps.c.key, steps.c.data, steps.c.blob).where(steps.c.completion_id == completion_id)
    return {key: Payload(data, blob) for key, data, blob in connection.execute(wanted)}


_EVENTS = sa.select(events.c.sequence, events.c.data, events.c.blob)


def _event(row: Any, completion_id: str, load: Load) -> event_pb2.Event:
    event = event_pb2.Event.FromString(load(Payload(row.data, row.blob)))
    event.completion_id = completion_id
    event.sequence = row.sequence
    return event
