"""One completion that runs on this server, and what is to become of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    import contextlib

    from rlm_server.engine.conversations.kept_repl import KeptRepl
    from rlm_server.engine.events import EventStream
    from rlm_server.engine.repl.client_tools import ClientTools
    from rlm_server.journal.recorder import Recorder
    from rlm_server.journal.store import StoredCompletion
    from rlm_server.service.feeds import Feed


@dataclass
class Run:
    """A completion that runs here.

    Args:
        stored: what the journal says of it.
        feed: its events on their way to clients.
        recorder: its journal.
        events: what the engine tells its events to.
        client_tools: the tools that its client serves.
        resources: is closed when it ends.
        cause: what had stopped it, if it goes on; empty if it begins.
        cancel_cause: why it is to be cancelled; empty if it is not.
        parked_reason: why it is to be parked; empty if it is not.
        seen_time: when a client of this or another server was last known to watch it, by the loop's clock.
        watched_time: what the journal says of that.
        repl: the conversation's, if the completion belongs to one.
        is_without_tools: it is detached and goes on without the tools of its client, which has been away for a while.
    """

    stored: StoredCompletion
    feed: Feed
    recorder: Recorder
    events: EventStream
    client_tools: ClientTools
    resources: contextlib.ExitStack
    cause: str
    seen_time: float
    watched_time: int
    repl: KeptRepl | None
    cancel_cause: str = ""
    parked_reason: str = ""
    has_begun: bool = False
    is_without_tools: bool = False
    task: asyncio.Task[None] | None = None

    def stop(self) -> None:
        """Ends the task; what is set before tells it how."""
        if self.task is not None:
            self.task.cancel()

    def cancel(self, cause: str) -> None:
        """Cancels the completion."""
        if not self.cancel_cause:
            self.cancel_cause = cause
            if self.has_begun:
                self.stop()

    def park(self, reason: str) -> None:
        """Parks the completion."""
        if not self.parked_reason and not self.cancel_cause:
            self.parked_reason = reason
            self.stop()
