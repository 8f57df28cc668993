"""Posts to endpoints over HTTP, on connections that are kept."""

from __future__ import annotations

import asyncio
import functools
import urllib.request
from typing import TYPE_CHECKING

import aiohttp
import httpx2

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    import yarl

_MAX_CONNECTIONS = 1000
_KEPT_SECONDS = 5.0
"""How long a connection is kept that nobody uses: as long as common servers keep theirs."""


@functools.cache
def tls_context() -> ssl.SSLContext:
    """Returns how all endpoints' certificates are checked.

    It is made once: reading the authorities that a machine trusts holds up everything else for tens of milliseconds.
    """
    return httpx2.create_ssl_context()


class HttpSession:
    """Connections to one endpoint.

    Args:
        connect_timeout_seconds: how long it may take to be connected.
        silence_timeout_seconds: how long the endpoint may say nothing.
    """

    def __init__(self, *, connect_timeout_seconds: float, silence_timeout_seconds: float) -> None:
        self._connect_timeout_seconds = connect_timeout_seconds
        self._silence_timeout_seconds = silence_timeout_seconds
        self._session: aiohttp.ClientSession | None = None
        self._proxies: dict[str, str | None] = {}

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()

    async def post(
        self, url: yarl.URL, headers: Mapping[str, str], body: bytes, *, deadline_seconds: float | None
    ) -> aiohttp.ClientResponse:
        """Posts a body; returns the response, whose own body is to be read, and which is to be closed.

        Args:
            url: where to.
            headers: what is told beside the body.
            body: what is sent.
            deadline_seconds: when the response must have been read, by the event loop's clock; reading it after that
                raises `TimeoutError`.

        Raises:
            TimeoutError: the endpoint, or the whole, takes too long.
            aiohttp.ClientError: the endpoint cannot be reached, or breaks the connection off.
        """
        if self._session is None:
            self._session = _open_session()
        total = None if deadline_seconds is None else deadline_seconds - asyncio.get_running_loop().time()
        if total is not None and total <= 0:
            raise TimeoutError
        return await self._session.post(
            url,
            data=body,
            headers=headers,
            allow_redirects=False,  # the key, and what the context says, are for this endpoint alone
            proxy=self._proxy(url),
            timeout=aiohttp.ClientTimeout(
                total=total, sock_connect=self._connect_timeout_seconds, sock_read=self._silence_timeout_seconds
            ),
        )

    def _proxy(self, url: yarl.URL) -> str | None:
        """Returns the proxy that the environment names for an address."""
        origin = f"{url.scheme}://{url.host_port_subcomponent}"
        if origin not in self._proxies:
            proxies = urllib.request.getproxies()
            bypassed = urllib.request.proxy_bypass(str(url.host_port_subcomponent))
            self._proxies[origin] = None if bypassed else proxies.get(url.scheme, proxies.get("all"))
        return self._proxies[origin]


def _open_session() -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(limit=_MAX_CONNECTIONS, keepalive_timeout=_KEPT_SECONDS, ssl=tls_context())
    # Calls to models have nothing to do with each other; looking for cookies takes time for each.
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
