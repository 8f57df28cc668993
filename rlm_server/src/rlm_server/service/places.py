"""How many completions a server runs at once."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import grpc
from rlm_common.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Iterator

_RETRY_DELAY_SECONDS = 1.0


class Places:
    """The places of a server's completions.

    Args:
        limit: how many there are.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._closed = False

    @property
    def free(self) -> int:
        """How many can be taken."""
        return 0 if self._closed else self._limit - self._taken

    def close(self) -> None:
        """Gives none away any more."""
        self._closed = True

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Holds the place of one completion.

        Raises:
            ServiceError: RESOURCE_EXHAUSTED if there is none, UNAVAILABLE if the server shuts down.
        """
        if self._closed:
            raise ServiceError(
                grpc.StatusCode.UNAVAILABLE,
                "DRAINING",
                "the server is shutting down; try another",
                retry_delay_seconds=_RETRY_DELAY_SECONDS,
            )
        if self._taken >= self._limit:
            raise ServiceError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "TOO_MANY_COMPLETIONS",
                f"the server runs {self._limit} completions, as many as it may; try again later",
                metadata={"limit": str(self._limit)},
                retry_delay_seconds=_RETRY_DELAY_SECONDS,
            )
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
