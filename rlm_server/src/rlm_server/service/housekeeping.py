"""Forgets conversations and completions that were kept long enough, and blobs that nobody uses any more."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from rlm_server.journal.conversations import StoredConversations
from rlm_server.journal.store import StorageUnavailableError

if TYPE_CHECKING:
    from rlm_server.journal.store import Journal
    from rlm_server.settings import Settings

_log = logging.getLogger(__name__)

_PERIOD_SECONDS = 60.0
_ROUNDS_BETWEEN_SWEEPS = 60


async def keep_house(settings: Settings, journal: Journal) -> None:
    """Does it again and again. Several servers may do it at once."""
    rounds = 0
    while True:
        try:
            await forget_old(settings, journal)
            if rounds % _ROUNDS_BETWEEN_SWEEPS == 0:
                await journal.payloads.sweep()
        except StorageUnavailableError as error:
            _log.warning("what is old cannot be deleted at present: %s", error)
        rounds += 1
        await asyncio.sleep(_PERIOD_SECONDS)


async def forget_old(settings: Settings, journal: Journal) -> None:
    """Deletes conversations that have expired, and completions that are over and too old, or too many by their size.

    Raises:
        StorageUnavailableError: the journal cannot be used at present.
    """
    for conversation_id in await StoredConversations(journal).delete_expired():
        _log.info("conversation %s has expired", conversation_id)
    for completion_id in await journal.past_retention(
        max_age_seconds=settings.retention_seconds, max_bytes=settings.retention_bytes
    ):
        await journal.delete(completion_id)
        _log.info("completion %s is not kept any longer", completion_id)
