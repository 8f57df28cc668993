"""Who may have how much: sandboxes and their memory, for the server as a whole and for each client."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox_server.memory_guard import MemoryGuard


@dataclass(frozen=True)
class Quota:
    """What there is to give away; 0 means as much as the server has.

    Attributes:
        sessions: sandboxes that may live at once.
        memory_bytes: what the memory limits of those together may be.
    """

    sessions: int = 0
    memory_bytes: int = 0


class NotAdmittedError(Exception):
    """There is no more of something.

    Args:
        quota: what, `sessions` or `memory`, or `free_memory` if it is the machine that has too little.
        limit: how much there may be.
        of_client: whether it is the client's share that is used up, not the server's.
    """

    def __init__(self, quota: str, limit: int, *, of_client: bool) -> None:
        super().__init__(f"{quota}: {limit}")
        self.quota = quota
        self.limit = limit
        self.of_client = of_client


class Admission:
    """Counts what is given away.

    Args:
        server: what the server has; its memory must be given.
        client: what each client may have of it.
        guard: knows whether the machine is short of memory.
    """

    def __init__(self, server: Quota, client: Quota, guard: MemoryGuard) -> None:
        self._server = server
        self._client = client
        self._guard = guard
        self._sessions: Counter[str] = Counter()
        self._memory: Counter[str] = Counter()

    @contextlib.contextmanager
    def admit(self, client: str) -> Iterator[Grant]:
        """Gives a client a sandbox, as long as the context lasts.

        Raises:
            NotAdmittedError: there are as many as there may be.
        """
        _check("sessions", self._sessions[client] + 1, self._client.sessions, of_client=True)
        _check("sessions", self._sessions.total() + 1, self._server.sessions, of_client=False)
        if self._guard.is_short:
            raise NotAdmittedError("free_memory", self._guard.free_bytes, of_client=False)
        self._sessions[client] += 1
        grant = Grant(self, client)
        try:
            yield grant
        finally:
            self._give_back(self._sessions, client, 1)
            self._give_back(self._memory, client, grant.memory_bytes)

    @property
    def session_count(self) -> int:
        """How many sandboxes are given away."""
        return self._sessions.total()

    def reserve_memory(self, client: str, memory_bytes: int) -> None:
        """Gives a client memory.

        Raises:
            NotAdmittedError: there is not so much left.
        """
        _check("memory", self._memory[client] + memory_bytes, self._client.memory_bytes, of_client=True)
        _check("memory", self._memory.total() + memory_bytes, self._server.memory_bytes, of_client=False)
        self._memory[client] += memory_bytes

    @staticmethod
    def _give_back(counter: Counter[str], client: str, amount: int) -> None:
        counter[client] -= amount
        if not counter[client]:
            del counter[client]  # clients come and go


class Grant:
    """What a sandbox was given."""

    def __init__(self, admission: Admission, client: str) -> None:
        self._admission = admission
        self._client = client
        self.memory_bytes = 0

    def reserve_memory(self, memory_bytes: int) -> None:
        """Takes memory, once.

        Raises:
            NotAdmittedError: there is not so much left.
        """
        self._admission.reserve_memory(self._client, memory_bytes)
        self.memory_bytes = memory_bytes


def _check(quota: str, wanted: int, limit: int, *, of_client: bool) -> None:
    if limit and wanted > limit:
        raise NotAdmittedError(quota, limit, of_client=of_client)
