"""The statuses of requests that are right, and that the server cannot serve now."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import grpc
from rlm_common.errors import ServiceError

from sandbox_server.admission import NotAdmittedError
from sandbox_server.worker.connection import WorkerLostError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox_server.blobs import BlobCacheFullError

_RETRY_DELAY_SECONDS = 1.0

_OF_SERVER = {
    "sessions": ("TOO_MANY_SESSIONS", "limit", "the server holds {limit} sandboxes, as many as it may"),
    "memory": (
        "MEMORY_EXHAUSTED",
        "limit_bytes",
        "the memory limits of live sandboxes may come to {limit} bytes, and this one's does not fit in; ask for less",
    ),
    "free_memory": (
        "MEMORY_EXHAUSTED",
        "free_bytes",
        "{limit} bytes of memory are left, too little for another sandbox",
    ),
}
_OF_CLIENT = {
    "sessions": "this client holds {limit} sandboxes, as many as it may",
    "memory": "the memory limits of this client's sandboxes may come to {limit} bytes; ask for less",
}


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Gives what is in the way of a sandbox its status."""
    try:
        yield
    except WorkerLostError as error:
        raise ServiceError(
            grpc.StatusCode.UNAVAILABLE,
            "WORKER_LOST",
            f"the sandbox process is gone, and the session with it: {error}; try again",
            retry_delay_seconds=_RETRY_DELAY_SECONDS,
        ) from None
    except NotAdmittedError as error:
        raise _not_admitted(error) from None


def _not_admitted(error: NotAdmittedError) -> ServiceError:
    if error.of_client:
        message = _OF_CLIENT[error.quota].format(limit=error.limit)
        return _exhausted("QUOTA_EXCEEDED", message, {"quota": error.quota, "limit": str(error.limit)})
    reason, name, message = _OF_SERVER[error.quota]
    return _exhausted(reason, message.format(limit=error.limit), {name: str(error.limit)})


def blob_cache_full(error: BlobCacheFullError, size_bytes: int) -> ServiceError:
    """Returns the status for an upload that has no room."""
    message = f"{error}, and has no room for {size_bytes} more"
    # What is larger than the whole will not fit later either.
    retry = size_bytes <= error.limit_bytes
    if error.of_owner:
        limit = {"quota": "uploads", "limit": str(error.limit_bytes)}
        return _exhausted("QUOTA_EXCEEDED", message, limit, retry=retry)
    return _exhausted("BLOB_CACHE_FULL", message, {"limit_bytes": str(error.limit_bytes)}, retry=retry)


def short_of_memory(message: str, *, lost: bool = False) -> ServiceError:
    """Returns the status for a sandbox, new or lost, that the machine has no memory for."""
    if not lost:
        return _exhausted("MEMORY_EXHAUSTED", message, {})
    code = grpc.StatusCode.UNAVAILABLE
    return ServiceError(code, "MEMORY_EXHAUSTED", message, retry_delay_seconds=_RETRY_DELAY_SECONDS)


def draining() -> ServiceError:
    """Returns the status for new work at a server that is shutting down."""
    return ServiceError(
        grpc.StatusCode.UNAVAILABLE,
        "DRAINING",
        "the server is shutting down; try another one",
        retry_delay_seconds=_RETRY_DELAY_SECONDS,
    )


def _exhausted(reason: str, message: str, metadata: dict[str, str], *, retry: bool = True) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        reason,
        f"{message}; try again later" if retry else message,
        metadata=metadata,
        retry_delay_seconds=_RETRY_DELAY_SECONDS if retry else None,
    )
