"""What a guest image has beyond the standard library, as the sandbox server tells it."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import grpc
from rlm_api.sandbox.v1 import execute_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlm_server.executors.sandbox_servers import SandboxServers

_log = logging.getLogger(__name__)

_FRESH_SECONDS = 60.0
_ANSWER_SECONDS = 5.0


class ImagePackages:
    """The packages of one image. The server is asked again after a minute, as it may have been given other images.

    Args:
        servers: the sandbox servers, which have the same images.
        image: the image's name; empty for the standard one, which has none.
    """

    def __init__(self, servers: SandboxServers, image: str) -> None:
        self._servers = servers
        self._image = image
        self._known: Sequence[str] = ()
        self._known_until = 0.0

    async def listed(self) -> Sequence[str]:
        """Returns the packages, each as `name==version`; those that were known before if the server does not answer."""
        if not self._image or time.monotonic() < self._known_until:
            return self._known
        try:
            server, *_ = await self._servers.in_turn()
            info = await server.stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=_ANSWER_SECONDS)
        except (grpc.aio.AioRpcError, OSError) as error:
            reason = error.details() if isinstance(error, grpc.aio.AioRpcError) else error
            _log.warning("the packages of image %s are not known: %s", self._image, reason)
            return self._known
        self._known = next((tuple(one.packages) for one in info.images if one.name == self._image), ())
        self._known_until = time.monotonic() + _FRESH_SECONDS
        return self._known
