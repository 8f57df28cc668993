"""Reading and writing the journal's database, for no longer than a caller waits."""

from __future__ import annotations

import asyncio
import concurrent.futures
from typing import TYPE_CHECKING, TypeVar

import sqlalchemy as sa

from rlm_server.journal.database import READERS
from rlm_server.journal.writer import StorageUnavailableError, Writer

if TYPE_CHECKING:
    from collections.abc import Callable

    from rlm_server.journal.database import Database

_Result = TypeVar("_Result")

DEFAULT_PATIENCE_SECONDS = 5.0
"""How long callers wait for the database, unless told otherwise."""


class Access:
    """Transactions of a database: those that write on one thread, those that read on others.

    Args:
        database: the database.
        patience_seconds: how long a caller waits for one that is slow, or does not answer at all.
    """

    def __init__(self, database: Database, patience_seconds: float) -> None:
        self.database = database
        self.patience_seconds = patience_seconds
        self.writer = Writer(database)
        # Threads of its own: if the database says nothing, those that wait for it must not be missed elsewhere.
        self._readers = concurrent.futures.ThreadPoolExecutor(READERS, thread_name_prefix="journal-reader")

    async def close(self) -> None:
        """Writes what is still to be written and closes the database."""
        await self.writer.close(2 * self.patience_seconds)
        self._readers.shutdown(wait=False, cancel_futures=True)
        self.database.cut()
        await asyncio.to_thread(self._readers.shutdown)
        await asyncio.to_thread(self.database.close)

    async def read(self, work: Callable[[sa.Connection], _Result]) -> _Result:
        """Runs a function in a reading transaction.

        Raises:
            StorageUnavailableError: the database cannot be read at present.
        """

        def run() -> _Result:
            with self.database.reading.begin() as connection:
                return work(connection)

        try:
            async with asyncio.timeout(self.patience_seconds):
                return await asyncio.get_running_loop().run_in_executor(self._readers, run)
        except TimeoutError:
            raise StorageUnavailableError("the journal cannot be read: the database does not answer") from None
        except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError, OSError) as error:
            raise StorageUnavailableError(f"the journal cannot be read: {brief(error)}") from error

    async def execute(self, work: Callable[[sa.Connection], _Result]) -> _Result:
        """Runs a function in a writing transaction of its own.

        Raises:
            StorageUnavailableError: the database cannot be written at present.
        """
        return await self.writer.execute(work, timeout_seconds=self.patience_seconds)


def brief(error: Exception) -> str:
    """Returns the first line of an error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
