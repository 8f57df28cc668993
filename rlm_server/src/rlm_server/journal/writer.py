"""The one thread that writes to the journal. What comes while it commits goes into its next commit, all together."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa

from rlm_server.journal.schema import blob_uses, completions, events, steps

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rlm_server.journal.database import Database

_log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

_MAX_BATCH = 2_000
_FIRST_RETRY_SECONDS = 0.05
_GREATEST_RETRY_SECONDS = 2.0


class FencedError(Exception):
    """Another server runs the completion now; nothing was written."""


class StorageUnavailableError(Exception):
    """The journal cannot be written at present; the message says why."""


@dataclass(frozen=True)
class Payload:
    """Bytes in a row, or, where `blob` is set, in the blob store under that digest."""

    data: bytes | None
    blob: str | None = None
    size_bytes: int = 0


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
    """

    completion_id: str
    epoch: int
    events: Sequence[tuple[int, int, Payload]] = ()
    steps: Sequence[tuple[str, Payload]] = ()
    changes: dict[str, Any] = field(default_factory=dict)
    running_time: int = 0


@dataclass
class _Job:
    """Something to write, and where to say that it is."""

    work: Append | Callable[[sa.Connection], Any]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Any]
    on_committed: Callable[[], None] | None = None
    given_up: bool = False

    def finish(self, result: object = None, error: BaseException | None = None) -> None:
        """Says so, on the event loop."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits any more
            self.loop.call_soon_threadsafe(self._finish, result, error)

    def _finish(self, result: object, error: BaseException | None) -> None:
        if error is None and self.on_committed is not None:
            self.on_committed()
        if self.done.done():
            return
        if error is not None:
            self.done.set_exception(error)
            self.done.exception()  # whoever is told elsewhere need not ask here
        else:
            self.done.set_result(result)


class Writer:
    """Commits to a database from a thread of its own, in the order in which it is asked.

    While the database does not take writes, what was asked waits and is tried again; nothing is dropped.

    Args:
        database: where to.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._jobs: collections.deque[_Job] = collections.deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._trouble = ""
        self._thread = threading.Thread(target=self._run, name="journal-writer", daemon=True)
        self._thread.start()

    @property
    def trouble(self) -> str:
        """Why nothing can be written at present; empty while all is well."""
        return self._trouble

    def append(self, append: Append, on_committed: Callable[[], None] | None = None) -> asyncio.Future[None]:
        """Adds to a completion's journal. The future ends once it is committed, or with `FencedError`.

        Args:
            append: what to add.
            on_committed: is called on the event loop once it is.
        """
        return self._put(append, on_committed)

    async def execute(
        self, work: Callable[[sa.Connection], _Result], *, timeout_seconds: float | None = None
    ) -> _Result:
        """Runs a function in a transaction of its own and returns its result.

        Args:
            work: gets the connection; may be called again when the database failed.
            timeout_seconds: how long to wait for a database that does not take writes. None waits for ever.

        Raises:
            StorageUnavailableError: the time is up.
        """
        done = self._put(work, None)
        try:
            async with asyncio.timeout(timeout_seconds):
                result: _Result = await done
        except TimeoutError:
            raise StorageUnavailableError(self._trouble or "the database is slow") from None
        return result

    def _put(self, work: Any, on_committed: Callable[[], None] | None) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        job = _Job(work, loop, loop.create_future(), on_committed)
        job.done.add_done_callback(lambda done: _give_up(job, done))
        with self._wake:
            if self._stopping:
                job.finish(error=StorageUnavailableError("the journal is closed"))
            else:
                self._jobs.append(job)
                self._wake.notify()
        return job.done

    def close(self, timeout_seconds: float = 10.0) -> None:
        """Writes what was asked before and ends the thread. Blocks."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(timeout_seconds)

    # --- on the thread

    def _run(self) -> None:
        while batch := self._take():
            try:
                self._write(batch)
            except Exception as error:  # noqa: BLE001 - the thread must live
                _log.exception("the journal's writer failed")
                for job in batch:
                    job.finish(error=error)

    def _take(self) -> list[_Job]:
        """Waits for work. Returns one function, or as many appends as there are before the next function."""
        with self._wake:
            while not self._jobs:
                if self._stopping:
                    return []
                self._wake.wait()
            batch = [self._jobs.popleft()]
            if isinstance(batch[0].work, Append):
                while self._jobs and len(batch) < _MAX_BATCH and isinstance(self._jobs[0].work, Append):
                    batch.append(self._jobs.popleft())
            return batch

    def _write(self, batch: list[_Job]) -> None:
        delay_seconds = _FIRST_RETRY_SECONDS
        while batch := [job for job in batch if not job.given_up]:
            try:
                if isinstance(batch[0].work, Append):
                    self._append(batch)
                else:
                    self._call(batch[0])
            except sa.exc.DBAPIError as error:
                if not _may_pass(error):
                    raise
                self._note(str(error.orig).strip().splitlines()[0])
                with self._wake:
                    if self._stopping:
                        for job in batch:
                            job.finish(error=StorageUnavailableError(self._trouble))
                        return
                time.sleep(delay_seconds)
                delay_seconds = min(delay_seconds * 2, _GREATEST_RETRY_SECONDS)
            else:
                return

    def _note(self, trouble: str) -> None:
        if trouble and not self._trouble:
            _log.error("the journal cannot be written, and is tried again until it can: %s", trouble)
        elif self._trouble and not trouble:
            _log.info("the journal can be written again")
        self._trouble = trouble

    def _call(self, job: _Job) -> None:
        work: Any = job.work
        try:
            with self._database.writing.begin() as connection:
                result = work(connection)
        except sa.exc.DBAPIError:
            raise
        except Exception as error:  # noqa: BLE001 - it is raised where the result is waited for
            job.finish(error=error)
        else:
            self._note("")
            job.finish(result)

    def _append(self, batch: list[_Job]) -> None:
        fenced: set[tuple[str, int]] = set()
        event_rows: list[dict[str, Any]] = []
        step_rows: list[dict[str, Any]] = []
        use_rows: list[dict[str, Any]] = []
        owned = _by_owner(batch)
        with self._database.writing.begin() as connection:
            states = _lock(connection, owned)
            rows = []
            for (completion_id, epoch), appends in owned.items():
                state = states.get(completion_id)
                if state is None or state.epoch != epoch:
                    fenced.add((completion_id, epoch))
                    continue
                rows.append({"its_id": completion_id, **_progress(appends, state)})
                if changes := {name: value for append in appends for name, value in append.changes.items()}:
                    update = sa.update(completions).where(completions.c.completion_id == completion_id)
                    connection.execute(update.values(**changes))
                for append in appends:
                    for sequence, kind, payload in append.events:
                        event_rows.append(
                            {
                                "completion_id": completion_id,
                                "sequence": sequence,
                                "kind": kind,
                                "data": payload.data,
                                "blob": payload.blob,
                            }
                        )
                        if payload.blob:
                            use_rows.append({"digest": payload.blob, "used_by": completion_id})
                    for key, payload in append.steps:
                        step_rows.append(
                            {
                                "completion_id": completion_id,
                                "key": key,
                                "data": payload.data,
                                "blob": payload.blob,
                            }
                        )
                        if payload.blob:
                            use_rows.append({"digest": payload.blob, "used_by": completion_id})
            if rows:
                connection.execute(_PROGRESS, rows)
            for table, new_rows in ((events, event_rows), (steps, step_rows), (blob_uses, use_rows)):
                if new_rows:
                    connection.execute(self._database.insert_new(table), new_rows)
        self._note("")
        for job in batch:
            if isinstance(job.work, Append) and (job.work.completion_id, job.work.epoch) in fenced:
                job.finish(error=FencedError(job.work.completion_id))
            else:
                job.finish()


def _give_up(job: _Job, done: asyncio.Future[Any]) -> None:
    if done.cancelled() and not isinstance(job.work, Append):
        job.given_up = True


def _by_owner(batch: Sequence[_Job]) -> dict[tuple[str, int], list[Append]]:
    owned: dict[tuple[str, int], list[Append]] = {}
    for job in batch:
        if isinstance(job.work, Append):
            owned.setdefault((job.work.completion_id, job.work.epoch), []).append(job.work)
    return owned


_PROGRESS = (
    sa.update(completions)
    .where(completions.c.completion_id == sa.bindparam("its_id"))
    .values(
        running_time=sa.bindparam("its_running_time"),
        last_sequence=sa.bindparam("its_last_sequence"),
        size_bytes=sa.bindparam("its_size_bytes"),
    )
)


def _lock(connection: sa.Connection, owned: Mapping[tuple[str, int], object]) -> dict[str, Any]:
    """Returns the rows of the completions by their ids; nobody can take them over until the transaction ends."""
    ids = sorted({completion_id for completion_id, _ in owned})
    columns = (completions.c.completion_id, completions.c.epoch, completions.c.last_sequence, completions.c.size_bytes)
    select = (
        sa.select(*columns)
        .where(completions.c.completion_id.in_(ids))
        .order_by(completions.c.completion_id)  # all servers lock in one order, so that none waits for another in turn
        .with_for_update()
    )
    return {row.completion_id: row for row in connection.execute(select)}


def _progress(appends: Sequence[Append], state: Any) -> dict[str, int]:
    """Returns what the appends to one completion make of its counts."""
    size_bytes, last_sequence = state.size_bytes, state.last_sequence
    for append in appends:
        size_bytes += sum(payload.size_bytes for _, _, payload in append.events)
        size_bytes += sum(payload.size_bytes for _, payload in append.steps)
        if append.events:
            last_sequence = append.events[-1][0]
    return {
        "its_running_time": max(append.running_time for append in appends),
        "its_last_sequence": last_sequence,
        "its_size_bytes": size_bytes,
    }


def _may_pass(error: sa.exc.DBAPIError) -> bool:
    """Tells whether it is the database's trouble, which may pass, and not a mistake in what it was asked."""
    return isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError | sa.exc.InternalError) or bool(
        error.connection_invalidated
    )
