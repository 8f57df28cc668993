"""Addresses that servers listen on and clients connect to: `HOST:PORT`, `unix:PATH`, and gRPC's name syntax."""

from __future__ import annotations

import ipaddress


def is_loopback(address: str) -> bool:
    """Tells whether an address can be reached from this machine only.

    Args:
        address: `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`.
    """
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host = address.removeprefix("dns:///").rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def with_port(address: str, port: int) -> str:
    """Returns the address with the port that was really bound, for an address whose port is 0."""
    if address.startswith(("unix:", "unix-abstract:")):
        return address
    return f"{address.rpartition(':')[0]}:{port}"
