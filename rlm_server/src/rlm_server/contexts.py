"""The store of uploaded contexts: files named by their content, within a bounded room."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

from rlm_server.context_uploads import ContextStoreFullError, ContextUpload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rlm_server.context_uploads import ContextKind, StoredContext


class ContextStore:
    """Keeps contexts while the server runs. The least recently used go when room is needed, unless they are in use.

    Args:
        capacity_bytes: room for all together.
        max_context_bytes: size of one.
        parent: directory to make the store's own directory in; None means the system's temporary one.
    """

    def __init__(self, *, capacity_bytes: int, max_context_bytes: int, parent: Path | None) -> None:
        if parent is not None:
            parent.mkdir(parents=True, exist_ok=True)
        self._directory = tempfile.TemporaryDirectory(prefix="rlm-contexts-", dir=parent)
        self._capacity_bytes = capacity_bytes
        self._max_context_bytes = min(max_context_bytes, capacity_bytes)
        self._contexts: OrderedDict[str, StoredContext] = OrderedDict()
        self._users: dict[str, int] = {}
        self._used_bytes = 0

    @property
    def max_context_bytes(self) -> int:
        """Size that one context can have."""
        return self._max_context_bytes

    def get(self, context_id: str) -> StoredContext | None:
        """Returns a context and marks it as recently used; None if it is not there."""
        context = self._contexts.get(context_id)
        if context is not None:
            self._contexts.move_to_end(context_id)
        return context

    @contextlib.contextmanager
    def in_use(self, contexts: list[StoredContext]) -> Iterator[None]:
        """Keeps contexts from being evicted."""
        ids = [context.context_id for context in contexts]
        for context_id in ids:
            self._users[context_id] = self._users.get(context_id, 0) + 1
        try:
            yield
        finally:
            for context_id in ids:
                self._users[context_id] -= 1
                if not self._users[context_id]:
                    del self._users[context_id]

    def begin(self, kind: ContextKind, charset: str = "") -> ContextUpload:
        """Begins an upload. It is forgotten if it is left before `finish`.

        Args:
            kind: what its bytes are.
            charset: their character set; empty means UTF-8.

        Raises:
            LookupError: there is no such character set.
        """
        return ContextUpload(self, kind, Path(self._directory.name), charset)

    def reserve(self, size_bytes: int) -> None:
        """Takes room; evicts what is not in use.

        Raises:
            ContextStoreFullError: there is not enough, even so.
        """
        for context_id in list(self._contexts):
            if self._used_bytes + size_bytes <= self._capacity_bytes:
                break
            if context_id not in self._users:
                evicted = self._contexts.pop(context_id)
                self._used_bytes -= evicted.stored.size_bytes
                evicted.stored.path.unlink()
        if self._used_bytes + size_bytes > self._capacity_bytes:
            raise ContextStoreFullError(
                self._capacity_bytes,
                f"the store of {self._capacity_bytes:,} bytes is full of contexts in use; try later",
            )
        self._used_bytes += size_bytes

    def release(self, size_bytes: int) -> None:
        """Gives room back."""
        self._used_bytes -= size_bytes

    def add(self, context: StoredContext) -> None:
        """Keeps a context whose room is reserved."""
        self._contexts[context.context_id] = context

    async def close(self) -> None:
        """Removes all contexts."""
        self._contexts.clear()
        await asyncio.to_thread(self._directory.cleanup)
