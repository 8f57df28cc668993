"""Both servers, brought up for one call."""

from __future__ import annotations

import contextlib
import tempfile
from typing import TYPE_CHECKING

from rlm_server.cli.endpoint import started
from rlm_server.server import create_server
from rlm_server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rlm_server.cli.endpoint import Endpoint


@contextlib.asynccontextmanager
async def running_stack(endpoint: Endpoint, *, sandbox: str | None) -> AsyncIterator[str]:
    """Runs a server on a Unix socket of its own until the block ends, and yields its address.

    Args:
        endpoint: the models; the demo model is started, too.
        sandbox: as in `Settings.sandbox`.

    Raises:
        SettingsError: the sandbox's address cannot work.
        OSError: something cannot be started.
    """
    async with contextlib.AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="rlm-"))
        ready = await stack.enter_async_context(started(endpoint))
        server = await create_server(
            Settings(
                default_model=ready.model,
                default_sub_model=ready.sub_model,
                listen=(f"unix:{directory}/rlm.sock",),
                sandbox=sandbox,
                base_url=ready.base_url,
                api_key=ready.api_key,
                stand_in_models=ready.stand_in_models,
            )
        )
        stack.push_async_callback(server.stop, 0.0)
        await server.start()
        yield server.addresses[0]
