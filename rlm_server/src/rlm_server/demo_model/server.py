"""Running the demo model: as a server of its own, or on the running event loop of another program."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import uvicorn

from rlm_server.demo_model.app import BrokenStreamError, create_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rlm_server.demo_model.settings import DemoModelSettings


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
    listener = _listen(host, port)
    config = uvicorn.Config(
        create_app(settings),
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
        ws="none",
    )
    server = _Server(config)
    # Being cut off on purpose is no news for the log.
    logging.getLogger("uvicorn.error").addFilter(_is_no_planned_break)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await server.listening(task)
        yield RunningDemoModel(host, listener.getsockname()[1])
    finally:
        server.should_exit = True
        await task
        listener.close()


class _Server(uvicorn.Server):
    """A uvicorn server that tells when it listens, and that leaves signals to the program around it."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._listens = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listens.set()

    async def listening(self, serving: asyncio.Task[None]) -> None:
        """Waits until the server listens, or fails as its task does."""
        waiting = asyncio.create_task(self._listens.wait())
        await asyncio.wait({waiting, serving}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if serving.done():
            serving.result()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named as asyncio turns Nagle's algorithm off only then; with it, parts of replies wait for 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1024)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _is_no_planned_break(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return not isinstance(error, BrokenStreamError)
