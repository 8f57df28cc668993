"""Running the demo model: as a server of its own, or on the running event loop of another program."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from rlm_server.demo_model.app import create_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rlm_server.demo_model.settings import DemoModelSettings

_KEEPALIVE_SECONDS = 600.0
"""Longer than clients keep connections that they do not use, lest one sends a request on one that is being closed."""

_SHUTDOWN_SECONDS = 1.0
_BACKLOG = 1024


@dataclass(frozen=True)
class RunningDemoModel:
    """A demo model that serves.

    Args:
        host: where it listens.
        port: where it listens, the real one.
    """

    host: str
    port: int

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes as its `base_url`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/v1"


@contextlib.asynccontextmanager
async def running_demo_model(
    settings: DemoModelSettings | None = None, *, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[RunningDemoModel]:
    """Serves the demo model on the running event loop until the block ends; signals are left alone.

    Args:
        settings: how it behaves.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.

    Raises:
        OSError: the address cannot be listened on.
    """
    async with serving(create_app(settings), host, port) as real_port:
        yield RunningDemoModel(host, real_port)


@contextlib.asynccontextmanager
async def serving(app: web.Application, host: str, port: int) -> AsyncIterator[int]:
    """Serves an application until the block ends; returns the port.

    Args:
        app: the application.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.

    Raises:
        OSError: the address cannot be listened on.
    """
    listener = _listen(host, port)
    runner = web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,
        handle_signals=False,
        keepalive_timeout=_KEEPALIVE_SECONDS,
        shutdown_timeout=_SHUTDOWN_SECONDS,
    )
    try:
        await runner.setup()
        await web.SockSite(runner, listener, backlog=_BACKLOG).start()
        yield listener.getsockname()[1]
    finally:
        await runner.cleanup()
        listener.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener
