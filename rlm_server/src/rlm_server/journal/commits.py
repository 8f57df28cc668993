"""What one commit to the journal does: jobs, and what comes of each."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from rlm_server.journal.appends import Append, write

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class FencedError(Exception):
    """Another server runs the completion now; nothing was written."""


@dataclass
class Job:
    """Something to write.

    Args:
        work: what is added to a journal, or a function.
        on_done: is told the result or the error, on the event loop.
        is_alone: it must have a transaction of its own.
        given_up: nobody wants it any more.
    """

    work: Append | Callable[[sa.Connection], Any]
    on_done: Callable[[Any, BaseException | None], None]
    is_alone: bool = False
    given_up: bool = False


Outcome = tuple[Job, Any, BaseException | None]


def do_all(connection: sa.Connection, batch: Sequence[Job]) -> list[Outcome]:
    """Does jobs in the transaction that the connection is in; returns what has come of each, in order.

    Raises:
        sqlalchemy.exc.DBAPIError: the database failed, and nothing of it holds.
    """
    outcomes: list[Outcome] = []
    for are_appends, jobs in itertools.groupby(batch, lambda job: isinstance(job.work, Append)):
        do = _append if are_appends else _call_all
        outcomes += do(connection, list(jobs))
    return outcomes


def may_pass(error: sa.exc.DBAPIError) -> bool:
    """Tells whether it is the database's trouble, which may pass, and not a mistake in what it was asked."""
    return isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError | sa.exc.InternalError) or bool(
        error.connection_invalidated
    )


def _append(connection: sa.Connection, jobs: Sequence[Job]) -> list[Outcome]:
    appends = [job.work for job in jobs if isinstance(job.work, Append)]
    fenced = write(connection, appends)
    return [
        (job, None, FencedError(append.completion_id) if append.owner in fenced else None)
        for job, append in zip(jobs, appends, strict=True)
    ]


def _call_all(connection: sa.Connection, jobs: Sequence[Job]) -> list[Outcome]:
    """Calls functions, so that nothing of those is left that fail."""
    try:
        with connection.begin_nested():
            return [(job, _call(connection, job), None) for job in jobs]
    except Exception as error:
        if isinstance(error, sa.exc.DBAPIError) and may_pass(error):
            raise
        if len(jobs) == 1:
            return [(jobs[0], None, error)]
    return [outcome for job in jobs for outcome in _call_all(connection, [job])]


def _call(connection: sa.Connection, job: Job) -> object:
    work: Any = job.work
    return work(connection)
