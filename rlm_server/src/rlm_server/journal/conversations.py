"""The conversations in the journal, as the service sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlm_server.journal import conversation_rows as rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlm_server.journal.conversation_rows import StoredConversation
    from rlm_server.journal.store import Journal


class StoredConversations:
    """Finds, prolongs and forgets conversations. They begin, and go on, with `Journal.create`.

    All methods may raise `StorageUnavailableError`.

    Args:
        journal: has them.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def find(self, conversation_id: str) -> StoredConversation | None:
        """Returns a conversation, or None if there is none that has not expired."""
        return await self._journal.read(lambda database, connection: rows.find(database, connection, conversation_id))

    async def page(self, *, limit: int, before: tuple[int, str] | None) -> Sequence[StoredConversation]:
        """Returns conversations, the latest first; see `conversation_rows.page`."""
        return await self._journal.read(
            lambda database, connection: rows.page(database, connection, limit=limit, before=before)
        )

    async def use(self, conversation_id: str) -> None:
        """Takes note that this server uses a conversation now."""
        await self._journal.execute(
            lambda database, connection: rows.use(database, connection, conversation_id, holder=self._journal.owner)
        )

    async def holders(self, conversation_ids: Sequence[str]) -> dict[str, str]:
        """Returns which servers used conversations last, by the ids of those that are there."""
        return await self._journal.read(lambda _, connection: rows.holders(connection, conversation_ids))

    async def delete(self, conversation_id: str) -> StoredConversation | None:
        """Forgets a conversation, not its completions; returns what it was, or None if there is none."""
        return await self._journal.execute(lambda _, connection: rows.delete(connection, conversation_id))

    async def delete_expired(self) -> Sequence[str]:
        """Forgets the conversations that have expired; returns them."""
        return await self._journal.execute(rows.delete_expired)
