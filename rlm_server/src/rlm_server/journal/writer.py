"""The one thread that writes to the journal. What comes while it commits goes into its next commit, all together."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import queue
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa

from rlm_server.journal.commits import Job, do_all, may_pass

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rlm_server.journal.appends import Append
    from rlm_server.journal.commits import Outcome
    from rlm_server.journal.database import Database

_log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

_COMPANY_SECONDS = 0.005
"""How long what is not urgent waits for more, before it takes a commit of its own."""

_MAX_BATCH = 2_000
_FIRST_RETRY_SECONDS = 0.05
_GREATEST_RETRY_SECONDS = 2.0


class StorageUnavailableError(Exception):
    """The journal cannot be written at present; the message says why."""


class Writer:
    """Commits to a database from a thread of its own, in the order in which it is asked.

    What is asked in one turn of the event loop gets to the thread together, and what waits there goes into one commit.
    While the database does not take writes, what was asked waits and is tried again; nothing is dropped.

    All methods are for one event loop.

    Args:
        database: where to.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked: list[Job] = []
        self._is_handed_over_soon = False
        self._timer: asyncio.TimerHandle | None = None
        self._stopping = False
        self._trouble = ""
        # Of the thread; None is its end.
        self._handed_over: queue.SimpleQueue[list[Job] | None] = queue.SimpleQueue()
        self._jobs: collections.deque[Job] = collections.deque()
        self._thread = threading.Thread(target=self._run, name="journal-writer", daemon=True)
        self._thread.start()

    @property
    def trouble(self) -> str:
        """Why nothing can be written at present; empty while all is well."""
        return self._trouble

    def add(self, append: Append, on_done: Callable[[BaseException | None], None]) -> None:
        """Adds to a completion's journal.

        Args:
            append: what to add.
            on_done: is called on the event loop, in the order of the calls: with None once it is committed, with
                `FencedError` if the completion is not this server's any more.
        """
        self._ask(Job(append, lambda _, error: on_done(error)), is_urgent=append.is_urgent)

    def append(self, append: Append) -> asyncio.Future[None]:
        """Does what `add` does; the future ends once it is committed, or with `FencedError`."""
        done = asyncio.get_running_loop().create_future()
        self._ask(Job(append, lambda result, error: end_future(done, result, error)), is_urgent=append.is_urgent)
        return done

    async def execute(
        self,
        work: Callable[[sa.Connection], _Result],
        *,
        is_alone: bool = True,
        timeout_seconds: float | None = None,
    ) -> _Result:
        """Runs a function in a transaction and returns its result.

        Args:
            work: gets the connection; may be called again when the database failed.
            is_alone: the transaction is its own. A function that shares one must change rows of one completion alone,
                as others hold rows of theirs meanwhile.
            timeout_seconds: how long to wait for a database that does not take writes. None waits for ever.

        Raises:
            StorageUnavailableError: the time is up.
        """
        done: asyncio.Future[_Result] = asyncio.get_running_loop().create_future()
        job = Job(work, lambda result, error: end_future(done, result, error), is_alone)
        self._ask(job, is_urgent=True)
        try:
            async with asyncio.timeout(timeout_seconds):
                return await done
        except TimeoutError:
            raise StorageUnavailableError(self._trouble or "the database does not answer") from None
        finally:
            job.given_up = done.cancelled()

    def execute_later(self, work: Callable[[sa.Connection], object]) -> None:
        """Runs a function in a transaction of its own, after all that was asked before. Nobody waits for it."""
        self._ask(Job(work, _note_failure, is_alone=True), is_urgent=True)

    async def close(self, timeout_seconds: float = 10.0) -> None:
        """Writes what was asked before and ends the thread.

        Args:
            timeout_seconds: how long that may take.
        """
        self._stopping = True
        self._hand_over()
        self._handed_over.put(None)
        await asyncio.to_thread(self._thread.join, timeout_seconds)

    def _ask(self, job: Job, *, is_urgent: bool) -> None:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()  # which asks the system who asks, so not each time
        loop = self._loop
        if self._stopping:
            loop.call_soon(job.on_done, None, StorageUnavailableError("the journal is closed"))
            return
        self._asked.append(job)
        if self._is_handed_over_soon:
            return
        if is_urgent:
            self._is_handed_over_soon = True
            loop.call_soon(self._hand_over)
        elif self._timer is None:
            self._timer = loop.call_later(_COMPANY_SECONDS, self._hand_over)

    def _hand_over(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._is_handed_over_soon = False
        if self._asked:
            self._handed_over.put(self._asked)
            self._asked = []

    # --- on the thread

    def _run(self) -> None:
        while batch := self._take():
            try:
                self._write(batch)
            except Exception as error:  # noqa: BLE001 - the thread must live
                _log.exception("the journal's writer failed")
                self._finish([(job, None, error) for job in batch])

    def _take(self) -> list[Job]:
        """Waits for work. Returns what goes into the next transaction; nothing at the end."""
        while not self._jobs or not self._handed_over.empty():
            handed_over = self._handed_over.get()
            if handed_over is None:
                self._handed_over.put(None)  # for the next time
                break
            self._jobs += handed_over
        batch: list[Job] = []
        while self._jobs and len(batch) < _MAX_BATCH:
            if self._jobs[0].is_alone:
                return batch or [self._jobs.popleft()]
            batch.append(self._jobs.popleft())
        return batch

    def _write(self, batch: list[Job]) -> None:
        delay_seconds = _FIRST_RETRY_SECONDS
        while batch := [job for job in batch if not job.given_up]:
            try:
                with self._database.writing.begin() as connection:
                    outcomes = do_all(connection, batch)
            except sa.exc.DBAPIError as error:
                if not may_pass(error):
                    raise
                self._note(str(error.orig).strip().splitlines()[0])
                if self._stopping:
                    self._finish([(job, None, StorageUnavailableError(self._trouble)) for job in batch])
                    return
                time.sleep(delay_seconds)
                delay_seconds = min(delay_seconds * 2, _GREATEST_RETRY_SECONDS)
            else:
                self._note("")
                self._finish(outcomes)
                return

    def _note(self, trouble: str) -> None:
        if trouble and not self._trouble:
            _log.error("the journal cannot be written, and is tried again until it can: %s", trouble)
        elif self._trouble and not trouble:
            _log.info("the journal can be written again")
        self._trouble = trouble

    def _finish(self, outcomes: Sequence[Outcome]) -> None:
        """Tells what has come of jobs, on the event loop: of all that were in a commit in one call."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits any more
            if self._loop is not None:
                self._loop.call_soon_threadsafe(_tell, outcomes)


def _tell(outcomes: Sequence[Outcome]) -> None:
    for job, result, error in outcomes:
        try:
            job.on_done(result, error)
        except Exception:  # noqa: BLE001 - the others are to be told, too
            _log.exception("what was committed could not be told")


def _note_failure(_: object, error: BaseException | None) -> None:
    if error is not None:
        _log.error("what was to be done later failed: %s", error)


def end_future(done: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    """Ends a future with the result or the error, if nobody has cancelled it."""
    if done.done():
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)
        done.exception()  # whoever is told elsewhere need not ask here
