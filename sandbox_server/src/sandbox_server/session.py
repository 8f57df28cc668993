"""A sandbox's life as the event loop sees it: made, used and freed on threads, killable at any moment."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import TYPE_CHECKING, Any, TypeVar

from sandbox_server.model import CellResult, Input, Limits, SandboxSpec, SessionState, Usage, VariableQuery
from sandbox_server.sandbox import Sandbox, SandboxListener, SandboxOpenError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor

    from sandbox_server.wasm.engine import GuestEngine
    from sandbox_server.wasm.watchdog import Watchdog

_Result = TypeVar("_Result")


@dataclasses.dataclass(frozen=True)
class Restoration:
    """How a session was brought back after its cell was killed."""

    state: SessionState = SessionState.KEPT
    wall_time_seconds: float = 0.0
    fuel: int = 0
    not_restored_reason: str = ""


@dataclasses.dataclass(frozen=True)
class SandboxFactory:
    """Makes sandboxes.

    Attributes:
        engine: has the image.
        watchdog: ends what takes too long.
        threads: where sandboxes run; one thread each while they do.
    """

    engine: GuestEngine
    watchdog: Watchdog
    threads: Executor

    def make(self, spec: SandboxSpec, listener: SandboxListener | None) -> Sandbox:
        """Makes a sandbox, on the calling thread."""
        return Sandbox(self.engine, self.watchdog, spec, listener)


class SandboxSession:
    """One session. Its coroutines are called one at a time; `kill`, `cancel` and the answers at any time.

    Args:
        factory: makes the sandbox.
        spec: what the session begins with, and begins anew with after a kill.
        listener: hears what cells do, on their thread.
    """

    def __init__(self, factory: SandboxFactory, spec: SandboxSpec, listener: SandboxListener | None) -> None:
        self._factory = factory
        self._spec = spec
        self._listener = listener
        self._sandbox: Sandbox | None = None
        self._killed = False
        self._busy: asyncio.Future[Any] | None = None

    async def open(self) -> Usage:
        """Makes the sandbox.

        Raises:
            SandboxOpenError: it cannot be made as asked for.
        """
        sandbox = await self._on_thread(self._make)
        return sandbox.open_usage

    async def set_inputs(self, inputs: Sequence[Input]) -> Usage:
        """Sets variables; they are set again should the session be reset.

        Raises:
            SandboxOpenError: an input is not what it says, or there is no room for it.
        """
        sandbox = self._live()
        usage = await self._on_thread(lambda: sandbox.set_inputs(inputs))
        kept = {one.name: one for one in (*self._spec.inputs, *inputs)}
        self._spec = dataclasses.replace(self._spec, inputs=tuple(kept.values()))
        return usage

    async def run_cell(self, code: str, limits: Limits, variables: VariableQuery) -> tuple[CellResult, Restoration]:
        """Runs a cell; if it had to be killed, the session is reset."""
        sandbox = self._live()
        result = await self._on_thread(lambda: sandbox.run_cell(code, limits, variables))
        if sandbox.is_alive or self._killed:
            return result, Restoration()
        return result, await self._reset(sandbox)

    async def run_once(self, code: str, limits: Limits, variables: VariableQuery) -> tuple[CellResult, Restoration]:
        """Runs the only cell of a session: one that is killed is not reset."""
        sandbox = self._live()
        result = await self._on_thread(lambda: sandbox.run_cell(code, limits, variables))
        return result, Restoration()

    def answer(self, call_id: int, value_json: str) -> None:
        """Answers a host call with a value."""
        self._live().answer(call_id, value_json)

    def answer_error(self, call_id: int, error_type: str, message: str) -> None:
        """Answers a host call with an exception."""
        self._live().answer_error(call_id, error_type, message)

    def cancel(self) -> None:
        """Kills the running cell."""
        self._live().cancel()

    def kill(self) -> None:
        """Ends the session: what runs is killed now, and nothing runs any more. `close` must follow."""
        self._killed = True
        if self._sandbox is not None:
            self._sandbox.cancel()

    async def close(self) -> None:
        """Frees the sandbox once its thread has left it, even if the caller is cancelled meanwhile."""
        self.kill()
        await asyncio.shield(asyncio.ensure_future(self._close()))

    async def _close(self) -> None:
        if self._busy is not None:
            await asyncio.wait([self._busy])
        if self._sandbox is not None:
            # Unmapping memory can take milliseconds.
            await asyncio.get_running_loop().run_in_executor(self._factory.threads, self._sandbox.close)
            self._sandbox = None

    async def _reset(self, dead: Sandbox) -> Restoration:
        start = time.monotonic()
        try:
            fresh = await self._on_thread(lambda: self._replace(dead))
        except SandboxOpenError as error:
            # It could be made once, so the machine is in trouble, not the request.
            raise RuntimeError(f"the session could not be made again: {error}") from error
        return Restoration(
            state=SessionState.RESET,
            wall_time_seconds=time.monotonic() - start,
            fuel=fresh.open_usage.fuel,
            not_restored_reason="this server does not replay cells yet, so variables that cells assigned are lost",
        )

    def _replace(self, dead: Sandbox) -> Sandbox:
        dead.close()
        return self._make()

    def _make(self) -> Sandbox:
        sandbox = self._factory.make(self._spec, self._listener)
        self._sandbox = sandbox
        if self._killed:
            sandbox.cancel()
        return sandbox

    def _live(self) -> Sandbox:
        if self._sandbox is None:
            raise RuntimeError("the session is not open")
        return self._sandbox

    async def _on_thread(self, work: Callable[[], _Result]) -> _Result:
        """Runs blocking work on a thread. If the caller is cancelled, the work is killed, and `close` waits for it."""
        future = asyncio.get_running_loop().run_in_executor(self._factory.threads, work)
        self._busy = future
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            self.kill()
            raise
