"""The demo model, in a process of its own, that keeps the requests that it was sent.

`GET /recorded` returns their bodies, as a JSON list of texts, and forgets them.
"""

from __future__ import annotations

import json
import socket
import sys
from typing import TYPE_CHECKING, Any

import uvicorn
from rlm_server.demo_model.app import create_app

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    _Receive = Callable[[], Awaitable[dict[str, Any]]]
    _Send = Callable[[dict[str, Any]], Awaitable[None]]


class _Recorder:
    """Keeps the bodies of the requests to an ASGI application."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._bodies: list[str] = []

    async def __call__(self, scope: dict[str, Any], receive: _Receive, send: _Send) -> None:
        if scope["path"] == "/recorded":
            await self._tell(send)
            return
        parts: list[bytes] = []

        async def recording_receive() -> dict[str, Any]:
            message = await receive()
            if message["type"] == "http.request":
                parts.append(message.get("body", b""))
                if not message.get("more_body"):
                    self._bodies.append(b"".join(parts).decode())
            return message

        await self._app(scope, recording_receive, send)

    async def _tell(self, send: _Send) -> None:
        body = json.dumps(self._bodies).encode()
        self._bodies.clear()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _main() -> None:
    # The protocol is named as asyncio turns Nagle's algorithm off only then.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        print(f"model serves at http://127.0.0.1:{listener.getsockname()[1]}", file=sys.stderr, flush=True)
        config = uvicorn.Config(
            _Recorder(create_app()),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_keep_alive=600,
        )
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    _main()
