"""Connections to the journal's database: SQLite or PostgreSQL, the same statements for both."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import time
from typing import TYPE_CHECKING, Any

import psycopg
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from rlm_server.masking import without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_CONNECT_SECONDS = 5
_BUSY_SECONDS = 5.0
_IDLE_SECONDS = 3
"""After which PostgreSQL ends a transaction whose client says nothing: less than a lease, which it may stand in the way
of."""

READERS = 8
"""How many transactions can read at once."""


class DatabaseUrlError(ValueError):
    """An address of a database that cannot be used; the message says why, without the password."""


class Database:
    """The engines of one database. Their methods block, so they are used on threads.

    Args:
        url: `sqlite:///PATH` or `postgresql://USER:PASSWORD@HOST:PORT/NAME`.
        durable: whether a commit waits for the disk. False is for what need not outlive the process.

    Raises:
        DatabaseUrlError: the address is of no kind that is known.
    """

    def __init__(self, url: str, *, durable: bool = True) -> None:
        parsed = parse_url(url)
        self.name = without_secrets(parsed.render_as_string(hide_password=True))
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        if self.is_sqlite:
            options: dict[str, Any] = {"connect_args": {"timeout": _BUSY_SECONDS, "check_same_thread": False}}
        else:
            keepalives = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}
            options = {
                "connect_args": {"connect_timeout": _CONNECT_SECONDS, "tcp_user_timeout": 10_000, **keepalives},
                "pool_pre_ping": True,
            }
        self.writing = sa.create_engine(parsed, pool_size=1, max_overflow=1, **options)
        self.reading = sa.create_engine(parsed, pool_size=READERS, max_overflow=0, **options)
        self._connections: set[Any] = set()
        self._is_closed = False
        for engine, begin in ((self.writing, "BEGIN IMMEDIATE"), (self.reading, "BEGIN")):
            if self.is_sqlite:
                self._set_up: Callable[[Any], None] = functools.partial(_set_up_sqlite, durable=durable)
                sa.event.listen(engine, "begin", functools.partial(_begin, statement=begin))
            else:
                self._set_up = _set_up_postgresql
            sa.event.listen(engine, "connect", self._connected)
            sa.event.listen(engine, "checkin", self._returned)
            sa.event.listen(engine, "close", lambda connection, _: self._connections.discard(connection))

    def insert_new(self, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
        """Returns an insert that leaves rows which are there already as they are: what is tried again does no harm."""
        return _sqlite_insert(table) if self.is_sqlite else _postgresql_insert(table)

    def now_nanoseconds(self, connection: sa.Connection) -> int:
        """Returns the database's time, which is the same for all servers."""
        if self.is_sqlite:
            return time.time_ns()
        return (
            int(
                connection.execute(
                    sa.text("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
                ).scalar_one()
            )
            * 1000
        )

    def _connected(self, connection: Any, _: object) -> None:
        self._connections.add(connection)
        try:
            self._set_up(connection)
        except BaseException:  # as SQLAlchemy forgets a connection of which this is so, open as it is
            self._connections.discard(connection)
            connection.close()
            raise

    def _returned(self, connection: Any, record: Any) -> None:
        """Closes a connection that comes back after all were closed, as from a thread that was not waited for."""
        if self._is_closed and connection is not None:
            record.close()

    def cut(self) -> None:
        """Breaks off what connections still wait for, as of a server that says nothing any more."""
        if self.is_sqlite:
            return
        for connection in tuple(self._connections):
            with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as one:
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes the connections."""
        self._is_closed = True
        self.writing.dispose()
        self.reading.dispose()


# Made once for each table: SQLAlchemy keeps with a statement what it found out about it.


@functools.cache
def _sqlite_insert(table: sa.Table) -> sqlite.Insert:
    return sqlite.insert(table).on_conflict_do_nothing()


@functools.cache
def _postgresql_insert(table: sa.Table) -> postgresql.Insert:
    return postgresql.insert(table).on_conflict_do_nothing()


def sqlite_url(path: Path) -> str:
    """Returns the address of an SQLite file."""
    return sa.URL.create("sqlite", database=str(path)).render_as_string()


def parse_url(url: str) -> sa.URL:
    """Returns the parsed address, with the driver that this package has.

    Raises:
        DatabaseUrlError: the address is of no kind that is known.
    """
    try:
        parsed = sa.make_url(url)
        backend = parsed.get_backend_name()
    except sa.exc.ArgumentError:
        backend = ""
    if backend not in {"sqlite", "postgresql", "postgres"}:
        raise DatabaseUrlError(
            "the database must be sqlite:///PATH or postgresql://USER:PASSWORD@HOST:PORT/NAME, and is neither"
        )
    if backend == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise DatabaseUrlError("sqlite needs a path, as in sqlite:////var/lib/rlm/journal.db")
        return parsed.set(drivername="sqlite+pysqlite")
    return parsed.set(drivername="postgresql+psycopg")


def _set_up_postgresql(connection: Any) -> None:
    """Has PostgreSQL free what a client has locked that vanished, or was frozen, in the middle of a transaction."""
    connection.execute(
        f"SET idle_in_transaction_session_timeout = '{_IDLE_SECONDS}s';"
        "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3"
    )
    connection.commit()


def _set_up_sqlite(connection: Any, *, durable: bool) -> None:
    connection.isolation_level = None  # the driver begins no transaction of its own
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'OFF'}")
    connection.execute("PRAGMA temp_store=MEMORY")


def _begin(connection: sa.Connection, *, statement: str) -> None:
    connection.exec_driver_sql(statement)
