"""A `ports.Executor` whose sandboxes may die: what they did is recorded, and done again in another."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from typing import TYPE_CHECKING

from rlm_server.engine.run import ROOT_NODE_ID
from rlm_server.journal.lasting_sandbox import LastingSandbox
from rlm_server.journal.recorder import repeats_finished_work
from rlm_server.journal.sessions import JournaledSession

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from rlm_server.engine.conversations.kept_repl import KeptRepl
    from rlm_server.engine.ports.executors import Executor, SessionSpec
    from rlm_server.journal.recorder import Recorder


class JournaledExecutor:
    """Makes sandboxes for one completion that outlive the servers they are on.

    Args:
        executor: makes the real ones.
        recorder: the completion's.
        patience_seconds: how long to look for a sandbox in place of one that died.
        park: ends the run, as no sandbox is found in that time; gets the reason.
        repl: the conversation's, which makes the root's sandbox, if the completion belongs to one.
    """

    def __init__(
        self,
        executor: Executor,
        recorder: Recorder,
        *,
        patience_seconds: float,
        park: Callable[[str], None],
        repl: KeptRepl | None = None,
    ) -> None:
        self._executor = executor
        self._recorder = recorder
        self._patience_seconds = patience_seconds
        self._park = park
        self._repl = repl

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return self._executor.name

    async def packages(self) -> Sequence[str]:
        """Returns what its sandboxes have; see `ports.Executor`."""
        return await self._executor.packages()

    @contextlib.asynccontextmanager
    async def open(self, spec: SessionSpec) -> AsyncIterator[JournaledSession]:
        """Makes a sandbox; see `ports.Executor`.

        For a node that has recorded blocks there is none until the first block that is not recorded.
        """
        spec = self._with_seed(spec)
        repl = self._repl if spec.node_id == ROOT_NODE_ID else None
        sandbox = LastingSandbox(
            self._executor, spec, self._recorder, patience_seconds=self._patience_seconds, park=self._park, repl=repl
        )
        session = JournaledSession(sandbox, spec, self._recorder, is_conversation=repl is not None)
        try:
            if not session.has_recorded_cells and not repeats_finished_work():
                await sandbox.open()
            yield session
        finally:
            await sandbox.close()

    def _with_seed(self, spec: SessionSpec) -> SessionSpec:
        """Returns a specification whose sandboxes all draw the same random numbers, which nobody can foretell."""
        if spec.seed is not None:
            return spec
        return dataclasses.replace(spec, chance_seed=chance_seed(self._recorder.completion_id, spec.node_id))


def chance_seed(completion_id: str, node_id: str) -> int:
    """Returns what makes all sandboxes of a node draw the same random numbers."""
    name = f"{completion_id}/{node_id}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
