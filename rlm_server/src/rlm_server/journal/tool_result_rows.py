"""Results of tools on their way, through the journal, to the server that runs the completion."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from rlm_server.journal.appends import Payload
from rlm_server.journal.blob_rows import take_back
from rlm_server.journal.schema import blob_uses, completions, tool_results
from rlm_server.journal.states import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlm_server.journal.database import Database
    from rlm_server.journal.store import Journal


async def put_tool_result(journal: Journal, completion_id: str, call_id: str, result: bytes) -> None:
    """Keeps a result for the server that runs a completion, unless there is one, or the completion has ended.

    Raises:
        StorageUnavailableError: it cannot be kept at present.
    """
    payload = await journal.payloads.store(result)

    def work(database: Database, connection: sa.Connection) -> None:
        running = (completions.c.completion_id == completion_id, completions.c.state == State.RUNNING)
        if connection.execute(sa.select(completions.c.state).where(*running).with_for_update()).first() is None:
            return
        row = {"completion_id": completion_id, "call_id": call_id, "data": payload.data, "blob": payload.blob}
        connection.execute(database.insert_new(tool_results), [row])
        if payload.blob:
            connection.execute(database.insert_new(blob_uses), [{"digest": payload.blob, "used_by": completion_id}])
            take_back(connection, [payload.announcement])

    await journal.execute(work)


async def find_tool_results(journal: Journal, completion_id: str, call_ids: Sequence[str]) -> dict[str, bytes]:
    """Returns the results that have come of these calls.

    Raises:
        StorageUnavailableError: the journal cannot be read at present.
    """
    table = tool_results.c

    def work(_: Database, connection: sa.Connection) -> dict[str, Payload]:
        select = sa.select(table.call_id, table.data, table.blob).where(
            table.completion_id == completion_id, table.call_id.in_(call_ids)
        )
        return {call_id: Payload(data, blob) for call_id, data, blob in connection.execute(select)}

    found = await journal.read(work)
    return {call_id: await journal.payloads.load(payload) for call_id, payload in found.items()}
