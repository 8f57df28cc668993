"""Whether the clients of completions are there: one that is left by all is cancelled, unless it is detached.

A detached one goes on, but waits no longer for the tools that a client would serve.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rlm_server.service.run import Run

_FIRST_CLIENT_SECONDS = 5.0
_CLIENT_LEFT = "its client went away"
_TOOLS_LEFT = "the client that serves tools has gone away"


class ClientPresence:
    """Sees to the completions of this server that no client of any server has watched for a while.

    Args:
        runs: what runs here, by the completions' ids.
        is_watched: tells whether a client of this server watches a completion.
        grace_seconds: how long a client may stay away.
    """

    def __init__(self, runs: Mapping[str, Run], is_watched: Callable[[str], bool], grace_seconds: float) -> None:
        self._runs = runs
        self._is_watched = is_watched
        self._grace_seconds = grace_seconds

    def expect(self, completion_id: str) -> None:
        """Gives the first client of a run that begins time to come."""
        self._check_later(completion_id, max(self._grace_seconds, _FIRST_CLIENT_SECONDS))

    def left(self, completion_id: str) -> None:
        """Takes note that the last client of this server has left a completion."""
        run = self._runs.get(completion_id)
        if run is not None:
            run.seen_time = asyncio.get_running_loop().time()
            self._check_later(completion_id, self._grace_seconds)

    def seen(self, run: Run) -> None:
        """Takes note that a client of another server watches a completion."""
        run.seen_time = asyncio.get_running_loop().time()
        if run.is_without_tools:
            run.is_without_tools = False
            run.client_tools.client_is_back()
            self._check_later(run.stored.completion_id, self._grace_seconds)

    def _check_later(self, completion_id: str, delay_seconds: float) -> None:
        if delay_seconds:
            asyncio.get_running_loop().call_later(delay_seconds, self._cancel_if_left, completion_id)
        else:
            self._cancel_if_left(completion_id)

    def _cancel_if_left(self, completion_id: str) -> None:
        run = self._runs.get(completion_id)
        if run is None or self._is_watched(completion_id):
            return
        unseen_seconds = asyncio.get_running_loop().time() - run.seen_time
        if unseen_seconds + 0.001 >= self._grace_seconds:
            if run.stored.detached:
                run.is_without_tools = True
                run.client_tools.client_is_gone(_TOOLS_LEFT)
            else:
                run.cancel(_CLIENT_LEFT)
        else:
            self._check_later(completion_id, self._grace_seconds - unseen_seconds)
