"""The journal's tables, and how a database gets from one version of them to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Callable

metadata = sa.MetaData()

_Nanoseconds = sa.BigInteger
_Digest = sa.String(64)

completions = sa.Table(
    "completions",
    metadata,
    sa.Column("completion_id", sa.String(64), primary_key=True),
    sa.Column("create_time", _Nanoseconds, nullable=False),
    sa.Column("end_time", _Nanoseconds),
    sa.Column("state", sa.SmallInteger, nullable=False),
    sa.Column("request", sa.LargeBinary),
    sa.Column("request_blob", _Digest),
    sa.Column("request_id", sa.String(100), unique=True),
    sa.Column("request_digest", _Digest, nullable=False),
    sa.Column("query", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("labels", sa.Text, nullable=False),
    sa.Column("detached", sa.Boolean, nullable=False),
    sa.Column("parked_reason", sa.Text, nullable=False, server_default=""),
    sa.Column("cancel_requested", sa.Boolean, nullable=False, server_default=sa.false()),
    # Who runs it. `epoch` grows with each new owner; writes carry it, so that an earlier owner's are refused.
    sa.Column("owner", sa.String(64), nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("lease_end", _Nanoseconds, nullable=False),
    sa.Column("watched_time", _Nanoseconds, nullable=False),
    sa.Column("last_sequence", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("running_time", _Nanoseconds, nullable=False, server_default="0"),
    sa.Column("size_bytes", sa.BigInteger, nullable=False, server_default="0"),
    # The conversation that it belongs to, or empty, and its number among the completions of that, from 1.
    sa.Column("conversation_id", sa.String(64), nullable=False, server_default=""),
    sa.Column("turn", sa.Integer, nullable=False, server_default="0"),
    sa.Index("completions_by_time", "create_time", "completion_id"),
    sa.Index("completions_by_state", "state", "lease_end"),
    sa.Index("completions_by_conversation", "conversation_id", "turn"),
)

conversations = sa.Table(
    "conversations",
    metadata,
    sa.Column("conversation_id", sa.String(64), primary_key=True),
    sa.Column("create_time", _Nanoseconds, nullable=False),
    # The latest use that was not the end of a completion; see `conversation_rows.StoredConversation.expire_time`.
    sa.Column("used_time", _Nanoseconds, nullable=False),
    sa.Column("time_to_live", _Nanoseconds, nullable=False),
    sa.Column("query_preview", sa.Text, nullable=False),
    # The server that used it last. Only that one's sandbox is up to date.
    sa.Column("holder", sa.String(64), nullable=False),
    sa.Index("conversations_by_time", "create_time", "conversation_id"),
    sa.Index("conversations_by_use", "used_time"),
)

labels = sa.Table(
    "completion_labels",
    metadata,
    sa.Column("completion_id", sa.String(64), primary_key=True),
    sa.Column("key", sa.String(100), primary_key=True),
    sa.Column("value", sa.String(100), nullable=False),
    sa.Index("completion_labels_by_value", "key", "value"),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("completion_id", sa.String(64), primary_key=True),
    sa.Column("sequence", sa.BigInteger, primary_key=True),
    sa.Column("kind", sa.SmallInteger, nullable=False),
    sa.Column("data", sa.LargeBinary),
    sa.Column("blob", _Digest),
    sqlite_with_rowid=False,
)

steps = sa.Table(
    "steps",
    metadata,
    sa.Column("completion_id", sa.String(64), primary_key=True),
    sa.Column("key", sa.String(400), primary_key=True),
    sa.Column("data", sa.LargeBinary),
    sa.Column("blob", _Digest),
    sqlite_with_rowid=False,
)

blob_uses = sa.Table(
    "blob_uses",
    metadata,
    sa.Column("digest", _Digest, primary_key=True),
    sa.Column("used_by", sa.String(100), primary_key=True),
    sa.Index("blob_uses_by_user", "used_by"),
    sqlite_with_rowid=False,
)

tool_results = sa.Table(
    "tool_results",
    metadata,
    # Results of tools that came to another server than the one that runs the completion, or before it asked again.
    sa.Column("completion_id", sa.String(64), primary_key=True),
    sa.Column("call_id", sa.String(400), primary_key=True),
    sa.Column("data", sa.LargeBinary),
    sa.Column("blob", _Digest),
    sqlite_with_rowid=False,
)

contexts = sa.Table(
    "contexts",
    metadata,
    sa.Column("context_id", sa.String(100), primary_key=True),
    sa.Column("format", sa.String(10), nullable=False),
    sa.Column("sha256", _Digest, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("outline", sa.Text, nullable=False),
    sa.Column("used_time", _Nanoseconds, nullable=False),
)

blob_stores = sa.Table(
    "blob_stores",
    metadata,
    # The mark of the blob store that has this journal's blobs: one row, once there is a store.
    sa.Column("mark", sa.String(64), primary_key=True),
)

_version = sa.Table("schema_version", metadata, sa.Column("version", sa.Integer, primary_key=True))

_LOCK_NUMBER = 0x726C6D  # any number that is the journal's own: replicas that start at once migrate one by one


class SchemaVersionError(Exception):
    """The database is of a later version than this program; the message says so."""


def _add_conversations(connection: sa.Connection) -> None:
    conversations.create(connection)
    for statement in (
        "ALTER TABLE completions ADD COLUMN conversation_id VARCHAR(64) DEFAULT '' NOT NULL",
        "ALTER TABLE completions ADD COLUMN turn INTEGER DEFAULT 0 NOT NULL",
        "CREATE INDEX completions_by_conversation ON completions (conversation_id, turn)",
    ):
        connection.execute(sa.text(statement))


def _add_tool_results(connection: sa.Connection) -> None:
    tool_results.create(connection)


def _add_blob_stores(connection: sa.Connection) -> None:
    blob_stores.create(connection, checkfirst=True)


MIGRATIONS: tuple[Callable[[sa.Connection], None], ...] = (_add_conversations, _add_tool_results, _add_blob_stores)
"""What leads from each version to the next, from version 1 on. Entries are only ever added."""

VERSION = len(MIGRATIONS) + 1
"""That of the tables above."""


def migrate(connection: sa.Connection) -> int:
    """Brings the tables to the latest version, in the connection's transaction; returns the version before.

    Raises:
        SchemaVersionError: the database is later than this program.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK_NUMBER})
    version = 0
    if sa.inspect(connection).has_table(_version.name):
        version = connection.execute(sa.select(sa.func.max(_version.c.version))).scalar() or 0
    if version > VERSION:
        raise SchemaVersionError(
            f"the journal has version {version} of its tables, and this program knows versions up to "
            f"{VERSION}: use the program that wrote it, or another database"
        )
    if not version:
        metadata.create_all(connection)
    else:
        for migration in MIGRATIONS[version - 1 :]:
            migration(connection)
    if version < VERSION:
        connection.execute(sa.insert(_version).values(version=VERSION))
    return version
