"""The sandbox servers behind one address, with a connection to each, so that sandboxes are spread over them.

A sandbox needs its large inputs on the server that it is on. gRPC's own balancing chooses a server for each call, and
so cannot bring the two together; this chooses one for all that a sandbox needs.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import time
from typing import TYPE_CHECKING

import grpc
from rlm_api.sandbox.v1 import execute_service_pb2_grpc as pb_grpc
from rlm_common.server import CHANNEL_OPTIONS

from rlm_server.executors.blobs import BlobUploader

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

_log = logging.getLogger(__name__)

_RECONNECT_OPTIONS = (
    # A sandbox server that died is back within a second; gRPC's own patience is for servers far away.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
_FRESH_SECONDS = 5.0
REST_SECONDS = 1.0
"""How long a server that could not be reached is tried after the others."""


class SandboxServer:
    """One server.

    Args:
        target: its address, as gRPC writes it.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self._channel = grpc.aio.insecure_channel(target, options=(*CHANNEL_OPTIONS, *_RECONNECT_OPTIONS))
        self.stub: pb_grpc.ExecuteServiceAsyncStub = pb_grpc.ExecuteServiceStub(self._channel)
        self.blobs = BlobUploader(self.stub)
        self.session_count = 0
        """How many sandboxes it has of this process."""
        self._rests_until = 0.0

    @property
    def rests(self) -> bool:
        """Whether it could not be reached a moment ago."""
        return time.monotonic() < self._rests_until

    def rest(self) -> None:
        """Takes note that it cannot be reached."""
        self._rests_until = time.monotonic() + REST_SECONDS

    async def close(self) -> None:
        """Closes the connection; sessions that are open die."""
        await self._channel.close()


async def look_up(host: str, port: int) -> Sequence[str]:
    """Returns the targets of all servers that have a name.

    Raises:
        OSError: there are none, or nobody can be asked.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family = found[0][0]  # of a server that has addresses of both kinds, the kind that is preferred here
    scheme = "ipv6" if family is socket.AF_INET6 else "ipv4"
    hosts = sorted({str(address[0]) for kind, *_, address in found if kind is family})
    return [f"{scheme}:[{one}]:{port}" if scheme == "ipv6" else f"{scheme}:{one}:{port}" for one in hosts]


class SandboxServers:
    """All servers that an address means.

    Args:
        address: `dns:///HOST:PORT` means all that the name has, and is looked up again and again;
            `ipv4:HOST:PORT,HOST:PORT` (or `ipv6:`) means each of them; anything else means one.
        find: looks up a name.
    """

    def __init__(self, address: str, find: Callable[[str, int], Awaitable[Sequence[str]]] = look_up) -> None:
        self._address = address
        self._find = find
        self._servers: dict[str, SandboxServer] = {}
        self._fresh_until = 0.0

    async def in_turn(self) -> list[SandboxServer]:
        """Returns the servers in the order in which to try them for a new sandbox: the least busy first.

        Raises:
            OSError: no server has the name.
        """
        if time.monotonic() >= self._fresh_until:
            await self._renew()
        servers = list(self._servers.values())
        random.shuffle(servers)
        return sorted(servers, key=lambda server: (server.rests, server.session_count))

    async def close(self) -> None:
        """Closes all connections."""
        await asyncio.gather(*(server.close() for server in self._servers.values()))

    async def _renew(self) -> None:
        try:
            targets = await self._targets()
        except OSError as error:
            if not self._servers:
                raise
            _log.warning("%s cannot be looked up, and means what it meant before: %s", self._address, error)
            targets = list(self._servers)
        self._fresh_until = time.monotonic() + _FRESH_SECONDS
        for target in targets:
            if target not in self._servers:
                self._servers[target] = SandboxServer(target)
        for target, server in list(self._servers.items()):
            if target not in targets and not server.session_count:
                del self._servers[target]
                await server.close()

    async def _targets(self) -> Sequence[str]:
        scheme, _, rest = self._address.partition(":")
        host, _, port = rest.removeprefix("///").rpartition(":")
        if scheme == "dns" and rest.startswith("///") and port.isdigit():
            return await self._find(host.strip("[]"), int(port))
        if scheme in ("ipv4", "ipv6"):
            return [f"{scheme}:{one}" for one in rest.split(",")]
        return [self._address]
