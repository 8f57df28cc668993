"""The journal itself, on both databases: leases, fencing, commits in order, and what a torn file recovers to."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
import uuid
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rlm_server.journal.appends import Append
from rlm_server.journal.blobs import DirectoryBlobs
from rlm_server.journal.database import Database, DatabaseUrlError, sqlite_url
from rlm_server.journal.schema import SchemaVersionError
from rlm_server.journal.states import State
from rlm_server.journal.store import FencedError, Journal, NewCompletion, Payload, StorageUnavailableError
from rlm_server.journal.tool_result_rows import find_tool_results, put_tool_result

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.durability.postgres import PostgresServer

LEASE_SECONDS = 0.3


@contextlib.asynccontextmanager
async def journal_on(database: str, blobs: Path, lease_seconds: float = LEASE_SECONDS) -> AsyncIterator[Journal]:
    journal = Journal(Database(database), DirectoryBlobs(blobs), owner=uuid.uuid4().hex, lease_seconds=lease_seconds)
    await journal.open()
    try:
        yield journal
    finally:
        await journal.close()


def new(completion_id: str = "c", request_id: str | None = None) -> NewCompletion:
    return NewCompletion(completion_id, b"request", request_id, "digest", "query", "model", {}, detached=False)


def payload(text: str) -> Payload:
    return Payload(text.encode(), None, len(text))


async def test_a_paused_server_that_wakes_up_cannot_write(database: str, tmp_path: Path) -> None:
    async with journal_on(database, tmp_path) as paused, journal_on(database, tmp_path) as other:
        await paused.create(new())
        await paused.append(Append("c", 1, events=[(1, 10, payload("one"))], steps=[("m/0/1", payload("reply"))]))
        assert not await other.take_abandoned()
        await asyncio.sleep(2 * LEASE_SECONDS)
        (taken,) = await other.take_abandoned()
        assert (taken.epoch, taken.last_sequence) == (2, 1)
        with pytest.raises(FencedError):
            await paused.append(Append("c", 1, events=[(2, 10, payload("late"))], steps=[("m/0/2", payload("late"))]))
        await other.append(Append("c", 2, events=[(2, 10, payload("two"))]))
        assert set(await other.steps("c")) == {"m/0/1"}
        assert await paused.heartbeat({"c": 1}, []) == {}
        assert (await other.get("c")).last_sequence == 2  # type: ignore[union-attr]


async def test_a_heartbeat_keeps_a_completion(database: str, tmp_path: Path) -> None:
    async with journal_on(database, tmp_path) as owner, journal_on(database, tmp_path) as other:
        await owner.create(new())
        for _ in range(4):
            await asyncio.sleep(LEASE_SECONDS / 2)
            assert set(await owner.heartbeat({"c": 1}, [])) == {"c"}
            assert not await other.take_abandoned()
        await owner.release({"c": 1})
        assert [one.completion_id for one in await other.take_abandoned()] == ["c"]


async def test_only_one_of_many_servers_takes_a_completion_over(database: str, tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        # Long leases: on a busy machine others would run out before all are done.
        first, *others = [await stack.enter_async_context(journal_on(database, tmp_path, 60.0)) for _ in range(5)]
        for number in range(20):
            await first.create(new(f"c{number}"))
        await first.release({f"c{number}": 1 for number in range(20)})
        taken = await asyncio.gather(*(other.take_abandoned() for other in others for _ in range(4)))
        ids = [one.completion_id for some in taken for one in some]
        assert sorted(ids) == sorted(f"c{number}" for number in range(20))


async def test_a_server_that_is_frozen_within_a_transaction_is_not_waited_for(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    url = postgres.new_database()
    async with journal_on(url, tmp_path) as other, journal_on(url, tmp_path) as frozen:
        await frozen.create(new())
        lock = sa.text("SELECT 1 FROM completions WHERE completion_id = 'c' FOR UPDATE")
        with frozen._database.reading.connect() as connection:
            await asyncio.to_thread(connection.execute, lock)
            await asyncio.sleep(2 * LEASE_SECONDS)
            assert not await other.take_abandoned()
            async with asyncio.timeout(10):
                while not (taken := await other.take_abandoned()):  # noqa: ASYNC110 - it has no event
                    await asyncio.sleep(0.05)
            assert [one.completion_id for one in taken] == ["c"]
            with pytest.raises(sa.exc.DBAPIError):
                await asyncio.to_thread(connection.execute, lock)


async def test_one_request_id_makes_one_completion_on_all_servers(database: str, tmp_path: Path) -> None:
    async with journal_on(database, tmp_path) as one, journal_on(database, tmp_path) as other:
        made = await asyncio.gather(
            *(journal.create(new(f"c{number}", "same")) for number, journal in enumerate([one, other] * 5))
        )
        assert len({stored.completion_id for stored, _ in made}) == 1
        assert [is_new for _, is_new in made].count(True) == 1


async def test_what_is_large_is_kept_apart_and_goes_with_its_completion(database: str, tmp_path: Path) -> None:
    async with journal_on(database, tmp_path / "blobs") as journal:
        await journal.create(new())
        large = await journal.payloads.store(b"x" * 100_000)
        assert large.data is None
        await journal.append(Append("c", 1, steps=[("m/0/1", large)], changes={"state": State.FAILED, "end_time": 1}))
        assert journal.payloads.bytes_of((await journal.steps("c"))["m/0/1"]) == b"x" * 100_000
        assert list(await journal.past_retention(max_age_seconds=None, max_bytes=100_000)) == ["c"]
        assert list(await journal.past_retention(max_age_seconds=1, max_bytes=None)) == ["c"]
        assert not await journal.past_retention(max_age_seconds=None, max_bytes=1_000_000)
        await journal.delete("c")
        assert await journal.get("c") is None
        assert await journal.steps("c") == {}


async def test_a_journal_of_a_later_version_is_refused(database: str, tmp_path: Path) -> None:
    async with journal_on(database, tmp_path) as journal:
        await journal.execute(
            lambda _, connection: connection.execute(sa.text("UPDATE schema_version SET version = 99"))
        )
    with pytest.raises(SchemaVersionError, match="version 99"):
        async with journal_on(database, tmp_path):
            pass


async def test_a_journal_of_an_earlier_version_gets_room_for_results_of_tools(database: str, tmp_path: Path) -> None:
    async with journal_on(database, tmp_path) as journal:
        await journal.create(new())

        def to_second_version(_: object, connection: sa.Connection) -> None:
            connection.execute(sa.text("DROP TABLE tool_results"))
            connection.execute(sa.text("UPDATE schema_version SET version = 2"))

        await journal.execute(to_second_version)
    async with journal_on(database, tmp_path) as journal:
        await put_tool_result(journal, "c", "0-1", b"result")
        await put_tool_result(journal, "c", "0-1", b"another")
        await put_tool_result(journal, "nobody", "0-1", b"result")
        assert await find_tool_results(journal, "c", ["0-1", "0-2"]) == {"0-1": b"result"}
        assert await find_tool_results(journal, "nobody", ["0-1"]) == {}
        await journal.delete("c")
        assert await find_tool_results(journal, "c", ["0-1"]) == {}


@pytest.mark.parametrize("url", ["mysql://h/d", "nonsense", "sqlite://", "sqlite:///:memory:"])
def test_an_address_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(DatabaseUrlError):
        Database(url)


def test_an_address_is_shown_without_its_password() -> None:
    assert "secret" not in Database("postgresql://user:secret@host/name").name


def assert_closed(connection: Any) -> None:
    with pytest.raises((sqlite3.ProgrammingError, psycopg.OperationalError), match="closed"):
        connection.execute("SELECT 1")


def test_a_connection_that_breaks_while_it_is_set_up_is_closed(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    def break_off(connection: Any) -> None:
        made.append(connection)
        raise OSError("the database has gone")

    engines = Database(database)
    monkeypatch.setattr(engines, "_set_up", break_off)
    with pytest.raises(OSError, match="has gone"):
        engines.reading.connect()
    assert_closed(made[0])
    engines.close()


def test_a_connection_that_comes_back_when_all_are_closed_is_closed(database: str) -> None:
    engines = Database(database)
    with engines.reading.begin() as used:
        connection = used.connection.dbapi_connection
        engines.close()
    assert_closed(connection)


async def test_a_full_disk_refuses_what_is_new_and_holds_what_runs(tmp_path: Path) -> None:
    file = tmp_path / "journal.db"
    async with journal_on(sqlite_url(file), tmp_path) as journal:
        await journal.create(new())
        # The connection that writes may not make the file larger: the same error as that of a full disk.
        engine = journal._database.writing
        limit: list[object] = []

        def set_limit(pages: int) -> None:
            with engine.connect() as connection:
                limit.append(connection.exec_driver_sql(f"PRAGMA max_page_count={pages}").scalar())

        await asyncio.to_thread(set_limit, 1)
        writing = asyncio.ensure_future(
            journal.append(Append("c", 1, events=[(n, 10, payload("x" * 60_000)) for n in range(1, 30)]))
        )
        async with asyncio.timeout(10):
            while not journal.trouble:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)
        assert "full" in journal.trouble
        with pytest.raises(StorageUnavailableError):
            await journal.create(new("d"))
        assert not writing.done()
        await asyncio.to_thread(_lift_limit, engine)
        await asyncio.wait_for(writing, 10)
        assert not journal.trouble
        assert (await journal.get("c")).last_sequence == 29  # type: ignore[union-attr]


def _lift_limit(engine: object) -> None:
    with engine.connect() as connection:  # type: ignore[attr-defined]
        connection.exec_driver_sql("PRAGMA max_page_count=1073741823")


async def test_a_database_that_goes_away_is_waited_for(postgres: PostgresServer, tmp_path: Path) -> None:
    async with journal_on(postgres.new_database(), tmp_path) as journal:
        await journal.create(new())
        await asyncio.to_thread(postgres.kill)
        try:
            writing = journal.append(Append("c", 1, events=[(1, 10, payload("one"))]))
            async with asyncio.timeout(20):
                while not journal.trouble:  # noqa: ASYNC110 - it has no event
                    await asyncio.sleep(0.01)
            with pytest.raises(StorageUnavailableError):
                await journal.create(new("d"))
            with pytest.raises(StorageUnavailableError):
                await journal.get("c")
            assert not writing.done()
        finally:
            await asyncio.to_thread(postgres.start)
        await asyncio.wait_for(writing, 20)
        assert (await journal.get("c")).last_sequence == 1  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal whose log was never folded into its file, as a crash leaves it: 40 commits of an event and a step."""
    directory = tmp_path_factory.mktemp("recorded")

    async def record() -> None:
        database = Database(sqlite_url(directory / "journal.db"))
        with database.writing.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_autocheckpoint=0")
        journal = Journal(database, DirectoryBlobs(directory / "blobs"), owner="o", lease_seconds=60)
        await journal.open()
        await journal.create(new())
        for number in range(1, 41):
            step = (f"m/0/{number}", payload(f"reply {number}"))
            await journal.append(Append("c", 1, events=[(number, 10, payload(f"event {number}"))], steps=[step]))
        for name in ("journal.db", "journal.db-wal"):
            shutil.copy(directory / name, directory / f"copy-{name}")
        await journal.close()

    asyncio.run(record())
    return directory


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.floats(min_value=0, max_value=1), flip=st.booleans())
def test_a_log_torn_at_any_byte_recovers_to_a_whole_number_of_commits(
    recorded: Path, tmp_path_factory: pytest.TempPathFactory, cut: float, flip: bool
) -> None:
    directory = tmp_path_factory.mktemp("torn")
    shutil.copy(recorded / "copy-journal.db", directory / "journal.db")
    log = bytearray((recorded / "copy-journal.db-wal").read_bytes())
    at = int(cut * len(log))
    torn = log[:at] if not flip or at == len(log) else log[:at] + bytes([log[at] ^ 0xFF]) + log[at + 1 :]
    (directory / "journal.db-wal").write_bytes(torn)
    with contextlib.closing(sqlite3.connect(directory / "journal.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "steps" not in tables:
            return
        rows = connection.execute("SELECT last_sequence FROM completions").fetchall()
        last = rows[0][0] if rows else 0
        events = [number for (number,) in connection.execute("SELECT sequence FROM events ORDER BY sequence")]
        steps = {key for (key,) in connection.execute("SELECT key FROM steps")}
    assert events == list(range(1, last + 1))
    assert steps == {f"m/0/{number}" for number in range(1, last + 1)}
