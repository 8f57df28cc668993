"""Tells clients apart, so that one cannot take what is meant for all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import grpc

CLIENT_ID_HEADER = "x-client-id"
"""Metadata by which a client may name itself. It is believed: between clients that are not trusted, use mutual TLS."""

_MAX_CHARS = 100


def client_of(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """Returns who calls: the identity of its TLS certificate, or else what it calls itself, or else its host."""
    identities = context.peer_identities()
    if identities:
        return "tls:" + b",".join(identities).decode(errors="replace")
    for key, value in context.invocation_metadata() or ():
        if key == CLIENT_ID_HEADER and isinstance(value, str):
            return "id:" + value[:_MAX_CHARS]
    peer = str(context.peer())
    return peer.rpartition(":")[0] if peer.startswith(("ipv4:", "ipv6:")) else peer.partition(":")[0]
