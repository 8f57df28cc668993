"""What a session can do besides running blocks, with every executor: inputs, variables, and going on after a cancel."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from rlm_server.engine.limits import CellBounds
from rlm_server.engine.ports.executors import Prelude, SessionSpec
from rlm_server.engine.ports.inputs import InputValue, ValueFormat
from rlm_server.engine.ports.sessions import SandboxError, VariablesState
from rlm_server.executors.local import LocalExecutor
from rlm_server.executors.sandbox import SandboxExecutor

from tests.support.fake_sandbox import FakeSandbox, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rlm_server.engine.ports.host_calls import HostCall
    from rlm_server.engine.ports.sessions import CellResult, Session

BOUNDS = CellBounds(wall_time_seconds=30.0)
PRELUDE = "__all__ = ['PROVIDED']\nPROVIDED = 1\n"


class Opened:
    """A session, and what its code asks for."""

    def __init__(self) -> None:
        self.session: Session = None  # type: ignore[assignment] - set below
        self.called = asyncio.Event()
        self.output = ""

    async def on_host_call(self, call: HostCall) -> object:
        self.called.set()
        if call.function == "forever":
            await asyncio.Event().wait()
        return 1

    async def run(self, code: str) -> CellResult:
        async def on_output(_: Any, text: str) -> None:
            self.output += text

        return await self.session.run_cell(code, BOUNDS, on_output)

    async def cancel(self, code: str) -> None:
        """Runs code until it makes a host call that is never answered, and cancels it there."""
        task = asyncio.create_task(self.run(code))
        await asyncio.wait_for(self.called.wait(), 30)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.asynccontextmanager
async def opened(address: str) -> AsyncIterator[Opened]:
    session = Opened()
    executor = LocalExecutor() if address == "local" else SandboxExecutor(address)
    spec = SessionSpec(
        inputs=[text("context", "abc")],
        prelude=Prelude(PRELUDE),
        host_functions=["forever"],
        on_host_call=session.on_host_call,
    )
    try:
        async with executor.open(spec) as session.session:
            yield session
    finally:
        if isinstance(executor, SandboxExecutor):
            await executor.close()


@pytest.fixture
async def live(executor: str) -> AsyncIterator[Opened]:
    async with opened(executor) as session:
        yield session


def text(name: str, value: str) -> InputValue:
    return InputValue(name, ValueFormat.TEXT, value)


async def test_inputs_can_be_set_between_blocks(live: Opened) -> None:
    await live.session.set_inputs([text("more", "x" * 100_000), InputValue("data", ValueFormat.JSON, "[1, 2]")])
    await live.run("print(context, len(more), data)")
    assert live.output == "abc 100000 [1, 2]\n"


async def test_more_inputs_than_fit_one_message_are_set_all_the_same(live: Opened) -> None:
    await live.session.set_inputs([text(f"v{index}", str(index)) for index in range(150)])
    await live.run("print(v0, v149)")
    assert live.output == "0 149\n"


async def test_variables_are_described_with_inputs_and_without_what_the_prelude_provides(live: Opened) -> None:
    await live.run("import json\nx = [1, 2]\n_private = 1")
    listing = await live.session.variables()
    assert [(one.name, one.type_name, one.size, one.preview) for one in listing.variables] == [
        ("context", "str", 3, "'abc'"),
        ("x", "list", 2, "[1, 2]"),
    ]
    assert (listing.omitted_count, listing.problem) == (0, "")


async def test_of_very_many_variables_the_rest_is_counted(live: Opened) -> None:
    await live.run("for i in range(300): globals()[f'x{i}'] = i")
    listing = await live.session.variables()
    assert (len(listing.variables), listing.omitted_count) == (200, 102)


async def test_describing_variables_that_resist_does_no_harm(live: Opened) -> None:
    await live.run("class A:\n    def __repr__(self): raise ValueError\n    def __len__(self): return -3\na = A()")
    (described,) = [one for one in (await live.session.variables()).variables if one.name == "a"]
    assert described.size == -1
    assert "A" in described.preview


async def test_after_a_cancelled_block_the_session_goes_on_once_it_is_settled(live: Opened) -> None:
    await live.run("x = 1")
    await live.session.set_inputs([text("more", "later")])
    await live.cancel("x = 2\nforever()")
    with pytest.raises(SandboxError):
        await live.run("pass")
    state = await live.session.settle()
    assert state in (VariablesState.RESTORED, VariablesState.LOST)
    await live.run("print(globals().get('x'), context, more, PROVIDED)")
    assert live.output == f"{1 if state is VariablesState.RESTORED else None} abc later 1\n"


async def test_a_real_sandbox_is_as_it_was_before_the_cancelled_block(sandbox_address: str) -> None:
    async with opened(sandbox_address) as live:
        await live.run("x = [i for i in range(5)]")
        await live.cancel("x.append(1)\nforever()")
        assert await live.session.settle() is VariablesState.RESTORED
        await live.run("print(len(x))")
        assert live.output == "5\n"


async def test_settling_does_nothing_where_nothing_was_cancelled(live: Opened) -> None:
    await live.run("x = 1")
    assert await live.session.settle() is VariablesState.KEPT
    await live.run("print(x)")
    assert live.output == "1\n"


async def test_a_session_knows_that_its_sandbox_died() -> None:
    fake = FakeSandbox()
    fake.break_on_code = "break"
    async with serving(fake) as address, opened(address) as live:
        assert live.session.is_alive
        with pytest.raises(SandboxError, match="the worker died"):
            await live.run("'break'")
        assert not live.session.is_alive
        for attempt in (live.session.variables, live.session.settle):
            with pytest.raises(SandboxError, match="the worker died"):
                await attempt()
        with pytest.raises(SandboxError, match="the worker died"):
            await live.session.set_inputs([text("x", "1")])


async def test_inputs_for_which_there_is_no_room_break_the_session(sandbox_address: str) -> None:
    async with opened(sandbox_address) as live:
        with pytest.raises(SandboxError, match="INVALID_ARGUMENT"):
            await live.session.set_inputs([InputValue("bad", ValueFormat.JSON, "{")])
        assert not live.session.is_alive
