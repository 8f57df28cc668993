"""Several sandbox servers behind one address: sandboxes are spread over them, each with its inputs where it is."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from rlm_server.engine.ports.executors import Prelude, SandboxOpenError, SessionSpec
from rlm_server.engine.ports.inputs import InputValue, ValueFormat
from rlm_server.executors import sandbox_servers
from rlm_server.executors.sandbox import SandboxExecutor
from rlm_server.executors.sandbox_servers import SandboxServers, look_up

from tests.support.fake_sandbox import FakeSandbox, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LARGE = InputValue("context", ValueFormat.TEXT, "x" * 200_000)


async def refuse(_: object) -> object:
    raise AssertionError("there are no host calls")


def spec(*inputs: InputValue) -> SessionSpec:
    return SessionSpec(node_id="0", inputs=inputs, host_functions=(), on_host_call=refuse, prelude=Prelude(""))


@pytest.fixture
async def fakes() -> AsyncIterator[list[FakeSandbox]]:
    async with contextlib.AsyncExitStack() as stack:
        running = [FakeSandbox(), FakeSandbox()]
        for fake in running:
            fake.address = await stack.enter_async_context(serving(fake))
        yield running


@pytest.fixture
async def executor(fakes: list[FakeSandbox]) -> AsyncIterator[SandboxExecutor]:
    made = SandboxExecutor("ipv4:" + ",".join(fake.address for fake in fakes))
    yield made
    await made.close()


async def test_sandboxes_are_spread_and_each_has_its_inputs_on_its_server(
    executor: SandboxExecutor, fakes: list[FakeSandbox]
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(6):
            await stack.enter_async_context(executor.open(spec(LARGE)))
        assert [fake.open_sessions for fake in fakes] == [3, 3]
        assert [len(fake.uploads) for fake in fakes] == [1, 1]


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
async def test_what_one_server_does_not_take_the_next_does(
    executor: SandboxExecutor, fakes: list[FakeSandbox], code: grpc.StatusCode
) -> None:
    fakes[0].refuse_open = code
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(4):
            await stack.enter_async_context(executor.open(spec()))
        assert [fake.open_sessions for fake in fakes] == [0, 4]
        fakes[1].refuse_open = code
        with pytest.raises(SandboxOpenError) as failure:
            await stack.enter_async_context(executor.open(spec()))
        assert failure.value.may_pass is (code is grpc.StatusCode.UNAVAILABLE)


async def test_what_a_server_says_is_wrong_is_not_tried_elsewhere(
    executor: SandboxExecutor, fakes: list[FakeSandbox]
) -> None:
    for fake in fakes:
        fake.refuse_open = grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(SandboxOpenError, match="INVALID_ARGUMENT"):
        async with executor.open(spec()):
            pass


async def test_a_name_is_looked_up_again_and_may_mean_other_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_servers, "_FRESH_SECONDS", 0.0)
    found: list[Any] = [["ipv4:127.0.0.1:1", "ipv4:127.0.0.1:2"], OSError("no such name"), ["ipv4:127.0.0.1:2"]]

    async def find(host: str, port: int) -> list[str]:
        assert (host, port) == ("sandboxes", 50052)
        now = found.pop(0)
        if isinstance(now, OSError):
            raise now
        return list(now)

    servers = SandboxServers("dns:///sandboxes:50052", find)
    assert {server.target for server in await servers.in_turn()} == {"ipv4:127.0.0.1:1", "ipv4:127.0.0.1:2"}
    assert len(await servers.in_turn()) == 2  # the name's servers of before, where nobody can be asked
    assert [server.target for server in await servers.in_turn()] == ["ipv4:127.0.0.1:2"]
    await servers.close()


async def test_a_name_without_servers_may_have_some_later(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = SandboxExecutor("dns:///no-such-host.invalid:1")

    async def find(host: str, port: int) -> list[str]:
        raise OSError("no such name")

    monkeypatch.setattr(executor._servers, "_find", find)
    with pytest.raises(SandboxOpenError, match="cannot be looked up: no such name") as failure:
        async with executor.open(spec()):
            pass
    assert failure.value.may_pass
    await executor.close()


async def test_a_real_name_is_found() -> None:
    assert await look_up("127.0.0.1", 7) == ["ipv4:127.0.0.1:7"]
    assert (await look_up("localhost", 7))[0] in ("ipv4:127.0.0.1:7", "ipv6:[::1]:7")
