"""Both servers, brought up for one call."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from typing import TYPE_CHECKING

from rlm_server.cli.endpoint import started
from rlm_server.server import create_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

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
    async with contextlib.AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="rlm-"))
        settings = await stack.enter_async_context(started(endpoint))
        server = await create_server(dataclasses.replace(settings, listen=(f"unix:{directory}/rlm.sock",)))
        stack.push_async_callback(server.stop, 0.0)
        await server.start()
        yield server.addresses[0]
