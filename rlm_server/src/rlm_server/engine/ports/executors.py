"""Executors, which make sandboxes.

SandboxOpenError   a sandbox could not be had at all
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rlm_server.engine.ports.sessions import SandboxError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from rlm_server.engine.ports.host_calls import HostCall
    from rlm_server.engine.ports.inputs import InputValue
    from rlm_server.engine.ports.sessions import Session


class SandboxOpenError(SandboxError):
    """A sandbox could not be had: none can be reached, or it refuses more work.

    Args:
        message: why, for people.
        may_pass: whether it is worth trying again soon, as no sandbox server could be reached.
    """

    def __init__(self, message: str, *, may_pass: bool = False) -> None:
        super().__init__(message)
        self.may_pass = may_pass


@dataclass(frozen=True)
class Prelude:
    """The `Prelude` of sandbox.v1.

    Args:
        source: what is the same for many sandboxes; runs before the inputs are set.
        setup: what is this sandbox's own; runs in the same module, after they are.
    """

    source: str
    setup: str = ""


@dataclass(frozen=True)
class SessionSpec:
    """The sandbox that is wanted.

    Args:
        inputs: variables.
        prelude: what runs before the first block of code.
        host_functions: names of the functions that `on_host_call` answers.
        on_host_call: returns a call's value, which JSON can express; may raise `HostCallError`. Several may run
            at once; each is cancelled and gone before the block that made it ends.
        memory_bytes: size of the memory; 0 takes the sandbox's default.
        begin_code: what a session that has been kept runs in place of the prelude.
        node_id: the node that runs code in it.
        seed: makes what code sees of chance and clocks the same each time, where the executor can; None does not.
        chance_seed: where `seed` is None, makes what code sees of chance the same each time, and leaves clocks alone.
        on_wait: is called if none can be had for a while, before that is told and it is waited for.
    """

    inputs: Sequence[InputValue]
    prelude: Prelude
    host_functions: Sequence[str]
    on_host_call: Callable[[HostCall], Awaitable[object]]
    memory_bytes: int = 0
    begin_code: str = ""
    node_id: str = ""
    seed: int | None = None
    chance_seed: int | None = None
    on_wait: Callable[[], Awaitable[None]] | None = None


class Executor(Protocol):
    """Makes sandboxes."""

    @property
    def name(self) -> str:
        """What to call it in messages, as an address."""

    async def packages(self) -> Sequence[str]:
        """Returns what its sandboxes have beside the standard library, each as `name==version`, as far as is known."""

    def open(self, spec: SessionSpec) -> AbstractAsyncContextManager[Session]:
        """Makes a sandbox that is freed when the context is left, however it is left.

        Raises:
            SandboxOpenError: no sandbox can be had.
        """
