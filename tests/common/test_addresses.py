"""Which addresses only this machine can reach, and which port was really bound."""

from __future__ import annotations

import pytest
from rlm_common.addresses import is_loopback, listen_problem, target_problem, with_port


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:50051",
        "127.8.9.10:0",
        "[::1]:50051",
        "localhost:50051",
        "dns:///localhost:50051",
        "unix:/run/rlm.sock",
        "unix:relative.sock",
        "unix-abstract:rlm",
    ],
)
def test_only_this_machine_reaches(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:50051", "[::]:50051", "10.0.0.1:50051", "[fe80::1]:50051", "example.org:50051", "localhost.evil:1", ":1"],
)
def test_others_may_reach(address: str) -> None:
    assert not is_loopback(address)


@pytest.mark.parametrize("address", ["", "localhost", "127.0.0.1", "ipv4:127.0.0.1:1", "127.1:1"])
def test_what_is_not_understood_counts_as_reached_by_others(address: str) -> None:
    assert not is_loopback(address)


@pytest.mark.parametrize(
    ("address", "bound"),
    [
        ("127.0.0.1:0", "127.0.0.1:4711"),
        ("[::1]:0", "[::1]:4711"),
        ("localhost:4711", "localhost:4711"),
        ("unix:/run/rlm.sock", "unix:/run/rlm.sock"),
        ("unix-abstract:rlm", "unix-abstract:rlm"),
    ],
)
def test_an_address_with_the_port_that_was_bound(address: str, bound: str) -> None:
    assert with_port(address, 4711) == bound


@pytest.mark.parametrize(
    "address", ["127.0.0.1:0", "[::1]:50051", "host:65535", "unix:/run/x", "unix:x", "unix-abstract:x"]
)
def test_it_can_be_listened_on(address: str) -> None:
    assert listen_problem(address) == ""


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("host:65536", "has no port from 0 to 65535"),
        ("127.0.0.1:-1", "has no port"),
        ("127.0.0.1:\u0661", "has no port"),
        ("127.0.0.1:http", "has no port"),
        ("127.0.0.1", "is no HOST:PORT"),
        (":50051", "is no HOST:PORT"),
        ("::1:50051", "is no HOST:PORT"),
        ("http://host:1", "is no HOST:PORT"),
        ("a b:1", "is no HOST:PORT"),
        ("", "is no HOST:PORT"),
        ("unix:", "has no path"),
        ("unix:///", "has no path"),
    ],
)
def test_it_cannot_be_listened_on(address: str, problem: str) -> None:
    assert listen_problem(address).startswith(problem)


@pytest.mark.parametrize(
    "address",
    [
        *("host:1", "[::1]:1", "unix:/x", "dns:///host:1", "dns:host:1", "ipv4:1.2.3.4:5,1.2.3.5:5", "ipv6:[::1]:5"),
        "xds:///what-grpc-knows",
    ],
)
def test_it_can_be_connected_to(address: str) -> None:
    assert target_problem(address) == ""


@pytest.mark.parametrize(
    "address", ["host:0", "host", "dns:///host", "ipv4:1.2.3.4:5,1.2.3.5", "http://host:1", "unix:", "some where"]
)
def test_it_cannot_be_connected_to(address: str) -> None:
    assert target_problem(address)
