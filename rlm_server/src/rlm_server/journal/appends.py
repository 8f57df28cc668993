"""What is added to the journals of completions, and how it is written: many completions' in few statements.

Each statement that is executed lets the event loop have Python's lock, and gets it back when that has to wait; so a
commit takes the same five statements however much goes into it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from rlm_server.journal.blob_rows import take_back
from rlm_server.journal.schema import blob_uses, completions, events, steps

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_ROWS_AT_ONCE = 1_000
"""Of five values each: SQLite takes 32,766 values in a statement, PostgreSQL 65,535."""


Owner = tuple[str, int]
"""A completion, and the epoch under which a server owns it."""


@dataclass(frozen=True)
class Payload:
    """Bytes in a row, or, where `blob` is set, in the blob store under that digest.

    Attributes:
        announcement: by which the blob is kept until a row names it; empty if it has one already.
    """

    data: bytes | None
    blob: str | None = None
    size_bytes: int = 0
    announcement: str = ""


@dataclass
class Append:
    """What is added to the journal of one completion, all of it or nothing.

    Args:
        completion_id: the completion's.
        epoch: the one under which this server owns it.
        events: sequence number, kind and bytes of each.
        steps: key and bytes of each.
        changes: columns of the completion's row.
        running_time: how long the completion has run, in nanoseconds.
        is_urgent: something waits for the commit; what is not urgent waits a moment for company.
    """

    completion_id: str
    epoch: int
    events: Sequence[tuple[int, int, Payload]] = ()
    steps: Sequence[tuple[str, Payload]] = ()
    changes: dict[str, Any] = field(default_factory=dict)
    running_time: int = 0
    is_urgent: bool = True

    @property
    def owner(self) -> Owner:
        """Under what it is written."""
        return self.completion_id, self.epoch


def write(connection: sa.Connection, appends: Iterable[Append]) -> set[Owner]:
    """Writes appends, those to one completion in their order; returns the owners that are none any more.

    Args:
        connection: in a transaction. What it cannot write is raised, and nothing may be committed then.
        appends: may be of many completions.
    """
    statements = _statements(connection.dialect.name)
    by_owner: dict[Owner, list[Append]] = {}
    for append in appends:
        by_owner.setdefault(append.owner, []).append(append)
    states = _lock(connection, statements, {completion_id for completion_id, _ in by_owner})
    fenced = {owner for owner in by_owner if owner[0] not in states or states[owner[0]].epoch != owner[1]}
    rows = _Rows()
    for owner, own in by_owner.items():
        if owner in fenced:
            continue
        if changes := {name: value for append in own for name, value in append.changes.items()}:
            connection.execute(sa.update(completions).where(completions.c.completion_id == owner[0]).values(**changes))
        rows.add(own, states[owner[0]])
    _execute(connection, statements.progress, 4, rows.progress)
    for table, values in ((events, rows.events), (steps, rows.steps), (blob_uses, rows.blob_uses)):
        _execute(connection, functools.partial(statements.insert, table), len(table.c), values)
    take_back(connection, rows.announcements)
    return fenced


class _Rows:
    """What is written, as the values of all rows one after the other, in the order of the tables' columns."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.steps: list[Any] = []
        self.blob_uses: list[Any] = []
        self.announcements: list[str] = []
        self.progress: list[Any] = []
        """Id, running time, last sequence number and size of each completion."""

    def add(self, appends: Sequence[Append], state: Any) -> None:
        """Adds the appends to one completion, whose counts were these."""
        completion_id = state.completion_id
        last_sequence, size_bytes, running_time = state.last_sequence, state.size_bytes, 0
        for append in appends:
            running_time = max(running_time, append.running_time)
            for last_sequence, kind, payload in append.events:
                self.events += (completion_id, last_sequence, kind, payload.data, payload.blob)
                size_bytes += payload.size_bytes
                self._use(completion_id, payload)
            for key, payload in append.steps:
                self.steps += (completion_id, key, payload.data, payload.blob)
                size_bytes += payload.size_bytes
                self._use(completion_id, payload)
        self.progress += (completion_id, running_time, last_sequence, size_bytes)

    def _use(self, completion_id: str, payload: Payload) -> None:
        if payload.blob:
            self.blob_uses += (payload.blob, completion_id)
            self.announcements.append(payload.announcement)


def _lock(connection: sa.Connection, statements: _Statements, completion_ids: set[str]) -> Mapping[str, Any]:
    """Returns the rows of the completions by their ids; nobody can take them over until the transaction ends."""
    ids = sorted(completion_ids)
    rows = connection.exec_driver_sql(statements.lock(len(ids)), tuple(ids))
    return {row.completion_id: row for row in rows}


def _execute(connection: sa.Connection, statement: Any, width: int, values: Sequence[Any]) -> None:
    """Executes a statement for rows of so many values."""
    for start in range(0, len(values), width * _ROWS_AT_ONCE):
        part = tuple(values[start : start + width * _ROWS_AT_ONCE])
        connection.exec_driver_sql(statement(len(part) // width), part)


class _Statements:
    """The statements as text, since SQLAlchemy would compile them anew for each number of rows. All values are marks.

    Args:
        dialect: `sqlite` or `postgresql`.
    """

    def __init__(self, dialect: str) -> None:
        self._mark = "?" if dialect == "sqlite" else "%s"
        self._for_update = "" if dialect == "sqlite" else " FOR UPDATE"  # SQLite has one writer anyway
        self.lock = functools.lru_cache(self._lock)
        self.progress = functools.lru_cache(self._progress)
        self.insert = functools.lru_cache(self._insert)

    def _row(self, width: int) -> str:
        return f"({', '.join([self._mark] * width)})"

    def _rows(self, width: int, count: int) -> str:
        return ", ".join([self._row(width)] * count)

    def _lock(self, count: int) -> str:
        # In one order on all servers, so that none waits for another in turn.
        return (
            f"SELECT completion_id, epoch, last_sequence, size_bytes FROM {completions.name} "
            f"WHERE completion_id IN {self._row(count)} ORDER BY completion_id{self._for_update}"
        )

    def _progress(self, count: int) -> str:
        return (
            f"WITH its(completion_id, running_time, last_sequence, size_bytes) AS (VALUES {self._rows(4, count)}) "
            f"UPDATE {completions.name} SET running_time = its.running_time, last_sequence = its.last_sequence, "
            f"size_bytes = its.size_bytes FROM its WHERE {completions.name}.completion_id = its.completion_id"
        )

    def _insert(self, table: sa.Table, count: int) -> str:
        # What is there already stays as it is: what is tried again does no harm.
        columns = ", ".join(column.name for column in table.c)
        rows = self._rows(len(table.c), count)
        return f"INSERT INTO {table.name} ({columns}) VALUES {rows} ON CONFLICT DO NOTHING"


_statements = functools.cache(_Statements)
