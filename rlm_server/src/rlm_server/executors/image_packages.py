"""What a guest image has beyond the standard library, as the sandbox server tells it."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import grpc
from rlm_api.sandbox.v1 import execute_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlm_api.sandbox.v1.execute_service_pb2_grpc import ExecuteServiceAsyncStub

_log = logging.getLogger(__name__)

_FRESH_SECONDS = 60.0
_ANSWER_SECONDS = 5.0


class ImagePackages:
    """The packages of one image. The server is asked again after a minute, as it may have been given other images.

    Args:
        stub: the sandbox server's.
        image: the image's name; empty for the standard one, which has none.
    """

    def __init__(self, stub: ExecuteServiceAsyncStub, image: str) -> None:
        self._stub = stub
        self._image = image
        self._known: Sequence[str] = ()
        self._known_until = 0.0

    async def listed(self) -> Sequence[str]:
        """Returns the packages, each as `name==version`; those that were known before if the server does not answer."""
        if not self._image or time.monotonic() < self._known_until:
            return self._known
        try:
            info = await self._stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=_ANSWER_SECONDS)
        except grpc.aio.AioRpcError as error:
            _log.warning("the packages of image %s are not known: %s", self._image, error.details())
            return self._known
        self._known = next((tuple(one.packages) for one in info.images if one.name == self._image), ())
        self._known_until = time.monotonic() + _FRESH_SECONDS
        return self._known
