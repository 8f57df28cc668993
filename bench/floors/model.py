"""The demo model, in a process of its own, that keeps the requests that it was sent.

`GET /recorded` returns their bodies, as a JSON list of texts, and forgets them.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from aiohttp import web
from rlm_server.demo_model.app import create_app
from rlm_server.demo_model.server import serving

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class _Recorder:
    """Keeps the bodies of the requests to an application."""

    def __init__(self) -> None:
        self._bodies: list[str] = []

    def record_from(self, app: web.Application) -> None:
        """Begins."""
        app.middlewares.append(self._record)
        app.router.add_get("/recorded", self._tell)

    @web.middleware
    async def _record(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.can_read_body:
            self._bodies.append(await request.text())
        return await handler(request)

    async def _tell(self, _: web.Request) -> web.Response:
        told, self._bodies = self._bodies, []
        return web.json_response(told)


async def _serve() -> None:
    app = create_app()
    _Recorder().record_from(app)
    async with serving(app, "127.0.0.1", 0) as port:
        print(f"model serves at http://127.0.0.1:{port}", file=sys.stderr, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve())
