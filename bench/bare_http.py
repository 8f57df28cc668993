"""A client for HTTP that does no more than it must: what an exchange costs without any library."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit


class BareHttpClient:
    """One connection that is kept alive. Takes whole responses, with a length or in chunks.

    Args:
        base_url: as `http://127.0.0.1:8000`.
    """

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        if parts.hostname is None or parts.port is None:
            raise ValueError(f"{base_url} names no host and port")
        self._host, self._port = parts.hostname, parts.port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes) -> bytes:
        """Posts JSON; returns the body of the response."""
        return await self._exchange(f"POST {path}", body)

    async def get_json(self, path: str) -> Any:
        """Returns what is at a path."""
        return json.loads(await self._exchange(f"GET {path}", b""))

    async def close(self) -> None:
        """Closes the connection."""
        if self._streams is not None:
            _, writer = self._streams
            writer.close()
            await writer.wait_closed()
            self._streams = None

    async def _exchange(self, method_and_path: str, body: bytes) -> bytes:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        writer.write(
            f"{method_and_path} HTTP/1.1\r\nhost: {self._host}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        status, *headers = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        if " 200 " not in status:
            raise RuntimeError(f"{method_and_path} was answered with {status}")
        for header in headers:
            name, _, value = header.partition(":")
            if name.lower() == "content-length":
                return await reader.readexactly(int(value))
        return await _read_chunks(reader)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readexactly(2)
    return b"".join(parts)
