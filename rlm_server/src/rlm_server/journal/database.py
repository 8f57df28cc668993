"""Connections to the journal's database: SQLite or PostgreSQL, the same statements for both."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING, Any

import psycopg
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

if TYPE_CHECKING:
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
        self.name = parsed.render_as_string(hide_password=True)
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
        if self.is_sqlite:
            _set_up_sqlite(self.writing, "BEGIN IMMEDIATE", durable=durable)
            _set_up_sqlite(self.reading, "BEGIN", durable=durable)
        else:
            for engine in (self.writing, self.reading):
                sa.event.listen(engine, "connect", self._connected)
                sa.event.listen(engine, "close", lambda connection, _: self._connections.discard(connection))

    def insert_new(self, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
        """Returns an insert that leaves rows which are there already as they are: what is tried again does no harm."""
        insert = sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)
        return insert.on_conflict_do_nothing()

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
        _set_up_postgresql(connection)

    def cut(self) -> None:
        """Breaks off what connections still wait for, as of a server that says nothing any more."""
        for connection in tuple(self._connections):
            with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as one:
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes the connections."""
        self.writing.dispose()
        self.reading.dispose()


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


def _set_up_sqlite(engine: sa.Engine, begin: str, *, durable: bool) -> None:
    synchronous = "FULL" if durable else "OFF"

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, _: object) -> None:
        connection.isolation_level = None  # the driver begins no transaction of its own
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={synchronous}")
        connection.execute("PRAGMA temp_store=MEMORY")

    @sa.event.listens_for(engine, "begin")
    def begin_transaction(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)
