"""The sandbox of a node, which outlives the servers that it is on: one that dies is replaced by another like it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import event_pb2

from rlm_server.engine.limits import to_duration
from rlm_server.engine.ports.executors import SandboxOpenError
from rlm_server.engine.ports.host_calls import HostCall, HostCallError
from rlm_server.engine.ports.sessions import SandboxError
from rlm_server.engine.run import ROOT_NODE_ID
from rlm_server.journal.recorder import never
from rlm_server.journal.replay import Step, replay

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from rlm_server.engine.conversations.kept_repl import KeptRepl
    from rlm_server.engine.conversations.turns import Answering
    from rlm_server.engine.ports.executors import Executor, SessionSpec
    from rlm_server.engine.ports.sessions import Session
    from rlm_server.journal.recorder import Recorder

_log = logging.getLogger(__name__)

MOST_LOSSES = 3
"""How many sandboxes one thing that is done in them may lose before it is given up."""

MOST_CUTS = 20
"""How many of them it may be cut off from, which it has hardly done itself."""

_FIRST_RETRY_SECONDS = 0.1
_GREATEST_RETRY_SECONDS = 2.0
_UNTOLD_SECONDS = 1.0
"""How long it is waited for a sandbox before that is told: servers that are started anew are back by then."""


class LastingSandbox:
    """A node's sandbox.

    Args:
        executor: makes the real ones.
        spec: what is wanted.
        recorder: the completion's.
        patience_seconds: how long to look for a sandbox.
        park: ends the run, as none is found in that time; gets the reason.
        repl: the conversation's, which makes the sandbox in place of the executor, if there is one.
    """

    def __init__(
        self,
        executor: Executor,
        spec: SessionSpec,
        recorder: Recorder,
        *,
        patience_seconds: float,
        park: Callable[[str], None],
        repl: KeptRepl | None,
    ) -> None:
        self._executor = executor if repl is None else repl
        self._repl = repl
        self._spec = spec
        self._node_id = spec.node_id
        self._recorder = recorder
        self._patience_seconds = patience_seconds
        self._park = park
        self._answering: Answering | None = None
        self._closing: AbstractAsyncContextManager[Session] | None = None
        self.history: list[Step] = []
        """What was done in it, and is done again in another."""
        self.session: Session | None = None
        """The real one, if there is one now."""
        self.loss = ""
        """How the last one was lost; empty if none was, or there is another."""

    async def open(self) -> None:
        """Makes the real sandbox.

        Raises:
            SandboxOpenError: there is none.
        """
        start_seconds = time.monotonic()
        deadline = start_seconds + self._patience_seconds
        delay_seconds = _FIRST_RETRY_SECONDS
        has_told = False
        while True:
            opening = self._executor.open(dataclasses.replace(self._spec, on_host_call=self._on_host_call))
            try:
                self.session = await opening.__aenter__()
            except SandboxOpenError as error:
                has_work_to_lose = bool(self.loss or self.history)
                if not (has_work_to_lose or (error.may_pass and self._is_patient)):
                    raise
                is_over = time.monotonic() > deadline
                if not has_told and (is_over or time.monotonic() - start_seconds > _UNTOLD_SECONDS):
                    has_told = True
                    await self._tell_wait(error)
                if is_over:
                    self._park(_none_can_be_had(self._executor, error))
                    await never()
                await asyncio.sleep(delay_seconds)
                delay_seconds = min(delay_seconds * 2, _GREATEST_RETRY_SECONDS)
            else:
                self._closing = opening
                return

    async def close(self) -> None:
        """Frees the real sandbox."""
        self.session = None
        if self._closing is not None:
            closing, self._closing = self._closing, None
            await closing.__aexit__(None, None, None)

    def answer_with(self, answering: Answering | None) -> None:
        """Has the host calls of what runs now answered by this; None if nothing runs."""
        self._answering = answering

    async def ready(self) -> Session:
        """Returns the real sandbox in the state that `history` leaves it in.

        Raises:
            SandboxOpenError: there is none.
            SandboxError: each that was made died at once.
        """
        for _ in range(MOST_LOSSES):
            if self.session is not None:
                break
            start_seconds = time.monotonic()
            try:
                await self.open()
                cell_count = await self._replay()
            except SandboxOpenError:
                raise
            except SandboxError as error:
                await self.lose(str(error))
                continue
            await self._recorder.tell(
                self._node_id,
                event_pb2.SandboxRestored(
                    cause=self.loss or "the server that had it has gone",
                    replayed_cell_count=cell_count,
                    wall_time=to_duration(time.monotonic() - start_seconds),
                ),
            )
            self.loss = ""
        if self.session is not None:
            return self.session
        raise SandboxError(f"every sandbox is lost while it is rebuilt: {self.loss}")

    async def lose(self, cause: str) -> None:
        """Takes note that the real one died; the next `ready` replaces it."""
        _log.warning(
            "node %s of completion %s lost its sandbox: %s", self._node_id, self._recorder.completion_id, cause
        )
        self.loss = cause
        with contextlib.suppress(SandboxError):
            await self.close()

    async def warn_diverged(self, message: str) -> None:
        """Tells that what was done again did something else than at first."""
        warning = event_pb2.Warning(code=event_pb2.WARNING_CODE_REPLAY_DIVERGED, message=message)
        await self._recorder.tell(self._node_id, warning)

    @property
    def _is_patient(self) -> bool:
        """Whether it is waited for a sandbox in which nothing has been done yet.

        Without patience a completion that has not begun is refused, and not parked.
        """
        is_first = self._node_id == ROOT_NODE_ID and not self._recorder.is_repetition
        return bool(self._patience_seconds) or not is_first

    async def _tell_wait(self, error: SandboxOpenError) -> None:
        if self._spec.on_wait is not None:
            await self._spec.on_wait()
        message = f"{_none_can_be_had(self._executor, error)}; waiting up to {self._patience_seconds:g} s for one"
        await self._recorder.tell(
            self._node_id, event_pb2.Warning(code=event_pb2.WARNING_CODE_SANDBOX_AWAITED, message=message)
        )

    async def _replay(self) -> int:
        """Runs the recorded blocks in a new sandbox, with the answers that they got; returns their number."""
        if self.session is None:
            raise SandboxError("there is no sandbox")
        restoration = None if self._repl is None else self._repl.take_restoration()
        replayed = await replay(self.session, self.history, self.answer_with)
        problems, count = replayed.problems, replayed.cell_count
        if restoration is not None:
            problems, count = [*restoration.problems, *problems], restoration.cell_count + count
        for problem in problems:
            await self.warn_diverged(problem)
        return count

    async def _on_host_call(self, call: HostCall) -> object:
        if self._answering is None:
            raise HostCallError("bad_call", "no block is running")
        return await self._answering(call)


def _none_can_be_had(executor: Executor, error: SandboxOpenError) -> str:
    return f"no sandbox can be had from {executor.name}: {error}"
