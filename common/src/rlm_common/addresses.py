"""Addresses that servers listen on and clients connect to: `HOST:PORT`, `unix:PATH`, and gRPC's name syntax."""

from __future__ import annotations

import ipaddress
import re

_SOCKET_SCHEMES = ("unix:", "unix-abstract:")
_GREATEST_PORT = 65_535
_IN_BRACKETS = re.compile(r"\[[^\[\]]+\]")


def is_loopback(address: str) -> bool:
    """Tells whether an address can be reached from this machine only.

    Args:
        address: `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`.
    """
    if address.startswith(_SOCKET_SCHEMES):
        return True
    host = address.removeprefix("dns:///").rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen_problem(address: str) -> str:
    """Returns what is wrong with an address to listen on, with the remedy; empty if nothing is.

    Args:
        address: `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`; port 0 takes a free one.
    """
    if address.startswith(_SOCKET_SCHEMES):
        return "" if address.partition(":")[2].strip("/") else "has no path; give unix:PATH, as unix:/run/rlm.sock"
    return _port_problem(address, least=0)


def target_problem(address: str) -> str:
    """Returns what is wrong with the address of a server to connect to, with the remedy; empty if nothing is.

    Args:
        address: `HOST:PORT`, `unix:PATH`, `dns:///HOST:PORT`, or `ipv4:HOST:PORT,HOST:PORT` (likewise `ipv6:`); what
            has another of gRPC's schemes is left to gRPC.
    """
    if address.startswith(_SOCKET_SCHEMES):
        return listen_problem(address)
    scheme, separator, rest = address.partition(":")
    if separator and scheme in ("ipv4", "ipv6"):
        return next(filter(None, (_port_problem(one, least=1) for one in rest.split(","))), "")
    if separator and rest.startswith("//") and scheme not in ("dns", "http", "https", "grpc"):
        return ""
    return _port_problem(address.removeprefix("dns:///").removeprefix("dns:"), least=1)


def _port_problem(address: str, *, least: int) -> str:
    host, separator, port = address.rpartition(":")
    if not separator or not host or re.search(r"[\s/]", host) or (":" in host and not _IN_BRACKETS.fullmatch(host)):
        return "is no HOST:PORT (an IPv6 address in brackets) and no unix:PATH; give one, as 127.0.0.1:50051"
    if not (port.isascii() and port.isdigit()) or not least <= int(port) <= _GREATEST_PORT:
        return f"has no port from {least} to {_GREATEST_PORT} after the last colon; give one, as 127.0.0.1:50051"
    return ""


def with_port(address: str, port: int) -> str:
    """Returns the address with the port that was really bound, for an address whose port is 0."""
    if address.startswith(_SOCKET_SCHEMES):
        return address
    return f"{address.rpartition(':')[0]}:{port}"
