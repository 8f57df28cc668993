"""Opens the journal that the settings describe."""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from typing import TYPE_CHECKING

from rlm_common.own_directory import own_directory

from rlm_server.journal.blobs import BlobStore, DirectoryBlobs, ObjectBlobs
from rlm_server.journal.database import Database, DatabaseUrlError, sqlite_url
from rlm_server.journal.pairing import StoreMismatchError
from rlm_server.journal.schema import SchemaVersionError
from rlm_server.journal.store import Journal, StorageUnavailableError
from rlm_server.masking import without_secrets
from rlm_server.settings import SettingsError

if TYPE_CHECKING:
    import contextlib
    from pathlib import Path

    from rlm_server.settings import Settings


class JournalOpenError(OSError):
    """The journal cannot be used; the message says why."""


async def open_journal(settings: Settings, resources: contextlib.AsyncExitStack) -> Journal:
    """Opens the journal, and has it closed with `resources`.

    Raises:
        SettingsError: an address is of no kind that is known.
        JournalOpenError: the database cannot be reached, or is of a later version.
    """
    is_kept = settings.data_dir is not None
    if settings.data_dir is not None:
        directory = settings.data_dir
    else:
        directory = resources.enter_context(own_directory("rlm-journal-"))
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        url = settings.database or sqlite_url(directory / "journal.db")
        database = Database(url, durable=is_kept or settings.database is not None)
        blobs = await asyncio.to_thread(_open_blobs, settings, directory, resources, durable=is_kept)
    except DatabaseUrlError as error:
        raise SettingsError(str(error)) from None
    except JournalOpenError:
        raise
    except OSError as error:
        raise JournalOpenError(f"the data directory {directory} cannot be used: {error}") from error
    journal = Journal(
        database,
        blobs,
        owner=_owner(),
        lease_seconds=settings.lease_seconds,
        patience_seconds=settings.storage_patience_seconds,
    )
    resources.push_async_callback(journal.close)
    try:
        await journal.open()
    except (StorageUnavailableError, SchemaVersionError) as error:
        raise JournalOpenError(f"the journal at {journal.name} cannot be used: {error}") from error
    except (StoreMismatchError, OSError) as error:
        where = settings.blob_store or directory / "blobs"
        raise JournalOpenError(
            f"the blob store {where} cannot be used with the journal at {journal.name}: {error}. The servers of a "
            "journal share one: give them the same blob_store, or a data_dir on a disk that they share; each journal "
            "has its own"
        ) from error
    return journal


def _open_blobs(
    settings: Settings, directory: Path, resources: contextlib.AsyncExitStack, *, durable: bool
) -> BlobStore:
    if settings.blob_store is None:
        blobs = directory / "blobs"
        blobs.mkdir(exist_ok=True)
        incoming = resources.enter_context(own_directory("new-", blobs))
        return DirectoryBlobs(blobs, incoming=incoming, durable=durable)
    name = without_secrets(settings.blob_store)
    if name != settings.blob_store:
        raise SettingsError(
            f"blob_store {name} has a key in it, which is not used: give s3://BUCKET/PREFIX, and the keys in "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    try:
        objects = ObjectBlobs(settings.blob_store, directory / "blob-cache")
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise SettingsError(f"blob_store {name} cannot be used: {reason}; give s3://BUCKET/PREFIX") from error
    try:
        objects.check()
    except OSError as error:
        raise JournalOpenError(f"the blob store {settings.blob_store} cannot be used: {error}") from error
    return objects


def _owner() -> str:
    """Returns this server's name in the journal, by which an operator can find its process."""
    return f"{socket.gethostname()[:20]}/{os.getpid()}/{uuid.uuid4().hex[:16]}"
