"""Both servers, brought up for one call."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import tempfile
import threading
from typing import TYPE_CHECKING

from rlm_server.cli.endpoint import started

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from rlm_server.cli.endpoint import Endpoint


@contextlib.asynccontextmanager
async def running_stack(endpoint: Endpoint) -> AsyncIterator[str]:
    """Runs a server on a Unix socket of its own until the block ends, and yields its address.

    Args:
        endpoint: the settings; the demo model is started, too.

    Raises:
        SettingsError: the sandbox's address cannot work, or the key's file cannot be read.
        OSError: something cannot be started.
    """
    from rlm_server.server import create_server  # noqa: PLC0415 - half a second, which clients of a server need not wait

    async with contextlib.AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="rlm-"))
        settings = await stack.enter_async_context(started(endpoint))
        server = await create_server(dataclasses.replace(settings, listen=(f"unix:{directory}/rlm.sock",)))
        stack.push_async_callback(server.stop, 0.0)
        await server.start()
        yield server.addresses[0]


@contextlib.contextmanager
def running_stack_in_thread(endpoint: Endpoint) -> Iterator[str]:
    """Does what `running_stack` does, for a command that is not asynchronous.

    Raises:
        SettingsError: the sandbox's address cannot work, or the key's file cannot be read.
        OSError: something cannot be started.
    """
    address: concurrent.futures.Future[str] = concurrent.futures.Future()
    stops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def run() -> None:
        stop = asyncio.Event()
        stops.append((asyncio.get_running_loop(), stop))
        try:
            async with running_stack(endpoint) as target:
                address.set_result(target)
                await stop.wait()
        except BaseException as error:
            if address.done():
                raise
            address.set_exception(error)

    thread = threading.Thread(target=lambda: asyncio.run(run()), name="servers")
    thread.start()
    try:
        yield address.result()
    finally:
        for loop, stop in stops:
            with contextlib.suppress(RuntimeError):  # the loop is closed, as the servers did not start
                loop.call_soon_threadsafe(stop.set)
        thread.join()
